"""The picture of a step: every schedule draws, the cut keeps one scale, equal questions give equal bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from moesim.files.whole import OutputError
from moesim.reports.figures.gantt import Window, windows
from moesim.reports.figures.palette import CLASS_OF, CLASSES, MEMORY, PHASES
from moesim.reports.figures.plan import write_plan_figure
from moesim.reports.figures.step import step_figure, write_figure
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.train.prediction import CATEGORIES, Prediction

Predicted = Callable[[str], Prediction]


def test_every_schedule_draws(prediction: Prediction, tmp_path: Path) -> None:
    path = tmp_path / "step.png"
    write_figure(prediction, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_title_says_model_cluster_layout_and_step_time(predicted: Predicted) -> None:
    p = predicted("1f1b")
    texts = " ".join(t.get_text() for t in step_figure(p).texts)
    for part in ("mixtral-8x7b", "8 x h100-sxm", "pp 4", "per step", "MFU"):
        assert part in texts


def test_short_steps_are_shown_whole_and_long_ones_cut_at_one_scale(predicted: Predicted) -> None:
    assert len(windows(predicted("1f1b"), 10.0)) == 1
    first, last = windows(predicted("long"), 10.0)
    assert first.start_s == 0.0 and first.end_s < last.start_s
    assert first.wide(1.0) == pytest.approx(last.wide(1.0))


def test_clip() -> None:
    window = Window(1.0, 3.0, 4.0)
    assert window.clip(0.0, 1.0) is None
    assert window.clip(0.5, 2.0) == (1.0, 1.0)
    assert window.clip(2.5, 9.0) == (2.5, 0.5)
    assert window.wide(1.0) == 2.0


def test_svg_is_the_same_byte_for_byte(predicted: Predicted, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        write_figure(predicted("zb-h1"), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("name", ["step.bmp", "step", "no/step.png"])
def test_unknown_formats_and_missing_folders_are_our_errors(predicted: Predicted, name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_figure(predicted("1f1b"), tmp_path / name)


def test_palette_covers_every_category_phase_and_kind_of_memory(predicted: Predicted) -> None:
    assert set(CATEGORIES) == set(CLASS_OF)
    assert set(CLASS_OF.values()) == set(CLASSES)
    assert set(PHASES) == {"F", "B", "I", "W", "FB"}
    assert set(MEMORY) == set(predicted("1f1b").memory[0].by_kind())


JOB = {
    "model": {"base": "mixtral-8x7b", "layers": 8},
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "train": {"global_batch": 64, "seq_len": 2048},
}


@pytest.mark.parametrize("gpus", [(8,), (8, 16)])
def test_the_front_of_a_plan_is_drawn_the_same_every_time(gpus: tuple[int, ...], tmp_path: Path) -> None:
    given = {"tp": (1,), "vpp": (1,), "micro_batch": (1, 2), "recompute": ("none",), "etp": (1,)}
    plan = plan_train(JOB, gpus=gpus, given=given, effort=Effort(top=3))
    pictures = []
    for name in ("a.svg", "b.svg"):
        write_plan_figure(plan, tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1] and len(pictures[0]) > 5_000
