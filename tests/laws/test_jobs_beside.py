"""Jobs beside each other on one fabric: nothing shared, nothing lost; alike jobs lose alike; bytes are conserved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.wires import WIRES
from moesim.refusal import Refusal
from moesim.reports import frames
from moesim.sim.clock.events import HeapClock
from moesim.sim.clock.network import Network
from moesim.sim.clock.plan import Hold, Lane, Plan, Send
from moesim.sim.clock.shared_links import SharedLinks
from moesim.sim.clock.together import Party, Round, Tail, run_together
from moesim.sim.clock.walker import Walker
from moesim.sim.layout.layout import BadLayout
from moesim.sim.layout.uplinks import Spread
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.beside import train_beside
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.shared_fabric import SharedFabric


def ask(gpus: int = 64, ratio: float | None = 4.0, fabric: str = "fat-tree-ib-400", **layout: Any) -> dict[str, Any]:
    return {
        "model": {"base": "mixtral-8x7b", "layers": 4},
        "cluster": {"node": "dgx-h100", "gpus": gpus, "fabric": fabric, "oversubscription": ratio},
        "layout": {"ep": 8, **layout},
        "train": {"global_batch": 2 * gpus, "seq_len": 2048},
        "routing": "balanced",
    }


RINGS, GATHERS, PIPELINE = ask(), ask(zero=3), ask(pp=2, tp=2)


def lost(answer: SharedFabric) -> list[float]:
    return [job.lost_s for job in answer.jobs]


# -- alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [RINGS, GATHERS, PIPELINE, ask(ratio=8.0, pp=2), ask(ratio=None)])
@pytest.mark.parametrize("spread", ["contiguous", "interleaved"])
def test_a_job_beside_nobody_is_the_job_alone_to_the_last_bit(job: dict[str, Any], spread: Spread) -> None:
    (one,) = train_beside([job], spread=spread).jobs
    step_s = predict_train(job).step_time_s
    assert (one.by_itself_s, one.alone_s, one.beside_s, one.lost_s) == (step_s, step_s, step_s, 0.0)


def test_jobs_that_share_no_leaf_lose_nothing() -> None:
    answer = train_beside([GATHERS, PIPELINE, RINGS])
    assert lost(answer) == [0.0, 0.0, 0.0] and all(job.busiest is None for job in answer.jobs)
    assert "no leaf holds hosts of two jobs" in answer.assumptions[0]
    assert [job.beside_s for job in answer.jobs] == [
        predict_train(job).step_time_s for job in (GATHERS, PIPELINE, RINGS)
    ]


def test_a_fabric_that_blocks_nothing_loses_nothing_and_says_what_it_leaves_out() -> None:
    answer = train_beside([ask(ratio=None, zero=3)] * 2, spread="interleaved")
    assert lost(answer) == [0.0, 0.0]
    assert "oversubscription 1" in answer.assumptions[0] and any("ECMP" in note for note in answer.assumptions)


def test_uplinks_that_all_jobs_together_cannot_fill_lose_nothing() -> None:
    """A rail leaf takes 32 hosts: all rings stay below it, and exchanges stay in their hosts."""
    answer = train_beside([ask(fabric="rail-ib-400", zero=3)] * 2, spread="interleaved")
    assert lost(answer) == [0.0, 0.0] and "fill at most 0%" in answer.assumptions[0]


# -- together ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", [RINGS, GATHERS, PIPELINE])
def test_alike_jobs_lose_alike(job: dict[str, Any]) -> None:
    first, second = train_beside([job, job], spread="interleaved").jobs
    assert first.beside_s == second.beside_s and first.alone_s == second.alone_s
    assert first.lost_share > 0.001 and first.busiest == second.busiest is not None
    assert first.busiest.by_job[0] == first.busiest.by_job[1] and first.steps == second.steps >= 3


def test_halves_of_a_full_leaf_get_half_of_it_each() -> None:
    """Gathers of four-fold oversubscribed leaves: alone half the hosts just fill them, two such jobs take twice."""
    (one, _) = train_beside([ask(ratio=32.0, zero=3)] * 2, spread="interleaved").jobs
    assert one.beside_s == pytest.approx(2.0 * one.alone_s, rel=0.05)  # nothing but uplinks matters at 32 to 1


@pytest.mark.parametrize("spread", ["contiguous", "interleaved"])
def test_nobody_gains_and_no_uplink_is_fuller_than_full(spread: Spread) -> None:
    jobs = [ask(48, zero=3), ask(80), ask(48, pp=2), ask(16, zero=3)]
    answer = train_beside(jobs, spread=spread)
    assert all(job.lost_share >= -0.005 for job in answer.jobs)
    assert all(job.busiest is not None and 0.0 < job.busiest.share <= 1.0 + 1e-9 for job in answer.jobs[:3])
    assert any(job.lost_s > 0.0 for job in answer.jobs)


def test_wider_uplinks_never_make_it_slower() -> None:
    times = [
        [job.beside_s for job in train_beside([ask(ratio=r, zero=3), ask(ratio=r, pp=2)], spread="interleaved").jobs]
        for r in (1.0, 2.0, 4.0, 8.0, 16.0)
    ]
    for of_job in zip(*times, strict=True):
        assert all(b >= a * (1 - 0.005) for a, b in pairwise(of_job)) and of_job[-1] > of_job[0]


def test_gradients_that_follow_the_pipeline_meet_there_too() -> None:
    job = {**RINGS, "stack": "megatron-2021"}
    job["train"] = {**job["train"], "precision": "fp16"}
    one, _ = train_beside([job, job], spread="interleaved").jobs
    reduced_s = predict_train(job).breakdown_s["dp_comm"]
    assert 0.5 * reduced_s < one.lost_s < 1.01 * reduced_s  # all of them twice as long, at most


def test_exchanges_meet_where_nothing_else_does() -> None:
    """Without a pipeline or reductions beside compute slots are one piece each, but not where others fill uplinks."""
    job = {**ask(ep=64), "model": {"base": "deepseek-v3", "layers": 4}, "stack": "megatron-core"}
    one, _ = train_beside([job, job], spread="interleaved").jobs
    assert one.lost_s > 2.0 * predict_train(job).breakdown_s["dp_comm"]  # gradients that meet at the end lose less


def test_nics_of_jobs_are_their_own() -> None:
    """Uplinks that two jobs just overfill cost little, however full the NICs of both are."""
    one, _ = train_beside([ask(ratio=2.1, zero=3)] * 2, spread="interleaved").jobs
    assert 0.0 < one.lost_share < 0.1


def test_a_job_has_the_uplinks_of_idle_hosts_to_itself() -> None:
    """Its sends climb on either fabric, but here half of the hosts that share their uplinks are idle."""
    job = ask(ratio=16.0, pp=2)
    own, moved = predict_train(job).resolved, train_beside([job, job], spread="interleaved").jobs[0].resolved
    own_s, moved_s = (StepPrices(each.job, each.kernels, each.tuning()).send(0, 1)[1] for each in (own, moved))
    assert own_s == pytest.approx(2.0 * moved_s)


def test_drawn_routing_and_unlike_gpus_run_beside_others() -> None:
    drawn = {**GATHERS, "routing": {"lognormal": 0.5, "seed": 1}, "jitter": 0.02}
    answer = train_beside([drawn, RINGS], spread="interleaved")
    assert all(job.lost_s > 0.0 for job in answer.jobs)
    assert answer.jobs[0].by_itself_s == pytest.approx(predict_train(drawn).step_time_s)


def test_json_and_frame_are_the_same_every_time() -> None:
    first, second = (train_beside([GATHERS, PIPELINE], spread="interleaved") for _ in range(2))
    text = json.dumps(first.to_dict())
    assert text == json.dumps(second.to_dict())
    said = json.loads(text)
    assert (said["gpus"], said["spread"], said["oversubscription"]) == (128, "interleaved", 4.0)
    frame = frames.beside(first)
    assert list(frame["job"]) == [1, 2] and list(frame["lost_s"]) == lost(first)
    shares = frame[["uplinks.job.1", "uplinks.job.2"]].sum(axis=1)
    assert list(frame["uplinks.share"]) == pytest.approx(list(shares))
    assert "uplinks.share" not in frames.beside(train_beside([RINGS]))


# -- the clock --------------------------------------------------------------------------------------------------------


def _party(holds_s: float, flies_s: float, first: int) -> Party:
    """Compute, then a transfer over link -1 of all."""
    plan = Plan()
    begun = plan.add(Lane(0, "host"), "compute", Hold(holds_s), "host")
    plan.add(Lane(0, "send.1"), "fly", Send(flies_s, ((0, 0.5), (2, 1.0))), "pp_comm", (begun,))
    return Party(lambda clock: Walker(plan, clock, 1, len(WIRES)), lambda _: Tail(0.25), {2: ((-1, 1.0),)}, first)


def _seconds(rounds: Sequence[Round]) -> list[float]:
    return [each.seconds for each in rounds]


def test_all_are_measured_while_all_others_run_and_carry_the_same_every_time() -> None:
    slow, fast = run_together([_party(8.0, 1.0, 0), _party(0.5, 0.25, 3)])
    assert _seconds(slow) == [9.5]  # a second over the link, of which a quarter is shared with the fast one's send
    assert max(each.begin_s + each.seconds for each in fast) == fast[-1].begin_s + fast[-1].seconds <= 9.5
    assert _seconds(fast) == [1.0] * 8 + [1.25]  # the ninth meets the slow one
    assert all(each.carried_s == {3: 0.125, -1: 0.25} for each in fast)
    assert slow[0].carried_s == {0: 0.5, -1: 1.0}
    assert len(run_together([_party(8.0, 1.0, 0), _party(0.5, 0.25, 3)], least=2)[0]) == 2


def test_two_alike_share_a_link_and_their_own_links_are_theirs() -> None:
    both = run_together([_party(1.0, 1.0, 0), _party(1.0, 1.0, 3)])
    assert [_seconds(rounds) for rounds in both] == [[3.25], [3.25]]  # one second of compute, twice one of transfer
    clock, party = HeapClock(), _party(1.0, 1.0, 0)
    walker = party.walker(clock)
    ended: list[float] = []
    walker.join(SharedLinks(Network(clock), party.common), 5.0, lambda: ended.append(1.0))
    ran = walker.run()
    assert ran.makespan_s == 2.0 and ended == [1.0]  # from its begin
    assert all(free == 5.0 for free in ran.books.free)  # no compute: nothing is booked before it either


def test_a_transfer_that_follows_is_slowed_like_any_other() -> None:
    plan = Plan()
    plan.add(Lane(0, "host"), "compute", Hold(1.0), "host")
    parties = [
        Party(lambda clock: Walker(plan, clock, 1, 1), lambda _: Tail(3.0, 2.0, ((0, 1.0),)), {0: ((-1, 1.0),)}),
        Party(lambda clock: Walker(plan, clock, 1, 1), lambda _: Tail(3.0, 2.0, ((0, 1.0),)), {0: ((-1, 1.0),)}, 1),
    ]
    assert [_seconds(rounds) for rounds in run_together(parties)] == [[6.0], [6.0]]
    assert [_seconds(rounds) for rounds in run_together(parties[:1])] == [[4.0]]


# -- refusals ---------------------------------------------------------------------------------------------------------

OTHER_NODE = {**RINGS, "cluster": {**RINGS["cluster"], "node": "hgx-h800"}}
LOAD = {"kind": "closed", "concurrency": 4, "count": 8, "input_tokens": 9, "output_tokens": 9}
SERVES = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 8}, "serve": {"requests": LOAD}}


@pytest.mark.parametrize(
    ("jobs", "kind", "message"),
    [
        ([RINGS, OTHER_NODE], ScenarioError, "jobs 1 and 2 cannot share a fabric: the GPU is h100-sxm in job 1 and h8"),
        ([RINGS, RINGS, ask(ratio=8.0)], ScenarioError, "jobs 1 and 3 .* oversubscription is 4 in job 1 and 8 in job"),
        ([RINGS, ask(fabric="rail-ib-400")], ScenarioError, "the fabric is fat-tree-ib-400 in job 1 and rail-ib-400"),
        ([RINGS, SERVES], ScenarioError, "job 2: the scenario has no train section"),
        ([RINGS, ask(ep=3)], BadLayout, "job 2: expert data parallel is not whole"),
        ([RINGS, {**RINGS, "model": "mixtral-8x22b"}], DoesNotFit, "job 2: .*"),
        ([ask(16), ask(16)], FactError, "needs uplinks from leaves to spines, but 32 x h100-sxm"),
        ([], ScenarioError, "no job was given"),
    ],
)
def test_jobs_that_cannot_be_are_refused_in_one_line(
    jobs: list[dict[str, Any]], kind: type[Refusal], message: str
) -> None:
    with pytest.raises(kind, match=message) as refusal:
        train_beside(jobs)
    assert "\n" not in str(refusal.value)


def test_jobs_of_very_unlike_lengths_are_refused() -> None:
    """Over NICs of 300 B/s a job without a NIC's traffic would run ten million steps beside the other's three."""
    slow = {**RINGS, "cluster": {**RINGS["cluster"], "nic_bytes_per_s": 300.0, "oversubscription": 8.0}}
    short = {**slow, "cluster": {**slow["cluster"], "gpus": 2}, "layout": {"pp": 2}, "model": "mpt-1b"}
    short["train"] = {**slow["train"], "global_batch": 2}
    with pytest.raises(ScenarioError, match=r"a step of job 1 takes .* s and one of job 2 .*: more than 200 steps"):
        train_beside([slow, short], spread="interleaved")


def test_jobs_too_small_for_uplinks_of_their_own_share_those_of_all() -> None:
    """Two hosts each: by itself neither has a leaf with uplinks, three of them interleaved do."""
    answer = train_beside([ask(16, ratio=16.0, zero=3)] * 3, spread="interleaved")
    assert any(job.lost_s > 0.0 for job in answer.jobs)
    assert all(job.by_itself_s <= job.alone_s * (1 + 1e-9) for job in answer.jobs)
