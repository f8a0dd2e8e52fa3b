"""How long one collective takes when it has the links to itself: a closed form per algorithm; auto takes the fastest.

Inside a scale-up domain time = base + steps x hop + w/B + c sqrt(w/B): w bytes on the wire per GPU, B the achieved
link rate, and the square root a size ramp (protocols and pipelines that only large messages fill). Between domains
rings and trees carry at most what the NICs of the participating GPUs carry. These are transfers that have the links to
themselves; sim/clock/flows.py is for those that share them, and alone and symmetric both agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import sqrt

from moesim.hwmodels.cluster import Cluster, Pattern, link_bytes_per_s, slowdown
from moesim.hwmodels.facts import FactError, did_you_mean, load_constants
from moesim.hwmodels.units import MIB
from moesim.hwmodels.work import Comm, CommKind

_FILL_POWER = 2.5  # how filling chunks and sending them overlap (fits of B200, GB200 and B300: 2.5 to 2.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFit:
    """Rates are shares of the scale-up link's spec rate in one direction."""

    base_s: float  # launch and synchronisation of a ring collective
    hop_s: float  # one step of the ring
    a2a_base_s: float  # all-to-all has no ring: one floor whatever the number of ranks
    link_efficiency: float  # ring collectives, three ranks or more
    a2a_efficiency: float  # all-to-all
    pair_efficiency: float  # rings of two ranks
    ramp_sqrt_s: float  # c of rings, in seconds^0.5
    own_share: float  # cost of copying the own part in all-gather and reduce-scatter, per byte, over that of the wire
    a2a_own_share: float  # the same in an all-to-all
    a2a_chunk_s: float  # what an all-to-all pays more once its messages are sent in chunks
    a2a_chunk_bytes: float  # per peer, where half of that is paid
    a2a_ramp_sqrt_s: float
    nvls_fill_s: float  # what filling the pipeline of the switches costs a large buffer
    switch_bytes: float  # buffer per rank from which rings send chunks; 0: one formula for all sizes
    small_efficiency: float  # of the link rate below switch_bytes
    fill_hop_s: float  # per step of the ring, to fill its first chunk above switch_bytes
    nvls_base_s: float
    nvls_efficiency: float  # of the link rate on S (1 + 1/n) bytes; 0 = this GPU has no NVLS
    nvls_min_ranks: int  # NVLS is used from this many ranks on


def ring_steps(kind: CommKind, ranks: int) -> int:
    """Steps of the ring: 2(n-1) all-reduce, n-1 all-gather, reduce-scatter and broadcast, 1 otherwise."""
    if kind == "all_reduce":
        return 2 * (ranks - 1)
    return ranks - 1 if kind in ("all_gather", "reduce_scatter", "broadcast") else 1


def wire_bytes(kind: CommKind, ranks: int, size_bytes: float) -> float:
    """Bytes that one rank sends; `size_bytes` is the buffer of the whole operation, as in `work.Comm`.

    The factors of nccl-tests (doc/PERFORMANCE.md): 2 (n-1)/n for an all-reduce, (n-1)/n for gathers and all-to-all.
    """
    if kind in ("send", "broadcast"):
        return size_bytes
    share = (ranks - 1) / ranks
    return size_bytes * share * (2.0 if kind == "all_reduce" else 1.0)


def domain_ring_s(kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of a ring (or, for all-to-all, of direct messages) among `ranks` GPUs; 0 for one rank or no bytes."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    if kind in ("all_to_all", "send"):
        return _messages_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    share = fit.pair_efficiency if ranks == 2 else fit.link_efficiency
    own = fit.own_share / (ranks - 1) if kind in ("all_gather", "reduce_scatter") else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * share)
    steps = ring_steps(kind, ranks)
    floor_s, ramp_s = fit.base_s + steps * fit.hop_s, fit.ramp_sqrt_s * sqrt(wire_s)
    if fit.switch_bytes <= 0.0:
        return floor_s + wire_s + ramp_s
    flagged = wire_bytes(kind, ranks, min(size_bytes, fit.switch_bytes * ranks))
    small_s = floor_s + flagged / (link_bytes_per_s * fit.small_efficiency)
    if size_bytes <= fit.switch_bytes * ranks:
        return small_s
    filled_s = float(((steps * fit.fill_hop_s) ** _FILL_POWER + wire_s**_FILL_POWER) ** (1.0 / _FILL_POWER))
    return max(small_s, floor_s + filled_s + ramp_s)  # never less than the largest small buffer takes


def _messages_s(kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Direct messages: all-to-all with the copy of the own part, or one message."""
    own = fit.a2a_own_share / (ranks - 1) if kind == "all_to_all" else 0.0
    wire_s = wire_bytes(kind, ranks, size_bytes) * (1.0 + own) / (link_bytes_per_s * fit.a2a_efficiency)
    each = size_bytes / ranks if kind == "all_to_all" else size_bytes
    chunked_s = fit.a2a_chunk_s * each**2 / (each**2 + fit.a2a_chunk_bytes**2)
    return fit.a2a_base_s + chunked_s + wire_s + fit.a2a_ramp_sqrt_s * sqrt(wire_s)


def domain_nvls_s(ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit) -> float:
    """Seconds of an all-reduce in the switches (NVLink SHARP): S (1 + 1/n) bytes on every GPU's link; 0 as the ring."""
    if ranks <= 1 or size_bytes <= 0.0:
        return 0.0
    wire_s = size_bytes * (1.0 + 1.0 / ranks) / (link_bytes_per_s * fit.nvls_efficiency)
    return fit.nvls_base_s + wire_s + fit.nvls_fill_s * wire_s / (wire_s + fit.nvls_fill_s / 2.0)


def domain_collective_s(
    kind: CommKind, ranks: int, size_bytes: float, link_bytes_per_s: float, fit: CollectiveFit
) -> float:
    """Seconds of one collective inside one domain as the library chooses: ring or switches."""
    ring_s = domain_ring_s(kind, ranks, size_bytes, link_bytes_per_s, fit)
    if kind != "all_reduce" or fit.nvls_efficiency <= 0.0 or ranks < fit.nvls_min_ranks:
        return ring_s
    return min(ring_s, domain_nvls_s(ranks, size_bytes, link_bytes_per_s, fit))


_SLOWEST = 3.0  # assumed: the overhead of a message is at most three times its transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricFit:
    """Constants of transfers between scale-up domains, and of algorithms the kernel tables do not cover."""

    nic_efficiency: float
    ring_hop_s: float  # per hop between domains, beside the fabric's own latency
    tree_hop_s: float  # per level and direction
    tree_ramp_sqrt_s: float
    nvls_tree_efficiency: float  # of the NICs' rate
    peer_message_s: float  # per remote peer of a direct all-to-all, see _SLOWEST
    send_message_s: float
    symmetric_base_s: float
    symmetric_efficiency: float
    one_shot_base_s: float


@cache
def load_fabric_fit(generation: str = "hopper") -> FabricFit:
    """The constants of profiles/comm/fabric.yaml for a GPU generation."""
    return load_constants(FabricFit, "fabric", generation)


@dataclass(frozen=True, slots=True)
class Wires:
    """What a closed form needs: the transfer, the cluster, and the fits of both levels."""

    comm: Comm
    cluster: Cluster
    fit: CollectiveFit
    fabric: FabricFit

    def nic_bytes_per_s(self, pattern: Pattern = "everyone", on_rail: bool = True) -> float:
        """One GPU's NIC share as collectives see it, behind uplinks that this pattern of messages may fill."""
        slower = slowdown(self.cluster, self.comm.group, pattern, on_rail)
        return self.cluster.nic_bytes_per_s * self.fabric.nic_efficiency / slower

    def rails_bytes_per_s(self, pattern: Pattern = "everyone") -> float:
        """What a domain's GPUs of the group send out together, bound by the links that feed the NICs."""
        local, nic = self.comm.group.fewest, self.nic_bytes_per_s(pattern)
        if self.comm.group.per_domain == 1:
            return nic
        return min(local * nic, link_bytes_per_s(self.cluster) * self.fit.link_efficiency)


def _ring_across_s(w: Wires) -> float:
    """Multi-rail ring: each of the group's GPUs in a domain drives its own NIC."""
    n, domains = w.comm.group.ranks, w.comm.group.domains
    passes = 2 if w.comm.kind == "all_reduce" else 1
    hop = w.fabric.ring_hop_s + w.cluster.fabric_latency_s
    hops = (domains - 1) * hop + (n - domains) * w.fit.hop_s
    fill = passes * (n - 1) / n * w.comm.bytes / w.rails_bytes_per_s("neighbours")
    return w.fit.base_s + passes * hops + fill + w.fit.ramp_sqrt_s * math.sqrt(fill)


def _tree_across_s(w: Wires) -> float:
    """Double binary tree: up and down, both halves of the buffer at once."""
    fill = 2 * w.comm.bytes / w.rails_bytes_per_s()
    hop = w.fabric.tree_hop_s + w.cluster.fabric_latency_s
    hops = 2 * math.log2(w.comm.group.domains) * hop
    return w.fit.base_s + hops + fill + w.fabric.tree_ramp_sqrt_s * math.sqrt(fill)


def _nvls_tree_s(w: Wires) -> float:
    """Reduction in the switches of every domain, tree between domains."""
    domains = w.comm.group.domains
    fill = 2 * (domains - 1) / domains * w.comm.bytes / (w.rails_bytes_per_s() * w.fabric.nvls_tree_efficiency)
    hops = 2 * math.log2(w.comm.group.domains) * (w.fabric.tree_hop_s + w.cluster.fabric_latency_s)
    return w.fit.nvls_base_s + hops + fill + w.fabric.tree_ramp_sqrt_s * math.sqrt(fill)


def _near_s(w: Wires, size_bytes: float) -> float:
    """An exchange of `size_bytes` per GPU inside one domain, own part included."""
    local = w.comm.group.per_domain
    if local == 1:
        return 0.0
    return size_bytes * (local - 1) / local / (link_bytes_per_s(w.cluster) * w.fit.a2a_efficiency)


def _direct_s(w: Wires) -> float:
    """Every pair exchanges its own message: one per remote GPU."""
    n, local = w.comm.group.ranks, w.comm.group.per_domain
    each = w.comm.bytes / n / w.nic_bytes_per_s(on_rail=False)
    peers = n - w.comm.group.fewest
    remote = peers * (each + w.fabric.send_message_s + min(w.fabric.peer_message_s, _SLOWEST * each))
    near = _near_s(w, w.comm.bytes * local / n)
    return w.fit.a2a_base_s + w.cluster.fabric_latency_s + max(remote, near)


def _by_domain_s(w: Wires) -> float:
    """One message per remote domain and rail; GPUs of a domain that lacks rails carry those of several."""
    group = w.comm.group
    carried = group.fewest * -(-group.per_domain // group.fewest)
    each = w.comm.bytes * carried / group.ranks / w.nic_bytes_per_s()
    return (group.domains - 1) * (each + w.fabric.send_message_s + min(w.fabric.peer_message_s, _SLOWEST * each))


def _pxn_s(w: Wires) -> float:
    """Messages for one remote domain are gathered over NVLink on the GPU of the destination's rail: one per domain."""
    return w.fit.a2a_base_s + w.cluster.fabric_latency_s + max(_by_domain_s(w), _near_s(w, w.comm.bytes))


def _two_level_s(w: Wires) -> float:
    """2D hierarchical (Tutel's 2DH): exchange inside the domain, then between GPUs of the same rail."""
    copies = 2 * 2 * w.comm.bytes / w.cluster.gpu.hbm_bytes_per_s  # reordered before and after the first stage
    return 2 * w.fit.a2a_base_s + w.cluster.fabric_latency_s + _near_s(w, w.comm.bytes) + _by_domain_s(w) + copies


def _send_across_s(w: Wires) -> float:
    return w.fit.a2a_base_s + w.cluster.fabric_latency_s + w.comm.bytes / w.nic_bytes_per_s()


def _ring_inside_s(w: Wires) -> float:
    return domain_ring_s(w.comm.kind, w.comm.group.ranks, w.comm.bytes, link_bytes_per_s(w.cluster), w.fit)


def _nvls_s(w: Wires) -> float:
    return domain_nvls_s(w.comm.group.ranks, w.comm.bytes, link_bytes_per_s(w.cluster), w.fit)


def _symmetric_s(w: Wires) -> float:
    """In-switch reduction on symmetric memory: half the floor, no ramp; the application must register its buffers."""
    wire = w.comm.bytes * (1.0 + 1.0 / w.comm.group.ranks)
    return w.fabric.symmetric_base_s + wire / (link_bytes_per_s(w.cluster) * w.fabric.symmetric_efficiency)


def _one_shot_s(w: Wires) -> float:
    """Custom all-reduce of serving engines: every GPU reads all others' buffers and adds them up itself."""
    wire = w.comm.bytes * (w.comm.group.ranks - 1)
    return w.fabric.one_shot_base_s + wire / (link_bytes_per_s(w.cluster) * w.fit.link_efficiency)


def _two_shot_s(w: Wires) -> float:
    """Custom all-reduce of larger messages: every GPU adds up its share, then all read the shares."""
    wire = wire_bytes("all_reduce", w.comm.group.ranks, w.comm.bytes)
    return 2 * w.fabric.one_shot_base_s + wire / (link_bytes_per_s(w.cluster) * w.fit.link_efficiency)


def _custom_s(w: Wires) -> float:
    """What a serving engine takes: its own kernels for small messages, the library's for large ones."""
    own = min(_one_shot_s(w), _two_shot_s(w)) if w.comm.bytes <= _CUSTOM_BYTES else math.inf
    nvls = _nvls_s(w) if w.fit.nvls_efficiency > 0.0 and w.comm.group.ranks >= w.fit.nvls_min_ranks else math.inf
    return min(own, nvls, _ring_inside_s(w))


_CUSTOM_BYTES = 8 * MIB  # engines keep their own buffers up to this size (vLLM: 8 MiB on Hopper)
Form = Callable[[Wires], float]
_ON_REQUEST = (
    "symmetric",
    "one_shot",
    "two_shot",
    "custom",
    "two_level",
)  # need the application's help: never chosen by auto
_INSIDE: dict[str, dict[str, Form]] = {
    "all_reduce": {
        "ring": _ring_inside_s, "nvls": _nvls_s, "symmetric": _symmetric_s, "one_shot": _one_shot_s,
        "two_shot": _two_shot_s, "custom": _custom_s,
    },
    "all_gather": {"ring": _ring_inside_s},
    "reduce_scatter": {"ring": _ring_inside_s},
    "broadcast": {"ring": _ring_inside_s},
    "all_to_all": {"direct": _ring_inside_s},
    "send": {"direct": _ring_inside_s},
}  # fmt: skip
_ACROSS: dict[str, dict[str, Form]] = {
    "all_reduce": {"ring": _ring_across_s, "tree": _tree_across_s, "nvls_tree": _nvls_tree_s},
    "all_gather": {"ring": _ring_across_s},
    "reduce_scatter": {"ring": _ring_across_s},
    "broadcast": {"ring": _ring_across_s},
    "all_to_all": {"direct": _direct_s, "pxn": _pxn_s, "two_level": _two_level_s},
    "send": {"direct": _send_across_s},
}


def algorithms(comm: Comm, cluster: Cluster, fit: CollectiveFit) -> tuple[str, ...]:
    """Algorithms that can run this transfer here, those that need the application's help last."""
    table = (_INSIDE if comm.group.domains == 1 else _ACROSS).get(comm.kind, {})
    nvls = fit.nvls_efficiency > 0.0 and comm.group.per_domain >= fit.nvls_min_ranks
    names = [n for n in table if nvls or n not in ("nvls", "nvls_tree", "symmetric")]
    return tuple(sorted(names, key=lambda n: n in _ON_REQUEST))


def choose(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> tuple[str, float]:
    """(algorithm, seconds): the one that is asked for, or the fastest a library would take by itself."""
    if comm.group.domains > 1 and cluster.nic_bytes_per_s <= 0:
        raise FactError(f"{cluster.name} has no NICs, but a {comm.kind} spans {comm.group.domains} domains")
    table = (_INSIDE if comm.group.domains == 1 else _ACROSS).get(comm.kind)
    if table is None:
        raise FactError(f"no closed form for {comm.kind!r}; {did_you_mean(comm.kind, list(_ACROSS))}")
    able = algorithms(comm, cluster, fit)
    wires = Wires(comm, cluster, fit, fabric)
    if comm.algorithm != "auto":
        if comm.algorithm not in able:
            where = "inside one domain" if comm.group.domains == 1 else "between domains"
            raise FactError(
                f"algorithm {comm.algorithm!r} cannot run a {comm.kind} {where} here; use {', '.join(able)}"
            )
        return comm.algorithm, table[comm.algorithm](wires)
    timed = [(table[name](wires), name) for name in able if name not in _ON_REQUEST]
    seconds, name = min(timed)
    return name, seconds


def collective_s(comm: Comm, cluster: Cluster, fit: CollectiveFit, fabric: FabricFit) -> float:
    """Seconds of one collective alone on the network; 0 for a group of one."""
    if comm.group.ranks <= 1 or comm.bytes <= 0:
        return 0.0
    return choose(comm, cluster, fit, fabric)[1]
