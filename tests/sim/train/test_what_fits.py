"""What a refusal for want of memory names does fit, is the first that does, and notes say what has no effect."""

from __future__ import annotations

import re
from typing import Any

import pytest

from moesim import predict_train
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train import fitting
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.train.prices import StepPrices

ASKED: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 32},
    "layout": {"ep": 8},
    "train": {"global_batch": 128, "seq_len": 4096},
    "routing": "balanced",
}
LONG = {**ASKED, "train": {"global_batch": 128, "seq_len": 16384}}


def test_the_changes_that_are_named_fit_one_at_a_time() -> None:
    with pytest.raises(DoesNotFit, match="fits with ") as refused:
        predict_train(LONG)
    named = re.search(r"fits with (.*?);", str(refused.value))
    assert named is not None
    for change in named[1].split(" or "):
        key, value = change.split("=")
        part = "train" if key == "recompute" else "layout"
        changed = {**LONG, part: {**LONG[part], key: value if part == "train" else int(value)}}
        assert predict_train(changed).memory_fits, change


def first_tried(monkeypatch: pytest.MonkeyPatch, fits: Any, model: str = "mixtral-8x7b") -> str:
    """The layout that is named where only those fit of which `fits` says so."""
    asked = {**ASKED, "model": model, "layout": {}}
    found = resolve(parse_scenario(asked))
    monkeypatch.setattr(fitting, "_fits", lambda job, prices: fits(job))
    return fitting._any_layout(StepPrices(found.job, found.kernels, found.tuning()))


def test_layouts_are_tried_from_the_plainest_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 GPUs, 8 experts: ep=8 wherever eight ranks are left for them."""

    def tried(wanted: dict[str, int], again: bool = False) -> str:
        def fits(job: TrainJob) -> bool:
            same = all(getattr(job.layout, key) == value for key, value in wanted.items())
            return same and ("full" in job.recompute) == again

        return first_tried(monkeypatch, fits)

    assert tried({}) == "tp=1, pp=1, ep=8, zero=1"
    assert tried({"zero": 3}) == "tp=1, pp=1, ep=8, zero=3"
    assert tried({"pp": 4}) == "tp=1, pp=4, ep=8, zero=1"
    assert tried({"pp": 8}) == "tp=1, pp=8, ep=4, zero=1"  # four ranks a stage
    assert tried({"pp": 16}) == "tp=1, pp=16, ep=2, zero=1"
    assert tried({"tp": 8}) == "tp=8, pp=1, ep=8, zero=1"
    assert tried({}, again=True) == "tp=1, pp=1, ep=8, zero=1, recompute=full"
    assert tried({"pp": 4, "zero": 3}) == ""  # no pipeline under ZeRO-3
    assert tried({"tp": 4}) == ""  # only the widest


def test_a_dense_model_has_no_expert_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert first_tried(monkeypatch, lambda job: job.layout.pp == 8, "llama-3.1-8b") == "tp=1, pp=8, ep=1, zero=1"
    assert first_tried(monkeypatch, lambda job: False) == ""


def notes(layout: dict[str, Any], model: str = "mixtral-8x7b") -> list[str]:
    asked = {**ASKED, "model": {"base": model, "layers": 8}, "layout": layout,
             "stack": {"name": "megatron-tuned", "ep_overlap": "hidden"}}  # fmt: skip
    found = resolve(parse_scenario(asked))
    return [line for line in found.assumptions if "has no effect" in line]


def test_what_hides_nothing_is_said_with_why() -> None:
    assert notes({"pp": 2, "vpp": 2, "schedule": "interleaved", "ep": 8}) == []
    assert notes({}) == ["ep_overlap = hidden has no effect: experts are on one rank"]
    assert notes({"pp": 2, "schedule": "gpipe", "ep": 8}) == [
        "ep_overlap = hidden has no effect: schedule gpipe runs no pairs of micro-batches"
    ]
    assert notes({}, "llama-3.1-8b") == []
