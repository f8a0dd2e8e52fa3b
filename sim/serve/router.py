"""Routers: which worker gets a request. Each knows what a real one knows, and when it would know it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import inf

from moesim.sim.serve.intake import Intake
from moesim.sim.serve.prefix_runs import PrefixRuns
from moesim.traces.rng import stream

_MANY = 64  # workers from which a prefix-aware router weighs only those that hold something, and the least loaded
_DRAWS = 65_536
News = tuple[float, Sequence[int], int, bool]  # (known at, runs, worker, whether it has them)


class Router:
    """Round robin over the workers that take requests; the others build on it."""

    def __init__(self, workers: Sequence[Intake]) -> None:
        self.workers = workers
        self.open: list[int] = list(range(len(workers)))  # that take requests
        self.loads: list[int] = [0] * len(workers)  # requests that were sent to each and are not finished
        self.coming_tokens: list[int] = [0] * len(workers)  # of prompts that were sent and have not reached the engine
        self.known_tokens = 0  # of the last prompt, that the chosen worker keeps as far as the router knows
        self._turn = 0

    def choose(self, request: int, time_s: float) -> int:
        """The worker for a request that arrives now."""
        del request, time_s
        self._turn += 1
        return self.open[(self._turn - 1) % len(self.open)]

    def sent(self, worker: int) -> None:
        """It got one more request."""
        self.loads[worker] += 1

    def left(self, worker: int) -> None:
        """One of its requests is finished, given up or lost."""
        self.loads[worker] -= 1

    def moved(self, worker: int) -> None:
        """What a worker has to do may have changed."""

    def joined(self, worker: int) -> None:
        """A worker takes requests from now on."""
        for _ in range(worker + 1 - len(self.loads)):
            self.loads.append(0)
            self.coming_tokens.append(0)
        self.open.append(worker)

    def closed(self, worker: int) -> None:
        """A worker takes no more requests."""
        self.open.remove(worker)


class LeastLoaded(Router):
    """The worker with the fewest unfinished requests for how fast it is, the first of those that have as few."""

    def __init__(self, workers: Sequence[Intake], weights: Sequence[float] = ()) -> None:
        """`weights`: how fast each worker is; empty: all alike."""
        super().__init__(workers)
        self._weights = list(weights)
        self._heap = [(self._share(n), n) for n in self.open]
        heapify(self._heap)
        self._is_open = set(self.open)

    def _share(self, worker: int) -> float:
        """Requests that it would have with one more, of a worker of weight 1."""
        if not self._weights:
            return float(self.loads[worker])
        return (self.loads[worker] + 1) / self._weights[worker]

    def choose(self, request: int, time_s: float) -> int:
        del request, time_s
        heap = self._heap
        while True:
            share, n = heap[0]
            if share == self._share(n) and n in self._is_open:
                return n
            heappop(heap)

    def sent(self, worker: int) -> None:
        super().sent(worker)
        heappush(self._heap, (self._share(worker), worker))

    def left(self, worker: int) -> None:
        super().left(worker)
        heappush(self._heap, (self._share(worker), worker))
        if len(self._heap) > 64 + 8 * len(self.loads):  # most of it is out of date
            self._heap = [(self._share(n), n) for n in self.open]
            heapify(self._heap)

    def joined(self, worker: int) -> None:
        super().joined(worker)
        self._is_open.add(worker)
        heappush(self._heap, (self._share(worker), worker))

    def closed(self, worker: int) -> None:
        super().closed(worker)
        self._is_open.discard(worker)


class PowerOfTwo(Router):
    """Of two workers drawn at random, the one with fewer unfinished requests."""

    def __init__(self, workers: Sequence[Intake], seed: int = 0) -> None:
        super().__init__(workers)
        self._rng = stream(seed, "router.power_of_two")
        self._drawn: list[float] = []

    def choose(self, request: int, time_s: float) -> int:
        del request, time_s
        if len(self._drawn) < 2:
            self._drawn = self._rng.random(_DRAWS).tolist()
        many = len(self.open)
        one, two = (self.open[int(self._drawn.pop() * many)] for _ in range(2))
        return two if self.loads[two] < self.loads[one] else one


class Sticky(LeastLoaded):
    """A conversation stays where it began, which is where the load was least; so does a prompt that goes on from one.

    Without conversations, who shares more than what all share (the first run) goes where that went before.
    """

    def __init__(self, workers: Sequence[Intake], after: Sequence[int], runs: PrefixRuns | None) -> None:
        super().__init__(workers)
        self._after, self._paths = after, runs.prompts if runs is not None else None
        self._went: dict[int, int] = {}  # request or run -> worker
        roots = {path[0] for path in self._paths if path} if self._paths is not None else set()
        self._common = int(len(roots) == 1)  # runs that all prompts begin with

    def choose(self, request: int, time_s: float) -> int:
        before = self._after[request] if self._after else -1
        if self._after:
            marks = [request]
            known = self._went.get(before, -1)
        else:
            marks = list(self._paths[request][self._common :]) if self._paths is not None else []
            known = next((self._went[run] for run in reversed(marks) if run in self._went), -1)
        n = known if known in self._is_open else super().choose(request, time_s)
        self._went.update(dict.fromkeys(marks, n))
        return n


class PrefixAware(LeastLoaded):
    """The worker that has least to do with a request and for others: it knows what every worker keeps, a while later.

    cost = weight x (tokens of the prompt that the worker would have to compute, and those that wait there)
    + tokens that its running requests hold. The form of NVIDIA Dynamo's router (docs of ai-dynamo/dynamo, "KV router").
    """

    def __init__(self, workers: Sequence[Intake], runs: PrefixRuns, weight: float, lag_s: float) -> None:
        super().__init__(workers)
        self._paths, self._ends = runs.prompts, runs.ends
        self.weight, self._lag_s = weight, lag_s
        self._holders: dict[int, int] = {}  # run -> workers that hold it, as bits
        self._news: deque[News] = deque()  # in order of time, as nearly all of it comes
        self._late: list[tuple[float, int, News]] = []  # what came behind something of a later time
        self._count = 0
        self._few = len(self.open) <= _MANY
        self._open_bits = (1 << len(self.open)) - 1
        self._costs = [0.0] * len(self.open)  # of a request of which the worker holds nothing, without its own tokens

    def listener(self, worker: int) -> Callable[[Sequence[int], bool], None]:
        """What a worker's cache calls when runs come or go."""
        news = self._news

        def told(runs: Sequence[int], has: bool) -> None:
            at_s = self.workers[worker].now + self._lag_s
            if news and at_s < news[-1][0]:
                self._count += 1
                heappush(self._late, (at_s, self._count, (at_s, runs, worker, has)))
            else:
                news.append((at_s, runs, worker, has))

        return told

    def _hear(self, time_s: float) -> None:
        """What has become known by now, in the order in which it did."""
        news, late, holders = self._news, self._late, self._holders
        while True:
            if late and (not news or late[0][0] < news[0][0]):
                if late[0][0] > time_s:
                    return
                _, runs, worker, has = heappop(late)[2]
            elif news and news[0][0] <= time_s:
                _, runs, worker, has = news.popleft()
            else:
                return
            bit = 1 << worker
            for run in runs:
                holders[run] = holders.get(run, 0) | bit if has else holders.get(run, 0) & ~bit

    def choose(self, request: int, time_s: float) -> int:
        if self._news or self._late:
            self._hear(time_s)
        holders, ends = self._holders, self._ends
        steps: list[tuple[int, int]] = []  # (tokens, workers that hold that many), ever fewer
        left = self._open_bits
        for run in self._paths[request]:
            left &= holders.get(run, 0)
            if not left:
                break
            steps.append((ends[run], left))
        costs, weight = self._costs, self.weight
        chosen = costs.index(min(costs)) if self._few else super().choose(request, time_s)
        best, matched, seen = costs[chosen], 0, 0
        for tokens, mask in reversed(steps):
            more = mask & ~seen
            seen |= mask
            while more:
                n = (more & -more).bit_length() - 1
                more &= more - 1
                cost = costs[n] - weight * tokens
                if cost < best or (cost == best and not matched):
                    best, chosen, matched = cost, n, tokens
        self.known_tokens = matched
        return chosen

    def moved(self, worker: int) -> None:
        each = self.workers[worker]
        if self._open_bits >> worker & 1:
            waiting = each.queued_tokens + self.coming_tokens[worker]
            self._costs[worker] = self.weight * waiting + each.cached

    def sent(self, worker: int) -> None:
        if self._few:
            self.loads[worker] += 1
        else:
            super().sent(worker)

    def left(self, worker: int) -> None:
        if self._few:
            self.loads[worker] -= 1
        else:
            super().left(worker)

    def joined(self, worker: int) -> None:
        super().joined(worker)
        self._open_bits |= 1 << worker
        self._costs += [inf] * (worker + 1 - len(self._costs))
        self._few = len(self.open) <= _MANY
        self.moved(worker)

    def closed(self, worker: int) -> None:
        super().closed(worker)
        self._open_bits &= ~(1 << worker)
        self._costs[worker] = inf
        for run, mask in self._holders.items():
            self._holders[run] = mask & ~(1 << worker)
