"""A question about one transfer, as people ask it on the command line: checked, looked up, answered with link loads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

from hwmodels.cluster import Cluster, build_cluster
from hwmodels.collectives import algorithms
from hwmodels.exchange_kernels import DEFAULT_SMS, exchange_kernels
from hwmodels.facts import FactError, did_you_mean
from hwmodels.profile import load_profile
from hwmodels.topology import build_topology
from hwmodels.traffic import Loads, exchange_loads, uniform
from hwmodels.work import Comm, CommKind, ExpertExchange
from sim.comm import CommPrediction, predict_comm
from sim.exchange_traffic import Exchange, ExchangeTraffic, exchange_traffic
from sim.scenario import ScenarioError

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
EXCHANGES = ("moe_dispatch", "moe_combine")
MAX_RANKS = 4096  # traffic matrices grow with the square


@dataclass(frozen=True, slots=True, kw_only=True)
class CommQuestion:
    """What is sent, by how many ranks, on which machines. Token fields make it an expert exchange."""

    node: str
    op: str
    ranks: int
    size_bytes: float = 0.0
    fabric: str | None = None
    oversubscription: float | None = None
    algorithm: str = "auto"
    tokens: int = 0
    hidden: int = 0
    top_k: int = 0
    experts: int = 0
    groups: int = 1
    top_groups: int = 4
    dtype: str = "bf16"
    sigma: float = 0.0
    seed: int = 0
    sms: int = 0

    @property
    def routed(self) -> bool:
        """True when volumes come from routing tokens to experts."""
        return self.tokens > 0 or self.op in EXCHANGES


@dataclass(frozen=True, slots=True)
class CommAnswer:
    """The prediction, and what every kind of link carries (None where links are not drawn out)."""

    question: CommQuestion
    cluster: Cluster
    prediction: CommPrediction
    loads: Loads | None
    traffic: ExchangeTraffic | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = self.prediction.to_dict()
        found["bottleneck_link"] = self.loads.bottleneck()[0] if self.loads else None
        found["link_load"] = self.loads.summary() if self.loads else {}
        found["fluid_s"] = self.loads.seconds if self.loads else None
        found["cluster"] = self.cluster.name
        if self.traffic is not None:
            found |= {"rank_copies": self.traffic.rank_copies, "node_copies": self.traffic.node_copies}
            found["imbalance"] = self.traffic.imbalance
        return found


def payload_bytes(hidden: int, dtype: str) -> float:
    """Bytes of one token's vector with its scales."""
    sizes = {"bf16": 2.0, "fp16": 2.0, "fp8": 1.0 + 4.0 / 128.0, "mxfp8": 1.0 + 1.0 / 32.0, "nvfp4": 0.5 + 1.0 / 16.0}
    if dtype not in sizes:
        raise ScenarioError(f"dtype={dtype!r} is not known; {did_you_mean(dtype, list(sizes))}")
    return hidden * sizes[dtype]


def _check(q: CommQuestion) -> None:
    if q.op not in (*COLLECTIVES, *EXCHANGES):
        raise ScenarioError(f"op={q.op!r} is not known; {did_you_mean(q.op, [*COLLECTIVES, *EXCHANGES])}")
    if not 2 <= q.ranks <= MAX_RANKS:
        raise ScenarioError(f"ranks={q.ranks} must be between 2 and {MAX_RANKS}")
    if not q.routed and not q.size_bytes > 0:
        raise ScenarioError(f"{q.op} needs bytes, for example --bytes 64MiB")
    if q.routed:
        if q.op not in ("all_to_all", *EXCHANGES):
            raise ScenarioError(f"{q.op} does not route tokens: give bytes, or use op all_to_all or moe_dispatch")
        for name in ("tokens", "hidden", "top_k", "experts"):
            if getattr(q, name) <= 0:
                raise ScenarioError(f"an exchange of tokens needs {name.replace('_', '-')} above zero")


def answer(question: CommQuestion) -> CommAnswer:
    """Answer it. ScenarioError or FactError for what cannot be."""
    _check(question)
    cluster = build_cluster(question.node, question.ranks, question.fabric, None, question.oversubscription)
    if question.routed:
        return _exchange(question, cluster)
    kind = cast(CommKind, question.op)
    work = Comm(kind, question.size_bytes, cluster.group(question.ranks), question.algorithm)
    prediction = predict_comm(work, cluster)
    loads = None
    if kind == "all_to_all":
        mode = "direct" if prediction.algorithm == "direct" and cluster.topology != "multi-plane" else "pxn"
        loads = exchange_loads(uniform(question.ranks, question.size_bytes), build_topology(cluster), mode)
    return CommAnswer(question, cluster, prediction, loads, None)


_MODES = {"normal": "forwarded", "elastic": "forwarded", "hybrid": "forwarded", "all_to_all": "pxn"}


def _exchange(q: CommQuestion, cluster: Cluster) -> CommAnswer:
    kernel = q.algorithm if q.algorithm != "auto" else _auto_kernel(q)
    if kernel not in exchange_kernels():
        raise FactError(f"unknown algorithm {kernel!r}; {did_you_mean(kernel, list(exchange_kernels()))}")
    ask = Exchange(
        ranks=q.ranks,
        domain=cluster.domain,
        experts=q.experts,
        top_k=q.top_k,
        tokens=q.tokens,
        payload_bytes=payload_bytes(q.hidden, q.dtype),
        groups=q.groups,
        top_groups=min(q.top_groups, q.groups),
        sigma=q.sigma,
        seed=q.seed,
    )
    traffic = exchange_traffic(ask)
    work = ExpertExchange(
        stage="combine" if q.op == "moe_combine" else "dispatch",
        tokens=float(q.tokens),
        top_k=q.top_k,
        payload_bytes=ask.payload_bytes,
        group=cluster.group(q.ranks),
        node_copies=traffic.node_copies,
        rank_copies=traffic.rank_copies,
        kernel=kernel,
        sms=q.sms or (DEFAULT_SMS if kernel == "normal" else 0),
        experts=q.experts,
        scaled=q.dtype not in ("bf16", "fp16"),
    )
    matrix, copies = traffic.to_ranks, traffic.to_domains
    if kernel in ("low_latency", "all_to_all"):  # every pair travels by itself
        matrix = matrix * (q.top_k / traffic.rank_copies)
    mode = _MODES.get(kernel, "pxn" if cluster.topology == "multi-plane" else "direct")
    loads = exchange_loads(matrix, build_topology(cluster), mode, copies if mode == "forwarded" else None)
    hot = loads.seconds / _even(ask, cluster, mode, matrix, copies)
    prediction = predict_comm(replace(work, imbalance=max(1.0, hot)), cluster)
    return CommAnswer(q, cluster, prediction, loads, traffic)


def _auto_kernel(q: CommQuestion) -> str:
    """What serving and training engines use: low latency below 512 tokens per rank, else the normal kernels."""
    return "low_latency" if q.tokens < 512 else "normal"


def _even(ask: Exchange, cluster: Cluster, mode: str, matrix: Any, copies: Any) -> float:
    """Seconds of the same bytes spread evenly over destinations: what imbalance is measured against."""
    even = matrix * 0.0 + matrix.sum() / matrix.size
    shared = copies * 0.0 + copies.sum() / copies.size
    return exchange_loads(even, build_topology(cluster), mode, shared if mode == "forwarded" else None).seconds


def forced(question: CommQuestion) -> tuple[str, ...]:
    """Every algorithm that can run this question."""
    if question.routed:
        cluster = build_cluster(question.node, question.ranks, question.fabric)
        wide = cluster.group(question.ranks).domains > 1
        return tuple(k for k in exchange_kernels() if not (wide and k.endswith("_sided")))
    cluster = build_cluster(question.node, question.ranks, question.fabric)
    work = Comm(cast(CommKind, question.op), question.size_bytes, cluster.group(question.ranks))
    return algorithms(work, cluster, load_profile(cluster.gpu.name).collectives)
