"""A question about one transfer, as people ask it on the command line: checked, looked up, answered with link loads."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from moesim.hwmodels.cluster import Cluster, build_cluster, node_for_gpu, node_names
from moesim.hwmodels.collective_traffic import collective_matrix
from moesim.hwmodels.collectives import algorithms
from moesim.hwmodels.dtypes import token_dtypes
from moesim.hwmodels.exchange_kernels import exchange_kernels
from moesim.hwmodels.facts import FactError, did_you_mean
from moesim.hwmodels.gpu import gpu_names
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.topology import build_topology
from moesim.hwmodels.traffic import Loads, exchange_loads, uniform
from moesim.hwmodels.work import COLLECTIVES, Comm, CommKind
from moesim.sim.layers.exchange import ONE_TRANSFER, ExpertTokens, Stage, expert_exchange, payload_bytes
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.beside import Beside, Party, Together, party_of, together
from moesim.sim.transfer.exchange_traffic import Exchange, ExchangeTraffic, exchange_traffic
from moesim.sim.transfer.predict import CommPrediction, predict_comm, stretched

EXCHANGES = ("moe_dispatch", "moe_combine")
MAX_RANKS = 4096  # traffic matrices grow with the square
LOW_LATENCY_TOKENS = 512  # assumed: tokens per rank from which on engines use the normal kernels
_MOST = 10**9  # no count that can be meant comes near
_TOP_GROUPS = 4  # of DeepSeek-V3, for routers with groups that do not say


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
    top_groups: int = 0  # 0: four, as DeepSeek's routers, or all where there are fewer
    dtype: str = "bf16"
    sigma: float = 0.0
    seed: int = 0
    sms: int = 0
    ecmp: bool = False  # fabric links picked by a hash per pair of NICs; else adaptive routing spreads evenly
    beside: tuple[Beside, ...] = ()

    @property
    def routed(self) -> bool:
        """True when volumes come from routing tokens to experts."""
        return self.tokens > 0 or self.op in EXCHANGES


@dataclass(frozen=True, slots=True)
class CommAnswer:
    """The prediction, and what every kind of link carries."""

    question: CommQuestion
    cluster: Cluster
    prediction: CommPrediction
    loads: Loads
    traffic: ExchangeTraffic | None
    imbalance: float = 1.0  # of the busiest link, by which the exchange was stretched
    together: tuple[Together, ...] = ()  # this transfer and those asked for beside it

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found = self.prediction.to_dict()
        found["bottleneck_link"] = self.loads.bottleneck()[0]
        found["link_load"] = self.loads.summary()
        found["fluid_s"] = self.loads.seconds
        found["cluster"] = self.cluster.name
        if self.traffic is not None:
            found |= {"rank_copies": self.traffic.rank_copies, "node_copies": self.traffic.node_copies}
            found |= {"rows_imbalance": self.traffic.imbalance, "imbalance": self.imbalance}
        if self.together:
            found["together"] = [asdict(t) for t in self.together]
        return found


_ROUTING = {
    "hidden": 0,
    "top_k": 0,
    "experts": 0,
    "groups": 1,
    "top_groups": 0,
    "dtype": "bf16",
    "sigma": 0.0,
    "sms": 0,
}
_MAX_SIGMA = 5.0  # of a lognormal popularity: beyond it one expert takes everything


def _check(q: CommQuestion) -> None:
    if q.op not in (*COLLECTIVES, *EXCHANGES):
        raise ScenarioError(f"op={q.op!r} is not known; {did_you_mean(q.op, [*COLLECTIVES, *EXCHANGES])}")
    if not 2 <= q.ranks <= MAX_RANKS:
        raise ScenarioError(f"ranks={q.ranks} must be between 2 and {MAX_RANKS}")
    for other in q.beside:
        if other.ranks * other.stride > MAX_RANKS:
            raise ScenarioError(f"beside: {other.ranks} GPUs {other.stride} apart are more than {MAX_RANKS} in all")
    if q.oversubscription is not None and not 1.0 <= q.oversubscription < float("inf"):
        raise ScenarioError(f"oversubscription={q.oversubscription} must be 1 or more, for example 2 for 2:1")
    if q.routed:
        _check_routing(q)
        return
    if not 0 < q.size_bytes < float("inf"):
        raise ScenarioError(f"{q.op} needs bytes, for example --bytes 64MiB")
    idle = [name.replace("_", "-") for name, default in _ROUTING.items() if getattr(q, name) != default]
    if idle:
        raise ScenarioError(f"a {q.op} of bytes routes no tokens: drop {', '.join(idle)}, or give tokens")


def _check_routing(q: CommQuestion) -> None:
    if q.op not in ("all_to_all", *EXCHANGES):
        raise ScenarioError(f"{q.op} does not route tokens: give bytes, or use op all_to_all or moe_dispatch")
    if q.size_bytes:
        raise ScenarioError("bytes follow from tokens, hidden and dtype: give either bytes or tokens")
    for name, least in (
        ("tokens", 1),
        ("hidden", 1),
        ("top_k", 1),
        ("experts", 1),
        ("groups", 1),
        ("seed", 0),
        ("sms", 0),
    ):
        if not least <= getattr(q, name) <= _MOST:
            raise ScenarioError(f"{name.replace('_', '-')}={getattr(q, name)} must be between {least} and {_MOST}")
    if not 0.0 <= q.sigma <= _MAX_SIGMA:
        raise ScenarioError(f"skew={q.sigma} must be between 0 (experts alike) and {_MAX_SIGMA:g}")
    if q.dtype not in token_dtypes():
        raise ScenarioError(f"dtype={q.dtype!r} is not known; {did_you_mean(q.dtype, list(token_dtypes()))}")
    if not 0 <= q.top_groups <= q.groups:
        raise ScenarioError(f"top-groups={q.top_groups} must be between 1 and groups={q.groups}")


def _cluster(q: CommQuestion) -> Cluster:
    """The machines; a GPU's name stands for the first node that holds it."""
    node = q.node if q.node in node_names() or q.node not in gpu_names() else node_for_gpu(q.node)
    gpus = max(q.ranks, *(b.ranks * b.stride for b in q.beside), 0)
    return build_cluster(node, gpus, q.fabric, None, q.oversubscription)


def answer(question: CommQuestion) -> CommAnswer:
    """Answer it. ScenarioError or FactError for what cannot be."""
    _check(question)
    cluster = _cluster(question)
    found = _exchange(question, cluster) if question.routed else _collective(question, cluster)
    return replace(found, together=_beside(found)) if question.beside else found


def _beside(found: CommAnswer) -> tuple[Together, ...]:
    """The transfer and its neighbours on the same links."""
    q, cluster = found.question, found.cluster
    topology = build_topology(cluster)
    flows = 1 if q.op in COLLECTIVES and q.op != "all_to_all" else q.ranks - 1
    own = Party(q.op, found.loads, found.prediction.time_s, flows)
    return tuple(together([own, *(party_of(b, cluster, topology) for b in q.beside)]))


def _collective(question: CommQuestion, cluster: Cluster) -> CommAnswer:
    kind = cast(CommKind, question.op)
    work = Comm(kind, question.size_bytes, cluster.group(question.ranks), question.algorithm)
    prediction = predict_comm(work, cluster)
    topology = build_topology(cluster)
    alone = prediction.algorithm == "direct" or kind != "all_to_all"  # rings keep to their rails by themselves
    mode = "direct" if alone and cluster.topology != "multi-plane" else "pxn"
    if kind == "all_to_all":
        matrix = uniform(question.ranks, question.size_bytes)
    else:
        matrix = collective_matrix(
            kind, question.size_bytes, question.ranks, question.ranks, 1, cluster.domain, prediction.algorithm
        )
    loads = exchange_loads(matrix, topology, mode, hashed=question.ecmp)
    if question.ecmp and loads.seconds > 0.0:  # by how much pairs that share a path hold up the rest
        even = exchange_loads(matrix, topology, mode)
        prediction = stretched(prediction, loads.seconds / even.seconds)
    return CommAnswer(question, cluster, prediction, loads, None)


_MODES = {"normal": "forwarded", "elastic": "forwarded", "hybrid": "forwarded", "all_to_all": "pxn"}


def _exchange(q: CommQuestion, cluster: Cluster) -> CommAnswer:
    kernel = q.algorithm
    if kernel == "auto":  # what serving and training engines use
        kernel = ONE_TRANSFER.kernel("few tokens" if q.tokens < LOW_LATENCY_TOKENS else "many tokens")
    if kernel not in exchange_kernels():
        raise FactError(f"unknown algorithm {kernel!r}; {did_you_mean(kernel, list(exchange_kernels()))}")
    stage: Stage = "combine" if q.op == "moe_combine" else "dispatch"
    sent = ExpertTokens(
        tokens=float(q.tokens),
        top_k=q.top_k,
        experts=q.experts,
        width=q.hidden,
        dtype=q.dtype,
        group=cluster.group(q.ranks),
        kernel=kernel,
        sms=q.sms,
    )
    ask = Exchange(
        ranks=q.ranks,
        domain=cluster.domain,
        experts=q.experts,
        top_k=q.top_k,
        tokens=q.tokens,
        payload_bytes=payload_bytes(ONE_TRANSFER, stage, sent),
        groups=q.groups,
        top_groups=q.top_groups or min(_TOP_GROUPS, q.groups),
        sigma=q.sigma,
        seed=q.seed,
    )
    traffic, loads = _routed_loads(ask, cluster, kernel, stage == "combine", q.ecmp)
    sent = replace(
        sent,
        node_copies=traffic.node_copies,
        rank_copies=traffic.rank_copies,
        imbalance=_imbalance(ask, traffic, loads, cluster, kernel, q.ecmp),
    )
    work = expert_exchange(ONE_TRANSFER, stage, sent)
    return CommAnswer(q, cluster, predict_comm(work, cluster), loads, traffic, work.imbalance)


def _routed_loads(
    ask: Exchange, cluster: Cluster, kernel: str, back: bool, hashed: bool
) -> tuple[ExchangeTraffic, Loads]:
    """Sampled traffic laid on the links as this kernel sends it."""
    traffic = exchange_traffic(ask)
    mode = _MODES.get(kernel, "pxn" if cluster.topology == "multi-plane" else "direct")
    copies = traffic.to_domains if mode == "forwarded" else None
    loads = exchange_loads(traffic.to_ranks, build_topology(cluster), mode, copies, back=back, hashed=hashed)
    apart = kernel in ("low_latency", "all_to_all")  # every pair of token and expert travels by itself
    return traffic, loads.scaled(ask.top_k / traffic.rank_copies) if apart else loads


def _imbalance(
    ask: Exchange, traffic: ExchangeTraffic, loads: Loads, cluster: Cluster, kernel: str, ecmp: bool
) -> float:
    """By how much hot experts and hashed paths load the busiest link beyond what even traffic puts there.

    Kernels were measured with equally popular experts: the noise of their sampling is in the constants already.
    """
    if ask.sigma == 0.0 and not ecmp:
        return 1.0
    alike, even = _routed_loads(replace(ask, sigma=0.0), cluster, kernel, back=False, hashed=False)
    share = float(traffic.to_ranks.sum() / alike.to_ranks.sum()) if alike.to_ranks.any() else 0.0
    return max(1.0, loads.seconds / (even.seconds * share)) if even.seconds * share > 0.0 else 1.0


def forced(question: CommQuestion) -> tuple[str, ...]:
    """Every algorithm that can run this question."""
    cluster = _cluster(question)
    if question.routed:
        wide = cluster.group(question.ranks).domains > 1
        return tuple(k for k in exchange_kernels() if not (wide and k.endswith("_sided")))
    work = Comm(cast(CommKind, question.op), question.size_bytes, cluster.group(question.ranks))
    return algorithms(work, cluster, load_profile(cluster.gpu.name).collectives)
