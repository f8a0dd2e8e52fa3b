"""What a model computes, where each piece runs, when everything happens, and which layout is best."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.arch import ModelArch
    from sim.arch_catalogue import load_model, model_names, published
    from sim.arch_fields import ArchError
    from sim.comparison.comparison import Comparison, compare
    from sim.job import TrainJob
    from sim.layout import BadLayout, Layout
    from sim.memory import DoesNotFit, RankMemory, step_memory
    from sim.params import active_parameters, flops_per_token, kv_bytes_per_token, parameters
    from sim.predict import predict_train
    from sim.prediction import Prediction
    from sim.resolve import Resolved
    from sim.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
    from sim.serve.predict import predict_serve
    from sim.serve.prediction import ServePrediction
    from sim.stack import Stack, StackError, Tuning, load_stack, stack_names
    from sim.step_result import StepResult
    from sim.timeline import Timeline
    from sim.train import StepSimulator

# where each public name lives; loaded when first asked for, so that importing the room stays cheap
_HOME = {
    "ModelArch": "sim.arch",
    "load_model": "sim.arch_catalogue",
    "model_names": "sim.arch_catalogue",
    "published": "sim.arch_catalogue",
    "ArchError": "sim.arch_fields",
    "Comparison": "sim.comparison.comparison",
    "compare": "sim.comparison.comparison",
    "BadLayout": "sim.layout",
    "Layout": "sim.layout",
    "DoesNotFit": "sim.memory",
    "RankMemory": "sim.memory",
    "step_memory": "sim.memory",
    "active_parameters": "sim.params",
    "flops_per_token": "sim.params",
    "kv_bytes_per_token": "sim.params",
    "parameters": "sim.params",
    "predict_train": "sim.predict",
    "Prediction": "sim.prediction",
    "predict_serve": "sim.serve.predict",
    "ServePrediction": "sim.serve.prediction",
    "Resolved": "sim.resolve",
    "Scenario": "sim.scenario",
    "ScenarioError": "sim.scenario",
    "load_scenario": "sim.scenario",
    "parse_scenario": "sim.scenario",
    "Stack": "sim.stack",
    "StackError": "sim.stack",
    "Tuning": "sim.stack",
    "load_stack": "sim.stack",
    "stack_names": "sim.stack",
    "Timeline": "sim.timeline",
    "StepResult": "sim.step_result",
    "StepSimulator": "sim.train",
    "TrainJob": "sim.job",
}

__all__ = [
    "ArchError",
    "BadLayout",
    "Comparison",
    "DoesNotFit",
    "Layout",
    "ModelArch",
    "Prediction",
    "RankMemory",
    "Resolved",
    "Scenario",
    "ScenarioError",
    "ServePrediction",
    "Stack",
    "StackError",
    "StepResult",
    "StepSimulator",
    "Timeline",
    "TrainJob",
    "Tuning",
    "active_parameters",
    "compare",
    "flops_per_token",
    "kv_bytes_per_token",
    "load_model",
    "load_scenario",
    "load_stack",
    "model_names",
    "parameters",
    "parse_scenario",
    "predict_serve",
    "predict_train",
    "published",
    "stack_names",
    "step_memory",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
