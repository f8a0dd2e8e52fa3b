"""The kinds of files of runs that validate reads: the columns they need, may have, and are judged by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one kind of file. A prediction reads `workload` and nothing else."""

    name: str
    needed: tuple[str, ...]
    workload: tuple[str, ...]
    metrics: tuple[str, ...]


TRAINING = Table(
    "training",
    needed=("model", "gpu", "gpus", "seq_len", "gbs"),
    workload=(
        "model", "layers", "hidden", "heads", "vocab", "kv_heads", "first_dense_layers", "gpu", "gpus",
        "gpus_per_node", "internode", "seq_len", "precision", "gbs", "mbs", "tp", "pp", "vpp", "cp", "ep", "etp",
        "dp", "zero", "recompute", "capacity_factor", "routing", "release", "schedule", "stack",
    ),
    metrics=("step_time_s", "peak_allocated_gib"),
)  # fmt: skip
COMM = Table(
    "comm",
    needed=("op", "gpu", "gpus"),
    workload=(
        "op", "gpu", "gpus", "gpus_per_node", "intranode", "internode", "nic_gbps_per_gpu", "algorithm", "library",
        "ranks_ep", "tokens", "hidden", "top_k", "experts", "dtype", "bytes", "bandwidth_kind", "sms", "group_limit",
    ),
    metrics=("time_us", "bandwidth_gbs"),
)  # fmt: skip
TABLES = (TRAINING, COMM)

# what people read: never shown to the predictor
HIDDEN = ("id", "source", "notes", "split", "repeats", "spread_pct", *(m for table in TABLES for m in table.metrics))


def table_of(columns: Iterable[str]) -> Table:
    """The kind of file that has these columns: a column `op` makes it one of collectives and exchanges."""
    return COMM if "op" in set(columns) else TRAINING
