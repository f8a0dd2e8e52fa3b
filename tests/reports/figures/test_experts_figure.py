"""Experts and many steps in the picture: drawn where there is something to see, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.reports.figures.step import step_figure, write_figure
from moesim.sim.train.many_steps import many_steps
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"pp": 2, "ep": 8},
    "train": {"global_batch": 32, "seq_len": 2048},
    "routing": {"lognormal": 0.6, "seed": 3},
}


@pytest.fixture(scope="module")
def skewed() -> Prediction:
    return predict_train(JOB, lost="cheap")


def titles(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_the_heat_map_shows_the_rows_and_the_curve_the_busiest_ranks(skewed: Prediction) -> None:
    figure = step_figure(skewed)
    heat = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Tokens per expert"))
    assert skewed.experts is not None
    shown = np.asarray(heat.images[0].get_array())
    rows = skewed.experts.over_mean  # clipped as far below the mean as the busiest is above it
    assert shown == pytest.approx(np.clip(rows, 1.0 / rows.max(), rows.max()))
    curve = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("Busiest rank"))
    assert list(curve.lines[0].get_xdata()) == [layer.busiest_rank_ratio for layer in skewed.experts.layers]
    wires = next(axes for axes in figure.axes if axes.get_title(loc="left") == "Exchange of ranks")
    sent = skewed.experts.exchange_bytes / skewed.experts.exchange_bytes.mean()
    assert np.asarray(wires.images[0].get_array()) == pytest.approx(np.clip(sent, 1.0 / sent.max(), sent.max()))
    assert any("uneven routing costs" in text.get_text() for text in figure.texts)


def test_balanced_and_dense_steps_have_no_heat_map() -> None:
    balanced = predict_train({**JOB, "routing": "balanced"})
    assert not any("Tokens per expert" in title for title in titles(step_figure(balanced)))
    dense = {"model": "llama-3.1-8b", "cluster": JOB["cluster"], "train": JOB["train"]}
    assert not any("Tokens per expert" in title for title in titles(step_figure(predict_train(dense))))


def test_many_steps_are_drawn_below(skewed: Prediction, tmp_path: Path) -> None:
    run = many_steps(JOB, 5)
    figure = step_figure(skewed, run)
    series = next(axes for axes in figure.axes if axes.get_title(loc="left").startswith("5 steps"))
    assert list(series.lines[0].get_ydata()) == [step.step_time_s for step in run.steps]
    for name in ("a.svg", "b.svg"):
        write_figure(skewed, tmp_path / name, run)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_steps_that_are_alike_are_drawn_too(skewed: Prediction) -> None:
    balanced = {**JOB, "routing": "balanced"}
    assert step_figure(predict_train(balanced), many_steps(balanced, 3)).axes
