"""The best answer of a plan as a scenario file with comments, and as what starts it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moesim.files.whole import OutputError, write_text
from moesim.files.words import counted
from moesim.hwmodels.units import GIB
from moesim.reports.emit.files import emitted, printed, write_files
from moesim.reports.text import note
from moesim.sim.plan.fleet.fleet import Fleet
from moesim.sim.plan.serve.plan import ServePlan
from moesim.sim.question.paths import for_folder
from moesim.sim.question.scenario import Scenario, ScenarioError, load_scenario
from moesim.sim.variation.settings import asked_with
from moesim.sim.variation.whatif_train import Outcome

if TYPE_CHECKING:
    from moesim.sim.comparison.comparison import Comparison
    from moesim.sim.plan.train.plan import Plan
    from moesim.sim.serve.prediction import ServePrediction
    from moesim.sim.variation.whatif_serve import ServeWhatIf
    from moesim.sim.variation.whatif_train import WhatIf


def deployment_of(answer: Plan | ServePlan | Fleet) -> ServePlan:
    """The search of a deployment. ScenarioError for one of training layouts."""
    plan = answer.plan if isinstance(answer, Fleet) else answer
    if not isinstance(plan, ServePlan):
        raise ScenarioError("a training layout is no deployment: --emit is for scenarios that serve")
    return plan


def scenario_text(plan: ServePlan, title: str, number: int = 0, folder: Path = Path()) -> str:
    """An option of a serving plan as a scenario file: what it is, what it gives and rests on, and the keys."""
    s, judge = plan.options[number].served, plan.judge_of(plan.options[number])
    said = [
        f"{title}: {s.candidate.title}",
        f"on {counted(s.candidate.gpus, 'GPU')}: "
        f"first token {s.ttft_s:.4g} s, {s.tpot_s * 1e3:.4g} ms a token (means), "
        f"{s.output_tokens_per_s:,.0f} output tokens/s, {s.attained_share:.0%} within {plan.slo.text}",
        "the limits' share of requests is no key of a scenario",
        *plan.notes,
        *judge.on(s.candidate.features).assumptions,
    ]
    return _commented(said, for_folder(plan.scenario(number), folder))


def _commented(said: list[str], mapping: dict[str, Any]) -> str:
    """Comments above YAML that keeps the order of its keys."""
    lines = "".join(f"# {' '.join(line.split())}\n" for line in said)
    return lines + yaml.safe_dump(mapping, sort_keys=False, default_flow_style=None, width=110)


def layout_text(plan: Plan, title: str, number: int, folder: Path) -> str:
    """An option of a training plan as a scenario file: what it is, what it gives and rests on, and the keys."""
    option = plan.options[number]
    f = option.finalist
    said = [
        f"{title}: {f.candidate.title}",
        f"on {counted(option.gpus, 'GPU')}: "
        f"a step of {f.step_time_s:.6g} s (90 % interval {f.low_s:.4g} to {f.high_s:.4g} s), "
        f"{option.headroom_bytes / GIB:.1f} GiB left on the fullest GPU",
        option.why,
        *plan.notes,
    ]
    return _commented(said, for_folder(plan.scenario(option), folder))


def write_answer(answer: Plan | ServePlan | Fleet, title: str, path: Path) -> None:
    """The best answer as a scenario file; in a folder, every answer as one, numbered from the best."""
    whole = path.is_dir()
    plan = answer.plan if isinstance(answer, Fleet) else answer
    count, folder = len(plan.options) if whole else 1, path if whole else path.parent
    for number in range(count):
        if isinstance(plan, ServePlan):
            text = scenario_text(plan, title, number, folder)
        else:
            text = layout_text(plan, title, number, folder)
        write_text(path / f"{number + 1}.yaml" if whole else path, text)
    note(f"{count} answers as scenarios in {path}" if whole else f"the best as a scenario: {path}")


def check_folder(path: Path) -> None:
    """OutputError for what is no folder, before the work starts."""
    if not path.is_dir():
        raise OutputError(f"--out {path}: is no folder; make it first, scenarios go into it")


def write_columns(comparison: Comparison, folder: Path) -> None:
    """What each column of a comparison answers, as scenarios: column-section.yaml."""
    count = 0
    for column in comparison.columns:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", column.name)
        for section, asked in column.scenarios.items():
            said = [f"{column.name}, {section}", *column.notes]
            write_text(folder / f"{name}-{section}.yaml", _commented(said, for_folder(_plain(asked), folder)))
            count += 1
    note(f"{count} scenarios in {folder}")


def write_changes(answer: WhatIf | ServeWhatIf, folder: Path) -> None:
    """Every change of a what-if that is one of scenario keys, and fits, as a scenario: what-change.yaml."""
    count, tight = 0, 0
    assert answer.asked is not None  # the verb says what was asked
    for o in answer.outcomes:
        if o.keys is None:
            continue
        if not o.fits:
            tight += 1
            continue
        gives = f"a step of {o.step_time_s:.6g} s" if isinstance(o, Outcome) else (
            f"first token {o.ttft_s:.4g} s, {o.tpot_s * 1e3:.4g} ms a token (means)"
        )  # fmt: skip
        said = [f"{o.knob} {o.change}: {gives}, tokens/s {o.speed_factor - 1.0:+.1%}", *_keys_said(o.keys)]
        change = re.sub(r"^[+-]", lambda sign: "plus " if sign[0] == "+" else "minus ", o.change)
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{o.knob} {change}").strip("-")
        text = _commented(said, for_folder(_plain(asked_with(answer.asked, o.keys)), folder))
        write_text(folder / f"{name}.yaml", text)
        count += 1
    left = f"; left out, for want of memory: {tight}" if tight else ""
    note(f"{counted(count, 'change')} as scenarios in {folder}{left}; changes of hardware are no scenario keys")


def _keys_said(keys: Mapping[str, Any]) -> list[str]:
    return ["changed: " + ", ".join(f"{key} = {'left out' if v is None else v}" for key, v in keys.items())]


def _plain(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tuples as lists, which YAML has."""
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def emitted_answer(answer: Plan | ServePlan | Fleet, target: str) -> dict[str, str]:
    """What starts the best deployment, by the name of its file."""
    plan = deployment_of(answer)
    judge, candidate = plan.judge_of(plan.options[0]), plan.options[0].served.candidate
    return emitted(judge.resolved(candidate), name_of(judge.scenario), target)


def emitted_served(prediction: ServePrediction, scenario: Path, target: str) -> dict[str, str]:
    """What starts the deployment of a prediction, by the name of its file."""
    return emitted(prediction.resolved, name_of(load_scenario(scenario)), target)


def name_of(scenario: Scenario) -> str:
    """The model as engines take it: a name, or the folder of a config.json; MODEL where the scenario has only sizes."""
    model = scenario.model
    if not isinstance(model, str):
        return str(model.get("name", "MODEL"))
    path = Path(model)
    if path.name == "config.json":
        return str(path.parent)
    return "MODEL" if path.suffix in (".json", ".yaml", ".yml") else model


def give(files: dict[str, str], folder: Path | None) -> None:
    """Print files, or write them into a folder."""
    if folder is None:
        sys.stdout.write(printed(files))
        return
    write_files(files, folder)
    note(f"{', '.join(files)}: in {folder}")
