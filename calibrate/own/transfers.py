"""Collectives of a user's own machines as factors on the shipped ones: from logs of nccl-tests, or from traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.factors import fit_factors
from moesim.files.words import counted
from moesim.hwmodels.cluster import Cluster, build_cluster, link_bytes_per_s, node_for_gpu
from moesim.hwmodels.collectives import load_fabric_fit
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.lower_bounds import collective_lower_bound_s
from moesim.hwmodels.measured_transfers import MeasuredTransfer, terms_s, transfer_key
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import Comm, CommKind

FEWEST = 2  # sizes below which nothing is fitted: one cannot tell a floor from a rate
_AS_FAST_AS = 0.97  # assumed: printed digits of a time at the rate of the data sheet
_SHIPPED = (1.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TransferSample:
    """One measured size: `ranks` of which each host holds `per_host` (0: nothing says it)."""

    kind: CommKind
    size_bytes: float
    seconds: float
    ranks: int
    per_host: int
    file: str


def cluster_of(gpu: str, ranks: int, per_host: int) -> tuple[Cluster, str]:
    """The machines behind a measured group, and how its ranks sit in words: '16 ranks on 2 hosts of 8'.

    A scale-up domain is what the catalogue's node says where it holds several hosts (NVL72), else it is the host.
    BadSource where nothing says how many ranks a host holds, or where no node of the catalogue holds the GPU.
    """
    try:
        cluster = build_cluster(node_for_gpu(gpu), ranks)
    except FactError as error:
        raise BadSource(str(error)) from None
    wide = cluster.domain > cluster.gpus_per_host
    if not per_host and not wide and ranks > cluster.gpus_per_host:
        raise BadSource(
            f"{ranks} ranks, but nothing says how many a host holds: the rank lines (`#  Rank  0 ... on host device "
            "0`) are missing; give the whole output, its command line with -g or --ntasks-per-node, or --per-host 8"
        )
    known = per_host or min(ranks, cluster.gpus_per_host)
    rack = build_cluster(node_for_gpu(gpu), 1).domain
    whole = rack if ranks % rack == 0 else cluster.domain  # whole racks, or as many of each as jobs take
    domain = min(whole, ranks) if wide else min(known, ranks)
    placed = replace(cluster, domain=domain, gpus_per_host=known)
    hosts = -(-ranks // known)
    said = f"{ranks} ranks on {hosts} host{'s' if hosts > 1 else ''} of {known}"
    if hosts > 1:
        domains = -(-ranks // domain)
        said += ", one scale-up domain" if domains == 1 else f", {domains} scale-up domains"
    return placed, said


def fit_transfers(samples: Sequence[TransferSample], gpu: str, notes: list[str]) -> dict[str, tuple[Any, Any]]:
    """(record, provenance) of every kind and reach that the samples hold; the others stay as shipped.

    Adds to `notes` how ranks sat, and what was too little. BadSource where nothing is left to fit.
    """
    fit, fabric = load_profile(gpu).collectives, load_fabric_fit(_generation(gpu))
    parts = _parts(samples, gpu, notes)
    made = {}
    for key, part in parts.items():
        sizes = {work.bytes for work, _, _ in part}
        if len(sizes) < FEWEST:
            notes.append(
                f"{key}: {len(sizes)} measured size is too few to fit, as shipped; {FEWEST} or more are needed"
            )
            continue
        terms = [terms_s(work, cluster, fit, fabric) for work, cluster, _ in part]
        factors = fit_factors(terms, [sample.seconds for _, _, sample in part], _SHIPPED)
        floor, size, wire, ramp = factors.values
        works = [work for work, _, _ in part]
        record = MeasuredTransfer(
            floor_factor=floor,
            size_factor=size,
            wire_factor=wire,
            ramp_sqrt_s=ramp,
            ranks=tuple(sorted({work.group.ranks for work in works})),
            domains=tuple(sorted({work.group.domains for work in works})),
            least_bytes=min(sizes),
            most_bytes=max(sizes),
        )
        ranges = {
            "bytes": [min(sizes), max(sizes)],
            "ranks": [float(r) for r in (min(record.ranks), max(record.ranks))],
        }
        names = {sample.file.rsplit("/", 1)[-1] for _, _, sample in part}
        made[key] = (asdict(record), factors.provenance("own log", sorted(names), ranges))
    if not made:
        raise BadSource(
            f"{len(samples)} measured sizes are too few to fit; {FEWEST} or more of a collective are needed"
        )
    return made


def _parts(
    samples: Sequence[TransferSample], gpu: str, notes: list[str]
) -> dict[str, list[tuple[Comm, Cluster, TransferSample]]]:
    """Samples by kind and reach with their machines, without those that no wire could carry; `notes` says both."""
    parts: dict[str, list[tuple[Comm, Cluster, TransferSample]]] = {}
    impossible: dict[str, int] = {}
    for sample in samples:
        cluster, said = cluster_of(gpu, sample.ranks, sample.per_host)
        work = Comm(sample.kind, float(sample.size_bytes), cluster.group(sample.ranks))
        if work.group.domains < 2 or cluster.nic_bytes_per_s > 0.0:
            what = _faster_than(work, cluster, sample.seconds)
            if what:
                impossible[what] = impossible.get(what, 0) + 1
                continue
        if work.group.domains > 1 and cluster.nic_bytes_per_s <= 0.0:
            raise BadSource(f"{sample.file}: {said}, but a {cluster.name} has no NICs")
        line = f"{sample.kind}: {said}"
        if line not in notes:
            notes.append(line)
            if work.group.domains > 1:
                rate = f"{cluster.nic_bytes_per_s / 1e9:g} GB/s a GPU"
                notes.append(
                    f"{sample.kind} across domains is fitted over the NICs of {cluster.name}, {rate} (assumed)"
                )
        parts.setdefault(transfer_key(sample.kind, work.group), []).append((work, cluster, sample))
    left_out = [f"{counted(n, 'measured size')} {what}, left out" for what, n in impossible.items()]
    notes += left_out
    if impossible and not parts:
        raise BadSource(f"{'; '.join(left_out)}: nothing is left; say with --system which GPU it was, or run again")
    return parts


def _faster_than(work: Comm, cluster: Cluster, seconds: float) -> str:
    """What a time cannot be faster than, '' where it is not: links of the data sheet, switches adding up included."""
    least = work if work.kind != "all_reduce" or work.group.domains < 2 else replace(work, kind="broadcast")
    least_s = collective_lower_bound_s(least, cluster, in_switch=True)
    if seconds >= _AS_FAST_AS * least_s:
        return ""
    if work.group.domains > 1:
        wire = f"NICs of {cluster.nic_bytes_per_s / 1e9:g} GB/s a GPU and links of {cluster.name}"
    else:
        wire = f"links of {link_bytes_per_s(cluster) / 1e9:g} GB/s of {cluster.name}"
    return f"of {work.kind} are faster than {wire} can be"


def put_transfers(raw: dict[str, Any], made: Mapping[str, tuple[Any, Any]]) -> None:
    """Place them in a profile that is being made."""
    raw["transfers"] = {key: record for key, (record, _) in made.items()}
    raw["provenance"] |= {f"collectives/{key}": provenance for key, (_, provenance) in made.items()}


def _generation(gpu: str) -> str:
    from moesim.hwmodels.gpu import load_gpu

    return load_gpu(gpu).generation
