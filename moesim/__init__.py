"""What it costs to train and serve mixture-of-experts models on GPU clusters, and whether a dense one is cheaper.

    import moesim

    answer = moesim.predict_train("scenario.yaml")        # or a mapping, or a Scenario
    print(answer.step_time_s, answer.low_s, answer.high_s, answer.mfu, answer.breakdown_s)

Verbs. Each takes a scenario (a file's path, a mapping or a Scenario) and returns a frozen record with `to_dict()`:

    predict_train    one training step: seconds with an interval, breakdown, memory, money
    train_beside     training jobs on one fabric at the same time: what each loses
    many_steps       steps of a run, each with draws of its own: quantiles, spread over ranks
    predict_serve    a deployment under a load: TTFT, TPOT, throughput, goodput, money, a label
    predict_day      a deployment through a day of traffic: replicas that come and go, service level, money
    predict_comm     one collective or expert exchange: algorithm, seconds, busiest link
    compare          scenarios and dense twins side by side, and where the other one starts to win
    plan             the best layout of a training job, or the best deployment of a load
    plan_fleet       replicas, racks, power and dollars for a day of traffic, year after year
    sweep            every combination of some settings, on all cores or a Dask cluster
    whatif           one thing changed at a time, and what each change is worth
    run              a whole training run: days, dollars, energy, failures, checkpoints
    validate         predictions against measured runs: errors and coverage by family

`frames` turns answers into pandas tables. SI units everywhere, in the name: `_s`, `_bytes`, `_bytes_per_s`, `_usd`.

A question that cannot be answered raises a Refusal: its text says what was asked, why it cannot be, and what would do.
Kinds: ScenarioError, BadLayout, DoesNotFit, ArchError, StackError, NoFit, FactError, UnitError, BadTrace, BadRows. What
the machine cannot do (a full disk, lost workers) is a MachineFailure. Any other exception is a defect of moesim.

Nothing is loaded before it is asked for. The command line is `moesim`, or `python -m moesim`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.refusal import MachineFailure, Refusal

if not Path(__file__).with_name("sim").is_dir():
    raise ImportError(
        "this checkout has no symbolic links, so the package moesim lacks its rooms; "
        "run `git config core.symlinks true && git checkout -- moesim`"
    )

if TYPE_CHECKING:
    from moesim.calibrate.record.summary import Summary
    from moesim.calibrate.record.validate import Record
    from moesim.calibrate.record.validation import Validation, validate
    from moesim.calibrate.rows.files import BadRows
    from moesim.hwmodels.facts import FactError
    from moesim.hwmodels.profile import NoFit
    from moesim.hwmodels.units import UnitError
    from moesim.reports import frames
    from moesim.sim.comparison.comparison import CompareEffort, Comparison, compare
    from moesim.sim.comparison.upcycling import DenseParent
    from moesim.sim.layout.layout import BadLayout
    from moesim.sim.model.arch import ArchError, ModelArch
    from moesim.sim.model.catalogue import load_model, model_names
    from moesim.sim.model.params import active_parameters, parameters
    from moesim.sim.plan.fleet.fleet import Fleet
    from moesim.sim.plan.fleet.plan import FleetAsk, plan_fleet
    from moesim.sim.plan.plan import plan
    from moesim.sim.plan.serve.plan import ServePlan
    from moesim.sim.plan.serve.search import ServeEffort
    from moesim.sim.plan.train.plan import Plan
    from moesim.sim.plan.train.search import Effort
    from moesim.sim.question.refusals import DoesNotFit
    from moesim.sim.question.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
    from moesim.sim.serve.accounts import Spread
    from moesim.sim.serve.day import predict_day
    from moesim.sim.serve.day_answer import DayPrediction
    from moesim.sim.serve.predict import predict_serve
    from moesim.sim.serve.prediction import ServePrediction
    from moesim.sim.software.stack import StackError
    from moesim.sim.train.beside import train_beside
    from moesim.sim.train.many_steps import ManySteps, many_steps
    from moesim.sim.train.memory import RankMemory
    from moesim.sim.train.predict import predict_train
    from moesim.sim.train.prediction import Prediction
    from moesim.sim.train.shared_fabric import SharedFabric
    from moesim.sim.train.whole_run import TrainingRun, run
    from moesim.sim.transfer.alone import CommPrediction
    from moesim.sim.transfer.predict import CommAnswer, predict_comm
    from moesim.sim.transfer.question import CommQuestion
    from moesim.sim.variation.journal import Journal
    from moesim.sim.variation.sweep import Sweep, sweep
    from moesim.sim.variation.whatif import whatif
    from moesim.sim.variation.whatif_serve import ServeWhatIf
    from moesim.sim.variation.whatif_train import WhatIf
    from moesim.traces.routing import BadTrace

    __version__: str

# where each public name lives; loaded when first asked for, so that importing the package stays cheap
_HOME = {
    "predict_train": "moesim.sim.train.predict",
    "train_beside": "moesim.sim.train.beside",
    "many_steps": "moesim.sim.train.many_steps",
    "predict_serve": "moesim.sim.serve.predict",
    "predict_day": "moesim.sim.serve.day",
    "DayPrediction": "moesim.sim.serve.day_answer",
    "predict_comm": "moesim.sim.transfer.predict",
    "compare": "moesim.sim.comparison.comparison",
    "plan": "moesim.sim.plan.plan",
    "plan_fleet": "moesim.sim.plan.fleet.plan",
    "sweep": "moesim.sim.variation.sweep",
    "whatif": "moesim.sim.variation.whatif",
    "run": "moesim.sim.train.whole_run",
    "validate": "moesim.calibrate.record.validation",
    "Scenario": "moesim.sim.question.scenario",
    "load_scenario": "moesim.sim.question.scenario",
    "parse_scenario": "moesim.sim.question.scenario",
    "CommQuestion": "moesim.sim.transfer.question",
    "FleetAsk": "moesim.sim.plan.fleet.plan",
    "Effort": "moesim.sim.plan.train.search",
    "ServeEffort": "moesim.sim.plan.serve.search",
    "Journal": "moesim.sim.variation.journal",
    "Prediction": "moesim.sim.train.prediction",
    "ManySteps": "moesim.sim.train.many_steps",
    "SharedFabric": "moesim.sim.train.shared_fabric",
    "RankMemory": "moesim.sim.train.memory",
    "ServePrediction": "moesim.sim.serve.prediction",
    "Spread": "moesim.sim.serve.accounts",
    "CommAnswer": "moesim.sim.transfer.predict",
    "CommPrediction": "moesim.sim.transfer.alone",
    "CompareEffort": "moesim.sim.comparison.comparison",
    "DenseParent": "moesim.sim.comparison.upcycling",
    "Comparison": "moesim.sim.comparison.comparison",
    "Plan": "moesim.sim.plan.train.plan",
    "ServePlan": "moesim.sim.plan.serve.plan",
    "Fleet": "moesim.sim.plan.fleet.fleet",
    "Sweep": "moesim.sim.variation.sweep",
    "WhatIf": "moesim.sim.variation.whatif_train",
    "ServeWhatIf": "moesim.sim.variation.whatif_serve",
    "TrainingRun": "moesim.sim.train.whole_run",
    "Validation": "moesim.calibrate.record.validation",
    "Record": "moesim.calibrate.record.validate",
    "Summary": "moesim.calibrate.record.summary",
    "ModelArch": "moesim.sim.model.arch",
    "load_model": "moesim.sim.model.catalogue",
    "model_names": "moesim.sim.model.catalogue",
    "parameters": "moesim.sim.model.params",
    "active_parameters": "moesim.sim.model.params",
    "ArchError": "moesim.sim.model.arch",
    "BadLayout": "moesim.sim.layout.layout",
    "BadRows": "moesim.calibrate.rows.files",
    "BadTrace": "moesim.traces.routing",
    "DoesNotFit": "moesim.sim.question.refusals",
    "FactError": "moesim.hwmodels.facts",
    "NoFit": "moesim.hwmodels.profile",
    "ScenarioError": "moesim.sim.question.scenario",
    "StackError": "moesim.sim.software.stack",
    "UnitError": "moesim.hwmodels.units",
}

__all__ = [
    "ArchError",
    "BadLayout",
    "BadRows",
    "BadTrace",
    "CommAnswer",
    "CommPrediction",
    "CommQuestion",
    "CompareEffort",
    "Comparison",
    "DayPrediction",
    "DenseParent",
    "DoesNotFit",
    "Effort",
    "FactError",
    "Fleet",
    "FleetAsk",
    "Journal",
    "MachineFailure",
    "ManySteps",
    "ModelArch",
    "NoFit",
    "Plan",
    "Prediction",
    "RankMemory",
    "Record",
    "Refusal",
    "Scenario",
    "ScenarioError",
    "ServeEffort",
    "ServePlan",
    "ServePrediction",
    "ServeWhatIf",
    "SharedFabric",
    "Spread",
    "StackError",
    "Summary",
    "Sweep",
    "TrainingRun",
    "UnitError",
    "Validation",
    "WhatIf",
    "__version__",
    "active_parameters",
    "compare",
    "frames",
    "load_model",
    "load_scenario",
    "many_steps",
    "model_names",
    "parameters",
    "parse_scenario",
    "plan",
    "plan_fleet",
    "predict_comm",
    "predict_day",
    "predict_serve",
    "predict_train",
    "run",
    "sweep",
    "train_beside",
    "validate",
    "whatif",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = import_module("importlib.metadata").version("moesim")
    elif name == "frames":
        value = import_module("moesim.reports.frames")
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
