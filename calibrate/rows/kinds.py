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
        "dp", "zero", "recompute", "capacity_factor", "routing", "release", "schedule", "stack", "software",
        "dispatcher", "ep_overlap", "cuda_graphs", "mtp", "sequence_parallel", "scenario",
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
SERVING = Table(
    "serving",
    needed=("engine", "model", "gpu", "gpus", "concurrency", "isl", "osl"),
    workload=(
        "gpu", "gpus", "model", "precision", "engine", "engine_version", "tp", "pp", "ep", "attention_dp",
        "prefill_workers", "prefill_tp", "prefill_ep", "prefill_attention_dp", "decode_workers", "decode_tp",
        "decode_ep", "decode_attention_dp", "concurrency", "arrival", "isl", "osl", "mtp", "measured_on",
        "lengths", "requests", "stream_tokens", "token_budget", "scenario",
    ),
    metrics=(
        "tpot_ms", "ttft_ms", "derived_tokens_per_s_per_gpu", "output_tokens_per_s", "output_tokens_per_s_per_gpu",
        "requests_per_s",
    ),
)  # fmt: skip
TABLES = (TRAINING, COMM, SERVING)

# what people read: never shown to the predictor
HIDDEN = (
    "id", "source", "notes", "split", "repeats", "spread_pct",
    *(m for table in TABLES for m in table.metrics),
)  # fmt: skip


def table_of(columns: Iterable[str]) -> Table:
    """The kind of file that has these columns: `op` makes it one of collectives and exchanges, `engine` of serving."""
    names = set(columns)
    return COMM if "op" in names else SERVING if "engine" in names else TRAINING
