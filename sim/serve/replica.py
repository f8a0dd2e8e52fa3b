"""Replica: one serving engine at work, turn by turn: prefill chunks as passes, decode passes in closed-form jumps.

A turn is either one pass that carries prompt tokens, or k decode passes at once. All running sequences gain one token
per pass, so that a pass counter, the number of sequences and the sum of their cached tokens are the whole state, and
one heap entry per request says at which pass it finishes. With pass times a + b K, k passes of B sequences that hold K
tokens take k a + b (k K + B k (k - 1) / 2).
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from math import ceil, sqrt

from moesim.sim.serve.costs import Costs
from moesim.sim.serve.kv_cache import Blocks, KvCache
from moesim.sim.serve.workload import RequestLog
from moesim.sim.software.serving_engine import Engine

_SAMPLES = 2048  # of the state over time; thinned to half when full
_HEADROOM = 0.3  # assumed: SGLang keeps room for this share of the running requests' remaining output


class Replica:
    """Queue, running batch and clock of one replica. Drivers call `submit` and `advance`."""

    def __init__(
        self, log: RequestLog, costs: Costs, engine: Engine, cache: KvCache, ranks: int = 1, ready: bool = False
    ) -> None:
        """`ready`: requests arrive with their prompt in the cache (the decode pool of a disaggregated system)."""
        self.log, self.costs, self.engine = log, costs, engine
        self.now = 0.0
        self.step = 0  # passes so far in which every running sequence gained a token
        self.batch = 0  # decoding sequences
        self.cached = 0  # tokens that they hold
        self.waiting: deque[int] = deque()
        self.done: list[int] = []  # finished since a driver last looked
        self.steps_at: dict[int, int] = {}  # decode passes by batch size
        self.busy_s = self.prefill_busy_s = self.cached_steps = 0.0
        self.prefill_tokens = self.peak_cached = 0
        self.samples: list[tuple[float, int, int, int]] = []  # (time, running, cached tokens, waiting)
        self._stride, self._turns = 1, 0
        self.blocks = Blocks(cache.blocks, cache.block_tokens)
        self._reserve = engine.admission == "reserve"
        self._budget, self._most = engine.token_budget * ranks, engine.max_batch * ranks
        self._exclusive = engine.scheduling == "prefill_first"
        self._swap_token_s = cache.swap_token_s if engine.preemption == "swap" else 0.0
        self._swap = engine.preemption == "swap"
        self._swapped = 0  # tokens that the next pass fetches back from the host
        self._use_prefix = engine.prefix_cache
        self._heap: list[tuple[int, int]] = []
        self._ends = 0  # sum of the passes at which running requests finish
        self._partial: deque[list[int]] = deque()  # [request, tokens still to compute, tokens in the cache]
        self._flying: deque[tuple[float, int]] = deque()  # (when it is back, request): whole prompts in a pipeline
        self._finish_at: dict[int, int] = {}  # pass at which each running request finishes
        self._order: list[int] = []  # running requests, oldest first; holds finished ones until cleaned
        self._grown: dict[int, tuple[int, int]] = {}  # preempted: (tokens to recompute, outputs still to come)
        self._blocked = False
        self._poll = engine.poll_steps
        self._ready = ready

    @property
    def load(self) -> int:
        """Requests that are here and not finished."""
        return len(self.waiting) + len(self._partial) + len(self._flying) + self.batch

    @property
    def idle(self) -> bool:
        """True when there is nothing to do."""
        return not (self.batch or self._partial or self.waiting or self._flying)

    @property
    def due_s(self) -> float:
        """When the next turn begins."""
        return self.now

    def submit(self, request: int, time_s: float) -> None:
        """A request arrives; an idle replica wakes up then."""
        if self.now < time_s and self.idle:
            self.now = time_s
        self.waiting.append(request)

    def advance(self, until: float, stop: bool = False) -> None:
        """Run turns until the clock passes `until`, the replica is idle, or (with `stop`) a request finishes."""
        while self.now < until:
            if self._ready and self.waiting and not self._blocked:
                self._take_ready()
            if self._partial or (self.waiting and not self._blocked and not (self.batch and self.step % self._poll)):
                chunks = self._compose(0 if self._exclusive else self.batch)
                if chunks:
                    self._mixed_turn(chunks)
                    if stop and self.done:
                        return
                    continue
            if not self.batch:
                if not (self.waiting and self._blocked):
                    return
                self._blocked = False  # everything that ran was preempted: start over with the head of the queue
                continue
            self._decode_turn(until)
            if stop and self.done:
                return

    def next_finish_s(self) -> float:
        """No request finishes before this time if nothing else arrives; infinite when idle."""
        if self._partial or self.waiting or not self._heap:
            return self.now if not self.idle else float("inf")
        k = max(0, self._heap[0][0] - self.step)
        a, b = self.costs.decode(self.batch)
        return self.now + k * a + b * (k * self.cached + self.batch * k * (k - 1) / 2)

    def _take_ready(self) -> None:
        """Let waiting requests whose prompts are cached join the batch."""
        while self.waiting and not self._blocked:
            if not self._admit(self.waiting[0]):
                self._blocked = True
            elif self.waiting[0] in self._grown:  # preempted here: its tokens have to be computed again
                self.blocks.held -= self.blocks.of(self._tokens_of(self.waiting[0])[0])
                return
            else:
                self._join(self.waiting.popleft(), self.now)

    # ---- prompts

    def _tokens_of(self, request: int) -> tuple[int, int]:
        """(tokens to hold at the start, outputs still to come) of a waiting request."""
        grown = self._grown.get(request)
        return grown if grown is not None else (self.log.prompt[request], self.log.output[request])

    def _admit(self, request: int) -> bool:
        """Take blocks for a request's prompt; False when there are none, or the batch is full."""
        working = self.batch + len(self._partial) + len(self._flying)
        if working >= self._most:
            return False
        tokens, outputs = self._tokens_of(request)
        blocks = self.blocks
        need = blocks.of(tokens + (outputs - 1 if self._reserve else 0))
        if working:  # alone it must fit: that was checked before the run
            room = blocks.total - need
            if self._reserve:
                if blocks.held > room:
                    return False
            else:
                room -= self._headroom()
                most = (self.cached + self.batch * (blocks.size - 1)) // blocks.size + blocks.held
                if most > room and blocks.used(self.cached, self.step) > room:
                    return False
        blocks.held += need
        return True

    def _headroom(self) -> int:
        """Blocks kept free for the running requests' next tokens."""
        if self.engine.admission != "share":
            return self.blocks.total // 100  # vLLM's watermark
        return int(_HEADROOM * (self._ends - self.batch * self.step) / self.blocks.size)

    def _compose(self, riding: int) -> list[tuple[int, int]]:
        """Chunks (new, cached) of the next pass within the budget; requests in work first, then the queue in order.

        `riding`: sequences that decode in the same pass.
        """
        budget = self._budget - riding
        chunks: list[tuple[int, int]] = []
        for entry in self._partial:
            if budget <= 0:
                break
            new = min(budget, entry[1])
            chunks.append((new, entry[2]))
            budget -= new
        waiting = self.waiting
        while waiting and budget > 0:
            request = waiting[0]
            if not self._admit(request):
                self._blocked = True
                break
            waiting.popleft()
            tokens = self._tokens_of(request)[0]
            hit = min(self.log.prefix[request], tokens - 1) if self._use_prefix else 0
            if self._swap and request in self._grown:
                hit = tokens - 1
                self._swapped += tokens
            new = min(budget, tokens - hit)
            self._partial.append([request, tokens - hit, hit])
            chunks.append((new, hit))
            budget -= new
        return chunks

    def _mixed_turn(self, chunks: list[tuple[int, int]]) -> None:
        decoding = 0 if self._exclusive else self.batch
        seconds = self.costs.mixed(chunks, decoding, self.cached) + self._swapped * self._swap_token_s
        self._swapped = 0
        self.now += seconds
        self.busy_s += seconds
        self.prefill_busy_s += seconds
        if decoding:
            self.step += 1
            self.cached += decoding
        for request in self._computed(chunks):
            self._join(request, self.now)
        if decoding:
            self._finish_due()
            self._relieve()
        self._sample()

    def _computed(self, chunks: list[tuple[int, int]]) -> list[int]:
        """Count the chunks of a pass as computed; prompts that are complete with them."""
        partial, whole = self._partial, []
        for new, _ in chunks:
            self.prefill_tokens += new
            entry = partial[0]
            entry[1] -= new
            entry[2] += new
            if entry[1] == 0:
                partial.popleft()
                whole.append(entry[0])
        return whole

    def _join(self, request: int, time_s: float) -> None:
        """A prompt is complete: its first token leaves, and the request decodes from the next pass on."""
        tokens, outputs = self._tokens_of(request)
        if request in self._grown:
            del self._grown[request]
            outputs += 1  # its last token had not been stored yet
        else:
            self.log.first_s[request] = time_s
        if not self._reserve or outputs <= 1:
            self.blocks.held -= self.blocks.of(tokens)
        if outputs <= 1:
            self._complete(request, time_s)
            return
        self.batch += 1
        self.cached += tokens
        if self.cached > self.peak_cached:
            self.peak_cached = self.cached
        end = self.step + outputs - 1
        self.blocks.grow(tokens, self.step)
        self._finish_at[request] = end
        heappush(self._heap, (end, request))
        self._ends += end
        if not self._reserve:
            self._order.append(request)

    # ---- decoding

    def _decode_turn(self, until: float) -> None:
        batch, cached = self.batch, self.cached
        k = self._heap[0][0] - self.step
        if self._poll > 1 and self.waiting and not self._blocked:
            k = min(k, self._poll - self.step % self._poll)
        a, b = self.costs.decode(batch)
        seconds = k * a + b * (k * cached + batch * k * (k - 1) / 2)
        if k > 1 and self.now + seconds > until:
            k = min(k, steps_until(a, b, batch, cached, until - self.now))
        if not self._reserve and self.blocks.may_exceed(cached + batch * k, batch):
            k = self.blocks.steps_that_fit(k, cached, batch, self.step)
            if k == 0:
                self._preempt()
                return
        seconds = k * a + b * (k * cached + batch * k * (k - 1) / 2)
        self.now += seconds
        self.busy_s += seconds
        self.step += k
        self.cached = cached + batch * k
        self.steps_at[batch] = self.steps_at.get(batch, 0) + k
        self.cached_steps += k * cached + batch * k * (k - 1) / 2
        if self.cached > self.peak_cached:
            self.peak_cached = self.cached
        self._finish_due()
        self._sample()

    def _finish_due(self) -> None:
        heap, step = self._heap, self.step
        while heap and heap[0][0] <= step:
            request = heappop(heap)[1]
            tokens = self.log.prompt[request] + self.log.output[request] - 1
            self._leave(request, tokens)
            if self._reserve:
                self.blocks.held -= self.blocks.of(tokens)
            self._complete(request, self.now)

    def _leave(self, request: int, tokens: int) -> None:
        """Take a running request of `tokens` cached tokens out of the batch."""
        self.batch -= 1
        self.cached -= tokens
        self.blocks.grow(tokens, self.step, -1)
        self._ends -= self._finish_at.pop(request)
        self._blocked = False

    def _complete(self, request: int, time_s: float) -> None:
        self.log.finish_s[request] = time_s
        self.done.append(request)
        self._blocked = False

    # ---- pressure

    def _relieve(self) -> None:
        """After a pass that decoded beside prompts: preempt until what is held fits."""
        if self._reserve:
            return
        while self.batch > 1 and self.blocks.may_exceed(self.cached, self.batch):
            if self.blocks.used(self.cached, self.step) <= self.blocks.total:
                return
            self._preempt()

    def _preempt(self) -> None:
        """Push the youngest running request back to the head of the queue; its tokens come again."""
        while self._order[-1] not in self._finish_at:
            self._order.pop()
        request = self._order.pop()
        left = self._finish_at[request] - self.step
        tokens = self.log.prompt[request] + self.log.output[request] - 1 - left
        self._heap.remove((self._finish_at[request], request))
        heapify(self._heap)
        self._leave(request, tokens)
        self._grown[request] = (tokens, left)
        self.waiting.appendleft(request)
        self.log.preemptions += 1
        self._blocked = True  # until something finishes

    def _sample(self) -> None:
        self._turns += 1
        if self._turns % self._stride:
            return
        self.samples.append((self.now, self.batch, self.cached, len(self.waiting)))
        if len(self.samples) >= _SAMPLES:
            self.samples = self.samples[::2]
            self._stride *= 2


def steps_until(a: float, b: float, batch: int, cached: int, seconds: float) -> int:
    """The fewest passes, at least one, that take `seconds` or more: k a + b (k K + B k (k - 1) / 2) >= seconds."""
    square, linear = b * batch / 2.0, a + b * cached - b * batch / 2.0
    if square <= linear * 1e-12:
        k = seconds / linear
    else:
        k = (sqrt(linear * linear + 4.0 * square * seconds) - linear) / (2.0 * square)
    return max(1, ceil(k - 1e-9))
