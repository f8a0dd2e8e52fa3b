"""One small scenario per pipeline schedule, predicted once for all tests of what people see."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

SCENARIOS: dict[str, dict[str, Any]] = {
    "1f1b": {"layout": {"pp": 4, "ep": 2}},
    "interleaved": {"layout": {"pp": 2, "vpp": 2, "ep": 4}},
    "gpipe": {"layout": {"pp": 4, "schedule": "gpipe"}},
    "zb-h1": {"layout": {"pp": 4, "schedule": "zb-h1"}},
    "zb-v": {"layout": {"pp": 4, "vpp": 2, "schedule": "zb-v"}},
    "dualpipe": {"layout": {"pp": 4, "schedule": "dualpipe"}, "stack": "hai-llm"},
    "fsdp": {"layout": {"zero": 3}, "stack": "torchtitan"},
    "long": {"layout": {"pp": 2}, "batch": 512},
}


def scenario(name: str) -> dict[str, Any]:
    """A Mixtral proxy of 8 layers on 8 H100."""
    record = dict(SCENARIOS[name])
    batch = record.pop("batch", 64)
    return {
        "model": {"base": "mixtral-8x7b", "layers": 8},
        "cluster": {"node": "dgx-h100", "gpus": 8},
        "train": {"global_batch": batch, "seq_len": 2048},
        **record,
    }


@cache
def _predicted(name: str) -> Prediction:
    return predict_train(scenario(name), check_memory=False)


@pytest.fixture
def predicted() -> Callable[[str], Prediction]:
    """The prediction of a scenario by name, memory not checked."""
    return _predicted


@pytest.fixture(params=SCENARIOS)
def prediction(request: pytest.FixtureRequest) -> Prediction:
    """Every schedule in turn."""
    return _predicted(request.param)


@pytest.fixture
def scenario_file(tmp_path: Path) -> Path:
    """A small scenario on disk that fits into memory."""
    path = tmp_path / "scenario.yaml"
    path.write_text(
        "model: {base: mixtral-8x7b, layers: 4}\n"
        "cluster: {node: dgx-h100, gpus: 8}\n"
        "layout: {pp: 2, ep: 4}\n"
        "train: {global_batch: 64, seq_len: 2048}\n"
    )
    return path
