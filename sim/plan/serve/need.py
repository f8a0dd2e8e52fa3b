"""How many workers a load needs: an estimate of steady passes that orders candidates and chooses counts of workers.

It prunes nothing (bound.py does) and is shown nowhere: every answer is simulated. A replica of dp ranks that holds B
sequences takes T seconds a pass; lambda requests per second with O tokens each keep B = lambda O T of them running, and
k = lambda T prompts begin in every pass. Both are iterated until they agree. Of a closed loop, B are its clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, inf

from moesim.sim.plan.serve.features import AS_ASKED, Features
from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.space import Given, ServeCandidate, Shape, axis
from moesim.sim.serve.simulate import Machine
from moesim.sim.serve.workload import Workload

_ROUNDS = 12  # of an iteration
_WAITED = 2.5  # passes until nine in ten first tokens are there (assumed)
_FULL = 0.9  # of a worker's capacity that a steady load may use (assumed)


@dataclass(frozen=True, slots=True)
class Pace:
    """What a deployment, or a pool of it, is expected to do."""

    per_s: float  # requests
    ttft_s: float
    tpot_s: float
    used_share: float  # of its room or capacity; above 1 it cannot keep up

    def over(self, ttft_s: float, tpot_s: float) -> float:
        """By how many times the tightest limit is broken; up to 1 none is."""
        return max(self.ttft_s / ttft_s, self.tpot_s / tpot_s, self.used_share)


class Needs:
    """Estimates of one judge's load, kept by shape and count of workers.

    dress: the features of a shape, as its own pool would have them; of pools together they may differ a little.
    """

    def __init__(self, judge: ServeJudge, dress: Callable[[Shape], Features] = lambda _: AS_ASKED) -> None:
        self._judge, self._dress = judge, dress
        r = judge.load.requests
        count = len(r)
        self._prompt = max(1, round((sum(r.input_tokens) - sum(r.prefix)) / count))
        self._length, self._out = sum(r.input_tokens) / count, sum(r.output_tokens) / count
        self._rate = judge.load.rate_per_s if not judge.load.clients else 0.0
        self._clients = judge.load.askers or count  # of a queued load: all
        self._pause_s = _pause_s(judge.load) if judge.load.askers else 0.0
        self._kept: dict[tuple[object, ...], Pace] = {}

    def of(self, c: ServeCandidate) -> Pace:
        """Of a whole candidate."""
        if c.prefill is None:
            return self._pace("both", c.shape, c.replicas, c.max_batch)
        first = self._pace("prompts", c.prefill, c.prefill_workers, c.max_batch)
        then = self._pace("tokens", c.shape, c.replicas, c.max_batch)
        return Pace(min(first.per_s, then.per_s), first.ttft_s, then.tpot_s, max(first.used_share, then.used_share))

    def over(self, what: str, shape: Shape, workers: int, batch: int) -> float:
        """By how many times a pool of so many workers breaks its limit."""
        slo = self._judge.slo
        return self._pace(what, shape, workers, batch).over(slo.ttft_s, slo.tpot_s)

    def worst(self, pace: Pace) -> float:
        """Of an open load by how many times a limit is broken; of others the seconds between two answers."""
        slo = self._judge.slo
        return pace.over(slo.ttft_s, slo.tpot_s) if self._rate else 1.0 / max(pace.per_s, 1e-12)

    def least(self, what: str, shape: Shape, most: int, batch: int) -> int:
        """The fewest workers that are expected to keep the limits; `most` + 1 where none do."""
        low, high = 1, most + 1
        while low < high:
            middle = (low + high) // 2
            if self.over(what, shape, middle, batch) <= 1.0:
                high = middle
            else:
                low = middle + 1
        return low

    def feeding(self, first: Shape, second: Shape, workers: int, most: int, batch: int) -> int:
        """The fewest prefill workers beside so many decode workers; `most` + 1 where none do.

        Of a closed loop no rate says it: clients ask as fast as the decode workers answer.
        """
        p = self.least("prompts", first, most, batch)
        one = self._pace("prompts", first, 1, batch).per_s
        if not self._judge.load.askers or one <= 0.0:
            return p
        return max(p, ceil(self._pace("tokens", second, workers, batch).per_s / (_FULL * one)))

    def _pace(self, what: str, shape: Shape, workers: int, batch: int) -> Pace:
        key = (what, shape, workers, batch)
        pace = self._kept.get(key)
        if pace is None:
            machine = self._judge.machine(shape, batch, self._dress(shape))
            pace = Pace(0.0, inf, inf, inf)
            if isinstance(machine, Machine):
                one = self._prompts(machine, workers) if what == "prompts" else self._tokens(machine, workers, what)
                pace = Pace(one.per_s * workers, one.ttft_s, one.tpot_s, one.used_share)
            self._kept[key] = pace
        return pace

    def _chunks(self, machine: Machine, prompts: float) -> list[tuple[int, int]]:
        """Prompts, or what a budget lets through of them, that one pass of all ranks carries."""
        dp, budget = machine.job.attention_dp, machine.job.engine.token_budget
        each = min(self._prompt, budget)
        most = dp * max(1, budget // each)
        return [(each, 0)] * max(1, min(most, round(prompts * self._prompt / each)))

    def _prompts(self, machine: Machine, workers: int) -> Pace:
        """One prefill worker."""
        chunks = self._chunks(machine, 1e9)
        share = chunks[0][0] / self._prompt  # of a prompt that a chunk is
        full_s = machine.costs.mixed(chunks, 0, 0.0)
        most = len(chunks) * share / full_s
        if not self._rate:
            return Pace(most, full_s / share, 0.0, 0.0)
        rate, took = self._rate / workers, 0.0
        for _ in range(_ROUNDS):
            took = machine.costs.mixed(self._chunks(machine, rate * took), 0, 0.0)
        used = rate / (_FULL * most)
        return Pace(min(rate, most), _WAITED * took / share * max(1.0, used), 0.0, used)

    def _tokens(self, machine: Machine, workers: int, what: str) -> Pace:
        """One decode worker, or one replica that computes prompts too."""
        costs, job, cache = machine.costs, machine.job, machine.cache
        held = self._length + self._out / 2.0
        room = min(
            job.engine.max_batch * job.attention_dp, cache.blocks * cache.block_tokens / (2.0 * held - self._length)
        )
        running, took = 1.0, 0.0
        for _ in range(_ROUNDS):
            batch = max(1, round(min(running, room)))
            a, b = costs.decode(batch)
            took = a + b * batch * held
            if what == "both":
                took = self._with_prompts(machine, batch, held, took)
            answer_s = self._out * took
            asking = answer_s / (answer_s + self._pause_s)  # of the clients: the others think
            running = self._rate / workers * answer_s if self._rate else self._clients / workers * asking
        took = max(took, 1e-9)
        rate = min(running, room) / (self._out * took)
        used = running / room if self._rate else 0.0
        if self._rate and what == "both":
            used = max(used, rate * took / max(1e-9, _FULL * len(self._chunks(machine, 1e9))))
        first = _WAITED * took if what == "both" else 0.0
        if self._judge.load.askers:  # who finds no room waits; of prefill workers their queue does not show it
            first += max(0.0, running - room) / rate
        return Pace(rate, first * max(1.0, used), took * max(1.0, used), used)

    def _with_prompts(self, machine: Machine, batch: int, held: float, alone_s: float) -> float:
        """Seconds of a mean pass of a replica that begins as many prompts as it ends."""
        took = alone_s
        for _ in range(4):
            begun = (self._rate_of(batch, took)) * took
            chunks = self._chunks(machine, begun)
            full = machine.costs.mixed(chunks, batch, batch * held)
            took = full if begun >= 1.0 else alone_s + begun * (full - alone_s)
        return took

    def _rate_of(self, batch: int, took: float) -> float:
        """Requests per second that keep `batch` of them running."""
        return batch / (self._out * took)


def _pause_s(load: Workload) -> float:
    """Seconds that pass between an answer and the request that it causes, on average."""
    pauses = [t for t, before in zip(load.requests.arrival_s, load.requests.after, strict=False) if before >= 0]
    return sum(pauses) / len(pauses) if pauses else 0.0


def deployments(
    judge: ServeJudge, fitting: list[Shape], given: Given, whole: bool, needs: Needs, batch: int = 0
) -> list[ServeCandidate]:
    """Replicas or pools of shapes that fit, in a fixed order; `whole`: with as many GPUs as there are.

    batch: running sequences of a rank; 0: the engine's own limit.
    """
    gpus, own = judge.base.cluster.gpus, judge.base.engine.max_batch
    batches = axis(given, "max_batch", (batch or own,))  # lower limits of the best few come later (moves.py)
    pools = {str(v) for v in given.get("pools", ("no", "yes"))}
    found = []
    if "no" in pools:
        for shape, batch in product(fitting, batches):
            for n in _counts(judge, needs, shape, batch, given, whole):
                found.append(ServeCandidate(shape, n, batch, limited=batch != own))
    if "yes" in pools and gpus > 1:
        flat = [s for s in fitting if s.pp == 1]
        for first, second in product(flat, flat):
            for p, d in sorted(set(_ratios(needs, gpus, first, second, batches[0], given, whole))):
                found.append(ServeCandidate(second, d, batches[0], first, p, limited=batches[0] != own))
    return found


def _counts(judge: ServeJudge, needs: Needs, shape: Shape, batch: int, given: Given, whole: bool) -> list[int]:
    """Numbers of replicas: all that there is room for, and what the load needs, one less and one more."""
    most = judge.base.cluster.gpus // shape.gpus
    if "replicas" in given:
        return [n for n in axis(given, "replicas", ()) if n <= most]
    if whole:
        return [most] if most * shape.gpus == judge.base.cluster.gpus else []
    least = needs.least("both", shape, most, batch)
    return sorted({most, *(n for n in (least - 1, least, least + 1) if 1 <= n <= most)})


def _ratios(
    needs: Needs, gpus: int, first: Shape, second: Shape, batch: int, given: Given, whole: bool
) -> Iterator[tuple[int, int]]:
    """(prefill, decode) workers: what balances both pools on all GPUs, what the load needs, and their neighbours."""
    w, v = first.gpus, second.gpus
    if "replicas" in given:
        yield from ((p, d) for d in axis(given, "replicas", ()) for p in range(1, (gpus - d * v) // w + 1))
        return
    splits = [(p, (gpus - p * w) // v) for p in range(1, (gpus - v) // w + 1)]
    if whole:
        splits = [(p, d) for p, d in splits if p * w + d * v == gpus]
    if splits:
        key = [_balance(needs, first, second, pair, batch) for pair in splits]
        best = min(range(len(splits)), key=lambda i: (key[i], i))
        yield from splits[max(0, best - 1) : best + 2]
    if whole:
        return
    d = needs.least("tokens", second, gpus // v, batch)
    p = needs.feeding(first, second, d, gpus // w, batch)
    for pair in ((p, d), (p + 1, d), (p, d + 1), (p - 1, d), (p, d - 1)):
        if min(pair) >= 1 and pair[0] * w + pair[1] * v <= gpus:
            yield pair


def _balance(needs: Needs, first: Shape, second: Shape, pair: tuple[int, int], batch: int) -> float:
    """Smaller where the pools are better balanced: the tighter of both, by limits or by capacity."""
    pace = needs.of(ServeCandidate(second, pair[1], batch, first, pair[0]))
    return needs.worst(pace)
