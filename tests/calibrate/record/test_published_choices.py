"""Published layouts in our search, and the order of measured alternatives: part of docs/published_choices.md."""

from __future__ import annotations

import pytest

from moesim.calibrate.record.layout_order import TRAINING_KEYS, Alternative, answered, groups_of, order_of
from moesim.calibrate.record.published_choices import MODELS, candidates_of, choice
from moesim.calibrate.rows.files import published_rows
from moesim.sim.plan.train.search import Effort

_FEW = Effort(top=10, most=16)  # those with the best bounds; the page looks at all


@pytest.fixture(scope="module")
def ranks() -> list[int]:
    """Layout rank of a published choice for Llama 3.1 405B; the page has all."""
    return [choice(row, _FEW).layout_rank for row in candidates_of(["llama-3.1-405b"])[:1]]


def test_the_published_layouts_of_llama_405b_are_among_our_best_ten(ranks: list[int]) -> None:
    assert max(ranks) <= 10


def test_a_choice_says_what_it_was_compared_with() -> None:
    row = next(r for r in candidates_of(["gpt-175b"]) if r["gpus"] == "128" and r["precision"] == "BF16")
    one = choice(row, _FEW)
    assert one.split_rank <= one.layout_rank <= one.rank
    assert one.layout_rank <= 10 and one.measured_s > 0 and one.best_s <= 1.1 * one.predicted_s
    assert "tp4 pp8" in one.layout and "128 h100" in one.cluster


def test_choices_are_taken_by_rule() -> None:
    rows = candidates_of()
    assert {r["model"] for r in rows} == set(MODELS) and len(rows) >= 30
    assert all(int(r["gpus"]) <= 2048 for r in rows)


def test_pairs_are_counted_once_and_noise_apart() -> None:
    group = [Alternative(1.0, 2.0, ("a",)), Alternative(2.0, 1.0, ("b",)), Alternative(2.01, 4.0, ("c",))]
    same = [Alternative(1.0, 1.0, ("a",)), Alternative(3.0, 2.0, ("a",))]
    order = order_of("x", [group, same])
    assert (order.groups, order.pairs, order.right, order.close_pairs, order.close_right) == (1, 2, 1, 1, 1)
    assert order.right_pct == 50.0 and order.close_right_pct == 100.0


def test_training_runs_of_one_job_come_in_the_measured_order() -> None:
    """The small file; the sweeps take a minute and stand in the page."""
    groups = groups_of(published_rows()[0].rows, TRAINING_KEYS)
    order = order_of("runs", answered(groups, "step_time_s"))
    assert order.pairs >= 2 and order.right == order.pairs
