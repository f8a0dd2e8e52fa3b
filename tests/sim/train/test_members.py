"""Ranks that differ: balanced members are the fold to the last bit, and what sets GPUs apart costs what it must."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from moesim.hwmodels.wires import WIRES
from moesim.hwmodels.work import Comm, Gemm, Group
from moesim.sim.clock.events import HeapClock
from moesim.sim.clock.plan import Send
from moesim.sim.clock.walker import Walker
from moesim.sim.layers.steps import SegmentBuilder
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.members import StageMembers, shape_of
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.step import StepResult, simulate_step
from moesim.sim.train.unlike import BadLink, Unlike

MIXTURE: dict[str, Any] = {
    "model": {
        "hidden": 2048, "layers": 8, "vocab": 32000, "tied_embeddings": False, "max_context": 4096,
        "attention": {"heads": 16, "kv_heads": 4, "head_dim": 128},
        "moe": {"experts": 64, "top_k": 4, "expert_intermediate": 1408, "gated": True},
    },
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 2, "ep": 16},
    "train": {"global_batch": 256, "seq_len": 2048},
    "stack": {"name": "megatron-tuned", "cuda_graphs": "full"},
    "routing": "balanced",
}  # fmt: skip
DENSE: dict[str, Any] = {
    "model": "llama-2-7b",
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"tp": 2, "pp": 4},
    "train": {"global_batch": 32, "seq_len": 2048},
}


def _prices(base: dict[str, Any], **changes: Any) -> StepPrices:
    resolved = resolve(parse_scenario({**deepcopy(base), **changes}))
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def _step(base: dict[str, Any], **changes: Any) -> StepResult:
    return simulate_step(_prices(base, **changes), events=False)


def test_members_that_are_alike_give_the_fold_bit_for_bit() -> None:
    """All GPUs walked apart, with balanced rows through the row tables, against one that stands for all."""
    prices = _prices(MIXTURE)
    folded = simulate_step(prices, events=False)
    members = StageMembers(prices, prices.routed(), None)
    groups, width = shape_of(prices)
    assert groups * width == 32
    plan = step_program(prices, members=members).plan
    ran = Walker(plan, HeapClock(), 2, len(WIRES), width).run()
    one = Walker(step_program(prices).plan, HeapClock(), 2, len(WIRES)).run()
    assert one.makespan_s == folded.timeline.makespan_s
    assert ran.makespan_s == pytest.approx(one.makespan_s, rel=1e-12)  # the fold joins transfers that meet nobody


def test_drawing_without_noise_is_balanced() -> None:
    drawn = _step(MIXTURE, routing={"lognormal": 0.0, "sampling": False})
    assert drawn.step_time_s == _step(MIXTURE).step_time_s


def test_more_skew_takes_longer_and_is_booked_as_imbalance() -> None:
    steps = [_step(MIXTURE, routing={"lognormal": sigma, "seed": 1}) for sigma in (0.05, 0.3, 0.6)]
    times = [_step(MIXTURE).step_time_s, *(s.step_time_s for s in steps)]
    assert times == sorted(times) and times[-1] > 1.2 * times[0]
    lost = [s.breakdown_s["imbalance"] for s in steps]
    assert lost == sorted(lost)
    for step in steps:
        assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s, rel=1e-9)


@pytest.mark.parametrize(
    "layout", [{"ep": 16}, {"ep": 8, "pp": 2}, {"ep": 8, "pp": 2, "schedule": "dualpipe"}], ids=str
)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_rows_move_exchanges_and_experts_of_prediction_modules_and_nothing_else(
    layout: dict[str, Any], recompute: str
) -> None:
    """A module has operations of its own before and after those of its layer: what follows rows is not among them."""
    base = {
        **MIXTURE,
        "model": {"base": "deepseek-v3", "layers": 4},
        "cluster": {"node": "dgx-h100", "gpus": 16, "gpus_per_node": 4, "nic_bytes_per_s": 1e8},
        "layout": layout,
        "train": {"global_batch": 64, "seq_len": 2048, "recompute": recompute},
    }
    even, drawn = (_step(base, routing=routing).breakdown_s for routing in ("balanced", {"lognormal": 1.0}))
    for name in ("head", "gemm", "attention", "router", "embedding"):
        assert drawn[name] == pytest.approx(even[name], rel=1e-9), name
    assert drawn["grouped_gemm"] < 1.5 * even["grouped_gemm"]


def test_a_plan_of_slots_takes_the_skew_away_and_an_old_one_less_of_it() -> None:
    skew = {"lognormal": 0.6, "drift": 0.999, "seed": 1}
    bare = _step(MIXTURE, routing=skew).step_time_s
    fresh, old = (
        _step(MIXTURE, routing=skew, placement={"slots": 96, "plan_age_steps": age}).step_time_s for age in (0, 300)
    )
    assert fresh < old < bare
    assert fresh < 1.05 * _step(MIXTURE).step_time_s


@pytest.mark.parametrize("base", [MIXTURE, DENSE], ids=["mixture", "dense"])
def test_a_slow_gpu_slows_the_step_but_never_by_more_than_itself(base: dict[str, Any]) -> None:
    whole = _step(base).step_time_s
    slow = _step(base, slow={"ids": [5], "factor": 0.8})
    assert 1.01 * whole < slow.step_time_s < 1.25 * whole * (1 + 1e-9)
    assert _step(base, slow={"ids": [5], "factor": 1.0}).step_time_s == whole
    assert slow.breakdown_s.get("slow_gpu", 0.0) + slow.breakdown_s["bubble"] > 0.0


def test_jitter_costs_more_the_larger_it_is_and_draws_the_same_every_time() -> None:
    steps = [_step(MIXTURE, jitter=sd) for sd in (0.0, 0.02, 0.05)]
    times = [s.step_time_s for s in steps]
    assert times == sorted(times) and times[1] > times[0]
    assert _step(MIXTURE, jitter=0.02).step_time_s == times[1]
    assert simulate_step(_prices(MIXTURE, jitter=0.02), events=False, number=1).step_time_s != times[1]


def test_a_degraded_nic_slows_what_crosses_it() -> None:
    whole = _step(MIXTURE).step_time_s
    times = [_step(MIXTURE, links={"degraded": {"nic3": share}}).step_time_s for share in (1.0, 0.5, 0.1, 0.01)]
    assert times[0] == whole
    assert times == sorted(times) and times[-1] > 2.0 * whole
    failed = _step(MIXTURE, links={"failed": {"nic3": 0.5 * whole}}).step_time_s
    assert whole < failed <= times[1] * (1 + 1e-9)


@pytest.mark.parametrize("stack", ["megatron-tuned", "megatron-2021"], ids=["beside compute", "after it"])
@pytest.mark.parametrize("layout", [{"zero": 0}, {"zero": 1}, {"zero": 3}, {"pp": 2}], ids=str)
def test_gradients_wait_for_the_worst_link(layout: dict[str, Any], stack: str) -> None:
    """Over a NIC at a thousandth of its rate they take about a thousand times as long, wherever in the step they are.

    One that fails when the step is over costs nothing; kept in host memory the optimizer waits for them as well.
    """
    base = {**DENSE, "cluster": {"node": "dgx-h100", "gpus": 32}, "layout": layout, "stack": stack}
    whole = _step(base).step_time_s
    bad = {"degraded": {"nic9": 1e-3}}
    slow = _step(base, links=bad)
    assert slow.step_time_s > 5.0 * whole
    assert slow.breakdown_s["dp_comm"] > 0.4 * slow.step_time_s  # with two stages one of them waits for the other
    assert "imbalance" not in slow.breakdown_s
    assert sum(slow.breakdown_s.values()) == pytest.approx(slow.step_time_s, rel=1e-9)
    late = _step(base, links={"failed": {"nic9": 2.0 * whole}}).step_time_s
    assert late == pytest.approx(whole, rel=1e-9)
    kept = {**base, "train": {**base["train"], "offload_optimizer": True}}
    assert _step(kept, links=bad).step_time_s > _step(kept).step_time_s + 4.0 * whole


def test_a_slow_gpu_also_updates_its_parameters_slowly() -> None:
    update = [_step(DENSE, slow={"ids": [0], "factor": f}).breakdown_s["optimizer"] for f in (1.0, 0.5)]
    assert update[1] == pytest.approx(2.0 * update[0], rel=1e-9)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"slow": {"ids": [64], "factor": 0.8}}, "there is no GPU 64; the cluster has 0 to 63"),
        ({"slow": {"ids": [], "factor": 0.8}}, "ids names no GPU"),
        ({"links": {}}, "links names no link"),
        ({"slow": {"factor": 0.8}}, "give either ids"),
        ({"slow": {"ids": [1], "factor": 1.8}}, "less than or equal to 1"),
        ({"jitter": 0.9}, "jitter"),
        (
            {"cluster": {**MIXTURE["cluster"], "nic_bytes_per_s": 1e-300}},
            "nic_bytes_per_s: .* greater than or equal to 1",
        ),
        ({"cluster": {**MIXTURE["cluster"], "oversubscription": 1e300}}, "oversubscription: .* equal to 1000000"),
        ({"links": {"degraded": {"nic64": 0.5}}}, "nic64 does not exist; GPUs are numbered 0 to 63"),
        ({"links": {"degraded": {"cable": 0.5}}}, "'cable' is no link; write nic17 or link17"),
        ({"links": {"degraded": {"nic1": 0.0}}}, "name it in failed"),
        ({"links": {"failed": {"link3": 0.1}}}, "no path is left to GPU 3"),
        ({"links": {"failed": {"nic3": 0.1, "nic2": 0.2}}}, "nic3 and nic2 each carry for the other"),
        ({"links": {"degraded": {"nic" + "9" * 5000: 0.5}}}, "is no link; write nic17"),
        ({"links": {"degraded": {"nic03": 0.5}}}, "'nic03' is no link"),  # nic3 by another name
        ({"links": {"degraded": {"nic\u0663": 0.5}}}, "is no link"),
        ({"placement": {"slots": 8}}, "cannot hold the 64 experts"),
        ({"placement": {"slots": 640_000}}, "640,000 slots of a layer's experts; use at most 16,384"),
    ],
)
def test_what_cannot_be_is_one_clear_error(words: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        resolve(parse_scenario({**deepcopy(MIXTURE), **words}))


def test_a_dead_nic_is_carried_by_its_neighbour() -> None:
    job = resolve(parse_scenario({**deepcopy(MIXTURE), "links": {"failed": {"nic9": 0.25}}})).job
    assert job.unlike == Unlike(links=(BadLink("nic", 9, 0.5, 0.25), BadLink("nic", 8, 0.5, 0.25)))


def test_words_of_training_are_refused_where_there_is_only_serving() -> None:
    serve = {
        "model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8}, "jitter": 0.02,
        "serve": {"requests": {"kind": "closed", "concurrency": 4, "count": 8}},
    }  # fmt: skip
    from moesim.sim.serve.resolve import resolve_serve

    with pytest.raises(ScenarioError, match="jitter is about training"):
        resolve_serve(parse_scenario(serve))


def test_a_send_loads_the_wires_of_its_sender_and_of_its_receiver() -> None:
    plan = step_program(_prices(DENSE)).plan
    sends = {
        (lane.rank, int(lane.stream.removeprefix("send."))): item.loads
        for lane, item in zip(plan.lane_of, plan.items, strict=True)
        if isinstance(item, Send) and lane.stream.startswith("send.")
    }
    assert {pair for pair in sends if abs(pair[0] - pair[1]) != 1} == set() and len(sends) == 6
    for (source, target), loads in sends.items():
        wire = WIRES.index("nic" if {source, target} == {1, 2} else "link")  # 4 GPUs a stage, 8 a host
        assert {link for link, _ in loads} == {source * len(WIRES) + wire, target * len(WIRES) + wire}


def test_the_hidden_rest_of_a_transfer_follows_its_exposed_part() -> None:
    """One transfer never uses its wire twice at once."""
    builder = SegmentBuilder("F0")
    builder.compute("up", Gemm(1024, 1024, 1024), "gemm")
    builder.transfer("gather", Comm("all_gather", 1e8, Group(8, 8)), "tp_comm", exposed=0.4)
    builder.compute("down", Gemm(1024, 1024, 1024), "gemm")
    names = {op.name: (number, op) for number, op in enumerate(builder.build().ops)}
    assert names["gather.hidden"][1].after == (names["gather"][0],)
    assert names["gather.hidden"][1].scale + names["gather"][1].scale == 1.0
