"""Op and Segment: pieces of work with a stream and dependencies; a segment is what one rank runs for one micro-batch.

No seconds here. Within a segment every stream runs its ops in program order, like a CUDA stream; an op also waits for
the ops named in `after`. A segment ends when its blocking streams (compute, comm, gather) are done; gradient
reductions on the background stream ("dp") may outlast it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def check(self) -> None:
        """ValueError when an op waits for itself or for a later one (a deadlock on real streams)."""
        for i, op in enumerate(self.ops):
            if op.stream not in STREAMS:
                raise ValueError(f"{self.name}: {op.name} runs on unknown stream {op.stream!r}")
            if any(j >= i or j < 0 for j in op.after):
                raise ValueError(f"{self.name}: {op.name} waits for an op that does not precede it")


@dataclass
class SegmentBuilder:
    """Collects ops; compute waits for the last blocking transfer, transfers wait for the last compute."""

    name: str
    ops: list[Op] = field(default_factory=list)
    host_s: float = 0.0
    blocks: list[HostBlock] = field(default_factory=list)
    own_comm: bool = False  # transfers run on the comm stream, so that another micro-batch can compute beside them
    _last_compute: int | None = None
    _pending: tuple[int, ...] = ()

    def compute(
        self, name: str, work: Work, category: str, kernels: int = 1, scale: float = 1.0, side_launches: int = 0
    ) -> int:
        """Append work on the compute stream, after every transfer that blocks it."""
        self.ops.append(Op(name, work, category, "compute", self._pending, scale, kernels, side_launches))
        self._pending = ()
        self._last_compute = len(self.ops) - 1
        return self._last_compute

    def transfer(self, name: str, work: Work, category: str, exposed: float = 1.0) -> None:
        """Append a transfer whose `exposed` share blocks the next compute; the rest runs beside compute."""
        after = () if self._last_compute is None else (self._last_compute,)
        if self.own_comm:
            self.ops.append(Op(name, work, category, "comm", after, 1.0, 1))
            self._pending = (*self._pending, len(self.ops) - 1)
            return
        if exposed < 1.0:
            self.ops.append(Op(name + ".hidden", work, category, "comm", after, 1.0 - exposed, 0))
        if exposed > 0.0:
            # the blocking share rides on the compute stream: it must not queue behind the hidden one
            self.ops.append(Op(name, work, category, "compute", self._pending, exposed, 1))
            self._pending = ()
            self._last_compute = len(self.ops) - 1

    def gather(self, name: str, work: Work, category: str) -> int:
        """Append a prefetch on the gather stream, as soon as that is free; returns its number for `wait`."""
        self.ops.append(Op(name, work, category, "gather", (), 1.0, 0))
        return len(self.ops) - 1

    def reduce(self, name: str, work: Work, category: str) -> None:
        """Append a reduction on the dp stream, after the last compute op; nothing in the segment waits for it."""
        after = () if self._last_compute is None else (self._last_compute,)
        self.ops.append(Op(name, work, category, "dp", after, 1.0, 0))

    def wait(self, index: int) -> None:
        """Make the next compute op wait for op `index`."""
        self._pending = (*self._pending, index)

    def build(self) -> Segment:
        """The finished segment."""
        return Segment(self.name, tuple(self.ops), self.host_s, tuple(self.blocks))

    def delay_host(self, host_s: float) -> None:
        """Add CPU time to the last stretch: what must be issued before the next segment can be."""
        if self.blocks:
            last = self.blocks.pop()
            self.blocks.append(HostBlock(last.first, last.last, last.host_s + host_s))

    def close_block(self, first: int, last: int, host_s: float) -> None:
        """A stretch of ops from number `first` to `last`: the CPU needs `host_s` for it and then synchronises."""
        if last >= first:
            self.blocks.append(HostBlock(first, last, host_s))
