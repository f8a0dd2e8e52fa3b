"""One piece of work alone on the network: seconds of a collective or expert exchange, with algorithm and interval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import log1p
from typing import Any

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collectives import choose, load_fabric_fit
from moesim.hwmodels.exchange_kernels import exchange_s, remote_copies
from moesim.hwmodels.facts import comm_records
from moesim.hwmodels.interval import Sureness, Width, width_of
from moesim.hwmodels.libraries import Library
from moesim.hwmodels.measured_transfers import exchange_ratio, measured_s, transfer_key
from moesim.hwmodels.profile import Profile, profile_of
from moesim.hwmodels.work import Comm, ExpertExchange

_MIB = 2.0**20


@dataclass(frozen=True, slots=True, kw_only=True)
class CommPrediction:
    """One transfer alone on the network: seconds of the slowest rank, and bandwidths as nccl-tests counts them."""

    time_s: float
    low_s: float  # 90 % interval
    high_s: float
    sureness: Sureness  # the class of measured transfers whose errors gave it, why it is wide, what would narrow it
    algorithm: str  # of a collective; of an expert exchange its kernel
    size_bytes: float  # what one rank holds (collective) or sends (exchange)
    algbw_bytes_per_s: float  # size over time, of one rank
    busbw_bytes_per_s: float  # times the bytes on the busiest wire per byte of buffer, 2 (n - 1) / n for all-reduce

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        names = ("time_s", "low_s", "high_s", "algorithm", "algbw_bytes_per_s", "busbw_bytes_per_s")
        plain = {name: getattr(self, name) for name in names}
        return plain | {"bytes_per_rank": self.size_bytes, "note": self.sureness.note, **self.sureness.to_dict()}


def time_alone(
    work: Comm | ExpertExchange, cluster: Cluster, library: Library | None = None, own: Profile | None = None
) -> CommPrediction:
    """The transfer alone on the cluster. FactError or NoFit for what cannot run there.

    library: whose transfer it is; one that was compared with no row has the interval of the widest class.
    own: kernels of a file whose transfers a user measured, in place of the shipped ones.
    """
    generation = cluster.gpu.generation
    measured = own.transfers if own is not None else {}
    fit, fabric = (own or profile_of(cluster.gpu)).collectives, load_fabric_fit(generation)
    if isinstance(work, Comm):
        if work.group.ranks <= 1 or work.bytes <= 0:
            algorithm, seconds = "none", 0.0
        else:
            algorithm, seconds = choose(work, cluster, fit, fabric)
            seconds = measured_s(work, cluster, fit, fabric, measured) if measured else seconds
        size = work.bytes
    else:
        algorithm, seconds = work.kernel, exchange_s(work, cluster)
        seconds *= exchange_ratio(work, cluster, fit, fabric, measured)
        size = work.tokens * work.payload_bytes * (work.rank_copies if work.deduplicated else work.top_k)
    sure = _measured_sureness(work, own) or _sureness(work, generation, library)
    low_s, high_s = sure.around(seconds)
    rate = size / seconds if seconds > 0 else 0.0
    return CommPrediction(
        time_s=seconds,
        low_s=low_s,
        high_s=high_s,
        sureness=sure,
        algorithm=algorithm,
        size_bytes=size,
        algbw_bytes_per_s=rate,
        busbw_bytes_per_s=rate * bus_factor(work),
    )


def stretched(transfer: CommPrediction, factor: float) -> CommPrediction:
    """The same transfer where something makes it `factor` times as long."""
    return replace(
        transfer,
        time_s=transfer.time_s * factor,
        low_s=transfer.low_s * factor,
        high_s=transfer.high_s * factor,
        algbw_bytes_per_s=transfer.algbw_bytes_per_s / factor,
        busbw_bytes_per_s=transfer.busbw_bytes_per_s / factor,
    )


def bus_factor(work: Comm | ExpertExchange) -> float:
    """Bytes on the busiest wire per byte of buffer: nccl-tests' bus bandwidth over algorithm bandwidth."""
    n = work.group.ranks
    if n <= 1:
        return 1.0
    if isinstance(work, ExpertExchange):
        copies = work.rank_copies if work.deduplicated else float(work.top_k)
        return remote_copies(work) / copies if work.group.domains > 1 else 1.0 - 1.0 / n
    return {"all_reduce": 2.0 * (n - 1) / n, "send": 1.0, "broadcast": 1.0}.get(work.kind, (n - 1) / n)


def band_keys(work: Comm | ExpertExchange, generation: str) -> list[str]:
    """Classes of a transfer, most specific first."""
    if isinstance(work, Comm):
        size = "large" if work.bytes > 64 * _MIB else "middle" if work.bytes >= _MIB else "small"
        where = "across" if work.group.domains > 1 else "inside"
        return [f"nccl,{size},{where},{generation}", f"nccl,{size},{where}", f"nccl,{size}", "nccl"]
    where = "across" if work.group.domains > 1 else "inside"
    return [f"{work.kernel},{where},{generation}", f"{work.kernel},{where}", work.kernel, "exchange"]


@cache
def _bands() -> dict[str, dict[str, Any]]:
    return comm_records("bands")


def _sureness(work: Comm | ExpertExchange, generation: str, library: Library | None) -> Sureness:
    keys, bands = band_keys(work, generation), _bands()
    strange = library is not None and not library.compared
    key = keys[-1] if strange else next(k for k in keys if k in bands)
    note = "" if key == keys[0] else f"too few sources of class {keys[0]}: the interval of {key}"
    if library is not None and strange:
        note = f"no fitted row of library {library.name}: the interval of {key}"
    own = f"your own sizes measured ({_measured_by(work)})"
    return Sureness(key, width_of(bands[key]), note, {f"how far off unseen sources were, class {key}": 1.0}, own)


_OWN_ERROR = 0.05  # assumed: a run of the same transfer on another day is off by this much, whatever one log says


def _measured_sureness(work: Comm | ExpertExchange, own: Profile | None) -> Sureness | None:
    """The interval of a transfer that a user measured at such a size among as many ranks: errors of sizes left out."""
    if own is None or not isinstance(work, Comm) or work.algorithm != "auto":
        return None
    key = transfer_key(work.kind, work.group)
    record = own.transfers.get(key)
    if record is None or work.group.ranks not in record.ranks:
        return None
    if not record.least_bytes <= work.bytes <= record.most_bytes:
        return None
    half = log1p(max(_OWN_ERROR, own.provenance[f"collectives/{key}"].p90_error))
    parts = {f"how far off left-out sizes of your own log were, {key}": 1.0}
    return Sureness("own log", Width(half, half), "", parts, "the same log on other days")


def _measured_by(work: Comm | ExpertExchange) -> str:
    return "moesim calibrate --from nccl-tests" if isinstance(work, Comm) else "moesim validate my_transfers.csv"
