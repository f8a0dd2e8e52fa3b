"""Who sends how many bytes to whom, laid on the links of a topology: the busiest link decides how long it takes.

For one exchange the largest load over capacity of all links IS the time of max-min fair flows wherever flows spread
evenly (calibrate and the law tests compare with the exact solver). Matrices hold bytes, source GPU by destination GPU.

direct         source NIC to destination NIC; another rail is reached over the spines
pxn            first over NVLink to the local GPU on the destination's rail, then its NIC
forwarded      one copy per destination domain over the own rail, fanned out there over NVLink (DeepEP normal)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwmodels.facts import FactError
from hwmodels.topology import Topology

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

    def bottleneck(self) -> tuple[str, float]:
        """Name of the busiest link and the bytes it carries."""
        worst = max(self.classes, key=lambda c: c.seconds)
        index = int(worst.busy_s.argmax())
        return worst.title(index), float(worst.load_bytes[index])

    def summary(self) -> dict[str, dict[str, float]]:
        """Per class: busiest and mean load in bytes, rate, and seconds."""
        found = {}
        for c in self.classes:
            if c.load_bytes.size:
                worst = int(c.busy_s.argmax())
                found[c.name] = {
                    "busiest_bytes": float(c.load_bytes[worst]),
                    "mean_bytes": float(c.load_bytes.mean()),
                    "link_bytes_per_s": float(c.rate_bytes_per_s[worst]),
                    "busy_s": c.seconds,
                }
        return found


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


def exchange_loads(matrix: Bytes, topology: Topology, mode: str = "pxn", copies: Bytes | None = None) -> Loads:
    """Loads of an all-to-all: `matrix[s, d]` bytes that GPU s has for GPU d (per distinct rank when forwarded).

    For mode "forwarded" `copies[s, k]` are the bytes that s sends once to domain k.
    """
    check_matrix(matrix, topology)
    domain = min(topology.cluster.domain, max(1, matrix.shape[0]))
    blocks, domains = _blocks(matrix, domain)
    own = np.arange(domains)
    inside = blocks[own, :, own, :]  # [domain, source local, destination local]
    diagonal = np.arange(domain)
    inside = inside.copy()
    inside[:, diagonal, diagonal] = 0.0
    out_near, in_near = inside.sum(axis=2), inside.sum(axis=1)
    remote = blocks.copy()
    remote[own, :, own, :] = 0.0
    if mode == "forwarded":
        return _forwarded(topology, remote, copies, out_near, in_near)
    if mode not in ("direct", "pxn"):
        raise FactError(f"unknown way {mode!r} to route an exchange; use direct, pxn or forwarded")
    if mode == "pxn":
        rails = remote.sum(axis=2)  # [source domain, source local, destination rail]
        moved = rails.copy()
        moved[:, diagonal, diagonal] = 0.0  # what already sits on its rail stays
        out_near, in_near = out_near + moved.sum(axis=2), in_near + moved.sum(axis=1)
        out_far = rails.sum(axis=1)
        between = _same_rail(remote)
    else:
        out_far = remote.sum(axis=(2, 3))
        between = remote
    in_far = remote.sum(axis=(0, 1))
    return _collect(topology, out_near, in_near, out_far, in_far, between)


def _same_rail(remote: Bytes) -> Bytes:
    """Traffic after PXN: source domain and rail equal the destination's rail."""
    per_rail = remote.sum(axis=1)  # [source domain, destination domain, rail]
    domains, _, domain = per_rail.shape
    moved = np.zeros((domains, domain, domains, domain))
    for rail in range(domain):
        moved[:, rail, :, rail] = per_rail[:, :, rail]
    return moved


def _forwarded(topology: Topology, remote: Bytes, copies: Bytes | None, out_near: Bytes, in_near: Bytes) -> Loads:
    if copies is None:
        raise FactError("a forwarded exchange needs the bytes that every GPU sends once per domain")
    domains, domain = remote.shape[0], remote.shape[1]
    sent = np.zeros((domains * domain, domains))
    sent[: copies.shape[0], : copies.shape[1]] = copies
    sent = sent.reshape(domains, domain, domains).copy()
    own = np.arange(domains)
    sent[own, :, own] = 0.0
    arrived = sent.sum(axis=0)  # [rail, destination domain]
    fan = remote.sum(axis=0)  # [rail of the source, destination domain, destination local]
    diagonal = np.arange(domain)
    fan = fan.copy()
    fan[diagonal, :, diagonal] = 0.0  # experts on the GPU that received it
    out_near = out_near + fan.sum(axis=2).T
    in_near = in_near + fan.sum(axis=0)
    between = np.zeros((domains, domain, domains, domain))
    for rail in range(domain):
        between[:, rail, :, rail] = sent[:, rail, :]
    return _collect(topology, out_near, in_near, sent.sum(axis=2), arrived.T, between)


def _collect(
    topology: Topology, out_near: Bytes, in_near: Bytes, out_far: Bytes, in_far: Bytes, between: Bytes
) -> Loads:
    cluster, domain = topology.cluster, out_near.shape[1]
    near = cluster.gpu.scale_up_bytes_per_s or cluster.gpu.pcie_bytes_per_s
    classes = [
        _gpu_links("NVLink out", out_near, near, lambda i: f"gpu{i} -> switch{i // domain}"),
        _gpu_links("NVLink in", in_near, near, lambda i: f"switch{i // domain} -> gpu{i}"),
    ]
    if out_near.shape[0] > 1:
        nic = cluster.nic_bytes_per_s
        classes += [
            _gpu_links("NIC out", out_far, nic, lambda i: f"gpu{i} -> nic{i}"),
            _gpu_links("NIC in", in_far, nic, lambda i: f"nic{i} -> gpu{i}"),
            *_fabric_links(topology, between),
        ]
    return Loads(tuple(classes))


def _gpu_links(name: str, load: Bytes, rate: float, title: Callable[[int], str]) -> LinkClass:
    flat = load.reshape(-1)
    return LinkClass(name, flat, np.full(flat.shape, rate), title)


def _leaf_traffic(topology: Topology, between: Bytes) -> tuple[list[str], Bytes]:
    """Names of the leaves in use and the bytes between each pair of them."""
    gpus = between.shape[0] * between.shape[1]
    leaves = [topology.leaf_of[min(g, len(topology.leaf_of) - 1)] for g in range(gpus)]
    names = sorted(set(leaves), key=lambda name: int(name[4:]))
    position = {name: i for i, name in enumerate(names)}
    index = np.array([position[leaf] for leaf in leaves])
    rows = np.zeros((len(names), gpus))
    np.add.at(rows, index, between.reshape(gpus, gpus))
    traffic = np.zeros((len(names), len(names)))
    np.add.at(traffic.T, index, rows.T)
    np.fill_diagonal(traffic, 0.0)
    return names, traffic


def _fabric_links(topology: Topology, between: Bytes) -> list[LinkClass]:
    """Loads of the links among leaves, spines and cores: traffic split evenly over all shortest paths.

    That is what adaptive routing reaches, and equal-cost hashing of many flows on average.
    """
    names, traffic = _leaf_traffic(topology, between)
    carried = dict.fromkeys(topology.fabric_links(), 0.0)
    for source, row in zip(names, traffic, strict=True):
        if row.any():
            wanted = {name: float(size) for name, size in zip(names, row, strict=True) if size > 0.0}
            for link, size in topology.spread(source, wanted).items():
                carried[link] += size
    if not carried:
        return []
    links = list(carried)
    load = np.array([carried[link] for link in links])
    rate = np.array([topology.capacity(link) for link in links])
    return [LinkClass("fabric", load, rate, lambda i: " -> ".join(links[i]))]
