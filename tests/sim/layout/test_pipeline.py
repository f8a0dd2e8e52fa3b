"""Orders of the schedules: the published pictures, small cases by hand, and what cannot be scheduled."""

from __future__ import annotations

import pytest

from moesim.sim.layout.pipeline import (
    V_SHAPED,
    Slot,
    dualpipe,
    gpipe,
    in_flight,
    interleaved,
    one_f_one_b,
    orders,
    zb_h1,
)


def _text(order: list[Slot]) -> str:
    parts = []
    for slot in order:
        back = f"/{slot.micro_batch_b}.{slot.stage_b}" if slot.phase == "FB" else ""
        parts.append(f"{slot.phase}{slot.micro_batch}.{slot.stage}{back}")
    return " ".join(parts)


def test_gpipe_runs_all_forwards_then_all_backwards() -> None:
    assert _text(gpipe(2, 3)[0]) == "F0.0 F1.0 F2.0 B2.0 B1.0 B0.0"


def test_one_f_one_b_of_three_ranks() -> None:
    assert [_text(order) for order in one_f_one_b(3, 4)] == [
        "F0.0 F1.0 F2.0 B0.0 F3.0 B1.0 B2.0 B3.0",
        "F0.1 F1.1 B0.1 F2.1 B1.1 F3.1 B2.1 B3.1",
        "F0.2 B0.2 F1.2 B1.2 F2.2 B2.2 F3.2 B3.2",
    ]


def test_interleaved_of_two_ranks_two_chunks() -> None:
    """Megatron-LM: warm-up of (p - r - 1) x 2 + (v - 1) x p forwards, in groups of p micro-batches."""
    first, last = interleaved(2, 2, 4)
    assert _text(first) == ("F0.0 F1.0 F0.2 F1.2 F2.0 B0.2 F3.0 B1.2 F2.2 B0.0 F3.2 B1.0 B2.2 B3.2 B2.0 B3.0")
    assert _text(last).startswith("F0.1 F1.1 F0.3 B0.3 F1.3 B1.3")


def test_zb_h1_holds_back_as_many_weight_gradients_as_its_rank() -> None:
    assert _text(zb_h1(2, 3)[0]) == "F0.0 F1.0 I0.0 W0.0 F2.0 I1.0 W1.0 I2.0 W2.0"
    assert _text(zb_h1(2, 3)[1]) == "F0.1 I0.1 F1.1 I1.1 W0.1 F2.1 I2.1 W1.1 W2.1"


def test_zb_v_of_two_ranks() -> None:
    """Forwards down the V and up again: rank 1 turns it, rank 0 has its ends."""
    first, last = orders("zb-v", 2, 2, 4)
    assert _text(first).startswith("F0.0 F1.0 F2.0 F0.3 I0.3")
    assert _text(last).startswith("F0.1 F0.2 F1.1 F1.2 I0.2 I0.1")


@pytest.mark.parametrize("schedule", V_SHAPED)
def test_v_shapes_of_one_micro_batch(schedule: str) -> None:
    first, last = orders(schedule, 2, 2, 1)
    assert _text(first) == "F0.0 F0.3 I0.3 W0.3 I0.0 W0.0"
    assert _text(last) == "F0.1 F0.2 I0.2 I0.1 W0.2 W0.1"


def test_dualpipe_feeds_micro_batches_from_both_ends() -> None:
    ranks = dualpipe(4, 8)
    assert _text(ranks[0]).startswith("F0.0 F1.0")
    assert _text(ranks[3]).startswith("F4.0 F5.0")  # the other direction enters here, at the model's first stage
    mirror = {slot: slot.micro_batch for slot in ranks[0]}
    assert len(mirror) == len(ranks[3])
    for ours, theirs in zip(ranks[0], ranks[3], strict=True):
        assert (ours.phase, ours.stage) == (theirs.phase, theirs.stage)
        assert (ours.micro_batch + 4) % 8 == theirs.micro_batch


@pytest.mark.parametrize(("pp", "count"), [(4, 7), (4, 6), (2, 3), (8, 14)])
def test_dualpipe_refuses_what_it_cannot_schedule(pp: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"even number of micro-batches of at least {2 * pp}, not {count}"):
        orders("dualpipe", pp, 1, count)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zb-h1"])
def test_one_rank_runs_micro_batches_one_by_one_or_all_at_once(schedule: str) -> None:
    (order,) = orders(schedule, 1, 1, 3)
    assert sum(in_flight(order).values()) == (3 if schedule == "gpipe" else 1)


def test_orders_are_looked_up_by_name() -> None:
    assert orders("interleaved", 2, 2, 4) == interleaved(2, 2, 4)
    assert orders("1f1b", 2, 1, 4) == one_f_one_b(2, 4)
    with pytest.raises(KeyError):
        orders("zb-w", 2, 1, 4)


def test_interleaved_with_a_last_group_that_is_not_full() -> None:
    for order in interleaved(4, 2, 6):
        assert len(order) == 2 * 2 * 6


def test_in_flight_says_which_stages_are_held_at_the_peak() -> None:
    order = interleaved(2, 2, 4)[0]
    peak = in_flight(order)
    assert set(peak) <= {0, 2} and sum(peak.values()) == 5
