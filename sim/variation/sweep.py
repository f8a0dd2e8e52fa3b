"""Sweeps: one scenario with some settings varied, every combination predicted; what fails is recorded, not fatal.

Finished points go to `OUT.part` line by line, so that a sweep that was killed goes on where it stopped; the table is
written when all are done, in the order of the settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from moesim.files.plain_yaml import FileError, parsed_plain
from moesim.refusal import Refusal
from moesim.sim.question.paths import whole_paths
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, parse_scenario, read_mapping
from moesim.sim.train.predict import predict_train
from moesim.sim.train.workers import answers
from moesim.sim.variation.journal import Journal

TRAINED = (
    "step_time_s", "low_s", "high_s", "tokens_per_s", "tokens_per_s_per_gpu", "mfu", "memory_bytes", "memory_fits",
    "gpu_hours_per_million_tokens", "usd_per_gpu_hour", "usd_per_million_tokens", "energy_joules_per_step", "error",
)  # fmt: skip
SERVED = (
    "ttft_s", "ttft_p99_s", "tpot_s", "tpot_p99_s", "output_tokens_per_s", "output_tokens_per_s_per_gpu",
    "goodput_per_s", "capacity_requests_per_s", "label", "usd_per_gpu_hour", "usd_per_million_output_tokens",
    "joules_per_output_token", "error",
)  # fmt: skip
_MOST_POINTS = 1_000_000

Settings = dict[str, Any]
Point = tuple[int, Settings]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Sweep:
    """One row per combination of settings: the settings by key, then results in SI units, named as in the predictions.

    Latencies are means in seconds (or the 99 % quantile where the key says so), rates of all GPUs unless the key says
    per GPU, memory_bytes of the fullest GPU. Results are None in a row with an `error`.
    """

    names: tuple[str, ...]  # keys that were varied, the last changing fastest
    results: tuple[str, ...]  # TRAINED or SERVED
    rows: tuple[dict[str, Any], ...]

    @property
    def failed(self) -> int:
        """Combinations that could not be predicted."""
        return sum(1 for row in self.rows if row["error"])


def read_settings(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """'cluster.gpus=64,128' as {"cluster.gpus": (64, 128)}; values are YAML. ScenarioError for anything else."""
    settings: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not name or not values.strip():
            raise ScenarioError(f"{text!r} sets nothing; write a key and its values, for example cluster.gpus=64,128")
        if name in settings:
            raise ScenarioError(f"{name} is set twice; list all its values once: {name}=a,b")
        try:
            settings[name] = tuple(parsed_plain(f"[{values}]"))
        except FileError as error:
            raise ScenarioError(f"{text[:100]!r}: {error}; quote values with commas or brackets") from None
    if not settings:
        raise ScenarioError("nothing is varied; give --set KEY=VALUE,VALUE at least once")
    return settings


def points(settings: Mapping[str, Sequence[Any]]) -> list[Settings]:
    """All combinations, the last setting changing fastest."""
    names = list(settings)
    count = 1
    for values in settings.values():
        count *= len(values)
    if count > _MOST_POINTS:
        raise ScenarioError(f"{count:,} combinations are more than {_MOST_POINTS:,}; vary fewer settings at once")
    return [dict(zip(names, combination, strict=True)) for combination in product(*settings.values())]


def with_settings(scenario: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The scenario with some keys replaced; keys are paths with dots. ScenarioError for paths through a value."""
    changed = deepcopy(dict(scenario))
    for path, value in settings.items():
        *parents, last = path.split(".")
        here: Any = changed
        if parents[:1] == ["model"] and isinstance(changed.get("model"), str):
            changed["model"] = {"base": changed["model"]}  # a field of the model's record: as {base: name, field: ...}
        for name in parents:
            here = here.setdefault(name, {})
            if not isinstance(here, dict):
                raise ScenarioError(f"{path}: {name} holds {here!r}, not keys; set {name} as a whole")
        here[last] = value
    return changed


def results_of(scenario: Mapping[str, Any]) -> tuple[str, ...]:
    """Columns of a scenario's answer: of serving where it has a serve section and nothing to train."""
    return SERVED if "serve" in scenario and "train" not in scenario else TRAINED


def evaluate(scenario: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """One point: its settings and results; a refusal is its `error`."""
    row: dict[str, Any] = {**settings, **dict.fromkeys(results_of(scenario))}
    answer = _served if results_of(scenario) is SERVED else _trained
    try:
        return row | answer(with_settings(scenario, settings))
    except Refusal as refusal:
        return row | {"error": str(refusal)}


def _served(scenario: dict[str, Any]) -> dict[str, Any]:
    from moesim.sim.serve.predict import predict_serve

    p = predict_serve(scenario, meets=False)
    return {
        "ttft_s": p.ttft_s.mean,
        "ttft_p99_s": p.ttft_s.p99,
        "tpot_s": p.tpot_s.mean,
        "tpot_p99_s": p.tpot_s.p99,
        "output_tokens_per_s": p.output_tokens_per_s,
        "output_tokens_per_s_per_gpu": p.output_tokens_per_s_per_gpu,
        "goodput_per_s": p.goodput_per_s,
        "capacity_requests_per_s": p.capacity_requests_per_s,
        "label": p.label,
        "usd_per_gpu_hour": p.cost.get("usd_per_gpu_hour"),
        "usd_per_million_output_tokens": p.cost.get("usd_per_million_output_tokens"),
        "joules_per_output_token": p.cost["joules_per_output_token"],
    }


def _trained(scenario: dict[str, Any]) -> dict[str, Any]:
    p = predict_train(scenario, check_memory=False)
    return {
        "step_time_s": p.step_time_s,
        "low_s": p.low_s,
        "high_s": p.high_s,
        "tokens_per_s": p.tokens_per_s,
        "tokens_per_s_per_gpu": p.tokens_per_s_per_gpu,
        "mfu": p.mfu,
        "memory_bytes": max(m.total for m in p.memory),
        "memory_fits": p.memory_fits,
        "gpu_hours_per_million_tokens": p.cost["gpu_hours_per_million_tokens"],
        "usd_per_gpu_hour": p.cost.get("usd_per_gpu_hour"),
        "usd_per_million_tokens": p.cost.get("usd_per_million_tokens"),
        "energy_joules_per_step": p.cost["energy_joules_per_step"],
    }


def key_of(settings: Settings) -> str:
    """How the journal names a point."""
    return json.dumps(settings, sort_keys=True, default=str)


def _task(scenario: Mapping[str, Any], point: Point) -> tuple[int, dict[str, Any]]:
    return point[0], evaluate(scenario, point[1])


def sweep(
    scenario: Asked,
    settings: Mapping[str, Sequence[Any]],
    *,
    journal: Journal | None = None,
    workers: int = 1,
    dask: str = "",
    progress: Progress | None = None,
) -> Sweep:
    """Predict every combination of settings, on this machine's cores or on a Dask cluster.

    scenario: a file's path, a mapping or a Scenario. One that only serves is served, any other trained.
    settings: values by key, keys with dots: {"cluster.gpus": (64, 128), "train.precision": ("bf16", "fp8")}; the last
        key changes fastest.
    journal: keeps finished points on disk, so that a sweep that was killed goes on where it stopped.
    workers: processes. dask: the address of a scheduler to run on instead. Same rows either way.

    The answer's `rows` are mappings: settings, then results in SI units; a combination that cannot be predicted has
    the reason in `error`. Raises ScenarioError for keys that lead nowhere and for more than a million combinations.
    """
    asked, varied = _mapping(scenario), _checked(settings)
    _check_keys(asked, varied)
    todo = points(varied)
    done = journal.done if journal is not None else {}
    rows = {i: done[key_of(s)] for i, s in enumerate(todo) if key_of(s) in done}
    left = [(i, s) for i, s in enumerate(todo) if i not in rows]
    results = answers(partial(_task, whole_paths(dict(asked))), left, workers, dask)
    for number, row in results:
        rows[number] = row
        if journal is not None:
            journal.add(key_of(todo[number]), row)
        if progress is not None:
            progress("predicting", len(rows), len(todo))
    return Sweep(tuple(settings), results_of(asked), tuple(rows[i] for i in range(len(todo))))


def _check_keys(asked: Mapping[str, Any], settings: Mapping[str, Sequence[Any]]) -> None:
    """ScenarioError for a key that leads nowhere: no point of it could ever be predicted."""
    for key in settings:
        section = key.partition(".")[0]
        if section in ("train", "serve") and section not in asked and ("train" in asked or "serve" in asked):
            verb = "trains" if section == "serve" else "serves"
            raise ScenarioError(f"--set {key}: this scenario only {verb}, and has no section {section}; leave it out")
    for key, values in settings.items():
        try:
            parse_scenario(with_settings(asked, {key: values[0]}))
        except ScenarioError as error:
            unknown = re.match(r"unknown key '([^']+)'", str(error))
            if "holds" in str(error) and str(error).startswith(f"{key}: "):
                raise
            if unknown and f"{key}.".startswith(f"{unknown.group(1)}."):
                raise ScenarioError(f"--set {key}: {error}") from None


def _mapping(scenario: Asked) -> Mapping[str, Any]:
    """The scenario as it is written, not checked: every point is checked with its settings."""
    if isinstance(scenario, Scenario):
        return scenario.model_dump(exclude_unset=True)
    if not isinstance(scenario, (str, Path, Mapping)):
        raise ScenarioError(f"a scenario is a file's path, a mapping or a Scenario, not {type(scenario).__name__}")
    return read_mapping(scenario) if isinstance(scenario, (str, Path)) else scenario


def _checked(settings: object) -> Mapping[str, Sequence[Any]]:
    """The settings, when they are lists of values by key. ScenarioError otherwise."""
    if not isinstance(settings, Mapping) or not settings:
        raise ScenarioError('nothing is varied; settings are values by key, for example {"cluster.gpus": (64, 128)}')
    for key, values in settings.items():
        if not isinstance(key, str) or not isinstance(values, (list, tuple)) or not values:
            raise ScenarioError(f"settings of {key!r} are {type(values).__name__}; give a list of values, at least one")
    return settings
