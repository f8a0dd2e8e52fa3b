"""Who sends how many bytes to whom, laid on the links of a topology: the busiest link decides how long it takes.

For one exchange the largest load over capacity of all links IS the time of max-min fair flows wherever flows spread
evenly (calibrate and the law tests compare with the exact solver). Matrices hold bytes, source GPU by destination GPU.

direct         source NIC to destination NIC; another rail is reached over the spines
pxn            first over NVLink to the local GPU on the destination's rail, then its NIC
forwarded      one copy per destination domain over the own rail, fanned out there over NVLink (DeepEP normal)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwmodels.facts import FactError
from hwmodels.topology import Topology

Bytes = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinkClass:
    """Links of one kind: loads in bytes, one rate for all, and how the i-th is called."""

    name: str
    ends: tuple[str, str]  # "gpu{i}" -> "switch{d}" and so on; {i} the GPU or leaf, {d} its domain, {s} the spine
    load_bytes: Bytes
    link_bytes_per_s: float

    @property
    def seconds(self) -> float:
        """How long the busiest of them is busy."""
        return float(self.load_bytes.max()) / self.link_bytes_per_s if self.load_bytes.size else 0.0


@dataclass(frozen=True, slots=True)
class Loads:
    """All link classes of one exchange."""

    classes: tuple[LinkClass, ...]
    domain: int

    @property
    def seconds(self) -> float:
        """Time of the fluid exchange: the busiest link at its rate."""
        return max(c.seconds for c in self.classes)

    def bottleneck(self) -> tuple[str, float]:
        """Name of the busiest link and the bytes it carries."""
        worst = max(self.classes, key=lambda c: c.seconds)
        index = int(worst.load_bytes.argmax())
        return self._name(worst, index), float(worst.load_bytes[index])

    def _name(self, links: LinkClass, index: int) -> str:
        a, b = (end.format(i=index, d=index // self.domain) for end in links.ends)
        return f"{a} -> {b}"

    def summary(self) -> dict[str, dict[str, float]]:
        """Per class: busiest and mean load in bytes, rate, and seconds."""
        return {
            c.name: {
                "busiest_bytes": float(c.load_bytes.max()),
                "mean_bytes": float(c.load_bytes.mean()),
                "link_bytes_per_s": c.link_bytes_per_s,
                "busy_s": c.seconds,
            }
            for c in self.classes
            if c.load_bytes.size
        }


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
    cluster = topology.cluster
    near = cluster.gpu.scale_up_bytes_per_s or cluster.gpu.pcie_bytes_per_s
    classes = [
        LinkClass("NVLink out", ("gpu{i}", "switch{d}"), out_near.reshape(-1), near),
        LinkClass("NVLink in", ("switch{d}", "gpu{i}"), in_near.reshape(-1), near),
    ]
    domain = out_near.shape[1]
    if out_near.shape[0] > 1:
        nic = cluster.nic_bytes_per_s
        classes += [
            LinkClass("NIC out", ("gpu{i}", "nic{i}"), out_far.reshape(-1), nic),
            LinkClass("NIC in", ("nic{i}", "gpu{i}"), in_far.reshape(-1), nic),
            *_uplinks(topology, between),
        ]
    return Loads(tuple(classes), domain)


def _uplinks(topology: Topology, between: Bytes) -> list[LinkClass]:
    """Loads of each leaf's uplinks, spread evenly over the spines (adaptive routing)."""
    gpus = between.shape[0] * between.shape[1]
    leaves = [topology.leaf_of[g] for g in range(min(gpus, len(topology.leaf_of)))]
    leaves += [leaves[-1]] * (gpus - len(leaves))
    names = sorted(set(leaves), key=lambda name: int(name[4:]))
    if len(names) < 2 or topology.kind == "dragonfly":
        return []
    index = np.array([names.index(leaf) for leaf in leaves])
    one_hot = np.zeros((gpus, len(names)))
    one_hot[np.arange(gpus), index] = 1.0
    flat = between.reshape(gpus, gpus)
    traffic = one_hot.T @ flat @ one_hot  # leaf to leaf
    np.fill_diagonal(traffic, 0.0)
    ports = one_hot.sum(axis=0)
    rate = topology.cluster.nic_bytes_per_s / topology.cluster.oversubscription
    return [
        LinkClass("leaf up", ("leaf{i}", "spines"), traffic.sum(axis=1) / ports, rate),
        LinkClass("leaf down", ("spines", "leaf{i}"), traffic.sum(axis=0) / ports, rate),
    ]
