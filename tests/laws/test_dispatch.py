"""Laws of workers behind routers: same answers as each alone, causes before effects, nothing lost, better when told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_prefix_cache import conversations
from test_serving import Affine, drawn, engine

import moesim.sim.serve.simulate as simulate_module
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.alone import run_closed, run_open
from moesim.sim.serve.dispatch import Dispatch
from moesim.sim.serve.feed import Feed
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.pool_dispatch import PoolDispatch
from moesim.sim.serve.prefix_cache import PrefixCache
from moesim.sim.serve.prefix_runs import prefix_runs
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.router import LeastLoaded, PowerOfTwo, PrefixAware, Router, Sticky
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.workload import REJECTED, SERVED, TIMED_OUT, RequestLog, request_log
from moesim.traces.requests import gamma_arrivals

FRONT = Front(0.004, 1e-6, 0.002)


def replicas(log: RequestLog, count: int, blocks: int = 2000, **settings: Any) -> list[Replica]:
    return [Replica(log, Affine(), engine(**settings), KvCache(blocks, 16, 1.0)) for _ in range(count)]


def test_round_robin_through_the_router_is_each_replica_alone() -> None:
    one, other = drawn(300, 30.0, 2), drawn(300, 30.0, 2)
    workers = replicas(one, 3)
    Dispatch(one, workers, FRONT, Router(workers), Feed(one)).run()
    for n, replica in enumerate(replicas(other, 3)):
        run_open(other, replica, replace(FRONT), range(n, 300, 3))
    np.testing.assert_allclose(one.first_s, other.first_s, rtol=1e-12)
    np.testing.assert_allclose(one.finish_s, other.finish_s, rtol=1e-12)


def test_clients_through_the_router_of_one_replica_are_clients_of_it() -> None:
    one, other = drawn(300, 30.0, 4), drawn(300, 30.0, 4)
    workers = replicas(one, 1)
    Dispatch(one, workers, FRONT, LeastLoaded(workers), Feed(one, clients=9)).run()
    run_closed(other, replicas(other, 1)[0], replace(FRONT), 9, range(300))
    np.testing.assert_allclose(one.arrival_s, other.arrival_s, rtol=1e-12)
    np.testing.assert_allclose(one.finish_s, other.finish_s, rtol=1e-12)


@pytest.mark.parametrize("workers_count", [1, 4])
def test_an_answer_comes_before_the_next_question(workers_count: int) -> None:
    """Chains of turns: each arrives its time to think after the answer before it, wherever that was served."""
    count = 400
    after = tuple(-1 if i % 5 == 0 else i - 1 for i in range(count))
    think_s = np.random.default_rng(3).exponential(2.0, count)
    starts = np.cumsum(np.random.default_rng(4).exponential(0.4, count))
    arrivals = [float(starts[i] if after[i] < 0 else think_s[i]) for i in range(count)]
    log = request_log(arrivals, [200 + i % 77 for i in range(count)], [20 + i % 13 for i in range(count)])
    workers = replicas(log, workers_count)
    Dispatch(log, workers, FRONT, LeastLoaded(workers), Feed(log, after)).run()
    assert all(worker.idle for worker in workers)
    for i in range(count):
        came_s = starts[i] if after[i] < 0 else log.finish_s[after[i]] + think_s[i]
        assert log.arrival_s[i] == pytest.approx(came_s, rel=1e-12)
        assert log.finish_s[i] > log.first_s[i] > log.arrival_s[i]


class Knowing(LeastLoaded):
    """Notes what it believed of every worker's load whenever it chose."""

    believed: list[tuple[float, list[int]]]

    def choose(self, request: int, time_s: float) -> int:
        self.believed.append((time_s, list(self.loads)))
        return super().choose(request, time_s)


class Sending(Dispatch):
    """Notes who was sent where, and when."""

    sends: list[tuple[float, int, int]]

    def route(self, request: int, time_s: float) -> None:
        self.now_s = time_s
        super().route(request, time_s)

    def sent(self, request: int, worker: int) -> None:
        super().sent(request, worker)
        self.sends.append((self.now_s, request, worker))


@pytest.mark.parametrize("seed", range(4))
def test_a_router_knows_every_answer_that_was_given_before(seed: int) -> None:
    """Loads at each choice leave out who finished before, and of later ones none that the pass in work does not end."""
    log = drawn(400, 40.0, seed)
    workers = replicas(log, 5)
    router = Knowing(workers)
    router.believed = []
    dispatch = Sending(log, workers, FRONT, router, Feed(log))
    dispatch.sends = []
    dispatch.run()
    pass_s = max(worker.costs.mixed([(worker.engine.token_budget, 4000)], 100, 1e5) for worker in workers)
    for n, (time_s, loads) in enumerate(router.believed):
        most, least = [0] * 5, [0] * 5
        for _, request, worker in dispatch.sends[:n]:
            most[worker] += log.finish_s[request] >= time_s
            least[worker] += log.finish_s[request] > time_s + pass_s
        assert all(low <= load <= high for low, load, high in zip(least, loads, most, strict=True))
    assert pass_s < 0.2 * (max(log.finish_s) - min(log.arrival_s))


def test_no_worker_runs_ahead_of_an_answer_that_another_may_give() -> None:
    """With clients, at no time are more requests inside than there are clients."""
    log = drawn(400, 30.0, 6)
    workers = replicas(log, 4)
    Dispatch(log, workers, Front(), LeastLoaded(workers), Feed(log, clients=11)).run()
    arrival, finish = np.array(log.arrival_s), np.array(log.finish_s)
    assert max(int(((arrival <= t) & (finish > t)).sum()) for t in arrival[11:]) <= 11


def told(
    speed: float, blocks: int, kind: str, lag_s: float = 0.05, weight: float = 4.0
) -> tuple[RequestLog, list[Replica]]:
    chains, prompts, outputs = conversations(1200, 31, answers=False)
    arrivals = [float(t) for t in gamma_arrivals(speed, 1.0, 1200, 31)]
    log = request_log(arrivals, prompts, outputs)
    runs = prefix_runs(chains, prompts)
    workers = replicas(log, 4, blocks, token_budget=512)
    made: dict[str, Any] = {
        "round_robin": lambda: Router(workers), "least_loaded": lambda: LeastLoaded(workers),
        "power_of_two": lambda: PowerOfTwo(workers), "sticky": lambda: Sticky(workers, (), runs),
        "prefix": lambda: PrefixAware(workers, runs, 4.0, lag_s),
    }  # fmt: skip
    router = made[kind]()
    for n, worker in enumerate(workers):
        listen = router.listener(n) if isinstance(router, PrefixAware) else None
        worker.prefix = PrefixCache(runs, 16, told=listen)
    Dispatch(log, workers, FRONT, router, Feed(log)).run()
    assert log.status.count(SERVED) == 1200 and all(w.idle and not w.queued_tokens for w in workers)
    assert not any(router.loads) and not any(router.coming_tokens)
    return log, workers


def test_a_router_that_knows_prompts_finds_more_of_them() -> None:
    hits = {
        kind: sum(told(40.0, 400, kind)[0].hit) for kind in ("round_robin", "least_loaded", "power_of_two", "prefix")
    }
    assert hits["prefix"] > 1.25 * max(hits[kind] for kind in hits if kind != "prefix")
    sticky = sum(told(40.0, 400, "sticky")[0].hit)
    assert sticky > max(hits["round_robin"], hits["least_loaded"])


def test_news_that_comes_late_is_worth_less() -> None:
    hits = [sum(told(40.0, 400, "prefix", lag_s)[0].hit) for lag_s in (0.0, 2.0, 1000.0)]
    assert hits[0] >= hits[1] > hits[2]


def test_who_holds_what_is_what_the_caches_hold() -> None:
    """Once all news is in, the router's bits are the caches' whole runs."""
    chains, prompts, outputs = conversations(300, 8, answers=True)
    log = request_log([float(t) for t in gamma_arrivals(30.0, 1.0, 300, 8)], prompts, outputs)
    runs = prefix_runs(chains, prompts)
    workers = replicas(log, 3, 120, token_budget=256)
    router = PrefixAware(workers, runs, 1.0, 0.0)
    for n, worker in enumerate(workers):
        worker.prefix = PrefixCache(runs, 16, told=router.listener(n))
    Dispatch(log, workers, FRONT, router, Feed(log)).run()
    router._hear(float("inf"))
    sizes = runs.blocks(16)
    for n, worker in enumerate(workers):
        assert worker.prefix is not None
        whole = {run for run, blocks in worker.prefix._resident.items() if blocks == sizes[run]}
        assert whole == {run for run, mask in router._holders.items() if mask >> n & 1}


def test_who_is_not_let_in_or_gives_up_is_counted() -> None:
    log = drawn(600, 200.0, 12)
    workers = replicas(log, 2, max_batch=8)
    Dispatch(log, workers, FRONT, LeastLoaded(workers), Feed(log), most=12).run()
    rejected = log.status.count(REJECTED)
    assert rejected > 0 and rejected + log.status.count(SERVED) == 600
    patient = drawn(600, 200.0, 12)
    patient.patience_s = 0.5
    workers = replicas(patient, 2, max_batch=8)
    Dispatch(patient, workers, FRONT, LeastLoaded(workers), Feed(patient)).run()
    gone = patient.status.count(TIMED_OUT)
    assert gone > 0 and gone + patient.status.count(SERVED) == 600 and all(w.queued_tokens == 0 for w in workers)
    waited = np.array(patient.first_s) - np.array(patient.arrival_s)
    served = np.frombuffer(patient.status, dtype=np.uint8) == SERVED
    assert waited[~served] == pytest.approx(0.5) and waited[served].max() < 0.5 + 0.5


def test_the_urgent_wait_less() -> None:
    log = drawn(600, 60.0, 14)
    log.priority = [i % 3 for i in range(600)]
    worker = replicas(log, 1, max_batch=16)[0]
    run_open(log, worker, Front())
    waits = np.array(log.first_s) - np.array(log.arrival_s)
    means = [waits[c::3].mean() for c in range(3)]
    assert means[0] < means[1] < means[2] and means[2] > 2 * means[0]


def served(**serve: Any) -> ServeRun:
    requests = {"kind": "poisson", "rate_per_s": 6.0, "count": 300, "input_tokens": 2000, "output_tokens": 64}
    scenario = parse_scenario({
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 4},
        "serve": {"engine": "vllm", "requests": requests, **serve},
    })  # fmt: skip
    resolved = resolve_serve(scenario)
    return simulate(resolved.deployment, resolved.workload, resolved.tuning(), PricedJobs())


def test_pools_serve_every_request_once_whatever_changes() -> None:
    pools = {"prefill": {"workers": 2}, "decode": {"workers": 2}}
    run = served(pools=pools)
    assert run.log.served == 300 and sum(r.prefill_tokens for r in run.prefill_replicas) == sum(run.log.prompt)
    waits = np.array(run.log.first_s) - np.array(run.log.arrival_s)
    assert (waits > 0).all() and (np.array(run.log.finish_s) > np.array(run.log.first_s)).all()
    limited = served(pools=pools, admission={"queue_limit": 1})
    assert 0 < limited.log.status.count(REJECTED) < 300


@pytest.mark.parametrize("router", ["round_robin", "prefix"])
def test_prompts_that_have_come_are_no_longer_on_their_way(router: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversations behind pools: what routers count as coming is sent, known tokens left out, and comes, all of it."""
    made: list[PoolDispatch] = []

    class Kept(PoolDispatch):
        def run(self) -> None:
            made.append(self)
            super().run()

    monkeypatch.setattr(simulate_module, "PoolDispatch", Kept)
    talk = {"kind": "sessions", "rate_per_s": 3.0, "count": 200, "sessions": {"turns": 4, "think_s": 0.2}}
    run = served(pools={"prefill": {"workers": 2}, "decode": {"workers": 2}}, router=router, requests=talk)
    assert run.log.served == 200 and sum(run.log.hit) > 0
    (dispatch,) = made
    assert dispatch.router.coming_tokens == [0, 0]
