"""Op and Segment: pieces of work with a stream and dependencies; a segment is what one rank runs for one micro-batch.

No seconds here. Within a segment every stream runs its ops in program order, like a CUDA stream; an op also waits for
the ops named in `after`. A segment ends when its blocking streams (compute, comm, gather) are done; gradient
reductions on the background stream ("dp") may outlast it.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.work import Work

STREAMS = ("compute", "comm", "gather", "dp")


@dataclass(frozen=True, slots=True)
class Op:
    """One kernel or transfer. `scale` multiplies its time (a share of a split transfer)."""

    name: str
    work: Work
    category: str
    stream: str = "compute"
    after: tuple[int, ...] = ()
    scale: float = 1.0
    kernels: int = 1  # one after the other on the stream: a gap each, and a launch each for the host
    side_launches: int = 0  # launches beside those, on streams of their own: the host pays for them, the GPU does not
    block: int = -1  # of the stage, in forward order: the layer that it belongs to


@dataclass(frozen=True, slots=True)
class HostBlock:
    """Ops `first` to `last` (both included) that the CPU needs `host_s` to issue before both sides synchronise."""

    first: int
    last: int
    host_s: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Ops of one rank for one phase of one micro-batch, in program order; `after` are indices into `ops`."""

    name: str
    ops: tuple[Op, ...]
    host_s: float = 0.0  # what the CPU needs to issue it, running ahead of the GPU
    blocks: tuple[HostBlock, ...] = ()  # or: stretches after which CPU and GPU wait for each other
