"""Who sends how many bytes to whom, laid on the links of a topology: the busiest link decides how long it takes.

For one exchange the largest load over capacity of all links IS the time of max-min fair flows wherever flows spread
evenly (tests compare with the exact solver, fairshare.py). Matrices hold bytes, source GPU by destination GPU. GPUs
fill one domain after the other; where the last holds fewer, they take turns for the rails they lack.

direct         source NIC to destination NIC; another rail is reached over the spines
pxn            first over NVLink to the local GPU on the destination's rail, then its NIC
forwarded      one copy per destination domain over the own rail, fanned out there over NVLink (DeepEP normal)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.link_loads import Bytes, Loads, NicTraffic, hashed_loads, link_loads
from moesim.hwmodels.topology import Topology


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
        between[:, rail, own, carriers[:, rail]] += sent[:, rail, :]
    diagonal = np.arange(domain)
    fanned[:, diagonal, diagonal] = 0.0  # experts on the GPU that received it
    moved = _Near(near.out + fanned.sum(axis=2), near.into + fanned.sum(axis=1))
    return _Flows(moved, sent.sum(axis=2), between.sum(axis=(0, 1)), between)


def _collect(topology: Topology, flows: _Flows, ranks: int, hashed: bool) -> Loads:
    domains, domain = flows.out_far.shape
    between = flows.between.reshape(domains * domain, domains * domain)[:ranks, :ranks]
    loads = (flows.near.out, flows.near.into, flows.out_far, flows.in_far)
    near_out, near_into, out, into = (load.reshape(-1)[:ranks] for load in loads)
    ports = NicTraffic(near_out, near_into, out, into, None)
    if domains == 1:
        return link_loads(topology, ports)
    if hashed:
        return hashed_loads(topology, ports, between)
    names, index = topology.leaves_of(ranks)
    rows = np.zeros((len(names), ranks))
    np.add.at(rows, index, between)
    leaves = np.zeros((len(names), len(names)))
    np.add.at(leaves.T, index, rows.T)
    return link_loads(topology, replace(ports, leaves=leaves))
