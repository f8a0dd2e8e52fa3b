"""Law: behind any router, each worker does what the plain engine does with the requests that it was sent.

Caches of prompts, drafts and a scaler are on; how long a pass waits for tiers is in test_prefix_cache.py. The plain
engine (stepwise.py, block_cache.py) takes one pass at a time and keeps single blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from block_cache import BlockCache
from stepwise import serve_stepwise
from test_prefix_cache import WithBlocks, conversations
from test_serving import Affine, engine

from moesim.sim.serve.dispatch import Dispatch
from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.prefix_cache import PrefixCache
from moesim.sim.serve.prefix_runs import prefix_runs
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.router import LeastLoaded, PrefixAware, Router
from moesim.sim.serve.scaling import Scaler, ScalingDispatch
from moesim.sim.serve.workload import RequestLog, request_log
from moesim.traces.requests import Chains, gamma_arrivals

COUNT, BUDGET, BLOCKS = 500, 256, 260


class Watched(Dispatch):
    """Notes which worker was sent which request, and when it reached the engine."""

    def sent(self, request: int, worker: int) -> None:
        super().sent(request, worker)
        self.at.setdefault(worker, []).append(request)

    at: dict[int, list[int]]


class WatchedScaling(Watched, ScalingDispatch):
    """The same where workers come and go."""


def load(seed: int) -> tuple[Chains, tuple[int, ...], list[int], list[float]]:
    chains, prompts, outputs = conversations(COUNT, seed, answers=False)
    return chains, prompts, outputs, [float(t) for t in gamma_arrivals(30.0, 1.0, COUNT, seed)]


def plainly(log: RequestLog, chains: Chains, mine: list[int], entered: list[float], begin_s: float = 0.0) -> RequestLog:
    """The requests of one worker through the plain engine."""
    own = request_log(entered, [log.prompt[i] for i in mine], [log.output[i] for i in mine])
    plain = WithBlocks(own, Affine(), BLOCKS, 16, BUDGET)
    plain.now = begin_s
    plain.chains = Chains(tuple(chains.keys[i] for i in mine), tuple(chains.ends[i] for i in mine))
    plain.cache = BlockCache()
    serve_stepwise(own, Affine(), BLOCKS, 16, BUDGET, plain)
    return own


def same(log: RequestLog, mine: list[int], plain: RequestLog) -> None:
    np.testing.assert_allclose([log.first_s[i] for i in mine], plain.first_s, rtol=1e-3)
    np.testing.assert_allclose([log.finish_s[i] for i in mine], plain.finish_s, rtol=1e-3)


def workers_of(log: RequestLog, count: int) -> list[Replica]:
    return [Replica(log, Affine(), engine(token_budget=BUDGET), KvCache(BLOCKS, 16, 1.0)) for _ in range(count)]


@pytest.mark.parametrize("kind", ["round_robin", "least_loaded", "prefix"])
def test_workers_behind_a_router_are_plain_engines(kind: str) -> None:
    chains, prompts, outputs, arrivals = load(41)
    log, runs = request_log(arrivals, prompts, outputs), prefix_runs(chains, prompts)
    workers = workers_of(log, 3)
    routers: dict[str, Any] = {"round_robin": Router, "least_loaded": LeastLoaded}
    router = PrefixAware(workers, runs, 4.0, 0.05) if kind == "prefix" else routers[kind](workers)
    for n, worker in enumerate(workers):
        told = router.listener(n) if isinstance(router, PrefixAware) else None
        worker.prefix = PrefixCache(runs, 16, told=told)
    dispatch = Watched(log, workers, Front(), router, Feed(log))
    dispatch.at = {}
    dispatch.run()
    assert router.coming_tokens == [0, 0, 0]  # nobody waits for what has come
    assert sorted(i for mine in dispatch.at.values() for i in mine) == list(range(COUNT))
    for mine in dispatch.at.values():
        same(log, mine, plainly(log, chains, mine, [arrivals[i] for i in mine]))
    assert sum(log.hit) > 0.15 * sum(prompts) and log.preemptions >= 0


def test_workers_that_a_scaler_starts_are_plain_engines_from_then_on() -> None:
    chains, prompts, outputs, arrivals = load(43)
    log, runs = request_log(arrivals, prompts, outputs), prefix_runs(chains, prompts)

    def made(n: int) -> Replica:
        del n
        worker = workers_of(log, 1)[0]
        worker.prefix = PrefixCache(runs, 16)
        return worker

    workers = [made(0)]
    scaler = Scaler(
        least=1, most=4, interval_s=1.0, worker_per_s=9.0, used_share=0.8, cold_start_s=1.5, keep_s=2.0
    )  # fmt: skip
    dispatch = WatchedScaling(log, workers, Front(), LeastLoaded(workers), scaler, made)
    dispatch.at = {}
    dispatch.run()
    lives = dispatch.watch.lives
    assert len(lives) > 2 and log.served == COUNT
    for n, mine in dispatch.at.items():
        assert all(arrivals[i] >= lives[n].ready_s - 1e-9 for i in mine)
        assert all(arrivals[i] <= lives[n].closed_s + 1e-9 for i in mine)
        same(log, mine, plainly(log, chains, mine, [arrivals[i] for i in mine], lives[n].ready_s))


class Drafting(WithBlocks):
    """The plain engine whose passes give `gain` tokens to each running sequence; decode passes are priced by tokens."""

    gain = 1

    def step(self) -> None:
        before = [(s, s.outputs) for s in self.running]
        begin_s, prompts = self.now, bool(self.filling or (self.waiting and not self.blocked))
        super().step()
        if self.now == begin_s or self.gain == 1:
            return
        took_s = self.now - begin_s
        if not prompts:
            return  # passes without prompts: `gain` passes of one token each, priced by the token
        for s, outputs in before:
            more = min(self.gain - 1, s.outputs)
            if s in self.running:
                s.cached, s.outputs = s.cached + more, s.outputs - more
                if s.outputs == 0:
                    self.running.remove(s)
                    self.complete(s.request)
                    self.log.finish_s[s.request] = self.now - took_s * (self.gain - outputs) / self.gain
            elif outputs == 1:
                self.log.finish_s[s.request] = self.now - took_s * (self.gain - 1) / self.gain


def test_drafts_are_accepted_in_passes_with_prompts_too() -> None:
    chains, prompts, outputs, arrivals = load(47)
    fast = Affine(yields=3.0)
    log, runs = request_log(arrivals, prompts, outputs), prefix_runs(chains, prompts)
    worker = Replica(log, fast, engine(token_budget=BUDGET), KvCache(4000, 16, 1.0))
    worker.prefix = PrefixCache(runs, 16)
    dispatch = Watched(log, [worker], Front(), Router([worker]), Feed(log))
    dispatch.at = {}
    dispatch.run()
    own = request_log(arrivals, prompts, outputs)
    plain = Drafting(own, fast, 4000, 16, BUDGET)
    plain.gain, plain.chains, plain.cache = 3, chains, BlockCache()
    serve_stepwise(own, fast, 4000, 16, BUDGET, plain)
    np.testing.assert_allclose(log.first_s, own.first_s, rtol=1e-3)
    np.testing.assert_allclose(log.finish_s, own.finish_s, rtol=1e-3)
    slow = request_log(arrivals, prompts, outputs)
    alone = Replica(slow, Affine(), engine(token_budget=BUDGET), KvCache(4000, 16, 1.0))
    alone.prefix = PrefixCache(runs, 16)
    Dispatch(slow, [alone], Front(), Router([alone]), Feed(slow)).run()
    assert sum(slow.finish_s) - sum(slow.first_s) > 1.2 * (sum(log.finish_s) - sum(log.first_s))
