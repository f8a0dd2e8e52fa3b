"""Break-even points: where they lie, and between which values they may, given how far off both costs are."""

from __future__ import annotations

from math import hypot, log
from pathlib import Path
from typing import Any

import pytest

from moesim import CompareEffort, compare, predict_train
from moesim.hwmodels.interval import Width
from moesim.reports.emit.scenario import write_columns
from moesim.sim.comparison.break_even import Crossing, _between

SMALL: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 8}, "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 8}, "train": {"global_batch": 64, "seq_len": 4096},
}  # fmt: skip


@pytest.mark.parametrize("rising", [True, False])
def test_a_crossing_lies_where_its_margin_is_within_its_error(rising: bool) -> None:
    """Margins that are straight in the logarithm of the value: the ends are where they equal the error, by hand."""
    sign = 1.0 if rising else -1.0
    points = [(2.0**i, sign * 0.5 * (i - 3)) for i in range(8)]  # even at 8, half a unit of cost for every doubling
    unsure = Width(0.2 * 1.645 / 1.2816, 0.4 * 1.645 / 1.2816)  # p10 and p90: factors exp(-0.2) and exp(0.4)
    found = _between(Crossing(value=8.0, cheaper_below="a", cheaper_above="b"), points, unsure)
    # where the first is cheaper than thought the margin is too high by 0.4 at most: below zero it ends at -0.4
    below, above = (0.4, 0.2) if rising else (0.2, 0.4)
    assert found.p10 == pytest.approx(8.0 * 2.0 ** (-below / 0.5))
    assert found.p90 == pytest.approx(8.0 * 2.0 ** (above / 0.5))
    wide = _between(found, points, Width(10.0, 10.0))
    assert (wide.p10, wide.p90) == (None, None)
    sure = _between(found, points, Width(0.0, 0.0))
    assert (sure.p10, sure.p90) == (pytest.approx(8.0), pytest.approx(8.0))


def test_points_of_a_comparison_carry_the_intervals_of_both() -> None:
    answer = compare([SMALL], twin="iso-active")
    price = next(b for b in answer.break_evens if b.axis.startswith("price"))
    (crossing,) = price.crossings
    first, other = (column.train for column in answer.columns)
    assert first is not None and other is not None and crossing.p10 is not None and crossing.p90 is not None
    log_low = hypot(log(first.step_time_s / first.low_s), log(other.high_s / other.step_time_s)) * 1.2816 / 1.645
    assert log(crossing.value / crossing.p10) == pytest.approx(log_low)
    assert crossing.p10 < crossing.value < crossing.p90 and "p10" in price.answer


def test_each_in_its_best_layout_says_how_far_the_asked_one_is(tmp_path: Path) -> None:
    """The twin need not run in the mixture's layout; every column is a scenario that gives its number to the digit."""
    asked = {**SMALL, "layout": {"tp": 2, "pp": 4}}
    plain = compare([asked], twin="iso-active", break_even=False)
    best = compare([asked], twin="iso-active", break_even=False, effort=CompareEffort(best_each=True))
    for was, now in zip(plain.columns, best.columns, strict=True):
        assert was.train is not None and now.train is not None
        assert now.train.step_time_s < was.train.step_time_s
        gain = was.train.step_time_s / now.train.step_time_s - 1.0
        assert any(f"per token the asked one costs {gain:.1%} more" in note for note in now.notes), now.notes
        assert predict_train(now.scenarios["train"]).step_time_s == now.train.step_time_s
    write_columns(best, tmp_path)
    written = sorted(predict_train(file).step_time_s for file in tmp_path.glob("*-train.yaml"))
    assert written == sorted(c.train.step_time_s for c in best.columns if c.train)


def test_a_twin_that_does_not_fit_as_asked_may_fit_in_another_layout() -> None:
    asked = {
        "model": {"base": "mixtral-8x7b", "layers": 16}, "cluster": {"node": "dgx-h100", "gpus": 16},
        "layout": {"ep": 8}, "train": {"global_batch": 64, "seq_len": 2048},
    }  # fmt: skip
    best = compare([asked], twin="iso-total", break_even=False, effort=CompareEffort(best_each=True))
    assert best.columns[1].train is not None
    assert any("does not fit; best layout found" in n or "costs" in n or "as good" in n for n in best.columns[1].notes)


def test_served_models_get_their_best_deployments() -> None:
    load = {"kind": "closed", "concurrency": 32, "count": 64, "input_tokens": 512, "output_tokens": 64}
    asked = {
        "model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8},
        "serve": {"engine": "vllm", "requests": load},
    }  # fmt: skip
    plain, best = (
        compare([asked], twin="iso-active", break_even=False, effort=effort).columns
        for effort in (CompareEffort(), CompareEffort(best_each=True))
    )
    for was, now in zip(plain, best, strict=True):
        assert was.serve is not None and now.serve is not None
        assert now.serve.output_tokens_per_s_per_gpu >= was.serve.output_tokens_per_s_per_gpu


def test_written_columns_find_their_files_wherever_the_folder_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "m.yaml").write_text("{layers: 4, hidden: 512, heads: 8, vocab: 32000}")
    monkeypatch.chdir(tmp_path)
    asked = {**SMALL, "model": "m.yaml", "layout": {"tp": 2}}
    both = compare([asked, {**asked, "layout": {"tp": 4}}], break_even=False, effort=CompareEffort(workers=2))
    write_columns(both, Path("out"))
    (first, *_) = sorted((tmp_path / "out").glob("*.yaml"))
    assert "model: ../m.yaml" in first.read_text()
    assert predict_train(first).step_time_s in {c.train.step_time_s for c in both.columns if c.train}
