"""Rows of measured collectives and expert exchanges as questions: column spellings, and what libraries do by default.

Only workload columns are read: never id, source, notes or a measured value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from moesim.calibrate.rows.cells import Row, number_of, text_of, whole_of
from moesim.hwmodels.cluster import Cluster, build_cluster, node_for_gpu
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import load_gpu, token_dtypes
from moesim.hwmodels.libraries import (
    Library,
    borrowed_from,
    carried_by,
    kernel_in,
    libraries,
    library_named,
    usual_library,
)
from moesim.hwmodels.work import COLLECTIVES, Comm, CommKind, ExpertExchange, Group
from moesim.sim.layers.exchange import MEASURED, ExpertTokens, Stage, expert_exchange
from moesim.sim.layout.placement import distinct_holders
from moesim.sim.question.scenario import ScenarioError

_STAGES: dict[str, Stage] = {
    "moe_prepare": "prepare",
    "moe_dispatch": "dispatch",
    "moe_combine": "combine",
    "moe_combine_low_precision": "combine",
}
# spellings of formats that token vectors travel in
_DTYPES = {name: name for name in token_dtypes()} | {
    "bfloat16": "bf16", "half": "fp16", "float16": "fp16", "e4m3": "fp8", "fp8_e4m3": "fp8", "float8_e4m3fn": "fp8",
}  # fmt: skip
_EXPERTS = 256  # assumed where a row does not say: the setting of DeepEP's own benchmark
_MOST_GPUS = 1_000_000
# spellings of a GPU that the catalogue does not list as aliases
_GPUS = {"SM90": "h100-sxm", "SM90 (Hopper)": "h100-sxm", "SM100": "b200-hgx", "SM100 (Blackwell)": "b200-hgx"}
_FABRICS = (("efa", "efa-v2"), ("roce", "roce-400"))


@dataclass(frozen=True, slots=True)
class CommRow:
    """One row as work on a cluster, and how its bandwidth column counts bytes."""

    work: Comm | ExpertExchange
    cluster: Cluster
    logical_bytes: float  # what its bandwidth column divides by the time
    library: Library

    assumptions: tuple[str, ...] = ()  # whose constants stand for the library's, and what cells left open


def _number(row: Row, key: str) -> float:
    """What the cell holds. ScenarioError where it is empty."""
    value = number_of(row, key)
    if value is None:
        raise ScenarioError(f"column {key}: is needed, but empty")
    return value


def _whole(row: Row, key: str, default: int | None = None) -> int:
    """A whole number above zero, or the default where the cell is empty."""
    value = whole_of(row, key)
    if value is None:
        if default is None:
            raise ScenarioError(f"column {key}: is needed, but empty")
        return default
    if not value and value != default:
        raise ScenarioError(f"column {key}: {text_of(row, key)!r} is not a whole number above zero")
    return value


def _cluster(row: Row) -> Cluster:
    name = text_of(row, "gpu")
    gpus = _whole(row, "gpus")
    if gpus > _MOST_GPUS:
        raise ScenarioError(f"column gpus: {gpus} GPUs are more than any cluster has")
    node = node_for_gpu(_GPUS.get(name, name))
    inter = text_of(row, "internode").lower()
    fabric = next((code for word, code in _FABRICS if word in inter), None)
    if fabric == "efa-v2" and load_gpu(_GPUS.get(name, name)).generation == "a100":
        fabric = "efa-v1"  # hosts of A100 have the first one
    nic = number_of(row, "nic_gbps_per_gpu")
    cluster = build_cluster(node, gpus, fabric, nic * 1e9 / 8.0 if nic else None)
    per_node = _whole(row, "gpus_per_node", 0)
    if per_node and "nvl72" not in text_of(row, "intranode").lower() and cluster.domain == 8:
        cluster = replace(cluster, domain=min(cluster.domain, per_node))
    return cluster


def comm_row(row: Row) -> CommRow:
    """The question a row asks. ScenarioError or FactError when a needed cell is unusable."""
    op = text_of(row, "op")
    cluster = _cluster(row)
    if op in COLLECTIVES:
        return _collective(row, op, cluster)
    if op in _STAGES:
        return _exchange(row, op, cluster)
    raise ScenarioError(f"column op: {op!r} is not known; write one of {', '.join((*COLLECTIVES, *_STAGES))}")


def algorithm_of(text: str) -> str:
    """Our name of a published algorithm cell: Ring, Ring_LL128, Tree_LL, NVLS, NVLSTree_Simple, symmetric memory."""
    t = text.lower()
    for pattern, name in ((r"symmetric", "symmetric"), (r"nvls ?tree", "nvls_tree"), (r"\bnvls\b(?! off)", "nvls")):
        if re.search(pattern, t):
            return name
    if re.search(r"(?<![a-z])tree", t):
        return "tree"
    return "ring" if re.search(r"(?<![a-z])ring", t) else "auto"


def _said(*notes: str) -> tuple[str, ...]:
    """Notes that say something."""
    return tuple(note for note in notes if note)


def _collective(row: Row, kind: CommKind, cluster: Cluster) -> CommRow:
    ranks = _whole(row, "gpus")
    size = _number(row, "bytes")
    if size < 1:
        raise ScenarioError(f"column bytes: a {kind} of {text_of(row, 'bytes')!r} bytes is none")
    algorithm = algorithm_of(text_of(row, "algorithm"))
    if algorithm == "tree" and cluster.group(ranks).domains == 1:
        algorithm = "auto"
    work = Comm(kind, size, cluster.group(ranks), algorithm)
    share = (ranks - 1) / ranks * (2.0 if kind == "all_reduce" else 1.0) if ranks > 1 else 1.0
    busbw = text_of(row, "bandwidth_kind") == "busbw"
    library, note = usual_library(cluster.gpu.vendor)
    if text_of(row, "library"):
        library = _library(row, collective=True)
        note = borrowed_from(library)
    return CommRow(work, cluster, size * share if busbw else size, library, _said(note))


def _library(row: Row, collective: bool) -> Library:
    """The library that a row names. ScenarioError for none and for an unknown one."""
    text = text_of(row, "library")
    if not text:
        known = ", ".join(name for name, each in libraries().items() if each.kernels)
        raise ScenarioError(f"column library: an exchange needs one; write one of {known}")
    try:
        return library_named(text, collective)
    except FactError as error:
        raise ScenarioError(f"column library: {error}") from None


def kernel_of(library: Library, algorithm: str) -> str:
    """Our kind of exchange kernel for a library and a published algorithm cell. ScenarioError where it has none."""
    try:
        return kernel_in(library, algorithm)
    except FactError as error:
        raise ScenarioError(f"column algorithm: {error}") from None


def _dtype(row: Row) -> str:
    """Our name of the format of token vectors; 16 bits where the cell is empty."""
    text = text_of(row, "dtype")
    dtype = _DTYPES.get(text.lower()) if text else "bf16"
    if dtype is None:
        raise ScenarioError(f"column dtype: {text!r} is not known; write one of {', '.join(token_dtypes())}")
    return dtype


def _copies(row: Row, group: Group) -> tuple[float, float]:
    """Distinct (domains, ranks) that one token reaches; a limit counts groups that are the nodes themselves."""
    experts, top_k = _whole(row, "experts", _EXPERTS), _whole(row, "top_k")
    if top_k > experts:
        raise ScenarioError(f"column top_k: a token cannot reach {top_k} of {experts} experts")
    limit = _whole(row, "group_limit", 0)
    if limit and group.domains > limit:
        return float(limit), distinct_holders(group.ranks, experts, top_k, group.domains, limit)
    return distinct_holders(group.domains, experts, top_k), distinct_holders(group.ranks, experts, top_k)


def _exchange(row: Row, op: str, cluster: Cluster) -> CommRow:
    library = _library(row, collective=False)
    kernel = kernel_of(library, text_of(row, "algorithm") or text_of(row, "library"))
    size = _whole(row, "ranks_ep", cluster.gpus)
    if size > cluster.gpus:
        raise ScenarioError(f"column ranks_ep: {size} ranks need more than {cluster.gpus} GPUs")
    group = cluster.group(size)
    nodes, ranks = _copies(row, group)
    dtype, kind = _dtype(row), text_of(row, "bandwidth_kind")
    tokens = float(_whole(row, "tokens"))
    sent = ExpertTokens(
        tokens=tokens,
        top_k=_whole(row, "top_k"),
        experts=_whole(row, "experts", 0),
        width=_whole(row, "hidden"),
        dtype=dtype,
        group=group,
        kernel=kernel,
        sms=_whole(row, "sms", 0),
        node_copies=nodes,
        rank_copies=ranks,
        low_precision=op.endswith("low_precision"),
        host_call="torch_api" in kind,
    )
    work = carried_by(expert_exchange(MEASURED, _STAGES[op], sent), library)
    copies = nodes if "rdma" in kind else ranks
    open_cells = [
        f"{what} (not stated)"
        for column, what in (
            ("experts", f"experts = {_EXPERTS}, the setting of DeepEP's benchmark"),
            ("dtype", "dtype = bf16"),
        )
        if not text_of(row, column)
    ]
    said = _said(borrowed_from(library, kernel), *open_cells)
    return CommRow(work, cluster, tokens * work.payload_bytes * copies, library, said)
