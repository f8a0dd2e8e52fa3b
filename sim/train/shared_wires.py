"""Transfers of one segment that meet on a wire: expert exchanges beside gathers and reductions share it max-min fairly.

What a layer sends (streams compute and comm: the exposed and hidden parts of one transfer, or of two micro-batches that
were measured beside each other) counts once; gathers and reductions of parameters come on top.

Every GPU has two wires, its NIC and its scale-up link. A transfer uses the NIC when its group spans domains, the link
otherwise; while several run on one wire each moves at the share that its flows have there, as sim/clock/flows.py finds
for the same loads (tests/laws/test_shared_wires.py). Latencies are shared like bytes: a small transfer is stretched a
little too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.layers.graph import STREAMS, HostBlock, Op, Segment


def flows_on_wire(op: Op) -> tuple[str, int] | None:
    """The wire an op loads and its flows there: one per peer for an all-to-all, one for a ring. None for compute."""
    work = op.work
    if not isinstance(work, Comm | ExpertExchange) or (op.stream == "compute" and op.kernels == 0):
        return None  # what a hidden transfer costs compute carries no bytes of its own
    group = work.group
    far = group.domains > 1
    if isinstance(work, ExpertExchange) and work.deduplicated and far:
        flows = group.domains - 1
    elif isinstance(work, ExpertExchange) or work.kind == "all_to_all":
        flows = group.ranks - (group.fewest if far else 1)
    else:
        flows = 1
    return ("nic" if far else "link"), max(1, flows)


def _party(stream: str) -> str:
    """Whose transfers these are: the layers', or one of the streams of parameters."""
    return stream if stream in ("gather", "dp") else "layers"


def meet(segment: Segment) -> bool:
    """True when transfers of two parties may run on one wire at the same time."""
    parties: dict[str, set[str]] = {}
    for op in segment.ops:
        found = flows_on_wire(op)
        if found is not None:
            parties.setdefault(found[0], set()).add(_party(op.stream))
    return any(len(p) > 1 for p in parties.values())


@dataclass
class _Clock:
    """Where every stream stands: its queue of op numbers, the op that runs, and what is left of it."""

    segment: Segment
    left_s: list[float]
    now_s: float = 0.0
    running: dict[str, int] = field(default_factory=dict)
    start_s: dict[int, float] = field(default_factory=dict)
    end_s: dict[int, float] = field(default_factory=dict)
    held_s: dict[str, float] = field(default_factory=dict)  # a stream may not start before

    def begin(self, queues: dict[str, list[int]]) -> bool:
        """Start the first op of each idle stream that waits for nothing; True when one started."""
        started = False
        for stream, queue in queues.items():
            if queue and stream not in self.running and self.held_s.get(stream, 0.0) <= self.now_s:
                op = self.segment.ops[queue[-1]]
                if all(j in self.end_s for j in op.after):
                    self.running[stream] = queue.pop()
                    self.start_s[self.running[stream]] = self.now_s
                    started = True
        return started

    def rates(self) -> dict[str, float]:
        """Progress per second of every running op: its flows over those of all parties on its wire."""
        using = {s: flows_on_wire(self.segment.ops[i]) for s, i in self.running.items()}
        most: dict[tuple[str, str], int] = {}
        for stream, found in using.items():
            if found is not None:
                key = (found[0], _party(stream))
                most[key] = max(most.get(key, 0), found[1])
        rates = dict.fromkeys(using, 1.0)
        for stream, found in using.items():
            if found is not None:
                others = sum(n for (wire, p), n in most.items() if wire == found[0] and p != _party(stream))
                rates[stream] = found[1] / (found[1] + others)
        return rates

    def advance(self, blocks: dict[int, HostBlock]) -> None:
        """Move to the next finish, or to where the CPU lets a held stream go on."""
        rates = self.rates()
        due = {s: self.left_s[i] / rates[s] for s, i in self.running.items()}
        wake = min((t - self.now_s for t in self.held_s.values() if t > self.now_s), default=inf)
        step = min(wake, min(due.values(), default=inf))
        over = [s for s in self.running if due[s] <= step * (1 + 1e-12)]
        for stream, i in self.running.items():
            self.left_s[i] -= rates[stream] * step
        self.now_s += step
        for stream in over:
            number = self.running.pop(stream)
            self.end_s[number] = self.now_s
            if number in blocks:
                block = blocks[number]
                begun = (self.start_s[i] for i in range(block.first, block.last + 1) if i in self.start_s)
                self.held_s["compute"] = max(self.now_s, min(begun) + block.host_s)


def shared_seconds(segment: Segment, seconds: Sequence[float]) -> list[float]:
    """Seconds of every op of a segment, given those it takes alone, where its transfers meet others."""
    if not meet(segment):
        return list(seconds)
    queues = {s: [i for i, op in enumerate(segment.ops) if op.stream == s][::-1] for s in STREAMS}
    blocks = {b.last: b for b in segment.blocks}
    clock = _Clock(segment, list(seconds))
    while any(queues.values()) or clock.running:
        while clock.begin(queues):
            pass
        clock.advance(blocks)
    return [clock.end_s[i] - clock.start_s[i] for i in range(len(segment.ops))]
