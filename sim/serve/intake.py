"""Intake: the queue of a replica, the blocks that it has, and which prompts its next pass carries."""

from __future__ import annotations

from collections import deque

from moesim.sim.serve.costs import Costs
from moesim.sim.serve.kv_cache import Blocks, KvCache
from moesim.sim.serve.prefix_cache import PrefixCache
from moesim.sim.serve.samples import Samples
from moesim.sim.serve.waiting import Waiting
from moesim.sim.serve.workload import TIMED_OUT, RequestLog
from moesim.sim.software.serving_engine import Engine

_HEADROOM = 0.3  # assumed: SGLang keeps room for this share of the running requests' remaining output


class Intake:
    """What waits, what is being computed and what is held: the state that decides who comes next."""

    prefix: PrefixCache | None = None  # what it keeps of prompts; without, the log says what each one finds

    def __init__(
        self, log: RequestLog, costs: Costs, engine: Engine, cache: KvCache, ranks: int = 1, ready: bool = False
    ) -> None:
        """`ready`: requests arrive with their prompt in the cache (the decode pool of a disaggregated system)."""
        self.log, self.costs, self.engine = log, costs, engine
        self.now = 0.0
        self.step = 0  # passes so far in which every running sequence gained a token
        self.batch = 0  # decoding sequences
        self.cached = 0  # tokens that they hold
        self.waiting: deque[int] | Waiting = Waiting(log.priority) if log.priority else deque()
        self.done: list[int] = []  # finished since a driver last looked
        self.steps_at: dict[int, int] = {}  # decode passes by batch size
        self.busy_s = self.prefill_busy_s = self.cached_steps = 0.0
        self.prefill_tokens = self.peak_cached = 0
        self.prompt_passes = self.prompt_chunks = 0  # passes that carried prompts, and the pieces that they carried
        self.prompt_riders, self.riders_cached = 0, 0.0  # sequences that decoded beside them, and the tokens they held
        self.queued_tokens = 0  # of prompts that are here and not computed
        self.load_wait_s = 0.0  # of passes, for parts of prompts that a tier brought
        self.samples = Samples()
        self.blocks = Blocks(cache.blocks, cache.block_tokens)
        self._reserve = engine.admission == "reserve"
        self._budget, self._most = engine.token_budget * ranks, engine.max_batch * ranks
        self._exclusive = engine.scheduling == "prefill_first"
        self._swap_token_s = cache.swap_token_s if engine.preemption == "swap" else 0.0
        self._swap = engine.preemption == "swap"
        self._swapped = 0  # tokens that the next pass fetches back from the host
        self._use_prefix = engine.prefix_cache
        self._yields, self._carry = costs.yields, 0.0  # tokens of a pass; part of one that whole tokens left over
        self._token_s = 0.0  # seconds per token of the last pass that carried prompts
        self._there_s = 0.0  # when all that tiers bring for the next pass is there
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
        self._here: set[int] = set()  # requests whose prompts are computed here although others come with their cache

    @property
    def cached_once(self) -> int:
        """Tokens in the cache of running sequences; those that they share count once (`held` is below zero by them)."""
        return self.cached + min(0, self.blocks.held) * self.blocks.size

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
        blocks, prefix = self.blocks, self.prefix
        need = blocks.of(tokens + (outputs - 1 if self._reserve else 0))
        if prefix is not None:
            need -= prefix.pinned_blocks(request)
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

        `riding`: sequences that decode in the same pass; drafts that are checked count like tokens.
        """
        budget = self._budget - riding * self.costs.width
        if self.waiting:
            self._trim()
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
            if self._ready and request not in self._grown and request not in self._here:
                break  # comes with its cache: it joins when it has room
            if self._gave_up(request):
                continue
            if not self._admit(request):
                self._blocked = True
                break
            waiting.popleft()
            tokens = self._tokens_of(request)[0]
            hit = self._hit(request, tokens)
            new = min(budget, tokens - hit)
            self._partial.append([request, tokens - hit, hit])
            chunks.append((new, hit))
            budget -= new
        return chunks

    def _hit(self, request: int, tokens: int) -> int:
        """Leading tokens of a request that was admitted that need not be computed."""
        if self.prefix is not None:
            hit, there_s = self.prefix.take(request, tokens, self.now)
            self._there_s = max(self._there_s, there_s)
            self._trim()
        else:
            hit = min(self.log.prefix[request], tokens - 1) if self._use_prefix else 0
        grown = request in self._grown
        if grown and self._swap:
            hit = tokens - 1
            self._swapped += tokens
        if not grown:
            self.queued_tokens -= hit - self.log.hit[request]
            self.log.hit[request] = hit
        else:
            self.queued_tokens += tokens - hit
        return hit

    def _gave_up(self, request: int) -> bool:
        """Whether who sent the head of the queue has stopped waiting; it leaves then."""
        log = self.log
        if self.now <= log.arrival_s[request] + log.patience_s or request in self._grown:
            return False
        self.waiting.popleft()
        self.queued_tokens -= log.prompt[request] - log.hit[request]
        log.hit[request] = 0
        log.status[request] = TIMED_OUT
        log.first_s[request] = log.finish_s[request] = log.arrival_s[request] + log.patience_s
        self.done.append(request)
        return True

    def _trim(self) -> None:
        """Parts of prompts that nobody uses go where running requests have grown into their blocks."""
        prefix, blocks = self.prefix, self.blocks
        if prefix is not None and prefix.free_blocks:
            room = blocks.total - blocks.held
            if (self.cached + self.batch * (blocks.size - 1)) // blocks.size + prefix.free_blocks > room:
                prefix.trim(blocks.total - blocks.used(self.cached, self.step))

    def _computed(self, chunks: list[tuple[int, int]], riding: int, cached: float) -> list[int]:
        """Count the chunks of a pass as computed; prompts that are complete with them.

        `riding`: sequences that decoded in the pass, which held `cached` tokens.
        """
        partial, whole = self._partial, []
        self.prompt_passes += 1
        self.prompt_chunks += len(chunks)
        self.prompt_riders += riding
        self.riders_cached += cached
        for new, _ in chunks:
            self.prefill_tokens += new
            self.queued_tokens -= new
            entry = partial[0]
            entry[1] -= new
            entry[2] += new
            if entry[1] == 0:
                partial.popleft()
                whole.append(entry[0])
        return whole
