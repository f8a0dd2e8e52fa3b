"""Replica: one serving engine at work, turn by turn: prefill chunks as passes, decode passes in closed-form jumps.

A turn is either one pass that carries prompt tokens, or k decode passes at once. All running sequences gain one token
per pass, so that a pass counter, the number of sequences and the sum of their cached tokens are the whole state, and
one heap entry per request says at which pass it finishes. With pass times a + b K, k passes of B sequences that hold K
tokens take k a + b (k K + B k (k - 1) / 2).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import ceil, inf, sqrt

from moesim.sim.serve.intake import Intake


class Replica(Intake):
    """Queue, running batch and clock of one replica. Drivers call `submit` and `advance`."""

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
        self.queued_tokens += self.log.prompt[request] - self.log.hit[request]
        self.waiting.append(request)

    def compute(self, request: int) -> None:
        """A request that comes to a decode worker without its cache: its prompt is computed here."""
        self._here.add(request)

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
        """No request finishes before this time, now or later, if nothing else arrives; infinite when idle."""
        batch = self.batch
        if batch and not (self._partial or self.waiting):
            k = max(0, self._heap[0][0] - self.step)
            a, b = self.costs.decode(batch)
            return self.now + k * a + b * (k * self.cached + batch * k * (k - 1) / 2)
        return inf if self.idle else self.now

    def _take_ready(self) -> None:
        """Let waiting requests whose prompts are cached join the batch."""
        while self.waiting and not self._blocked:
            request = self.waiting[0]
            if request in self._grown or request in self._here:  # its tokens are computed here
                return
            if self._admit(request):
                self.queued_tokens -= self.log.prompt[request]
                self._join(self.waiting.popleft(), self.now)
            else:
                self._blocked = True

    # ---- prompts

    def _mixed_turn(self, chunks: list[tuple[int, int]]) -> None:
        decoding = 0 if self._exclusive else self.batch
        seconds = self.costs.mixed(chunks, decoding, self.cached) + self._swapped * self._swap_token_s
        self._swapped = 0
        if self._there_s > self.now + seconds:  # layers are loaded while others are computed: the longer one counts
            self.load_wait_s += self._there_s - self.now - seconds
            seconds = self._there_s - self.now
        self.now += seconds
        self.busy_s += seconds
        self.prefill_busy_s += seconds
        whole = self._computed(chunks, decoding, self.cached if decoding else 0.0)
        if decoding:
            gained = self._gained()
            self._token_s = seconds / gained
            self.step += gained
            self.cached += decoding * gained
        for request in whole:
            self._join(request, self.now)
        if decoding:
            self._finish_due()
            self._relieve()
        self.samples.take(self.now, self.batch, self.cached_once, len(self.waiting))

    def _gained(self) -> int:
        """Tokens that every running sequence gains in one pass: whole ones, what is over counts in the next."""
        if self._yields == 1.0:
            return 1
        self._carry += self._yields
        whole = int(self._carry)
        self._carry -= whole
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
            self._trim()
            self._complete(request, time_s)
            return
        self.batch += 1
        self.cached += tokens
        if self.cached > self.peak_cached:
            self.peak_cached = max(self.peak_cached, self.cached_once)
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
            self.peak_cached = max(self.peak_cached, self.cached_once)
        self._finish_due()
        self.samples.take(self.now, self.batch, self.cached_once, len(self.waiting))

    def _finish_due(self) -> None:
        heap, step = self._heap, self.step
        if heap and heap[0][0] <= step:
            self._trim()
        while heap and heap[0][0] <= step:
            end, request = heappop(heap)
            tokens = self.log.prompt[request] + self.log.output[request] - 1
            over = step - end  # tokens of its last pass that are not wanted
            self._leave(request, tokens + over)
            if self._reserve:
                self.blocks.held -= self.blocks.of(tokens)
            self._complete(request, self.now - over * self._token_s)  # drafts come evenly, as in passes without prompts

    def _leave(self, request: int, tokens: int) -> None:
        """Take a running request of `tokens` cached tokens out of the batch."""
        self.batch -= 1
        self.cached -= tokens
        self.blocks.grow(tokens, self.step, -1)
        self._ends -= self._finish_at.pop(request)
        self._blocked = False

    def _complete(self, request: int, time_s: float) -> None:
        self.log.finish_s[request] = time_s
        if self.prefix is not None:
            # who computes prompts for others has one token of the answer, and nothing of it in the cache
            self.blocks.held += self.prefix.release(request, answered=self.log.output[request] > 1)
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
        if self.prefix is not None:
            self.prefix.trim(0)  # all of it went before a request had to
            self.blocks.held += self.prefix.release(request, answered=False)
        self._leave(request, tokens)
        self._grown[request] = (tokens, left)
        self.waiting.appendleft(request)
        self.log.preemptions += 1
        self._blocked = True  # until something finishes


def steps_until(a: float, b: float, batch: int, cached: int, seconds: float) -> int:
    """The fewest passes, at least one, that take `seconds` or more: k a + b (k K + B k (k - 1) / 2) >= seconds."""
    square, linear = b * batch / 2.0, a + b * cached - b * batch / 2.0
    if square <= linear * 1e-12:
        k = seconds / linear
    else:
        k = (sqrt(linear * linear + 4.0 * square * seconds) - linear) / (2.0 * square)
    return max(1, ceil(k - 1e-9))
