"""predict_comm: the verb for one transfer by itself: how long a collective or an expert exchange takes, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

from moesim.hwmodels.cluster import (
    Cluster,
    Crossing,
    Pattern,
    build_cluster,
    oversubscription_note,
)
from moesim.hwmodels.collective_traffic import collective_matrix
from moesim.hwmodels.collectives import algorithms
from moesim.hwmodels.exchange_kernels import exchange_kernels
from moesim.hwmodels.facts import FactError, did_you_mean
from moesim.hwmodels.hardware import hardware_of
from moesim.hwmodels.libraries import (
    GENERIC,
    Library,
    borrowed_from,
    carried_by,
    library_named,
    usual_library,
)
from moesim.hwmodels.link_faults import parse_faults
from moesim.hwmodels.link_loads import Loads, link_loads
from moesim.hwmodels.machine import load_machine
from moesim.hwmodels.measured_transfers import describe
from moesim.hwmodels.profile import Profile, profile_of
from moesim.hwmodels.topology import Topology, build_topology
from moesim.hwmodels.torus import torus_note
from moesim.hwmodels.traffic import exchange_loads, uniform
from moesim.hwmodels.work import COLLECTIVES, Comm, CommKind
from moesim.sim.layers.exchange import ONE_TRANSFER, ExpertTokens, Stage, expert_exchange, payload_bytes
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.alone import CommPrediction, stretched, time_alone
from moesim.sim.transfer.beside import Party, Together, party_of, together
from moesim.sim.transfer.exchange_traffic import Exchange, ExchangeTraffic, drawn_traffic, exchange_traffic
from moesim.sim.transfer.question import CommQuestion, comm_question

LOW_LATENCY_TOKENS = 512  # assumed: tokens per rank from which on engines use the normal kernels
_TOP_GROUPS = 4  # of DeepSeek-V3, for routers with groups that do not say


@dataclass(frozen=True, slots=True)
class CommAnswer:
    """One transfer: the prediction, what every kind of link carries, and what it loses beside others."""

    question: CommQuestion
    cluster: Cluster
    prediction: CommPrediction  # seconds and bytes per second, alone on the network
    loads: Loads  # bytes on every link by class; its `seconds` are those of the busiest at its rate
    traffic: ExchangeTraffic | None  # of an exchange, bytes: `between` ranks, or their domains where ranks are many
    imbalance: float = 1.0  # of the busiest link, by which the exchange was stretched
    degraded_factor: float = 1.0  # by which slow links stretched it
    together: tuple[Together, ...] = ()  # this transfer and those asked for beside it

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was not said, and what was asked for and changes nothing here, and why."""
        q = self.question
        own = Crossing(self.cluster.group(q.ranks), *_crossing(self.prediction.algorithm))
        others = [Crossing(self.cluster.group(b.ranks, b.stride)) for b in q.beside]
        note = oversubscription_note(self.cluster, [own, *others])
        assumed = hardware_of(q.hardware).assumed(("gpus", self.cluster.gpu.name), ("fabrics", self.cluster.fabric))
        kernels = _own(q, self.cluster)
        logs = f"profile = {q.profile}: measured are {describe(kernels.transfers) or 'no transfers'}" if kernels else ""
        lines = (*assumed, torus_note(self.cluster), logs, _carrier(q, self.cluster).note, note)
        return tuple(line for line in lines if line)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        values = self.prediction.to_dict()
        values["bottleneck_link"] = self.loads.bottleneck()[0]
        values["link_load"] = self.loads.summary()
        values["fluid_s"] = self.loads.seconds
        values["cluster"] = self.cluster.name
        if self.traffic is not None:
            values |= {"rank_copies": self.traffic.rank_copies, "node_copies": self.traffic.node_copies}
            values |= {"rows_imbalance": self.traffic.imbalance, "imbalance": self.imbalance}
        if self.cluster.degraded:
            values["degraded"] = {fault.link: fault.factor for fault in self.cluster.degraded}
            values["degraded_factor"] = self.degraded_factor
        values["assumptions"] = list(self.assumptions)
        if self.together:
            values["together"] = [asdict(t) for t in self.together]
        return values


def _crossing(algorithm: str) -> tuple[Pattern, bool]:
    """How an algorithm or kernel crosses the fabric, as its closed form has it: pattern, and whether on rails."""
    return "neighbours" if algorithm == "ring" else "everyone", algorithm not in ("direct", "low_latency")


def _cluster(q: CommQuestion) -> Cluster:
    """The machines; a GPU's name stands for the first node that holds it."""
    hardware = hardware_of(q.hardware)
    node = hardware.node_of(q.node) or q.node
    gpus = max(q.ranks, *(b.ranks * b.stride for b in q.beside), 0)
    return build_cluster(node, gpus, q.fabric, None, q.oversubscription, parse_faults(q.degrade), hardware)


def predict_comm(question: CommQuestion | Mapping[str, Any]) -> CommAnswer:
    """How long one transfer takes alone on a cluster, which link holds it up, and what it loses beside others.

    The same question as `moesim comm`. `question` is a CommQuestion, or a mapping with its fields as keys: `node`, `op`
    and `ranks` always; for a collective `size_bytes` of one rank's buffer (bytes, or text as "64MiB"); for an expert
    exchange `tokens` per rank, `hidden`, `top_k` and `experts`; `beside` as texts "all_reduce:1GiB:8:8"; `degrade` as
    texts "nic3 -> leaf3=0.5", links that run at a share of their rate (0: dead).

        predict_comm({"node": "dgx-h100", "op": "all_reduce", "ranks": 64, "size_bytes": "1GiB"}).prediction.time_s

    The answer's `prediction` has seconds (`time_s`, with a 90 % interval `low_s` to `high_s`), the algorithm, and
    bandwidths in bytes/s as nccl-tests counts them; `loads` what every kind of link carries (bytes; seconds at the
    link's rate); `traffic` of an exchange the bytes from every rank to every rank (`between`; with more than 512 ranks
    from domain to domain), None for a collective; `together` seconds alone and beside the others.

    Raises ScenarioError for a key that is unknown, missing, of another form or out of range; FactError for a node,
    fabric, link or algorithm that does not exist, sizes that do not fit, or ranks that no path joins; NoFit for
    what nothing was measured of.
    """
    asked = comm_question(question)
    cluster = _cluster(asked)
    answer = _exchange(asked, cluster) if asked.routed else _collective(asked, cluster)
    if cluster.degraded:
        answer = _slowed(answer, replace(cluster, degraded=()))
    return replace(answer, together=_beside(answer)) if asked.beside else answer


_WIRE_SLACK = 1.5  # assumed: of a transfer at most this many times its busiest link's time grows with that link


def _slowed(answer: CommAnswer, healthy: Cluster) -> CommAnswer:
    """With degraded links: the busiest link's extra time, at the share of its rate that the transfer gets from it.

    A large transfer whose busiest link runs at half rate takes twice as long; one that only waits takes no longer.
    """
    asked = replace(answer.question, degrade=(), beside=())
    loads = (_exchange(asked, healthy) if asked.routed else _collective(asked, healthy)).loads
    alone_s = answer.prediction.time_s
    if loads.seconds <= 0.0 or alone_s <= 0.0:
        return answer
    extra_s = max(0.0, answer.loads.seconds - loads.seconds) * min(alone_s / loads.seconds, _WIRE_SLACK)
    factor = 1.0 + extra_s / alone_s
    return replace(answer, prediction=stretched(answer.prediction, factor), degraded_factor=factor)


def _beside(answer: CommAnswer) -> tuple[Together, ...]:
    """The transfer and its neighbours on the same links."""
    q, cluster = answer.question, answer.cluster
    topology = build_topology(cluster)
    flows = 1 if q.op in COLLECTIVES and q.op != "all_to_all" else q.ranks - 1
    own = Party(q.op, answer.loads, answer.prediction.time_s, flows)
    return tuple(together([own, *(party_of(b, cluster, topology) for b in q.beside)]))


def _collective(question: CommQuestion, cluster: Cluster) -> CommAnswer:
    kind = cast(CommKind, question.op)
    work = Comm(kind, question.size_bytes, cluster.group(question.ranks), question.algorithm)
    carrier = _carrier(question, cluster)  # refuses a library that nobody knows
    prediction = time_alone(work, cluster, carrier.library, _own(question, cluster))
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


def _own(q: CommQuestion, cluster: Cluster) -> Profile | None:
    """The kernels of a profile file. ScenarioError where it is of another GPU."""
    if q.profile is None:
        return None
    own = load_machine(q.profile, q.ranks)
    if own.gpu != cluster.gpu.name:
        raise ScenarioError(
            f"profile {q.profile[:200]} is of {own.gpu}, the cluster of {cluster.gpu.name}; leave it out"
        )
    return own


@dataclass(frozen=True, slots=True)
class _Carrier:
    """Who carries a transfer, the kind of kernel of an exchange ("" of a collective), and what is said of it."""

    library: Library
    kernel: str
    note: str


def _carrier(q: CommQuestion, cluster: Cluster) -> _Carrier:
    """FactError for a library that nobody knows, or that has no such kernel."""
    if not q.routed:
        if not q.library:
            library, note = usual_library(cluster.gpu.vendor)
            return _Carrier(library, "", note)
        library = library_named(q.library, collective=True)
        return _Carrier(library, "", borrowed_from(library))
    usual_kernel = ONE_TRANSFER.kernel("few tokens" if q.tokens < LOW_LATENCY_TOKENS else "many tokens")
    if q.algorithm != "auto" and q.algorithm not in exchange_kernels():
        raise FactError(f"unknown algorithm {q.algorithm!r}; {did_you_mean(q.algorithm, list(exchange_kernels()))}")
    kernel = usual_kernel if q.algorithm == "auto" else q.algorithm  # what serving and training engines use
    if not q.library:
        library, note = usual_library(cluster.gpu.vendor, kernel)
        return _Carrier(library, kernel, note)
    library = library_named(q.library, collective=False)
    has = tuple(dict.fromkeys(library.kernels.values()))
    if kernel not in has and q.algorithm == "auto":
        kernel = has[0]
    elif kernel not in has:
        raise FactError(
            f"library {library.name} has no kernel {kernel}; it has {', '.join(has)}; or ask for the library {GENERIC}"
        )
    return _Carrier(library, kernel, borrowed_from(library, kernel))


_MODES = {"normal": "forwarded", "elastic": "forwarded", "hybrid": "forwarded", "all_to_all": "pxn"}


def _exchange(q: CommQuestion, cluster: Cluster) -> CommAnswer:
    carrier = _carrier(q, cluster)
    kernel = carrier.kernel
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
    route = _Route(kernel, build_topology(cluster), back=stage == "combine", hashed=q.ecmp)
    traffic, loads = _routed_loads(ask, route)
    sent = replace(
        sent,
        node_copies=traffic.node_copies,
        rank_copies=traffic.rank_copies,
        imbalance=_imbalance(ask, traffic, loads, route),
    )
    work = carried_by(expert_exchange(ONE_TRANSFER, stage, sent), carrier.library)
    alone = time_alone(work, cluster, carrier.library, _own(q, cluster))
    return CommAnswer(q, cluster, alone, loads, traffic, work.imbalance)


@dataclass(frozen=True, slots=True)
class _Route:
    """How a kernel sends: over which links, in which direction, and whether pairs of NICs keep to one path."""

    kernel: str
    topology: Topology
    back: bool
    hashed: bool

    @property
    def mode(self) -> str:
        """The way to route an exchange, of hwmodels/traffic.py."""
        return _MODES.get(self.kernel, "pxn" if self.topology.kind == "multi-plane" else "direct")


def _routed_loads(ask: Exchange, route: _Route) -> tuple[ExchangeTraffic, Loads]:
    """Sampled traffic laid on the links as this kernel sends it."""
    traffic = exchange_traffic(ask)
    if traffic.to_ranks is None:
        drawn = drawn_traffic(ask, route.topology, route.mode)
        if ask.ranks <= route.topology.cluster.domain:
            drawn = replace(drawn, leaves=None)
        loads = link_loads(route.topology, drawn.reversed() if route.back else drawn)
    else:
        copies = traffic.to_domains if route.mode == "forwarded" else None
        topology, back, hashed = route.topology, route.back, route.hashed
        loads = exchange_loads(traffic.to_ranks, topology, route.mode, copies, back=back, hashed=hashed)
    apart = route.kernel in ("low_latency", "all_to_all")  # every pair of token and expert travels by itself
    return traffic, loads.scaled(ask.top_k / traffic.rank_copies) if apart else loads


def _imbalance(ask: Exchange, traffic: ExchangeTraffic, loads: Loads, route: _Route) -> float:
    """By how much hot experts and hashed paths load the busiest link beyond what even traffic puts there.

    Kernels were measured with equally popular experts: the noise of their sampling is in the constants already.
    """
    if ask.sigma == 0.0 and not route.hashed:
        return 1.0
    alike, even = _routed_loads(replace(ask, sigma=0.0), replace(route, back=False, hashed=False))
    share = traffic.sent_bytes / alike.sent_bytes if alike.sent_bytes > 0.0 else 0.0
    return max(1.0, loads.seconds / (even.seconds * share)) if even.seconds * share > 0.0 else 1.0


def forced(question: CommQuestion) -> tuple[str, ...]:
    """Every algorithm that can run this question."""
    cluster = _cluster(question)
    if question.routed:
        wide = cluster.group(question.ranks).domains > 1
        has = library_named(question.library or GENERIC, collective=False).kernels.values()
        return tuple(k for k in exchange_kernels() if k in has and not (wide and k.endswith("_sided")))
    work = Comm(cast(CommKind, question.op), question.size_bytes, cluster.group(question.ranks))
    return algorithms(work, cluster, profile_of(cluster.gpu).collectives)
