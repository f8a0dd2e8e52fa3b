"""Laws of serving: the jumping loop equals the stepping one; conservation, causality, Little, Lindley, bounds."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from balanced import run_balanced
from stepwise import serve_stepwise

from moesim.hwmodels.gpu import bytes_per_element, load_gpu
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import active_parameters
from moesim.sim.question.scenario import load_scenario, parse_scenario
from moesim.sim.serve.accounts import latencies, span_s
from moesim.sim.serve.alone import run_closed, run_open
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.layers import offload_bytes
from moesim.sim.serve.replica import Replica, steps_until
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, simulate
from moesim.sim.serve.workload import RequestLog, request_log
from moesim.sim.software.serving_engine import Engine, engine_tuning, load_engine
from moesim.traces.requests import gamma_arrivals
from moesim.traces.rng import stream

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Affine:
    """Step times that are easy to reason about."""

    fixed_s: float = 4e-3
    sequence_s: float = 1e-4
    token_s: float = 2e-8
    prompt_s: float = 1e-5
    yields: float = 1.0
    width: int = 1

    def decode(self, batch: int) -> tuple[float, float]:
        return self.fixed_s + self.sequence_s * batch, self.token_s

    def mixed(self, chunks: list[tuple[int, int]], batch: int, cached: float) -> float:
        new = sum(n for n, _ in chunks)
        return self.fixed_s + self.sequence_s * batch + self.token_s * cached + self.prompt_s * new


def engine(**settings: object) -> Engine:
    return load_engine("vllm", {"prefix_cache": False, **settings})


def drawn(count: int, rate_per_s: float, seed: int, prompt: int = 600, output: int = 150) -> RequestLog:
    """Poisson arrivals, exponential-ish lengths."""
    draws = stream(seed, "test.serving")
    prompts = [int(v) + 1 for v in draws.exponential(prompt, count)]
    outputs = [int(v) + 1 for v in draws.exponential(output, count)]
    return request_log([float(t) for t in gamma_arrivals(rate_per_s, 1.0, count, seed)], prompts, outputs)


@pytest.mark.parametrize("blocks", [100_000, 420])
@pytest.mark.parametrize("budget", [8192, 512])
@pytest.mark.parametrize("seed", [0, 1])
def test_jumps_equal_single_steps(blocks: int, budget: int, seed: int) -> None:
    jumping, stepping = drawn(300, 8.0, seed), drawn(300, 8.0, seed)
    replica = Replica(jumping, Affine(), engine(token_budget=budget), KvCache(blocks, 16, 1.0))
    run_open(jumping, replica, Front())
    preempted = serve_stepwise(stepping, Affine(), blocks, 16, budget)
    assert jumping.preemptions == preempted
    assert (preempted > 0) == (blocks < 1000)
    np.testing.assert_allclose(jumping.first_s, stepping.first_s, rtol=1e-9)
    np.testing.assert_allclose(jumping.finish_s, stepping.finish_s, rtol=1e-9)


def test_steps_until_is_the_least_number_of_steps() -> None:
    for a, b, batch, cached in ((3e-3, 1e-8, 7, 5000), (1e-3, 0.0, 1, 10), (2e-3, 3e-7, 200, 400_000)):

        def taken(k: int, a: float = a, b: float = b, batch: int = batch, cached: int = cached) -> float:
            return k * a + b * (k * cached + batch * k * (k - 1) / 2)

        for seconds in (1e-4, 0.05, 1.0, 20.0):
            k = steps_until(a, b, batch, cached, seconds)
            assert taken(k) >= seconds * (1 - 1e-6)
            assert k == 1 or taken(k - 1) < seconds * (1 + 1e-6)


@pytest.mark.parametrize("admission", ["present", "reserve", "share"])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_requests_tokens_and_blocks_are_conserved(admission: str, preemption: str) -> None:
    log = drawn(400, 20.0, 3)
    replica = Replica(log, Affine(), engine(admission=admission, preemption=preemption), KvCache(500, 16, 1.0))
    run_open(log, replica, Front())
    assert sorted(replica.done) == list(range(len(log)))
    assert replica.idle and replica.cached == 0 and replica.blocks.held == 0
    assert replica.blocks.used(0, replica.step) == 0
    assert replica.peak_cached <= 500 * 16
    if log.preemptions == 0:
        assert replica.prefill_tokens == sum(log.prompt)
    assert (admission == "reserve") <= (log.preemptions == 0)


def test_causality_and_order() -> None:
    log = drawn(300, 12.0, 5)
    run_open(log, Replica(log, Affine(), engine(), KvCache(2000, 16, 1.0)), Front(0.01, 1e-5, 1e-3))
    arrival, first, finish = np.array(log.arrival_s), np.array(log.first_s), np.array(log.finish_s)
    assert (first > arrival + 0.01).all() and (finish >= first).all()
    least = Affine().fixed_s * (np.array(log.output) - 1)
    assert (finish - first >= least * (1 - 1e-9)).all()


def test_work_is_conserved_under_overload() -> None:
    log = drawn(500, 1000.0, 7)
    replica = Replica(log, Affine(), engine(), KvCache(3000, 16, 1.0))
    run_open(log, replica, Front())
    begin = min(log.arrival_s)
    assert replica.busy_s == pytest.approx(max(log.finish_s) - begin, rel=1e-9)  # never idle with work to do


def test_little() -> None:
    """Mean number in the system = arrival rate x mean time in it."""
    log = drawn(4000, 6.0, 11)
    run_open(log, Replica(log, Affine(), engine(), KvCache(100_000, 16, 1.0)), Front())
    arrival, finish = np.array(log.arrival_s), np.array(log.finish_s)
    span = finish.max() - arrival.min()
    times = np.sort(np.concatenate([arrival, finish]))
    inside = np.searchsorted(np.sort(arrival), times, "right") - np.searchsorted(np.sort(finish), times, "right")
    mean_number = float((inside[:-1] * np.diff(times)).sum() / span)
    assert mean_number == pytest.approx(len(log) / span * float((finish - arrival).mean()), rel=1e-9)


def test_one_prompt_at_a_time_is_lindley() -> None:
    """A budget of one prompt and single tokens: a G/D/1 queue, waits by Lindley's recursion."""
    count, prompt = 2000, 500
    arrivals = [float(t) for t in gamma_arrivals(60.0, 1.0, count, 13)]
    log = request_log(arrivals, [prompt] * count, [1] * count)
    costs = Affine()
    service = costs.fixed_s + costs.prompt_s * prompt
    run_open(log, Replica(log, costs, engine(token_budget=prompt), KvCache(10_000, 16, 1.0)), Front())
    wait, expected = 0.0, []
    for i in range(count):
        wait = max(0.0, wait + (service - (arrivals[i] - arrivals[i - 1]) if i else 0.0))
        expected.append(wait + service)
    np.testing.assert_allclose(latencies(log).ttft_s, expected, rtol=1e-9)


def test_poisson_arrivals_and_fixed_service_are_m_d_1() -> None:
    """Mean wait rho s / (2 (1 - rho))."""
    count, prompt, costs = 60_000, 500, Affine()
    service = costs.fixed_s + costs.prompt_s * prompt
    rate = 0.6 / service
    arrivals = [float(t) for t in gamma_arrivals(rate, 1.0, count, 17)]
    log = request_log(arrivals, [prompt] * count, [1] * count)
    run_open(log, Replica(log, costs, engine(token_budget=prompt), KvCache(10_000, 16, 1.0)), Front())
    mean_wait = float(latencies(log).ttft_s.mean()) - service
    assert mean_wait == pytest.approx(0.6 * service / (2 * 0.4), rel=0.05)


def test_closed_loop_keeps_its_clients() -> None:
    log = request_log([0.0] * 400, [300] * 400, [100] * 400)
    run_closed(log, Replica(log, Affine(), engine(), KvCache(100_000, 16, 1.0)), Front(), 16, range(400))
    arrival, finish = np.array(log.arrival_s), np.array(log.finish_s)
    for i in range(16, 400):
        inside = int(((arrival <= arrival[i]) & (finish > arrival[i])).sum())
        assert inside <= 16


def test_balanced_routing_beats_round_robin_and_loses_nothing() -> None:
    waits = {}
    for name in ("balanced", "round"):
        log = drawn(1500, 60.0, 19)
        replicas = [Replica(log, Affine(), engine(max_batch=16), KvCache(900, 16, 1.0)) for _ in range(4)]
        if name == "balanced":
            assert sum(run_balanced(log, replicas, Front())) == len(log)
        else:
            for n, replica in enumerate(replicas):
                run_open(log, replica, Front(), range(n, len(log), 4))
            assert sum(len(r.done) for r in replicas) == len(log)
        waits[name] = float(latencies(log).ttft_s.mean())
    assert waits["balanced"] < waits["round"]


class Patient(Replica):
    """Counts how often it is asked to go on, and gives up where a driver would ask for ever."""

    asked = 0

    def advance(self, until: float, stop: bool = False) -> None:
        self.asked += 1
        assert self.asked < 10_000, "the driver does not end"
        super().advance(until, stop)


@pytest.mark.parametrize("times", [[0.0] * 64, [0.0] * 8 + [0.5] * 56, sorted([0.25, 0.5] * 32)])
def test_balanced_routing_of_requests_at_one_instant_ends_and_is_even(times: list[float]) -> None:
    log = request_log(times, [300] * 64, [20] * 64)
    replicas = [Patient(log, Affine(), engine(), KvCache(100_000, 16, 1.0)) for _ in range(4)]
    assert run_balanced(log, replicas, Front()) == [16] * 4
    assert all(
        finish > first > arrival - 1e-12
        for arrival, first, finish in zip(log.arrival_s, log.first_s, log.finish_s, strict=True)
    )


def scenario(**serve: object) -> dict[str, object]:
    requests = {"kind": "closed", "concurrency": 1, "count": 4, "input_tokens": 200, "output_tokens": 200}
    return {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 2},
        "layout": {"tp": 2},
        "serve": {"engine": "vllm", "precision": "fp8", "requests": requests, **serve},
    }


@pytest.mark.parametrize("model", ["mixtral-8x7b", "llama-3.1-70b", "gpt-oss-120b", "qwen3-30b-a3b"])
def test_one_sequence_is_no_faster_than_its_weights_are_read(model: str) -> None:
    resolved = resolve_serve(parse_scenario({**scenario(), "model": model}))
    run = simulate(resolved.deployment, resolved.workload, engine_tuning())
    arch, gpu = load_model(model), load_gpu("h100-sxm")
    narrow = min(bytes_per_element(f) for f in (run.machine.job.formats.experts, run.machine.job.formats.attention))
    active = active_parameters(arch).without_input_embedding * narrow
    assert float(latencies(run.log).tpot_s.min()) >= active / 2 / gpu.hbm_bytes_per_s


def test_more_clients_give_more_tokens_and_slower_ones() -> None:
    priced, rates, paces = PricedJobs(), [], []
    for clients in (1, 4, 16, 64):
        load = {"kind": "closed", "concurrency": clients, "input_tokens": 300, "output_tokens": 200}
        resolved = resolve_serve(parse_scenario(scenario(requests=load)))
        run = simulate(resolved.deployment, resolved.workload, engine_tuning(), priced)
        rates.append(sum(run.log.output) / span_s(run))
        paces.append(float(latencies(run.log).tpot_s.mean()))
    assert rates == sorted(rates) and paces == sorted(paces)


def test_pools_conserve_requests_and_first_tokens_come_after_the_transfer() -> None:
    pools = {"prefill": {"workers": 2, "tp": 2}, "decode": {"workers": 1, "tp": 4}}
    load = {"kind": "closed", "concurrency": 12, "count": 60, "input_tokens": 900, "output_tokens": 80}
    asked = {**scenario(requests=load, pools=pools), "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {}}
    resolved = resolve_serve(parse_scenario(asked))
    run = simulate(resolved.deployment, resolved.workload, engine_tuning())
    assert run.prefill_replicas is not None
    sent = np.array(run.prefill_replicas[0].log.finish_s)
    first, finish = np.array(run.log.first_s), np.array(run.log.finish_s)
    assert (sent > 0).all() and (first > sent).all() and (finish > first).all()
    assert sum(r.prefill_tokens for r in run.replicas) == 0


def test_same_question_same_bytes_whatever_the_hash_seed() -> None:
    code = (
        "import json,sys; from moesim import predict_serve; "
        "print(json.dumps(predict_serve(json.loads(sys.argv[1])).to_dict(), sort_keys=True))"
    )
    load = {"kind": "azure-conversation", "count": 60, "rate_per_s": 3.0}
    digests = set()
    for seed in ("0", "77"):
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(scenario(requests=load))],
            cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}, capture_output=True,
            check=True,
        )  # fmt: skip
        digests.add(hashlib.sha256(done.stdout).hexdigest())
    assert len(digests) == 1


def test_prefix_hits_save_prefill_and_only_that() -> None:
    logs = {}
    for use in (True, False):
        log = drawn(100, 5.0, 23)
        log.prefix = [p // 2 for p in log.prompt]
        replica = Replica(log, Affine(), replace(engine(), prefix_cache=use), KvCache(100_000, 16, 1.0))
        run_open(log, replica, Front())
        logs[use] = replica.prefill_tokens
    log = drawn(100, 5.0, 23)
    assert logs[False] == sum(log.prompt)
    assert logs[True] == sum(p - min(p // 2, p - 1) for p in log.prompt)


def test_fetching_swapped_tokens_costs_time_but_no_prefill() -> None:
    ends = {}
    for swap_token_s in (0.0, 1e-4):
        log = drawn(300, 8.0, 0)
        cache = KvCache(420, 16, 1.0, swap_token_s)
        replica = Replica(log, Affine(), engine(preemption="swap"), cache)
        run_open(log, replica, Front())
        assert log.preemptions > 0
        assert replica.prefill_tokens == sum(log.prompt) + log.preemptions  # the last token runs once more
        ends[swap_token_s] = max(log.finish_s)
    assert ends[1e-4] > ends[0.0]


class _Fetching(Replica):
    """Notes what passes take beyond their own seconds when tokens come back from the host's memory."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extra: list[tuple[int, float]] = []  # (tokens that come back, seconds)

    def _mixed_turn(self, chunks: list[tuple[int, int]]) -> None:
        tokens, before_s, own_s = self._swapped, self.busy_s, self.costs.mixed(chunks, self.batch, self.cached)
        super()._mixed_turn(chunks)
        self.extra.append((tokens, self.busy_s - before_s - own_s))


def test_experts_and_blocks_from_the_host_take_turns_on_the_link() -> None:
    """A pass takes at least its experts' bytes over the link; blocks that come back with it come on top."""
    asked = load_scenario(ROOT / "examples" / "serve-mixtral-8x7b-offloaded-24gb.yaml")
    resolved = resolve_serve(asked)
    job = resolved.deployment.job
    rate = job.cluster.gpu.host_link_bytes_per_s
    costs = simulate(resolved.deployment, resolved.workload, resolved.tuning()).machine.costs
    for tokens in (1, 8, 256):
        assert costs.mixed([(tokens, 0)], 0, 0.0) >= offload_bytes(job, tokens) / rate > 0.0
    assert costs.decode(1)[0] >= offload_bytes(job, 1) / rate
    swap_token_s, log = 2e-5, drawn(300, 8.0, 0)
    replica = _Fetching(log, costs, engine(preemption="swap"), KvCache(420, 16, 1.0, swap_token_s))
    run_open(log, replica, Front())
    assert log.preemptions > 0 and any(tokens for tokens, _ in replica.extra)
    for tokens, extra_s in replica.extra:
        assert extra_s == pytest.approx(tokens * swap_token_s, rel=1e-6, abs=1e-9)
