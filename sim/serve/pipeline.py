"""PipelinedReplica: a serving engine whose layers lie on stages, with as many batches in flight as there are stages.

A pass goes through its resources (scheduler, stage, wire, stage, ...) one after the other and waits at each for the
pass before it: a lone prompt takes the sum of its stages, and a full queue is served at the pace of the slowest.
Running sequences are spread evenly over the batches in flight. A round is one pass of each: every running sequence
gains a token. Rounds without prompts are taken many at a time, in closed form; while prompts are on their way every
pass is followed.
"""

from __future__ import annotations

from collections import deque

from moesim.sim.serve.costs import PipelineCosts
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.workload import RequestLog
from moesim.sim.software.serving_engine import Engine


class PipelinedReplica(Replica):
    """A replica of several stages. `now` is when the next pass may enter the first one."""

    costs: PipelineCosts

    def __init__(
        self, log: RequestLog, costs: PipelineCosts, engine: Engine, cache: KvCache, stages: int, ranks: int = 1,
        ready: bool = False,
    ) -> None:  # fmt: skip
        """`ranks`: attention data-parallel ranks of a stage; `ready` as in `Replica`."""
        super().__init__(log, costs, engine, cache, ranks * stages, ready)
        self._budget = engine.token_budget * ranks  # of one pass
        self._stages = stages
        self._free: list[float] = []  # when each resource has done all passes so far; empty: all are free
        self._in_flight: deque[float] = deque(maxlen=stages)  # when the last passes are back
        self._turn = 0  # batches that have entered in this round
        self._back = [0.0] * stages  # when the last pass of each batch is back
        self._round_s = 0.0  # when this round began
        self._length_s = 0.0  # of the last round
        self._joined: dict[int, float] = {}  # who joined in this round, and when
        self._phase: dict[int, float] = {}  # share of its round after which a request joined: it finishes as late
        self._spent_s, self._carried = 0.0, False  # time in this round so far, and whether prompts were on their way

    @property
    def due_s(self) -> float:
        """When the next turn begins: a pass enters, or one comes back."""
        if self._may_compose() or self.idle:
            return self.now
        times = [self._flying[0][0]] if self._flying else []
        if self.batch:
            times.append(self._back[self._next_batch() or 0])
        return max(self.now, min(times, default=self.now))

    def next_finish_s(self) -> float:
        """No request finishes before this time, now or later, if nothing else arrives; infinite when idle."""
        if not self.idle and (self._flying or self._turn or self._phase):
            return self.due_s
        return super().next_finish_s()

    def advance(self, until: float, stop: bool = False) -> None:
        """Run turns until the clock passes `until`, the replica is idle, or (with `stop`) a request finishes."""
        while self.now < until:
            self._land()
            if self.batch and self._next_batch() is None and self._back[0] <= self.now:
                self._end_round()
            if self._ready and self.waiting and not self._blocked:
                self._take_ready()
            if stop and self.done:
                return
            if self._may_compose():
                batch = self._next_batch()
                riding = 0 if batch is None or self._exclusive or self._back[batch] > self.now else self._size(batch)
                chunks = self._compose(riding)
                if chunks:
                    self._enter(chunks, batch if riding else None, riding)
                    continue
            if self.batch:
                self._decode(until)
            elif self._flying:
                self._tick(min(until, self._flying[0][0]))
            elif self.waiting and self._blocked:
                self._blocked = False  # everything that ran was preempted: start over with the head of the queue
            else:
                return
            if stop and self.done:
                return

    def _may_compose(self) -> bool:
        polled = not (self.batch and self.step % self._poll)
        return bool(self._partial or (self.waiting and not self._blocked and polled))

    # ---- passes

    def _size(self, batch: int) -> int:
        each, more = divmod(self.batch, self._stages)
        return each + (batch < more)

    def _next_batch(self) -> int | None:
        """The batch in flight whose turn it is; None when all that have sequences have entered in this round."""
        return self._turn if self._turn < min(self.batch, self._stages) else None

    def _enter(self, chunks: list[tuple[int, int]], batch: int | None, size: int) -> None:
        """A pass enters, with the sequences of a batch, or prompts, or both."""
        held = self.cached * size / max(1, self.batch)
        resources = self.costs.resources(chunks, size, held)
        if self._swapped:  # over the link of every stage's GPUs, which also carries experts from the host: in turn
            for stage in range(1, len(resources), 2):
                resources[stage] += self._swapped * self._swap_token_s
            self._swapped = 0
        if not chunks:  # priced by the token: a pass of drafts gives several
            resources = [self._yields * seconds for seconds in resources]
        back_s = self._through(resources)
        if chunks and self._there_s > back_s:  # what tiers bring is loaded while layers are computed
            self.load_wait_s += self._there_s - back_s
            back_s = self._there_s
        if chunks:
            self._carried = True
            self._flying.extend((back_s, request) for request in self._computed(chunks, size, held))
        if batch is not None:
            self._back[batch] = back_s
            self._turn = batch + 1
        gate = self._in_flight[0] if len(self._in_flight) == self._stages else 0.0  # as many in flight as stages
        self._tick(max(self.now, self._free[0], gate))

    def _through(self, resources: list[float]) -> float:
        """When a pass that enters now is back: at every resource it waits for the pass before it."""
        time_s, free = self.now, self._free or [0.0] * len(resources)
        for n, seconds in enumerate(resources):
            time_s = max(time_s, free[n]) + seconds
            free[n] = time_s
        self._free = free
        self._in_flight.append(time_s)
        return time_s

    def _land(self) -> None:
        """Prompts that are back by now: their first tokens left when they came back, and they decode from now on."""
        while self._flying and self._flying[0][0] <= self.now:
            time_s, request = self._flying.popleft()
            self._join(request, time_s)

    def _join(self, request: int, time_s: float) -> None:
        """As in `Replica`; in the middle of a round it takes its tokens as far into the rounds that follow."""
        if not self.batch:
            self._turn, self._round_s = 0, time_s
        super()._join(request, time_s)
        if request in self._finish_at and time_s > self._round_s:
            self._joined[request] = time_s

    def _complete(self, request: int, time_s: float) -> None:
        super()._complete(request, time_s + self._phase.pop(request, 0.0) * self._length_s)

    # ---- rounds

    def _decode(self, until: float) -> None:
        """Whole rounds where no prompt is on its way, else the next pass, or the wait for one that comes back."""
        if self._turn == 0:
            tight = not self._reserve and self.blocks.may_exceed(self.cached + self.batch, self.batch)
            if tight and not self.blocks.steps_that_fit(1, self.cached, self.batch, self.step):
                self._preempt()
                return
            a, b = self.costs.decode(self.batch)
            longest_s = a + b * (self.cached + self.batch * max(0, self._heap[0][0] - self.step))
            if not self._flying and self._back[0] <= self.now and self.now + longest_s <= until:
                self.prefill_busy_s += self._spent_s  # waits before this round
                self._spent_s, self._carried = 0.0, False
                self._length_s = a + b * self.cached
                self._joined.clear()
                self._decode_turn(until - longest_s)  # no further than `until`: a prompt may come then
                self._settle()
                return
        batch = self._next_batch()
        back_s = self._back[0 if batch is None else batch]
        if back_s > self.now:
            self._tick(min([until, back_s, *(t for t, _ in list(self._flying)[:1])]))
        elif batch is not None:
            self._enter([], batch, self._size(batch))

    def _settle(self) -> None:
        """After whole rounds: every batch is where it was, and passes follow each other without waiting."""
        self._free, self._back, self._round_s = [], [self.now] * self._stages, self.now
        self._in_flight.clear()

    def _end_round(self) -> None:
        self._length_s = self.now - self._round_s
        for request, time_s in self._joined.items():
            self._phase[request] = (time_s - self._round_s) / self._length_s
        self._joined.clear()
        gained = self._gained()
        self.step += gained
        if self._carried:
            self.prefill_busy_s += self._spent_s
        else:
            self.steps_at[self.batch] = self.steps_at.get(self.batch, 0) + gained
            self.cached_steps += gained * self.cached
        self._spent_s, self._carried = 0.0, bool(self._flying)
        self.cached += gained * self.batch
        self.peak_cached = max(self.peak_cached, self.cached_once)
        self._turn, self._round_s = 0, self.now
        self._finish_due()
        self._relieve()
        self.samples.take(self.now, self.batch, self.cached_once, len(self.waiting))

    def _preempt(self) -> None:
        super()._preempt()
        self._phase.pop(self.waiting[0], None)
        self._joined.pop(self.waiting[0], None)

    def _tick(self, time_s: float) -> None:
        """Let the clock move on; the time is that of passes."""
        seconds, self.now = time_s - self.now, time_s
        self.busy_s += seconds
        if self.batch:
            self._spent_s += seconds
            self._carried |= bool(self._flying)
        else:
            self.prefill_busy_s += seconds
