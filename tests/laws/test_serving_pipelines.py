"""Laws of pipelines that serve: stages wait for each other, prompts take all of them, rounds are as long as passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from balanced import run_balanced

from moesim.hwmodels.gpu import load_gpu
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import active_parameters
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies, span_s, utilisation
from moesim.sim.serve.alone import run_closed, run_open
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.pipeline import PipelinedReplica
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.stages import PassSeconds, batches_of, crossing_hops, cycle_s, layers_of_stages
from moesim.sim.serve.workload import RequestLog, request_log
from moesim.sim.software.serving_engine import Engine, load_engine
from moesim.traces.requests import gamma_arrivals
from moesim.traces.rng import stream


@dataclass(frozen=True)
class Pipe:
    """A pipeline whose passes are easy to reason about: a fixed time and one per token, over equal stages and wires."""

    stages: int
    host_s: float = 0.0
    head_s: float = 0.0
    wire_s: float = 0.0
    pass_s: float = 8e-3
    prompt_s: float = 4e-5
    token_s: float = 1e-8
    yields: float = 1.0
    width: int = 1

    def resources(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> list[float]:
        layers = self.pass_s + self.prompt_s * sum(n for n, _ in chunks) + 1e-5 * batch + self.token_s * cached
        each = PassSeconds(self.host_s, layers, self.head_s, (self.wire_s,) * (self.stages - 1))
        return each.resources((1,) * self.stages)

    def mixed(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> float:
        return sum(self.resources(chunks, batch, cached))

    def decode(self, batch: int) -> tuple[float, float]:
        def round_s(each: float) -> float:
            sizes = batches_of(batch, self.stages).items()
            return cycle_s([(n, self.resources((), size, each * size)) for size, n in sizes])[0]

        empty, full = round_s(0.0), round_s(1e4)
        return empty, (full - empty) / (1e4 * batch)


def engine(**settings: object) -> Engine:
    return load_engine("vllm", {"prefix_cache": False, **settings})


def replica(log: RequestLog, costs: Pipe, blocks: int = 100_000, **settings: object) -> PipelinedReplica:
    return PipelinedReplica(log, costs, engine(**settings), KvCache(blocks, 16, 1.0), costs.stages)


PIPES = [Pipe(2), Pipe(4, 1e-3, 5e-3, 2e-3), Pipe(8, 2e-4, 0.0, 2e-2), Pipe(16, 0.0, 1e-2, 0.0)]


def recursion(costs: Pipe, arrivals: Sequence[float], chunks: Sequence[Sequence[int]]) -> list[float]:
    """When each prompt is back, pass by pass: a pass enters when the first resource is free and a place in flight."""
    free, back, ends, entry = [0.0] * (2 * costs.stages), [], [], 0.0
    for arrival, sizes in zip(arrivals, chunks, strict=True):
        for n, new in enumerate(sizes):
            gate = back[-costs.stages] if len(back) >= costs.stages else 0.0
            time = entry = max(arrival, entry, free[0], gate)
            for s, seconds in enumerate(costs.resources([(new, sum(sizes[:n]))], 0, 0.0)):
                time = free[s] = max(time, free[s]) + seconds
            back.append(time)
        ends.append(time)
    return ends


@pytest.mark.parametrize("costs", PIPES)
@pytest.mark.parametrize("rate_per_s", [2.0, 20.0, 1000.0])
def test_prompts_go_through_the_stages_one_after_the_other(costs: Pipe, rate_per_s: float) -> None:
    """Whatever the load: the recursion of a flow shop with a limit on what is in flight."""
    draws = stream(3, "test.pipelines")
    count, budget = 200, 500
    arrivals = [float(t) for t in gamma_arrivals(rate_per_s, 1.0, count, 3)]
    prompts = [budget * (1 + int(v)) for v in draws.exponential(1.5, count)]  # whole passes: none are shared
    log = request_log(arrivals, prompts, [1] * count)
    run_open(log, replica(log, costs, token_budget=budget), Front())
    chunks = [[budget] * (p // budget) for p in prompts]
    np.testing.assert_allclose(log.first_s, recursion(costs, arrivals, chunks), rtol=1e-12)


@pytest.mark.parametrize("costs", PIPES)
def test_a_lone_prompt_takes_all_stages_and_a_queue_the_slowest(costs: Pipe) -> None:
    one = costs.resources([(1000, 0)], 0, 0.0)
    log = request_log([0.0], [1000], [1])
    run_open(log, replica(log, costs, token_budget=1000), Front())
    assert log.first_s[0] == pytest.approx(sum(one), rel=1e-12)
    log = request_log([0.0] * 100, [1000] * 100, [1] * 100)
    run_open(log, replica(log, costs, token_budget=1000), Front())
    apart_s = (log.first_s[5 * costs.stages] - log.first_s[costs.stages]) / (4 * costs.stages)
    assert apart_s == pytest.approx(max(*one, sum(one) / costs.stages), rel=1e-9)  # as many in flight as stages


@pytest.mark.parametrize("costs", PIPES)
def test_a_lone_client_gets_a_token_per_trip(costs: Pipe) -> None:
    log = request_log([0.0], [300], [65])
    run_open(log, replica(log, costs), Front())
    trips = sum(sum(costs.resources((), 1, 300.0 + k)) for k in range(64))
    assert log.finish_s[0] - log.first_s[0] == pytest.approx(trips, rel=1e-9)


@pytest.mark.parametrize("costs", PIPES)
@pytest.mark.parametrize("clients", [1, 3, 16, 40])
def test_rounds_at_once_equal_rounds_pass_by_pass(costs: Pipe, clients: int) -> None:
    """Looking at the clock so often that no two rounds are taken together changes nothing but how it begins."""
    ends = []
    for step_s in (float("inf"), 1e-3):
        log = request_log([0.0] * clients, [100] * clients, [400] * clients)
        each = replica(log, costs)
        for n in range(clients):
            each.submit(n, 0.0)
        while not each.idle:
            each.advance(each.now + step_s)
        ends.append(np.array(log.finish_s) - np.array(log.first_s))
    np.testing.assert_allclose(ends[0], ends[1], rtol=0.01)


@pytest.mark.parametrize(
    "settings", [{}, {"scheduling": "prefill_first"}, {"admission": "reserve"}, {"token_budget": 128}]
)
@pytest.mark.parametrize("blocks", [100_000, 420])
def test_requests_tokens_and_blocks_are_conserved(settings: dict[str, object], blocks: int) -> None:
    draws = stream(5, "test.pipelines")
    prompts, outputs = ([int(v) + 1 for v in draws.exponential(mean, 200)] for mean in (400, 120))
    log = request_log([float(t) for t in gamma_arrivals(12.0, 1.0, 200, 5)], prompts, outputs)
    costs = Pipe(4, 1e-3, 2e-3, 1e-3)
    each = replica(log, costs, blocks, **settings)
    run_open(log, each, Front())
    assert sorted(each.done) == list(range(200)) and each.idle
    assert each.cached == 0 and each.blocks.held == 0 and each.blocks.used(0, each.step) == 0
    assert each.peak_cached <= blocks * 16
    assert log.preemptions > 0 or each.prefill_tokens == sum(prompts)
    arrival, first, finish = np.array(log.arrival_s), np.array(log.first_s), np.array(log.finish_s)
    assert (first >= arrival + sum(costs.resources([(1, 0)], 0, 0.0)) - 1e-12).all()
    assert (finish - first >= sum(costs.resources((), 1, 0.0)) * (np.array(outputs) - 1) * (1 - 1e-9)).all()
    assert each.prefill_busy_s <= each.busy_s <= max(finish) + 1e-9


def test_drivers_lose_nobody() -> None:
    log = request_log([0.0] * 120, [300] * 120, [60] * 120)
    run_closed(log, replica(log, Pipe(4)), Front(), 7, range(120))
    arrival, finish = np.array(log.arrival_s), np.array(log.finish_s)
    assert all(((arrival <= t) & (finish > t)).sum() <= 7 for t in arrival)
    log = request_log([float(t) for t in gamma_arrivals(40.0, 1.0, 300, 1)], [200] * 300, [30] * 300)
    balanced = [replica(log, Pipe(4)) for _ in range(3)]
    served = run_balanced(log, balanced, Front())
    assert sum(served) == 300 and min(served) > 80


def test_layers_are_spread_and_hops_are_told_apart() -> None:
    assert layers_of_stages(61, 8) == (7, 7, 8, 8, 8, 8, 8, 7)
    assert sum(layers_of_stages(61, 8)) == 61 and layers_of_stages(32, 4) == (8, 8, 8, 8)
    cluster = resolve_serve(parse_scenario(scenario(16, {"tp": 4, "pp": 4}))).deployment.job.cluster
    assert crossing_hops(cluster, 4, 4) == (False, True, False)
    assert crossing_hops(cluster, 8, 2) == (True,)
    assert crossing_hops(cluster, 2, 3, first_gpu=6) == (True, False)  # begins at the end of a node
    assert crossing_hops(cluster, 6, 2) == (True,)  # its first two ranks stay, the others leave
    assert crossing_hops(cluster, 1, 8) == (False,) * 7


def scenario(gpus: int, layout: dict[str, int], model: str = "llama-3.1-70b", **cluster: object) -> dict[str, object]:
    requests = {"kind": "closed", "concurrency": 1, "count": 2, "input_tokens": 6000, "output_tokens": 8}
    return {
        "model": model,
        "cluster": {"node": "dgx-h100", "gpus": gpus, **cluster},
        "layout": layout,
        "serve": {"engine": "vllm", "precision": "fp8", "requests": requests},
    }


def served(asked: dict[str, object], priced: PricedJobs | None = None, **requests: object) -> ServeRun:
    asked = {**asked, "serve": {**asked["serve"], **({"requests": requests} if requests else {})}}  # type: ignore[dict-item]  # a dict
    resolved = resolve_serve(parse_scenario(asked))
    return simulate(resolved.deployment, resolved.workload, resolved.tuning(), priced)


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-30b-a3b", "mixtral-8x7b"])
@pytest.mark.parametrize("pp", [1, 2, 4, 16])
def test_the_first_token_takes_its_flops_on_one_stage_at_a_time(model: str, pp: int) -> None:
    run = served(scenario(2 * pp, {"tp": 2, "pp": pp}, model))
    flops = 2.0 * active_parameters(load_model(model)).without_input_embedding * 6000
    head = 2.0 * load_model(model).vocab * load_model(model).hidden * 6000  # of the last token only
    floor = (flops - head) / (2 * load_gpu("h100-sxm").peak("fp8"))
    one = served(scenario(2, {"tp": 2}, model))
    assert latencies(run.log).ttft_s.min() > floor
    assert latencies(run.log).ttft_s.mean() == pytest.approx(latencies(one.log).ttft_s.mean(), rel=0.1)
    assert latencies(run.log).tpot_s.mean() >= latencies(one.log).tpot_s.mean() * (1 - 1e-9)


def test_stages_work_side_by_side_when_there_is_a_queue() -> None:
    rates = {}
    for pp in (1, 4):
        run = served(
            scenario(2 * pp, {"tp": 2, "pp": pp}), kind="offline", count=400, input_tokens=4000, output_tokens=2
        )
        rates[pp] = 400 / span_s(run)
        assert sum(utilisation(run).values()) == pytest.approx(1.0, abs=1e-6)
    assert 0.9 * 4 * rates[1] < rates[4] <= 4 * rates[1] * 1.01


def test_a_hop_between_nodes_waits_for_the_nic_and_one_inside_does_not() -> None:
    load = {"kind": "closed", "concurrency": 8, "count": 16, "input_tokens": 1000, "output_tokens": 16}
    for gpus, layout, crosses in ((16, {"tp": 4, "pp": 4}, True), (8, {"tp": 2, "pp": 4}, False)):
        ttft = [
            latencies(served(scenario(gpus, layout, nic_bytes_per_s=rate), **load).log).ttft_s.mean()
            for rate in (5e10, 1e6)
        ]
        assert ttft[1] > 10 * ttft[0] if crosses else ttft[1] == ttft[0]


def test_replicas_that_begin_inside_a_node_have_hops_of_their_own() -> None:
    """Three stages of two GPUs: replicas at GPU 0, 6, 12, 18 cross nodes at no, the first, the second, no hop."""
    run = served(
        scenario(24, {"tp": 2, "pp": 3}, nic_bytes_per_s=1e7),
        kind="offline",
        count=4,
        input_tokens=900,
        output_tokens=2,
    )
    first = np.array(run.log.first_s)
    assert first[1] > 5 * first[0] and first[1] == pytest.approx(first[2], rel=1e-6) and first[3] == first[0]


class _Fetching(PipelinedReplica):
    """Notes what passes take at each resource beyond their own when tokens come back from the host's memory."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extra: list[tuple[int, list[float]]] = []  # (tokens that come back, seconds by resource)
        self._own: list[float] = []

    def _enter(self, chunks: list[tuple[int, int]], batch: int | None, size: int) -> None:
        self._own = self.costs.resources(chunks, size, self.cached * size / max(1, self.batch))
        self.extra.append((self._swapped, []))
        super()._enter(chunks, batch, size)

    def _through(self, resources: list[float]) -> float:
        self.extra[-1][1].extend(all_s - own_s for all_s, own_s in zip(resources, self._own, strict=True))
        return super()._through(resources)


@pytest.mark.parametrize("stages", [2, 4])
def test_blocks_and_experts_from_the_host_share_the_link_of_a_stage(stages: int) -> None:
    """Experts that come over the link are part of a stage's seconds. Blocks come over the same link: on top, never
    beside them at the scheduler, where they would take nothing from the stages."""
    costs, swap_token_s = Pipe(stages, 1e-3, 2e-3, 1e-4), 2e-5
    log = request_log([0.0] * 120, [300] * 120, [100] * 120)
    cache = KvCache(420, 16, 1.0, swap_token_s)
    served = _Fetching(log, costs, engine(preemption="swap", token_budget=512), cache, stages)
    run_open(log, served, Front())
    assert log.preemptions > 0 and any(tokens for tokens, _ in served.extra)
    for tokens, extra in served.extra:
        assert extra[1::2] == pytest.approx([tokens * swap_token_s] * stages)  # stages; scheduler and wires between
        assert extra[0::2] == pytest.approx([0.0] * stages)
