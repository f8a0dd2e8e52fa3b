"""Laws of experts apart from attention: bounds of a pass, what each GPU holds, who pays, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import expert_params, experts_in
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import Machine, machine_of


def scenario(gpus: int = 48, **serve: Any) -> dict[str, Any]:
    load = {"kind": "closed", "concurrency": 512, "count": 1024, "input_tokens": 64, "output_tokens": 32}
    layout = serve.pop("layout", {})
    model = serve.pop("model", "deepseek-v3")
    return {
        "model": model, "cluster": {"node": "dgx-h200", "gpus": gpus}, "layout": layout,
        "serve": {"engine": "sglang", "precision": "fp8", "attention_dp": 32, "requests": load, **serve},
    }  # fmt: skip


def machine(**serve: Any) -> Machine:
    resolved = resolve_serve(parse_scenario(scenario(**serve)))
    return machine_of(resolved.deployment.job, resolved.workload, resolved.tuning())


@pytest.mark.parametrize("batch", [32, 512, 4096])
def test_a_pass_takes_its_slowest_part_and_at_least_one_way_around(batch: int) -> None:
    seconds = {m: machine(experts_apart={"gpus": 16, "batches": m}).costs for m in (1, 2, 3)}
    for m, costs in seconds.items():
        mine = -(-batch // 32)
        parts = costs.halves_of(mine)
        assert parts == min(m, mine)
        each = costs._layers_s(mine, batch, mine * 32, parts)
        fixed, slope = costs._cores(mine, parts)
        cores = fixed + slope * mine * costs.contexts[0]
        whole = costs._overlapped(cores, each, parts)
        assert whole >= max(each.compute_s + cores, each.exchange_s) * (1 - 1e-12)
        assert whole >= (each.compute_s + cores) / parts + each.around_s - 1e-12
        if parts == 1:
            assert whole == pytest.approx(each.compute_s + cores + each.around_s, rel=1e-12)
    if batch >= 512:
        assert seconds[2].decode(batch)[0] < seconds[1].decode(batch)[0]  # the overlap pays where there is work


def test_attention_holds_no_experts_and_the_others_hold_them_all() -> None:
    arch = load_model("deepseek-v3")
    with_them, without = machine(layout={"ep": 32}, gpus=32), machine(experts_apart={"gpus": 16})
    total = sum(experts_in(arch, kind) * expert_params(arch) for kind in arch.layers if kind.ffn == "moe")
    assert with_them.memory.weights - without.memory.weights == pytest.approx(
        total / 32, rel=0.04
    )  # a byte each, and scales
    assert without.memory.experts == 0.0
    assert serve_memory(without.job).cache_bytes > serve_memory(with_them.job).cache_bytes


def test_the_gpus_of_experts_are_counted_and_paid() -> None:
    p = predict_serve(scenario(experts_apart={"gpus": 16}, slo={"ttft_s": 10, "tpot_s": 1}))
    span = max(p.run.log.finish_s) - min(p.run.log.arrival_s)
    assert p.resolved.deployment.gpus == 48 and p.to_dict()["replicas"] == 1
    assert float(p.cost["gpu_hours"]) == pytest.approx(48 * span / 3600.0)
    assert p.utilisation["apart"] > 0.0 and sum(p.utilisation.values()) == pytest.approx(1.0)
    assert any(line.startswith("experts apart: 16 GPUs") for line in p.assumptions)


def test_only_decode_workers_of_pools_have_experts_apart() -> None:
    pools = {"prefill": {"workers": 1, "attention_dp": 32, "ep": 32}, "decode": {"workers": 1, "attention_dp": 32}}
    ask = scenario(gpus=80, pools=pools, experts_apart={"gpus": 16})
    del ask["serve"]["attention_dp"]
    groups = resolve_serve(parse_scenario(ask)).deployment.groups
    assert [(group.role, group.gpus, group.job.apart is not None) for group in groups] == [
        ("prefill", 32, False), ("decode", 48, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("serve", "refusal", "words"),
    [
        ({"model": "llama-3.1-70b", "attention_dp": 1}, ScenarioError, "has none"),
        ({"two_batch_overlap": True}, BadLayout, "two_batch_overlap does not go with serve.experts_apart"),
        ({"layout": {"ep": 32}}, BadLayout, "layout.ep does not go"),
        ({"gpus": 36, "experts_apart": {"gpus": 4}}, DoesNotFit, "give serve.experts_apart.gpus of at least"),
        ({"gpus": 50}, BadLayout, "takes 48 GPUs"),
        ({"experts_apart": {"gpus": 0}}, ScenarioError, "experts_apart.gpus"),
    ],
)
def test_what_cannot_be_is_refused(serve: dict[str, Any], refusal: type[Exception], words: str) -> None:
    with pytest.raises(refusal, match=words):
        predict_serve(scenario(**{"experts_apart": {"gpus": 16}, **serve}))


def test_a_plan_does_not_search_what_it_cannot() -> None:
    with pytest.raises(ScenarioError, match="experts_apart is not searched by plan"):
        plan_serve(scenario(experts_apart={"gpus": 16}))
