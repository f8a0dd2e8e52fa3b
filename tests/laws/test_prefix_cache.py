"""Laws of prefix caches: hits of runs equal those of single blocks, blocks are conserved, jumps equal single steps."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from block_cache import BlockCache, contents
from stepwise import Sequence, Stepwise, serve_stepwise
from test_serving import Affine, engine

from moesim.sim.serve.alone import run_open
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.prefix_cache import Link, PrefixCache, Shelf, Tier
from moesim.sim.serve.prefix_runs import prefix_runs
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.workload import request_log
from moesim.traces.requests import Chains, gamma_arrivals
from moesim.traces.rng import stream


def conversations(count: int, seed: int, answers: bool) -> tuple[Chains, tuple[int, ...], list[int]]:
    """Prompts that grow: each goes on from the start of an earlier one, with pieces of any length; output tokens."""
    rng = stream(seed, "laws.conversations")
    keys: list[tuple[int, ...]] = []
    ends: list[tuple[int, ...]] = []
    prompts: list[int] = []
    outputs: list[int] = []
    new = 0
    for i in range(count):
        own_keys, own_ends = [0], [37]  # what all begin with
        if i and rng.random() < 0.75:
            parent = int(rng.integers(max(0, i - 40), i))
            cut = int(rng.integers(1, len(keys[parent]) + 1))
            own_keys, own_ends = list(keys[parent][:cut]), list(ends[parent][:cut])
        for _ in range(int(rng.integers(1, 3))):
            new += 1
            own_keys.append(new)
            own_ends.append(own_ends[-1] + int(rng.integers(1, 120)))
        prompts.append(own_ends[-1])
        outputs.append(int(rng.integers(1, 90)))
        if answers:
            new += 1
            own_keys.append(new)
            own_ends.append(own_ends[-1] + outputs[-1])
        keys.append(tuple(own_keys))
        ends.append(tuple(own_ends))
    return Chains(tuple(keys), tuple(ends)), tuple(prompts), outputs


@pytest.mark.parametrize("size", [1, 16, 50])
@pytest.mark.parametrize("answers", [False, True])
def test_hits_of_runs_are_those_of_single_blocks(size: int, answers: bool) -> None:
    """With requests that come, stay a while together and leave in any order, under pressure."""
    chains, prompts, _ = conversations(600, 3, answers)
    runs = prefix_runs(chains, prompts)
    own, plain, rng = PrefixCache(runs, size), BlockCache(), stream(5, "laws.leaving")
    inside: list[int] = []
    hits = [0, 0]
    for i, tokens in enumerate(prompts):
        blocks = contents(chains.keys[i], chains.ends[i], tokens, size)
        whole = contents(chains.keys[i], chains.ends[i], chains.ends[i][-1], size)
        assert own.pinned_blocks(i) <= plain.pinned(blocks)  # a run that is cut by a longer one counts when it is whole
        hit, there_s = own.take(i, tokens, 1.0)
        assert there_s == 1.0 and hit <= tokens - 1
        hits[0] += hit
        hits[1] += size * plain.take(i, blocks, (tokens - 1) // size)
        inside.append(i)
        while len(inside) > 12 or (inside and rng.random() < 0.4):
            gone = inside.pop(int(rng.integers(len(inside))))
            own.release(gone)
            answer = contents(chains.keys[gone], chains.ends[gone], chains.ends[gone][-1], size)
            plain.release(gone, answer[len(contents(chains.keys[gone], chains.ends[gone], prompts[gone], size)) :])
        room = 40_000 // (size * 20) - len(whole)
        own.trim(room)
        plain.trim(room)
        assert own.free_blocks == len(plain.free) and hits[0] == hits[1], i
    assert hits[0] > 0.15 * sum(prompts)


class WithBlocks(Stepwise):
    """The plain engine with a cache of single blocks."""

    chains: Chains
    cache: BlockCache

    def _blocks(self, s: Sequence) -> list[tuple[tuple[int, int], ...]]:
        return contents(self.chains.keys[s.request], self.chains.ends[s.request], self.log.prompt[s.request], self.size)

    def used(self, growth: int = 0) -> int:
        return super().used(growth) - self.cache.shared

    def compose(self) -> list[tuple[int, int]]:
        room, chunks = self.budget - len(self.running), []
        for s in self.filling:
            if room > 0:
                chunks.append((min(room, s.tokens - s.cached), s.cached))
                room -= chunks[-1][0]
        self.cache.trim(self.blocks - self.used())
        while self.waiting and room > 0 and not self.blocked:
            s = self.waiting[0]
            need = -(-s.tokens // self.size) + self.blocks // 100 - self.cache.pinned(self._blocks(s))
            if self.used() + need > self.blocks and (self.running or self.filling):
                self.blocked = True
                break
            self.filling.append(self.waiting.popleft())
            s.cached = self.size * self.cache.take(s.request, self._blocks(s), (s.tokens - 1) // self.size)
            self.cache.trim(self.blocks - self.used())
            chunks.append((min(room, s.tokens - s.cached), s.cached))
            room -= chunks[-1][0]
        return chunks

    def preempt(self) -> None:
        self.cache.trim(0)
        self.cache.release(self.running[-1].request)
        super().preempt()

    def complete(self, request: int) -> None:
        self.cache.release(request)
        super().complete(request)

    def step(self) -> None:
        self.cache.trim(self.blocks - self.used())
        super().step()


@pytest.mark.parametrize("blocks", [4000, 150])
@pytest.mark.parametrize("seed", [0, 1])
def test_jumps_with_a_cache_equal_single_steps(blocks: int, seed: int) -> None:
    chains, prompts, outputs = conversations(400, seed, answers=False)
    arrivals = [float(t) for t in gamma_arrivals(12.0, 1.0, 400, seed)]
    jumping, stepping = (request_log(arrivals, prompts, outputs) for _ in range(2))
    replica = Replica(jumping, Affine(), engine(token_budget=256), KvCache(blocks, 16, 1.0))
    replica.prefix = PrefixCache(prefix_runs(chains, prompts), 16)
    run_open(jumping, replica, Front())
    plain = WithBlocks(stepping, Affine(), blocks, 16, 256)
    plain.chains, plain.cache = chains, BlockCache()
    preempted = serve_stepwise(stepping, Affine(), blocks, 16, 256, plain)
    assert jumping.preemptions == preempted
    np.testing.assert_allclose(jumping.first_s, stepping.first_s, rtol=1e-9)
    np.testing.assert_allclose(jumping.finish_s, stepping.finish_s, rtol=1e-9)
    assert sum(jumping.hit) > (0.1 if blocks > 1000 else 0.02) * sum(prompts)
    assert replica.blocks.held == 0 and replica.queued_tokens == 0 and replica.idle
    replica.prefix.trim(0)
    assert replica.prefix.free_blocks == 0


@pytest.mark.parametrize("admission", ["present", "reserve", "share"])
def test_blocks_and_tokens_are_conserved(admission: str) -> None:
    chains, prompts, outputs = conversations(500, 9, answers=True)
    log = request_log([float(t) for t in gamma_arrivals(20.0, 1.0, 500, 9)], prompts, outputs)
    replica = Replica(log, Affine(), engine(admission=admission, token_budget=512), KvCache(200, 16, 1.0))
    replica.prefix = PrefixCache(prefix_runs(chains, prompts), 16)
    run_open(log, replica, Front())
    assert sorted(replica.done) == list(range(500)) and replica.idle
    assert replica.blocks.held == 0 and replica.blocks.used(0, replica.step) == 0 and replica.queued_tokens == 0
    if not log.preemptions:
        assert replica.prefill_tokens + sum(log.hit) == sum(prompts)
    assert replica.prefix.asked_tokens >= sum(prompts) and all(h < p for h, p in zip(log.hit, prompts, strict=True))


def test_a_tier_brings_back_what_the_gpu_let_go_as_fast_as_its_link() -> None:
    """Two prompts in turn, room for one: with room for the other in a tier, all but the last block is found."""
    chains = Chains(((1,), (2,), (1,), (2,)), ((160,),) * 4)
    runs = prefix_runs(chains, (160,) * 4)
    for blocks, found in ((0, 0), (9, 0), (10, 144)):
        tier = Tier("host", Shelf(blocks), Link(), 0.5)
        cache, hits, there = PrefixCache(runs, 16, [tier]), [], []
        for i in range(4):
            hit, there_s = cache.take(i, 160, 100.0 * i)
            hits.append(hit)
            there.append(there_s - 100.0 * i)
            cache.trim(0)
            cache.release(i)
            cache.trim(10)
        assert hits == [0, 0, found, found], blocks
        assert there == [0.0, 0.0, 0.5 * found / 16, 0.5 * found / 16]
        assert tier.shelf.used <= blocks


class Timed(Replica):
    """Notes of every pass with prompts: when it begins and ends, its kernels alone, and when what it loads is there."""

    passes: list[tuple[float, float, float, float]]

    def _mixed_turn(self, chunks: list[tuple[int, int]]) -> None:
        begin_s, there_s, alone_s = self.now, self._there_s, self.costs.mixed(chunks, self.batch, self.cached)
        super()._mixed_turn(chunks)
        self.passes.append((begin_s, self.now, alone_s, there_s))


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_a_pass_takes_the_longer_of_its_kernels_and_of_what_tiers_bring(seed: int) -> None:
    chains, prompts, outputs = conversations(400, seed, answers=False)
    log = request_log([float(t) for t in gamma_arrivals(12.0, 1.0, 400, seed)], prompts, outputs)
    replica = Timed(log, Affine(), engine(token_budget=256), KvCache(250, 16, 1.0))
    replica.passes = []
    block_s = 3.0 * Affine().mixed([(16, 0)], 0, 0.0) / 16  # some loads are longer than their passes, some are not
    replica.prefix = PrefixCache(prefix_runs(chains, prompts), 16, [Tier("host", Shelf(5000), Link(), block_s)])
    run_open(log, replica, Front())
    begin, end, alone, there = np.array(replica.passes).T
    np.testing.assert_allclose(end, np.maximum(begin + alone, there), rtol=1e-9)
    late = there > begin + alone
    assert 0 < late.sum() < len(late)
    assert replica.load_wait_s == pytest.approx((end - begin - alone).sum())


def test_a_larger_cache_or_one_more_tier_never_finds_less() -> None:
    chains, prompts, _ = conversations(800, 21, answers=False)
    runs = prefix_runs(chains, prompts)

    def found(room: int, shelf: int) -> int:
        cache = PrefixCache(runs, 16, [Tier("host", Shelf(shelf), Link(), 0.0)] if shelf else ())
        waiting: deque[int] = deque()
        for i, tokens in enumerate(prompts):
            cache.take(i, tokens, 0.0)
            waiting.append(i)
            if len(waiting) > 4:
                cache.release(waiting.popleft())
            cache.trim(room)
        return cache.hit_tokens

    by_room = [found(room, 0) for room in (0, 50, 200, 800, 10_000)]
    assert by_room == sorted(by_room) and by_room[-1] > by_room[0]
    by_shelf = [found(50, shelf) for shelf in (0, 200, 1000, 10_000)]
    assert by_shelf == sorted(by_shelf) and by_shelf[-1] == by_room[-1]
