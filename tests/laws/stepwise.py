"""A serving replica in the plainest way: one decode step at a time, blocks counted anew in every step. For tests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from moesim.sim.serve.workload import RequestLog


class StepTimes(Protocol):
    """Seconds of a decode step and of one that carries prompts."""

    yields: float

    def decode(self, batch: int) -> tuple[float, float]: ...

    def mixed(self, chunks: list[tuple[int, int]], batch: int, cached: float) -> float: ...


@dataclass
class Sequence:
    """A request in work: tokens it has to hold (`cached` of them computed), outputs still to come."""

    request: int
    tokens: int
    outputs: int
    cached: int = 0


@dataclass
class Stepwise:
    """Continuous batching with chunked prefill, admission on present use and preemption of the youngest."""

    log: RequestLog
    costs: StepTimes
    blocks: int
    size: int
    budget: int
    now: float = 0.0
    preempted: int = 0
    waiting: deque[Sequence] = field(default_factory=deque)
    filling: deque[Sequence] = field(default_factory=deque)
    running: list[Sequence] = field(default_factory=list)  # oldest first
    blocked: bool = False
    started: set[int] = field(default_factory=set)

    def used(self, growth: int = 0) -> int:
        """Blocks of prompts in work and of running sequences that are `growth` tokens longer."""
        held = sum(-(-s.tokens // self.size) for s in self.filling)
        return held + sum(-(-(s.cached + growth) // self.size) for s in self.running)

    def compose(self) -> list[tuple[int, int]]:
        """Chunks of this step: prompts in work first, then the queue in order."""
        room, chunks = self.budget - len(self.running), []
        for s in self.filling:
            if room > 0:
                chunks.append((min(room, s.tokens - s.cached), s.cached))
                room -= chunks[-1][0]
        while self.waiting and room > 0 and not self.blocked:
            s = self.waiting[0]
            need = -(-s.tokens // self.size) + self.blocks // 100
            if self.used() + need > self.blocks and (self.running or self.filling):
                self.blocked = True
                break
            self.filling.append(self.waiting.popleft())
            chunks.append((min(room, s.tokens), 0))
            room -= chunks[-1][0]
        return chunks

    def preempt(self) -> None:
        """The youngest goes back to the head of the queue and computes its tokens again."""
        s = self.running.pop()
        self.waiting.appendleft(Sequence(s.request, s.cached, s.outputs))
        self.blocked, self.preempted = True, self.preempted + 1

    def complete(self, request: int) -> None:
        self.log.finish_s[request] = self.now
        self.blocked = False

    def join(self, s: Sequence) -> None:
        """A prompt is complete: its first token leaves, unless it had left before."""
        left = s.outputs if s.request in self.started else s.outputs - 1
        if s.request not in self.started:
            self.log.first_s[s.request] = self.now
        self.started.add(s.request)
        if left == 0:
            self.complete(s.request)
        else:
            self.running.append(Sequence(s.request, s.tokens, left, s.tokens))

    def step(self) -> None:
        """One step of the engine, or one preemption."""
        if not (self.running or self.filling):
            self.blocked = False
        chunks, cached = self.compose(), sum(s.cached for s in self.running)
        if chunks:
            self.now += self.costs.mixed(chunks, len(self.running), cached)
        elif self.used(growth=1) > self.blocks:
            return self.preempt()
        else:
            a, b = self.costs.decode(len(self.running))
            self.now += a + b * cached
        for s in self.running:
            s.cached, s.outputs = s.cached + 1, s.outputs - 1
        for new, _ in chunks:
            self.filling[0].cached += new
            if self.filling[0].cached == self.filling[0].tokens:
                self.join(self.filling.popleft())
        for s in [s for s in self.running if s.outputs == 0]:
            self.running.remove(s)
            self.complete(s.request)
        while chunks and len(self.running) > 1 and self.used() > self.blocks:
            self.preempt()
        return None


def serve_stepwise(
    log: RequestLog, costs: StepTimes, blocks: int, size: int, budget: int, engine: Stepwise | None = None
) -> int:
    """Serve an open loop; fills first_s and finish_s and returns the number of preemptions."""
    engine = engine or Stepwise(log, costs, blocks, size, budget)
    coming = deque(sorted(range(len(log)), key=lambda i: log.arrival_s[i]))
    while coming or engine.waiting or engine.filling or engine.running:
        if not (engine.waiting or engine.filling or engine.running):
            engine.now = max(engine.now, log.arrival_s[coming[0]])
        while coming and log.arrival_s[coming[0]] <= engine.now:
            i = coming.popleft()
            engine.waiting.append(Sequence(i, log.prompt[i], log.output[i]))
        engine.step()
    return engine.preempted
