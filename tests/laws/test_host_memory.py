"""What is kept in host memory: alone a copy takes its bytes over its link, a slower link never helps."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jobs import JOBS

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.wires import HOST_WIRES, WIRES, slot_seconds, wire_seconds
from moesim.hwmodels.work import Comm
from moesim.sim.clock.plan import ScriptRun, Send
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.train.activations import layer_bytes
from moesim.sim.train.host_memory import host_use
from moesim.sim.train.job import resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.offload import moved_bytes, optimizer_bytes
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.step import StepResult, lower_bounds_s, simulate_step
from moesim.sim.train.updates import owned_params

SHARE = 0.8  # host_link_share, which a copy reaches
HOST = tuple(WIRES.index(wire) for wire in HOST_WIRES)


def prices_of(
    name: str, acts: float = 0.0, optimizer: bool = False, rate: float | None = None, **words: Any
) -> StepPrices:
    asked = {**deepcopy(JOBS[name]), **words}
    asked["train"] |= {"offload_activations": acts, "offload_optimizer": optimizer}
    resolved = resolve(parse_scenario(asked))
    job = resolved.job
    if rate is not None:
        job = replace(job, cluster=replace(job.cluster, gpu=replace(job.cluster.gpu, host_link_bytes_per_s=rate)))
    return StepPrices(job, resolved.kernels, resolved.tuning())


def step_of(prices: StepPrices) -> StepResult:
    return simulate_step(prices, events=False)


@pytest.mark.parametrize("name", JOBS)
def test_what_keeps_nothing_there_has_nothing_to_copy(name: str) -> None:
    prices = prices_of(name)
    plan = step_program(prices).plan
    assert {lane.stream.partition(".")[0] for lane in plan.lanes} <= {"compute", "dp", "host", "send"}
    assert "offload" not in plan.categories
    for item in plan.items:
        pieces = item.script.pieces if isinstance(item, ScriptRun) else ()
        assert all(piece.category != "offload" for piece in pieces)
        loads = [load for piece in pieces for load in piece.loads] + [*(item.loads if isinstance(item, Send) else ())]
        assert all(link % len(WIRES) not in HOST for link, _ in loads)
    assert "host_link" not in lower_bounds_s(prices) and step_of(prices).breakdown_s.get("offload", 0.0) == 0.0


@pytest.mark.parametrize("name", JOBS)
def test_an_endless_link_costs_nothing(name: str) -> None:
    without, endless = step_of(prices_of(name)), step_of(prices_of(name, acts=1.0, rate=float("inf")))
    assert endless.step_time_s == pytest.approx(without.step_time_s, rel=1e-12)
    assert endless.breakdown_s.get("offload", 0.0) <= 1e-12 * without.step_time_s


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("optimizer", [False, True])
def test_a_slower_link_never_helps_and_no_step_beats_it(name: str, optimizer: bool) -> None:
    seconds = 0.0
    for rate in (1e13, 1e11, 2e10, 1e9):
        prices = prices_of(name, 1.0, optimizer, rate)
        step, bounds = step_of(prices), lower_bounds_s(prices)
        assert step.step_time_s >= seconds * (1 - 1e-12)
        assert all(step.step_time_s >= bound for bound in bounds.values()), bounds
        assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s, rel=1e-9)
        seconds = step.step_time_s
    assert bounds["host_link"] > 0.3 * seconds  # and says something


@settings(max_examples=25)
@given(st.sampled_from(sorted(JOBS)), st.floats(1e8, 1e12), st.floats(1.01, 50.0), st.floats(0.01, 1.0))
def test_neither_a_slower_link_nor_more_bytes_help(name: str, rate: float, times: float, share: float) -> None:
    """Beside reductions and sends of other ranks, whose order copies may change: within half a per cent."""
    some = step_of(prices_of(name, share, rate=rate)).step_time_s
    assert some <= step_of(prices_of(name, share, rate=rate / times)).step_time_s * 1.005
    assert some <= step_of(prices_of(name, min(1.0, share * times), rate=rate)).step_time_s * 1.005


@pytest.mark.parametrize("name", ["one GPU", "1F1B", "interleaved", "ZB-H1", "MoE, DualPipe", "MoE with EP"])
def test_all_bytes_go_down_and_come_back_and_each_copy_alone_takes_its_bytes(name: str) -> None:
    """Every copy alone on its direction, whose order is that of the rank; no backward begins before its bytes."""
    prices = prices_of(name, acts=0.5)
    rate = prices.job.cluster.gpu.host_link_bytes_per_s * SHARE
    step = simulate_step(prices, events=False, record=True)
    plan, timeline = step.timeline.program, step.timeline
    spans: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for number, item in enumerate(plan.items):
        lane = plan.lane_of[number]
        if isinstance(item, Send) and lane.stream in HOST_WIRES:
            assert isinstance(item.seconds, float)
            assert item.loads == ((lane.rank * len(WIRES) + WIRES.index(lane.stream), 1.0),)
            span = (timeline.start_s[number], timeline.end_s[number], item.seconds)
            spans.setdefault((lane.rank, lane.stream), []).append(span)
    for number, piece, start, end in step.pieces:
        run = plan.items[number]
        if isinstance(run, ScriptRun) and run.script.pieces[piece].stream == "up":
            fetched = run.script.pieces[piece].seconds
            spans.setdefault((plan.lane_of[number].rank, "up"), []).append((start, end, fetched))
    stages = range(len(prices.chunks))
    alone = {size / rate for stage in stages for size in moved_bytes(prices, stage)}
    moved = prices.job.micro_batches * sum(sum(moved_bytes(prices, stage)) for stage in stages) / rate
    for wire in HOST_WIRES:
        seconds = [s for (_, stream), rows in spans.items() if stream == wire for *_, s in rows]
        assert set(seconds) <= alone and sum(seconds) == pytest.approx(moved, rel=1e-9)
    for rows in spans.values():
        rows.sort()
        for (_, end, _), (start, _, _) in pairwise(rows):
            assert start >= end * (1 - 1e-12)  # one after the other
        assert all(end - start == pytest.approx(s, rel=1e-6) for start, end, s in rows)


def test_bytes_are_those_that_memory_counts() -> None:
    """What leaves with half of them away is half of what layers keep."""
    prices = prices_of("1F1B", acts=0.5)
    for stage, chunk in enumerate(prices.chunks):
        assert moved_bytes(prices, stage) == [0.5 * layer_bytes(prices.job, prices.loads, i) for i in chunk.layers]


def test_a_backward_waits_for_its_copy_and_the_wait_is_booked() -> None:
    slow = step_of(prices_of("1F1B", acts=1.0, rate=2e9))
    plan, timeline = slow.timeline.program, slow.timeline
    for number, slot in slow.slots.items():
        if slot.phase == "B":
            up = [p for p in plan.preds[number] if plan.lane_of[p].stream == "up"]
            assert len(up) == 1 and timeline.start_s[number] >= timeline.end_s[up[0]]
    assert slow.breakdown_s["offload"] > 0.3 * slow.step_time_s  # other ranks wait in bubbles meanwhile
    without = step_of(prices_of("one GPU"))  # on one GPU all that copies cost is their own
    for acts, rate in ((1.0, 2e9), (0.3, 3e10)):
        step = step_of(prices_of("one GPU", acts, rate=rate))
        late_s = step.step_time_s - without.step_time_s
        assert late_s > 0.0 and step.breakdown_s["offload"] == pytest.approx(late_s, rel=1e-6)
        assert step.breakdown_s == pytest.approx({**without.breakdown_s, "offload": late_s}, rel=1e-6)


@pytest.mark.parametrize("rate", [4e9, 1e12])
@pytest.mark.parametrize("name", ["one GPU", "1F1B", "interleaved", "ZB-H1", "MoE, DualPipe", "MoE with EP"])
def test_layers_go_down_when_they_are_over_and_are_back_before_they_are_needed(name: str, rate: float) -> None:
    prices = prices_of(name, acts=0.5, rate=rate)
    step = simulate_step(prices, events=False, record=True)
    plan, timeline = step.timeline.program, step.timeline
    times = {(item, piece): (start, end) for item, piece, start, end in step.pieces}
    downs: dict[str, list[int]] = {}
    for number, label in enumerate(plan.labels):
        if plan.lane_of[number].stream == "down":
            downs.setdefault(label, []).append(number)
    for item, slot in step.slots.items():
        run = plan.items[item]
        assert isinstance(run, ScriptRun)
        pieces = list(enumerate(run.script.pieces))
        if slot.phase in ("F", "FB"):
            gone = downs[f"F{slot.micro_batch}.{slot.stage} down"]
            for block, down in zip(_blocks(prices, slot.stage), gone, strict=True):
                ends = [times[item, n][1] for n, piece in pieces if piece.layer == block]
                assert timeline.start_s[down] >= max(ends)
        if slot.phase not in ("B", "I", "FB"):
            continue
        back = (slot.micro_batch_b, slot.stage_b) if slot.phase == "FB" else (slot.micro_batch, slot.stage)
        first = next(p for p in plan.preds[item] if plan.lane_of[p].stream == "up")
        assert timeline.start_s[first] >= timeline.end_s[downs[f"F{back[0]}.{back[1]} down"][-1]]
        ahead = len(prices.chunks[slot.stage].blocks(prices.job.arch)) if slot.phase == "FB" else 0
        layers = [
            [n for n, piece in pieces if piece.layer == ahead + block and piece.stream == "compute"]
            for block in reversed(_blocks(prices, back[1]))
        ]
        fetches = [n for n, piece in pieces if piece.stream == "up"]
        assert len(fetches) == len(layers) - 1
        for place, fetch in enumerate(fetches, 1):  # the first layer's copy was before the slot
            start, end = times[item, fetch]
            assert fetch in run.script.pieces[layers[place][0]].after
            assert times[item, layers[place][0]][0] >= end * (1 - 1e-12)
            if place > 1:  # one layer ahead, no more: memory counts nothing for it
                assert start >= max(times[item, n][1] for n in layers[place - 2])


def _blocks(prices: StepPrices, stage: int) -> range:
    """Numbers of a stage's layers among its blocks."""
    chunk = prices.chunks[stage]
    return range(int(chunk.embedding), int(chunk.embedding) + len(chunk.layers))


# -- the optimizer ----------------------------------------------------------------------------------------------------


def _parts(prices: StepPrices, stage: int) -> tuple[float, float, float]:
    """Seconds down, of the CPU and up, of one stage."""
    rate = prices.job.cluster.gpu.host_link_bytes_per_s * SHARE
    down, up = optimizer_bytes(prices, (stage,))
    return down / rate, owned_params(prices, (stage,)) * 28.0 / 5e10, up / rate


@pytest.mark.parametrize("name", ["one GPU", "data parallel, ZeRO-1"])
def test_one_stage_takes_its_copies_and_its_update_after_the_step(name: str) -> None:
    on_gpu, prices = step_of(prices_of(name)), prices_of(name, optimizer=True)
    step = step_of(prices)
    last = sum(_parts(prices, 0))
    assert step.step_time_s == pytest.approx(on_gpu.step_time_s - on_gpu.breakdown_s["optimizer"] + last, rel=1e-9)
    assert step.breakdown_s["offload"] == pytest.approx(last, rel=1e-9)


@pytest.mark.parametrize("name", ["1F1B", "interleaved", "ZB-V", "TP with SP, 2021 stack", "MoE, DualPipe"])
def test_ranks_that_are_done_early_update_early(name: str) -> None:
    """Each stage after its own last backward and its sums; where nothing overlaps those, gathers come last."""
    prices = prices_of(name, optimizer=True)
    step = step_of(prices)
    plan, timeline = step.timeline.program, step.timeline
    begun, last_slot = [], max(timeline.end_s[n] for n in step.slots)
    for number, label in enumerate(plan.labels):
        rank, stream = plan.lane_of[number]
        if stream == "dp.after":
            weights = [n for n, each in enumerate(plan.lane_of) if each.rank == rank and each.stream == "up"]
            assert timeline.start_s[number] >= max(timeline.end_s[n] for n in weights)
        if stream != "down":
            continue
        stage = int(label.removeprefix("gradients "))
        begun.append(timeline.start_s[number])
        for n, slot in step.slots.items():
            own = slot.stage_b if slot.phase == "FB" else slot.stage if slot.phase in ("B", "W") else -1
            if plan.lane_of[n].rank == rank and own == stage:
                assert timeline.end_s[n] <= timeline.start_s[number]
        update = plan.labels.index(f"update {stage}", number)
        down_s, cpu_s, _ = _parts(prices, stage)
        assert timeline.start_s[update] >= timeline.start_s[number] + down_s * (1 - 1e-9)
        assert timeline.end_s[update] - timeline.start_s[update] == pytest.approx(cpu_s, rel=1e-6)
    lay = prices.job.layout
    assert len(begun) == sum(len(lay.chunks_of(rank)) for rank in range(lay.pp))
    assert min(begun) < last_slot or name == "MoE, DualPipe"  # both ends of DualPipe end together
    each_s = [sum(sum(_parts(prices, stage)) for stage in lay.chunks_of(rank)) for rank in range(lay.pp)]
    old_s = step_of(prices_of(name)).timeline.makespan_s + max(each_s)
    if prices.job.stack.dp_overlap:  # sums that nothing overlaps are after the timeline there
        assert timeline.makespan_s <= old_s * (1 + 1e-9)


# -- boxes whose neighbours and NICs hang on the same slot ------------------------------------------------------------


def test_a_slot_that_carries_neighbours_too_is_one_wire() -> None:
    """Without a scale-up link peers are reached over the slot that leads to the host; else they are not in its way."""
    bare, linked = build_cluster("pcie-8x-l40s", 16), build_cluster("dgx-h100", 16)
    near, far = Comm("all_gather", 8e9, bare.group(8)), Comm("all_to_all", 8e9, bare.group(16))
    assert slot_seconds(wire_seconds(near, linked), linked) == slot_seconds(wire_seconds(far, linked), linked) == {}
    own = wire_seconds(near, bare)
    assert slot_seconds(own, bare) == dict.fromkeys(HOST_WIRES, own["link"])
    own = wire_seconds(far, bare)
    crossing = own["link"] + own["nic"] * bare.nic_bytes_per_s / bare.gpu.pcie_bytes_per_s
    assert slot_seconds(own, bare) == pytest.approx(dict.fromkeys(HOST_WIRES, crossing))


def test_copies_and_neighbours_slow_each_other_there() -> None:
    box = {"cluster": {"node": "pcie-8x-l40s", "gpus": 16}}
    prices = prices_of("MoE with EP", acts=1.0, **box)
    step = simulate_step(prices, events=False)
    plan, timeline = step.timeline.program, step.timeline
    copies = [n for n, lane in enumerate(plan.lane_of) if lane.stream == "down"]
    late = [timeline.end_s[n] - timeline.start_s[n] for n in copies]
    alone = [item.seconds for n in copies if isinstance(item := plan.items[n], Send)]
    assert any(took > 1.01 * s for took, s in zip(late, alone, strict=True) if isinstance(s, float))


def test_a_link_that_nobody_knows_is_refused() -> None:
    asked = {**deepcopy(JOBS["data parallel, ZeRO-1"]), "cluster": {"node": "tpu-v4-pod", "gpus": 8}}
    for words in ({"offload_activations": 0.5}, {"offload_optimizer": True}):
        with pytest.raises(ScenarioError, match="says nothing of a link to the host's memory") as caught:
            resolve(parse_scenario({**asked, "train": {**asked["train"], **words}}))
        assert "\n" not in str(caught.value)


BIG: dict[str, Any] = {
    "model": "llama-3.1-405b",
    "cluster": {"node": "hgx-b300", "gpus": 8},
    "layout": {"zero": 3},
    "train": {"global_batch": 8, "seq_len": 2048, "recompute": ["full"], "offload_optimizer": True},
}


def test_an_optimizer_that_no_host_holds_does_not_fit() -> None:
    """12 bytes of state and 2 of gradient for each of 405 billion parameters, on one host of 2 TiB."""
    with pytest.raises(
        DoesNotFit, match=r"a host of 8 b300-hgx would keep 5,\d\d\d GiB .* has 1,843 of 2,048 GiB .*DGX"
    ):
        predict_train(BIG)
    answer = predict_train(BIG, check_memory=False, events=False)
    assert not answer.memory_fits and answer.host_memory is not None
    assert answer.host_memory.needed_bytes == pytest.approx(14.0 * 405.85e9, rel=1e-3)
    assert any(line.startswith("cluster.host_memory_bytes = 2,048 GiB a host (DGX") for line in answer.assumptions)
    cluster: dict[str, Any] = {**BIG["cluster"], "host_memory_bytes": "8 TiB"}
    room = {**BIG, "cluster": cluster}
    assert predict_train(room, events=False).memory_fits


@pytest.mark.parametrize(("gpus", "pp"), [(8, 1), (16, 1), (16, 2), (8, 4), (16, 8)])
def test_hosts_together_hold_every_state_once(gpus: int, pp: int) -> None:
    """ZeRO shards states over a stage: however stages lie on hosts, all hosts hold each state once (equal stages)."""
    asked = {
        "model": "llama-3.1-8b",
        "cluster": {"node": "dgx-h100", "gpus": gpus},
        "layout": {"pp": pp, "zero": 1},
        "train": {"global_batch": 64, "seq_len": 2048, "offload_optimizer": True},
    }
    answer = predict_train(asked, check_memory=False, events=False)
    assert answer.host_memory is not None
    hosts = gpus // 8
    assert answer.host_memory.needed_bytes * hosts == pytest.approx(14.0 * 8.03e9, rel=0.14 if pp > 1 else 1e-3)


def test_offloaded_activations_fill_the_host() -> None:
    prices = prices_of("pipeline", acts=0.5) if "pipeline" in JOBS else prices_of(next(iter(JOBS)), acts=0.5)
    use = host_use(prices, step_memory(prices))
    assert use is not None
    most = max(m.offloaded for m in step_memory(prices))
    assert 0.0 < most <= use.needed_bytes <= most * prices.job.cluster.gpus_per_host
