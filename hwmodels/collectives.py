"""How long one collective takes when it has the links to itself: a closed form per algorithm; auto takes the fastest.

Inside a scale-up domain the forms of domain_collectives.py. Between domains rings and trees carry at most what the NICs
of the participating GPUs carry, and the part inside each domain is a stage of the same pipeline: no transfer between
domains is faster than that stage alone. Hence with the same buffer more ranks never take less time where every domain
holds the same number (a domain that holds fewer has fewer NICs: it is slower than more ranks there would be). These are
transfers that have the links to themselves; sim/clock/flows.py is for those that share them, and alone and symmetric
both agree. What no algorithm can beat: lower_bounds.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from moesim.hwmodels.cluster import Cluster, Pattern, link_bytes_per_s, slowdown
from moesim.hwmodels.domain_collectives import (
    CollectiveFit,
    domain_nvls_s,
    domain_ring_s,
    switch_wire_bytes,
    wire_bytes,
)
from moesim.hwmodels.facts import FactError, did_you_mean, load_constants
from moesim.hwmodels.torus import exchange_bytes_per_s, span_of, torus_collective_s
from moesim.hwmodels.units import MIB
from moesim.hwmodels.work import Comm

_SLOWEST = 3.0  # assumed: beside few peers the overhead of a message is at most three times its transfer
_FEW_PEERS, _MANY_PEERS = 128, 248  # assumed: messages cost more from the first on (DeepSpeed-MoE's run on 128 A100
# shows nothing of it) and have all of it from the second on (Tutel's 256, on which it was chosen)


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
        rate = self.cluster.nic_bytes_per_s * self.fabric.nic_efficiency
        if not self.cluster.gpu.scale_up_bytes_per_s:  # what goes to the NIC and to neighbours shares the GPU's PCIe
            rate = min(rate, link_bytes_per_s(self.cluster) * self.fit.a2a_efficiency)
        return rate / slowdown(self.cluster, self.comm.group, pattern, on_rail)

    def rails_bytes_per_s(self, pattern: Pattern = "everyone") -> float:
        """What a domain's GPUs of the group send out together, bound by the links that feed the NICs."""
        local, nic = self.comm.group.fewest, self.nic_bytes_per_s(pattern)
        if self.comm.group.per_domain == 1:
            return nic
        return min(local * nic, link_bytes_per_s(self.cluster) * self.fit.link_efficiency)


def _local_ring_s(w: Wires) -> float:
    """The part of a collective between domains that runs inside each of them: 0 for one GPU per domain."""
    return _inside_s(w, w.comm.group.per_domain)


def _inside_s(w: Wires, ranks: int) -> float:
    """Among so many ranks of one domain: around its switches, or over the links of its torus."""
    span = span_of(w.cluster, ranks)
    if span is not None:
        return torus_collective_s(w.comm.kind, ranks, w.comm.bytes, span, w.fit)
    return domain_ring_s(w.comm.kind, ranks, w.comm.bytes, link_bytes_per_s(w.cluster), w.fit)


def _ring_across_s(w: Wires) -> float:
    """Multi-rail ring: each of the group's GPUs in a domain drives its own NIC."""
    n, domains = w.comm.group.ranks, w.comm.group.domains
    passes = 2 if w.comm.kind == "all_reduce" else 1
    hop = w.fabric.ring_hop_s + w.cluster.fabric_latency_s
    hops = (domains - 1) * hop + (n - domains) * w.fit.hop_s
    fill = wire_bytes(w.comm.kind, n, w.comm.bytes) / w.rails_bytes_per_s("neighbours")
    return max(w.fit.base_s + passes * hops + fill + w.fit.ramp_sqrt_s * math.sqrt(fill), _local_ring_s(w))


def _tree_fill_s(w: Wires, efficiency: float = 1.0) -> float:
    """Double binary tree over domains that reduce inside first: 2 (D-1)/D of the buffer leave and enter each of D."""
    return wire_bytes("all_reduce", w.comm.group.domains, w.comm.bytes) / (w.rails_bytes_per_s() * efficiency)


def _levels_s(w: Wires) -> float:
    """Up the tree and down again."""
    return 2 * math.log2(w.comm.group.domains) * (w.fabric.tree_hop_s + w.cluster.fabric_latency_s)


def _tree_ramp_s(w: Wires, fill_s: float) -> float:
    """Chunks that fill a pipeline as deep as the tree: with the best of chunk sizes sqrt(depth x fill)."""
    return w.fabric.tree_ramp_sqrt_s * math.sqrt(math.log2(w.comm.group.domains) * fill_s)


def _tree_across_s(w: Wires) -> float:
    """Double binary tree: up and down, both halves of the buffer at once."""
    fill = _tree_fill_s(w)
    return max(w.fit.base_s + _levels_s(w) + fill + _tree_ramp_s(w, fill), _local_ring_s(w))


def _nvls_tree_s(w: Wires) -> float:
    """Reduction in the switches of every domain, tree between domains."""
    fill = _tree_fill_s(w, w.fabric.nvls_tree_efficiency)
    inside = domain_nvls_s(w.comm.group.per_domain, w.comm.bytes, link_bytes_per_s(w.cluster), w.fit)
    return max(w.fit.nvls_base_s + _levels_s(w) + fill + _tree_ramp_s(w, fill), inside)


def _near_s(w: Wires, size_bytes: float) -> float:
    """An exchange of `size_bytes` per GPU inside one domain, own part included."""
    local = w.comm.group.per_domain
    if local == 1:
        return 0.0
    return size_bytes * (local - 1) / local / (exchange_bytes_per_s(w.cluster, local) * w.fit.a2a_efficiency)


def _direct_s(w: Wires) -> float:
    """Every pair exchanges its own message: one per remote GPU."""
    n, local = w.comm.group.ranks, w.comm.group.per_domain
    each = w.comm.bytes / n / w.nic_bytes_per_s(on_rail=False)
    peers = n - w.comm.group.fewest
    remote = peers * (each + w.fabric.send_message_s + _message_s(w.fabric, each, peers))
    near = _near_s(w, w.comm.bytes * local / n)
    return max(w.fit.a2a_base_s + w.cluster.fabric_latency_s + max(remote, near), _ring_inside_s(w))


def _by_domain_s(w: Wires) -> float:
    """One message per remote domain and rail; GPUs of a domain that lacks rails carry those of several."""
    group = w.comm.group
    carried = group.fewest * -(-group.per_domain // group.fewest)
    each = w.comm.bytes * carried / group.ranks / w.nic_bytes_per_s()
    peers = group.domains - 1
    return peers * (each + w.fabric.send_message_s + _message_s(w.fabric, each, peers))


def crowd_s(fabric: FabricFit, peers: int) -> float:
    """Seconds that messages to so many peers cost beside their transfers, however small they are."""
    return peers * fabric.peer_message_s * min(1.0, max(0.0, (peers - _FEW_PEERS) / (_MANY_PEERS - _FEW_PEERS)))


def _message_s(fabric: FabricFit, each_s: float, peers: int) -> float:
    """What a message costs beside its transfer: more where the NIC serves more peers at once (connections leave its
    cache, messages meet at receivers): Tutel's layer on 2,048 A100 spends about 100 us on each message of 64 KiB."""
    return min(fabric.peer_message_s, max(_SLOWEST * each_s, crowd_s(fabric, peers) / max(1, peers)))


def _pxn_s(w: Wires) -> float:
    """Messages for one remote domain are gathered over NVLink on the GPU of the destination's rail: one per domain."""
    exchanged = max(_by_domain_s(w), _near_s(w, w.comm.bytes))
    return max(w.fit.a2a_base_s + w.cluster.fabric_latency_s + exchanged, _ring_inside_s(w))


def _two_level_s(w: Wires) -> float:
    """2D hierarchical (Tutel's 2DH): exchange inside the domain, then between GPUs of the same rail."""
    copies = 2 * 2 * w.comm.bytes / w.cluster.gpu.hbm_bytes_per_s  # reordered before and after the first stage
    stages = _near_s(w, w.comm.bytes) + _by_domain_s(w) + copies
    return max(2 * w.fit.a2a_base_s + w.cluster.fabric_latency_s + stages, _ring_inside_s(w))


def _send_across_s(w: Wires) -> float:
    across = w.fit.a2a_base_s + w.cluster.fabric_latency_s + w.comm.bytes / w.nic_bytes_per_s()
    return max(across, _ring_inside_s(w))


def _ring_inside_s(w: Wires) -> float:
    """As if one domain held all: no pair of NICs is faster than the scale-up links."""
    return _inside_s(w, w.comm.group.ranks)


def _nvls_s(w: Wires) -> float:
    return domain_nvls_s(w.comm.group.ranks, w.comm.bytes, link_bytes_per_s(w.cluster), w.fit)


def _symmetric_s(w: Wires) -> float:
    """In-switch reduction on symmetric memory: half the floor, no ramp; the application must register its buffers."""
    wire = switch_wire_bytes(w.comm.group.ranks, w.comm.bytes)
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


def by_library(comm: Comm) -> bool:
    """Whether a library carries a transfer by itself: always, or where an engine's own buffers are too small."""
    return comm.algorithm == "auto" or (comm.algorithm == "custom" and comm.bytes > _CUSTOM_BYTES)


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
