"""StreamFit: how long memory-bound work of one kind takes on a machine that was measured."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

from moesim.hwmodels.surface import Surface
from moesim.hwmodels.work import Stream

STREAM_AXES = ("log2_bytes",)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFit:
    """Coefficients of `stream_time_s` for one kind of work, forward or backward."""

    launch_s: float  # floor of one piece of work, however many kernels it is made of
    memory_efficiency: float  # of the memory's rate; above 1 where fewer bytes travel than are counted
    cache_share: float  # share of the time per byte that a cache saves small work; 0: none
    cache_bytes: float  # size at which half of that gain is left
    surface: Surface | None = None  # over STREAM_AXES


def stream_key(work: Stream) -> str:
    """The name under which a profile keeps the fit: the kind, "<kind>.bwd" for its backward."""
    return f"{work.kind}.bwd" if work.backward else work.kind


def stream_time_s(work: Stream, memory_bytes_per_s: float, fit: StreamFit) -> float:
    """Seconds: launch + b / rate x (1 - gain c / (c + b)), times the surface's factor at b bytes.

    Without a surface non-decreasing in b, as the gain is below 1.
    """
    if work.bytes <= 0.0:
        return 0.0
    held = fit.cache_share * fit.cache_bytes / (fit.cache_bytes + work.bytes) if fit.cache_bytes > 0.0 else 0.0
    seconds = fit.launch_s + work.bytes / (memory_bytes_per_s * fit.memory_efficiency) * (1.0 - held)
    return seconds if fit.surface is None else seconds * fit.surface.factor(*stream_position(work))


def stream_position(work: Stream) -> tuple[float, ...]:
    """Where the work lies on STREAM_AXES."""
    return (log2(work.bytes),)
