"""The walker: runs a plan on a clock, with transfers that share wires and hold multiprocessors beside compute.

Every rank runs its slots one after the other; inside a slot the streams run their pieces in order. A piece or item
starts when all that it waits for has ended. Transfers are flows of one network; while they hold multiprocessors, the
compute of their rank runs on the rest. Where the members of a stage differ, their seconds are arrays that travel with
the events: a barrier waits for its latest member, and what contention adds is added to all of them alike. Every second
of a rank is booked as it passes; the books of a rank sum to the makespan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from moesim.sim.clock.books import Books
from moesim.sim.clock.events import Clock
from moesim.sim.clock.network import Flow, Loads, Network
from moesim.sim.clock.open_slot import OpenSlot, RunningPiece
from moesim.sim.clock.plan import Plan, ScriptRun, Send
from moesim.sim.clock.script import Piece
from moesim.sim.clock.shared_links import Links
from moesim.sim.clock.values import Moments, When, after, gathered, last, latest, mean
from moesim.sim.clock.walked import Deadlock, Walked

Done = Callable[[When, float], None]
LEAST_SPEED = 0.2  # of compute beside transfers, however many multiprocessors they ask for (assumed)


class Walker:
    """One run of a plan. `wires` links per rank; `members` of a group; `slow` ones by rank [groups, members]."""

    def __init__(
        self,
        plan: Plan,
        clock: Clock,
        ranks: int,
        wires: int,
        members: int = 1,
        slow: Mapping[int, npt.NDArray[np.bool_]] | None = None,
        record: bool = False,
    ) -> None:
        self._plan, self._clock, self._members, self._wires = plan, clock, members, wires
        count = len(plan)
        self._network: Links = Network(clock)
        self._slow = slow or {}
        self._left = [len(p) + (1 if q >= 0 else 0) for p, q in zip(plan.preds, plan.queue, strict=True)]
        self._follow: list[list[int]] = [[] for _ in range(count)]
        for item, preds in enumerate(plan.preds):
            for pred in preds:
                self._follow[pred].append(item)
            if plan.queue[item] >= 0:
                self._follow[plan.queue[item]].append(item)
        for followers in plan.pieces.values():
            for item in followers:
                self._left[item] += 1
        self._at: list[When] = [0.0] * count  # when an item may start, as far as is known
        self._start: list[float] = [-1.0] * count
        self._end: list[When] = [-1.0] * count
        self._held = [0.0] * ranks  # share of the multiprocessors that transfers hold
        self._running: list[RunningPiece | None] = [None] * ranks
        self._record: list[tuple[int, int, float, float]] | None = [] if record else None
        self.books = Books(ranks)
        self._begin_s, self._open = 0.0, count
        self._ended: Callable[[], None] | None = None

    def join(self, links: Links, begin_s: float = 0.0, ended: Callable[[], None] | None = None) -> None:
        """Run on links that others use too, or that ranks share, from `begin_s` of the clock on; `ended` is called when
        the last item has. To be asked before the start."""
        self._network, self._begin_s, self._ended = links, begin_s, ended
        self._at = [begin_s] * len(self._at)
        self.books.free[:] = [begin_s] * len(self.books.free)

    def run(self, close: bool = True) -> Walked:
        """Until all items have ended; `close`: book what ranks wait for at the end. Deadlock when some cannot start."""
        self.begin()
        self._clock.run()
        return self.walked(close)

    def begin(self) -> None:
        """Start what waits for nothing; the clock does the rest."""
        for item, left in enumerate(self._left):
            if left == 0:
                self._begin(item)

    def walked(self, close: bool = True) -> Walked:
        """What came of it; see `run`."""
        undone = [self._plan.labels[i] for i, t in enumerate(self._end) if last(t) < 0.0]
        if undone:
            raise Deadlock(f"{len(undone)} items never ran, the first: {', '.join(undone[:5])}")
        ends = [last(e) for e in self._end]
        makespan = max(ends, default=self._begin_s)
        if close:
            self._close(makespan)
        return Walked(self._start, ends, self.books, makespan - self._begin_s, self._network.solves, self._record or [])

    # -- items ------------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> None:
        item, at, rank = self._plan.items[number], self._at[number], self._plan.lane_of[number].rank
        self._start[number] = last(at)
        if isinstance(item, ScriptRun):
            self.books.wait(rank, at, self._waits(number, rank, at))
            if item.seconds is None and item.script.alone and type(at) is float:
                self._alone(number, item.script.pieces[0], at, rank)
                return
            slot = OpenSlot(number, item, last(at))
            for head in item.script.heads:
                self._piece(slot, head, at)
            if not item.script.pieces:
                self._over(number, at)
        elif isinstance(item, Send):
            if item.before_s:
                ready = after(at, item.before_s)
                self._clock.at(last(ready), lambda: self._send(number, item, rank, ready))
            else:
                self._send(number, item, rank, at)
        else:
            end = after(at, item.seconds)
            self._clock.at(last(end), lambda: self._over(number, end))

    def _send(self, number: int, item: Send, rank: int, at: When) -> None:
        now_s = last(at)
        self._start[number] = now_s
        seconds = item.seconds(now_s) if callable(item.seconds) else item.seconds
        self._fly(item, item.loads, after(at, seconds), now_s, rank, lambda end, _: self._over(number, end))

    def _alone(self, number: int, piece: Piece, at: float, rank: int) -> None:
        """A slot of one piece of compute, of ranks that are alike: the common case, without what the others need."""

        def done(end: When, late_s: float) -> None:
            if self._record is not None:
                self._record.append((number, 0, at, last(end)))
            self.books.spend(rank, piece, last(end) - at, late_s)
            self.books.free[rank] = end
            followers = self._plan.pieces.get((number, 0))
            if followers:
                self._tell(followers, end)
            self._over(number, end)

        self._compute(RunningPiece(at + piece.seconds, done), at, rank)

    def _over(self, number: int, end: When) -> None:
        self._end[number] = end
        self._tell(self._follow[number], end)
        self._open -= 1
        if not self._open and self._ended is not None:
            self._ended()

    def _tell(self, items: list[int], end: When) -> None:
        left, times = self._left, self._at
        for item in items:
            times[item] = latest(times[item], end)
            left[item] -= 1
            if left[item] == 0:
                self._begin(item)

    # -- pieces -----------------------------------------------------------------------------------------------

    def _piece(self, slot: OpenSlot, number: int, at: When) -> None:
        piece = slot.script.pieces[number]
        seconds = piece.seconds if slot.seconds is None else slot.seconds[number]
        slot.starts[number] = at
        rank = self._plan.lane_of[slot.item].rank
        if piece.kind == "compute":
            run = RunningPiece(after(at, seconds), lambda end, late_s: self._done(slot, number, end, late_s))
            self._compute(run, last(at), rank)
        elif piece.kind == "transfer":
            start = gathered(at, piece.barrier, self._members)
            loads = tuple((rank * self._wires + wire, share) for wire, share in piece.loads)
            slot.starts[number] = start
            if start is not at:
                self.books.meet(rank, self._whose_fault(rank, at), mean(start) - mean(at))
            self._fly(
                piece,
                loads,
                after(start, seconds),
                last(start),
                rank,
                lambda end, late: self._done(slot, number, end, late),
            )
        else:
            end = after(at, seconds) if piece.kind == "delay" else latest(at, after(self._issued(slot, piece), seconds))
            self._clock.at(last(end), lambda: self._done(slot, number, end))

    def _whose_fault(self, rank: int, at: When) -> str:
        """What the others of a group wait for: a slow GPU where the latest member is one, else the busiest rank."""
        slow = self._slow.get(rank)
        late = slow is not None and bool(
            slow.flat[int(np.argmax(np.broadcast_to(at.array if isinstance(at, Moments) else at, slow.shape)))]
        )
        return "slow_gpu" if late else "imbalance"

    def _issued(self, slot: OpenSlot, piece: Piece) -> When:
        """When the CPU could begin to issue the stretch that a host piece ends."""
        begun = slot.starts[piece.since]
        return latest(begun, slot.ends[piece.behind]) if piece.behind >= 0 else begun

    def _compute(self, run: RunningPiece, now_s: float, rank: int) -> None:
        alone_s = last(run.alone_end)
        run.since_s, run.left_s = now_s, alone_s - now_s
        self._running[rank] = run
        held = self._held[rank]
        if held > 0.0:
            self._pace(run, rank, max(LEAST_SPEED, 1.0 - held), now_s)
            return
        run.rate, run.due_s = 1.0, alone_s
        self._clock.at(alone_s, lambda: self._computed(run, rank, 0))

    def _pace(self, run: RunningPiece, rank: int, rate: float, now_s: float) -> None:
        """Let running compute go on at another speed."""
        run.left_s = max(0.0, run.left_s - (now_s - run.since_s) * run.rate)
        run.since_s, run.rate = now_s, rate
        run.version += 1
        version = run.version
        run.due_s = now_s + run.left_s / rate
        self._clock.at(run.due_s, lambda: self._computed(run, rank, version))

    def _computed(self, run: RunningPiece, rank: int, version: int) -> None:
        if version != run.version:
            return
        self._running[rank] = None
        late_s = 0.0 if version == 0 else run.due_s - last(run.alone_end)
        end = run.alone_end if version == 0 else after(run.alone_end, late_s)
        run.done(end, late_s)

    def _fly(self, what: Send | Piece, loads: Loads, alone_end: When, now_s: float, rank: int, done: Done) -> None:
        """Start a transfer; `done` is called with its end, later than alone by what contention cost."""
        sms = what.sms_share
        due = last(alone_end)
        if sms > 0.0:
            self._hold(rank, sms, now_s)

        def landed(end_s: float, shift: bool) -> None:
            if sms > 0.0:
                self._hold(rank, -sms, end_s)
            done(*((after(alone_end, end_s - due), end_s - due) if shift else (alone_end, 0.0)))

        if not loads or due <= now_s:
            self._clock.at(due, lambda: landed(due, False))
            return
        alone_s = due - now_s
        self._network.start(Flow(alone_s, loads, what.flow_weight, landed), now_s)

    def _hold(self, rank: int, sms: float, now_s: float) -> None:
        held = self._held[rank] + sms
        self._held[rank] = held if held > 1e-12 else 0.0
        run = self._running[rank]
        if run is not None:
            self._pace(run, rank, max(LEAST_SPEED, 1.0 - self._held[rank]), now_s)

    def _done(self, slot: OpenSlot, number: int, end: When, late_s: float = 0.0) -> None:
        slot.ends[number] = end
        script, item = slot.script, slot.item
        piece, rank = script.pieces[number], self._plan.lane_of[item].rank
        if piece.stream == "compute":
            self._book(slot, number, piece, rank, end, late_s)
        if self._record is not None:
            self._record.append((item, number, last(slot.starts[number]), last(end)))
        followers = self._plan.pieces.get((item, number))
        if followers:
            self._tell(followers, end)
        ready = []
        for other in script.succs[number]:
            slot.left[other] -= 1
            if slot.left[other] == 0:
                ready.append(other)
        for other in ready:
            preds = script.preds[other]
            at = end
            if len(preds) > 1:
                for pred in preds:
                    at = latest(at, slot.ends[pred])
            self._piece(slot, other, at)
        if number in script.blocking:
            slot.open -= 1
            if slot.open == 0:
                self._leave(slot, rank)

    def _leave(self, slot: OpenSlot, rank: int) -> None:
        """A slot is over when the last piece of every stream is."""
        end: When = self.books.free[rank]
        longest = ""
        for number in slot.script.lasts:
            if last(slot.ends[number]) > last(end):
                longest = slot.script.pieces[number].category
            end = latest(end, slot.ends[number])
        if longest:
            self.books.wait(rank, end, ((longest, 1.0),))
        self._over(slot.item, end)

    # -- books ------------------------------------------------------------------------------------------------

    def _book(self, slot: OpenSlot, number: int, piece: Piece, rank: int, end: When, late_s: float) -> None:
        """Book a piece of the compute stream: what it waited for, then its own seconds."""
        start = slot.starts[number]
        books = self.books
        if piece.kind == "host":
            books.wait(rank, end, (("host", 1.0),))
            return
        preds = slot.script.preds[number]
        blocker, until = "", last(books.free[rank])
        for pred in preds:
            if last(slot.ends[pred]) > until:
                blocker, until = slot.script.pieces[pred].category, last(slot.ends[pred])
        books.wait(rank, start, ((blocker or piece.category, 1.0),))
        books.spend(rank, piece, mean(end) - mean(start), late_s)
        books.free[rank] = end

    def _waits(self, number: int, rank: int, start: When) -> tuple[tuple[str, float], ...]:
        """What an idle rank waited for before a slot: shares of the gap, neighbours first, then their transfers."""
        plan, clock, until = self._plan, last(self.books.free[rank]), last(start)
        if until <= clock:
            return ()
        marks: dict[str, float] = {"bubble": clock}
        for pred in plan.preds[number]:
            end = min(until, last(self._end[pred]))
            if isinstance(plan.items[pred], Send) and plan.categories[pred] not in ("dp_comm", "offload"):
                begun = max((last(self._end[p]) for p in plan.preds[pred]), default=0.0)
                marks["bubble"] = max(marks["bubble"], min(until, begun))
            name = plan.categories[pred]
            marks[name] = max(marks.get(name, clock), end)
        waits, done = [], clock
        for name in ("bubble", "pp_comm", "dp_comm", "host", "offload"):
            upto = marks.get(name, clock)
            if upto > done:
                waits.append((name, upto - done))
                done = upto
        if until > done:
            waits.append(("host", until - done))
        total = sum(w for _, w in waits)
        return tuple((name, w / total) for name, w in waits)

    def _close(self, makespan: float) -> None:
        """Book what a rank waits for after its last slot: its host, its reductions, its copies, the other ranks."""
        for lane in self._plan.lanes:
            if lane.stream != "compute":
                continue
            for stream, name in (("host", "host"), ("dp", "dp_comm"), ("up", "offload"), ("dp.after", "dp_comm")):
                row = self._plan.lanes.get(lane._replace(stream=stream))
                if row:
                    end = latest(self.books.free[lane.rank], self._end[row[-1]])
                    self.books.wait(lane.rank, end, ((name, 1.0),))
            self.books.wait(lane.rank, makespan, (("bubble", 1.0),))
