"""What it costs to train and serve mixture-of-experts models on GPU clusters, and whether a dense one is cheaper."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.refusal import Refusal

if not Path(__file__).with_name("sim").is_dir():
    raise ImportError(
        "this checkout has no symbolic links, so the package moesim lacks its rooms; "
        "run `git config core.symlinks true && git checkout -- moesim`"
    )

if TYPE_CHECKING:
    from moesim.reports import frames
    from moesim.sim.comparison.comparison import Comparison, compare
    from moesim.sim.layout.layout import BadLayout
    from moesim.sim.model.arch import ArchError, ModelArch
    from moesim.sim.model.catalogue import load_model, model_names
    from moesim.sim.model.params import active_parameters, parameters
    from moesim.sim.question.refusals import DoesNotFit
    from moesim.sim.question.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
    from moesim.sim.serve.predict import predict_serve
    from moesim.sim.serve.prediction import ServePrediction
    from moesim.sim.software.stack import StackError
    from moesim.sim.train.predict import predict_train
    from moesim.sim.train.prediction import Prediction

# where each public name lives; loaded when first asked for, so that importing the package stays cheap
_HOME = {
    "frames": "moesim.reports",
    "Comparison": "moesim.sim.comparison.comparison",
    "compare": "moesim.sim.comparison.comparison",
    "BadLayout": "moesim.sim.layout.layout",
    "ModelArch": "moesim.sim.model.arch",
    "load_model": "moesim.sim.model.catalogue",
    "model_names": "moesim.sim.model.catalogue",
    "ArchError": "moesim.sim.model.arch",
    "active_parameters": "moesim.sim.model.params",
    "parameters": "moesim.sim.model.params",
    "Scenario": "moesim.sim.question.scenario",
    "ScenarioError": "moesim.sim.question.scenario",
    "load_scenario": "moesim.sim.question.scenario",
    "parse_scenario": "moesim.sim.question.scenario",
    "predict_serve": "moesim.sim.serve.predict",
    "ServePrediction": "moesim.sim.serve.prediction",
    "StackError": "moesim.sim.software.stack",
    "DoesNotFit": "moesim.sim.question.refusals",
    "predict_train": "moesim.sim.train.predict",
    "Prediction": "moesim.sim.train.prediction",
}

__all__ = [
    "ArchError",
    "BadLayout",
    "Comparison",
    "DoesNotFit",
    "ModelArch",
    "Prediction",
    "Refusal",
    "Scenario",
    "ScenarioError",
    "ServePrediction",
    "StackError",
    "active_parameters",
    "compare",
    "frames",
    "load_model",
    "load_scenario",
    "model_names",
    "parameters",
    "parse_scenario",
    "predict_serve",
    "predict_train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME[name]
    value = import_module(f"{home}.{name}") if name == "frames" else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
