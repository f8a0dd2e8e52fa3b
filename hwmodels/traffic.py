"""Who sends how many bytes to whom, laid on the links of a topology: the busiest link decides how long it takes.

For one exchange the largest load over capacity of all links IS the time of max-min fair flows wherever flows spread
evenly (tests compare with the exact solver, fairshare.py). Matrices hold bytes, source GPU by destination GPU. GPUs
fill one domain after the other; where the last holds fewer, they take turns for the rails they lack.

direct         source NIC to destination NIC; another rail is reached over the spines
pxn            first over NVLink to the local GPU on the destination's rail, then its NIC
forwarded      one copy per destination domain over the own rail, fanned out there over NVLink (DeepEP normal)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.topology import Topology

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
Bytes = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links of one kind: what each carries and can carry, and what the i-th is called."""

    name: str
    load_bytes: Bytes
    rate_bytes_per_s: Bytes
    title: Callable[[int], str]

    @property
    def busy_s(self) -> Bytes:
        """How long each link is busy at its own rate."""
        return self.load_bytes / self.rate_bytes_per_s

    @property
    def seconds(self) -> float:
        """How long the busiest of them is busy."""
        return float(self.busy_s.max()) if self.load_bytes.size else 0.0


@dataclass(frozen=True, slots=True)
class Loads:
    """All link classes of one exchange."""

    classes: tuple[LinkClass, ...]

    @property
    def seconds(self) -> float:
        """Time of the fluid exchange: the busiest link at its rate."""
        return max(c.seconds for c in self.classes)

    def scaled(self, factor: float) -> Loads:
        """The same exchange with `factor` times the bytes."""
        return Loads(tuple(replace(c, load_bytes=c.load_bytes * factor) for c in self.classes))

    def bottleneck(self) -> tuple[str, float]:
        """Name of the busiest link and the bytes it carries."""
        worst = max(self.classes, key=lambda c: c.seconds)
        index = int(worst.busy_s.argmax())
        return worst.title(index), float(worst.load_bytes[index])

    def summary(self) -> dict[str, dict[str, float]]:
        """Per class: busiest and mean load in bytes, rate, and seconds."""
        loads = {}
        for c in self.classes:
            if c.load_bytes.size:
                worst = int(c.busy_s.argmax())
                loads[c.name] = {
                    "busiest_bytes": float(c.load_bytes[worst]),
                    "mean_bytes": float(c.load_bytes.mean()),
                    "link_bytes_per_s": float(c.rate_bytes_per_s[worst]),
                    "busy_s": c.seconds,
                }
        return loads


def uniform(ranks: int, bytes_per_rank: float) -> Bytes:
    """Every rank sends the same to everybody, itself included: `bytes_per_rank` in all."""
    return np.full((ranks, ranks), bytes_per_rank / ranks)


def check_matrix(matrix: Bytes, topology: Topology) -> None:
    """FactError unless the matrix is square, fits the cluster and holds finite, non-negative bytes."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise FactError(f"a traffic matrix is square, not {matrix.shape}")
    if matrix.shape[0] > topology.cluster.gpus:
        raise FactError(f"traffic of {matrix.shape[0]} ranks on {topology.cluster.gpus} GPUs")
    if not np.isfinite(matrix).all() or (matrix < 0).any():
        raise FactError("a traffic matrix holds finite, non-negative bytes")


def _blocks(matrix: Bytes, domain: int) -> tuple[Bytes, int]:
    """The matrix as [source domain, local, destination domain, local], padded to whole domains."""
    n = matrix.shape[0]
    domains = -(-n // domain)
    if domains * domain != n:
        padded = np.zeros((domains * domain, domains * domain))
        padded[:n, :n] = matrix
        matrix = padded
    return matrix.reshape(domains, domain, domains, domain), domains


def exchange_loads(
    matrix: Bytes,
    topology: Topology,
    mode: str = "pxn",
    copies: Bytes | None = None,
    *,
    back: bool = False,
    hashed: bool = False,
) -> Loads:
    """Loads of an all-to-all: `matrix[s, d]` bytes that GPU s has for GPU d (per distinct rank when forwarded).

    For mode "forwarded" `copies[s, k]` are the bytes that s sends once to domain k. `back`: the same bytes return the
    way they came, as the results of experts do. `hashed`: every pair of NICs keeps to one path (static ECMP) instead of
    spreading over all of them (adaptive routing).
    """
    check_matrix(matrix, topology)
    if mode not in ("direct", "pxn", "forwarded"):
        raise FactError(f"unknown way {mode!r} to route an exchange; use direct, pxn or forwarded")
    ranks = matrix.shape[0]
    domain = min(topology.cluster.domain, max(1, ranks))
    blocks, domains = _blocks(matrix, domain)
    if topology.kind == "multi-plane" and domains > 1 and ranks % domain:
        raise FactError(f"planes need a GPU in every domain: {ranks} ranks are not a multiple of {domain}")
    own, diagonal = np.arange(domains), np.arange(domain)
    inside = blocks[own, :, own, :].copy()  # [domain, source local, destination local]
    inside[:, diagonal, diagonal] = 0.0
    remote = blocks.copy()
    remote[own, :, own, :] = 0.0
    near = _Near(inside.sum(axis=2), inside.sum(axis=1))
    if mode == "direct":
        flows = _Flows(near, remote.sum(axis=(2, 3)), remote.sum(axis=(0, 1)), remote)
    elif mode == "pxn":
        flows = _pxn(remote, near, _carriers(ranks, domains, domain))
    else:
        flows = _forwarded(remote, copies, near, _carriers(ranks, domains, domain))
    return _collect(topology, flows.reversed() if back else flows, ranks, hashed)


@dataclass(frozen=True, slots=True)
class _Near:
    """Bytes over the scale-up links of every GPU, [domain, local]."""

    out: Bytes
    into: Bytes


@dataclass(frozen=True, slots=True)
class _Flows:
    """Bytes over every GPU's links, and between NICs as [source domain, local, destination domain, local]."""

    near: _Near
    out_far: Bytes
    in_far: Bytes
    between: Bytes

    def reversed(self) -> _Flows:
        """Every byte the other way."""
        return _Flows(
            _Near(self.near.into, self.near.out), self.in_far, self.out_far, self.between.transpose(2, 3, 0, 1)
        )


def _carriers(ranks: int, domains: int, domain: int) -> npt.NDArray[np.intp]:
    """[domain, rail]: the local GPU that serves a rail; those of a short last domain take turns."""
    rails = np.arange(domain)
    sizes = np.full((domains, 1), domain)
    sizes[-1] = ranks - (domains - 1) * domain
    return np.asarray(rails % sizes)


def _pxn(remote: Bytes, near: _Near, carriers: npt.NDArray[np.intp]) -> _Flows:
    """Over NVLink to the GPU on the destination's rail, then over its NIC."""
    domains, domain = carriers.shape
    gathered = np.zeros((domains, domain, domain))  # [domain, source local, local GPU that sends]
    between = np.zeros_like(remote)
    own = np.arange(domains)
    rails, per_rail = remote.sum(axis=2), remote.sum(axis=1)  # [.., source local, rail], [.., destination domain, rail]
    for rail in range(domain):
        gathered[own, :, carriers[:, rail]] += rails[:, :, rail]
        between[own, carriers[:, rail], :, rail] += per_rail[:, :, rail]
    out_far = gathered.sum(axis=1)
    diagonal = np.arange(domain)
    gathered[:, diagonal, diagonal] = 0.0  # what already sits on its rail stays
    moved = _Near(near.out + gathered.sum(axis=2), near.into + gathered.sum(axis=1))
    return _Flows(moved, out_far, remote.sum(axis=(0, 1)), between)


def _forwarded(remote: Bytes, copies: Bytes | None, near: _Near, carriers: npt.NDArray[np.intp]) -> _Flows:
    """One copy per destination domain over the own rail; the GPU that receives it fans it out over NVLink."""
    if copies is None:
        raise FactError("a forwarded exchange needs the bytes that every GPU sends once per domain")
    domains, domain = carriers.shape
    sent = np.zeros((domains * domain, domains))
    sent[: copies.shape[0], : copies.shape[1]] = copies
    sent = sent.reshape(domains, domain, domains)
    own = np.arange(domains)
    sent[own, :, own] = 0.0
    fan = remote.sum(axis=0)  # [rail of the source, destination domain, destination local]
    fanned = np.zeros((domains, domain, domain))  # [domain, local GPU that received, local GPU it is for]
    between = np.zeros_like(remote)
    for rail in range(domain):
        fanned[own, carriers[:, rail]] += fan[rail]
        between[:, rail, own, carriers[:, rail]] += sent[:, rail, :].T
    diagonal = np.arange(domain)
    fanned[:, diagonal, diagonal] = 0.0  # experts on the GPU that received it
    moved = _Near(near.out + fanned.sum(axis=2), near.into + fanned.sum(axis=1))
    return _Flows(moved, sent.sum(axis=2), between.sum(axis=(0, 1)), between)


def _collect(topology: Topology, flows: _Flows, ranks: int, hashed: bool) -> Loads:
    cluster, (domains, domain) = topology.cluster, flows.out_far.shape
    rate, nic = link_bytes_per_s(cluster), cluster.nic_bytes_per_s
    classes = [
        _gpu_links("NVLink out", flows.near.out, ranks, rate, lambda i: f"gpu{i} -> switch{i // domain}"),
        _gpu_links("NVLink in", flows.near.into, ranks, rate, lambda i: f"switch{i // domain} -> gpu{i}"),
    ]
    if domains > 1:
        between = flows.between.reshape(domains * domain, domains * domain)[:ranks, :ranks]
        classes += [
            _gpu_links("NIC out", flows.out_far, ranks, nic, lambda i: f"gpu{i} -> nic{i}"),
            _gpu_links("NIC in", flows.in_far, ranks, nic, lambda i: f"nic{i} -> gpu{i}"),
            *_fabric_links(topology, between, hashed),
        ]
    return Loads(tuple(classes))


def _gpu_links(name: str, load: Bytes, ranks: int, rate: float, title: Callable[[int], str]) -> LinkClass:
    flat = load.reshape(-1)[:ranks]
    return LinkClass(name, flat, np.full(flat.shape, rate), title)


def _leaves(topology: Topology, gpus: int) -> tuple[list[str], npt.NDArray[np.intp]]:
    """Names of the leaves in use, and the number among them of every GPU's."""
    leaves = topology.leaf_of[:gpus]
    names = sorted(set(leaves), key=lambda name: int(name[4:]))
    position = {name: i for i, name in enumerate(names)}
    return names, np.array([position[leaf] for leaf in leaves], dtype=np.intp)


def _spread_evenly(topology: Topology, between: Bytes) -> dict[tuple[str, str], float]:
    """Traffic split alike over all shortest paths: adaptive routing, and hashing of many flows on average."""
    names, index = _leaves(topology, between.shape[0])
    rows = np.zeros((len(names), between.shape[0]))
    np.add.at(rows, index, between)
    traffic = np.zeros((len(names), len(names)))
    np.add.at(traffic.T, index, rows.T)
    np.fill_diagonal(traffic, 0.0)
    carried = dict.fromkeys(topology.fabric_links(), 0.0)
    for source, row in zip(names, traffic, strict=True):
        if row.any():
            wanted = {name: float(size) for name, size in zip(names, row, strict=True) if size > 0.0}
            for link, size in topology.spread(source, wanted).items():
                carried[link] += size
    return carried


def _hash_to_paths(topology: Topology, between: Bytes) -> dict[tuple[str, str], float]:
    """Every pair of NICs on the one shortest path that a hash of both numbers picks (Fibonacci hashing)."""
    names, index = _leaves(topology, between.shape[0])
    members = [np.flatnonzero(index == i) for i in range(len(names))]
    carried = dict.fromkeys(topology.fabric_links(), 0.0)
    for source, senders in zip(names, members, strict=True):
        blocks = {n: between[np.ix_(senders, m)] for n, m in zip(names, members, strict=True) if n != source}
        wanted = {name: block for name, block in blocks.items() if block.any()}
        for target, paths in topology.paths(source, wanted).items():
            receivers = members[names.index(target)]
            keys = senders[:, None].astype(np.uint64) * np.uint64(between.shape[0]) + receivers.astype(np.uint64)
            picks = ((keys * np.uint64(_GOLDEN)) >> np.uint64(40)) % np.uint64(len(paths))
            sizes = np.bincount(picks.reshape(-1).astype(np.intp), wanted[target].reshape(-1), len(paths))
            for path, size in zip(paths, sizes, strict=True):
                for link in path:
                    carried[link] += float(size)
    return carried


def _fabric_links(topology: Topology, between: Bytes, hashed: bool) -> list[LinkClass]:
    """Loads of the links among leaves, spines and cores."""
    carried = _hash_to_paths(topology, between) if hashed else _spread_evenly(topology, between)
    if not carried:
        return []
    links = list(carried)
    load = np.array([carried[link] for link in links])
    rate = np.array([topology.capacity(link) for link in links])
    return [LinkClass("fabric", load, rate, lambda i: " -> ".join(links[i]))]
