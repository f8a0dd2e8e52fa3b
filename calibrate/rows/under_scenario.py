"""Rows that name a scenario file: it says what their cells leave open, and whatever both say must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.calibrate.rows.kinds import SERVING, TRAINING, Table
from moesim.calibrate.rows.recomputed import recompute_of
from moesim.calibrate.rows.stated import settings_of, yes_no
from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.hardware import hardware_of
from moesim.sim.model.arch import ArchError
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError, parse_scenario, read_mapping
from moesim.sim.software.stack import stack_named

Raw = dict[str, Any]
# column -> where a scenario says the same: whole numbers
_WHOLE = {
    "gpus": ("cluster", "gpus"), "gpus_per_node": ("cluster", "gpus_per_node"), "tp": ("layout", "tp"),
    "pp": ("layout", "pp"), "vpp": ("layout", "vpp"), "cp": ("layout", "cp"), "ep": ("layout", "ep"),
    "etp": ("layout", "etp"), "gbs": ("train", "global_batch"), "mbs": ("train", "micro_batch"),
    "seq_len": ("train", "seq_len"), "attention_dp": ("serve", "attention_dp"),
}  # fmt: skip
_YES_NO = {"mtp": ("train", "mtp"), "sequence_parallel": ("layout", "sequence_parallel")}


@lru_cache(maxsize=64)
def _file(path: str, changed_ns: int, size_bytes: int) -> Raw:
    """The file as it was at that time: one that is written again is read again."""
    raw = read_mapping(path)
    parse_scenario(raw)
    return raw


def scenario_file(path: str | Path) -> Raw:
    """The mapping of a scenario file, checked. ScenarioError names the file and what is wrong."""
    try:
        status = Path(path).stat()
        return deepcopy(_file(str(path), status.st_mtime_ns, status.st_size))
    except (OSError, ValueError) as error:
        if not isinstance(error, ScenarioError):
            raise ScenarioError(f"{str(path)[:200]}: no such scenario file; `moesim init` writes one") from None
        said = str(error)
        name = str(path)[:200]
        raise ScenarioError(said if said.startswith(name) else f"{name}: {said}") from None


def cells_of(raw: Raw, table: Table) -> dict[str, str]:
    """What a scenario states, as cells: for files whose own cells are checked against it, and for what they lack."""
    cells: dict[str, str] = {}
    for column, (section, key) in _WHOLE.items():
        value = _at(raw, section, key)
        if isinstance(value, int) and column in table.workload:
            cells[column] = str(value)
    model = raw.get("model")
    cells["model"] = model if isinstance(model, str) else str((model or {}).get("base") or "inline")
    cluster = parse_scenario(raw).cluster
    node = build_cluster(cluster.node, 1, hardware=hardware_of(cluster.hardware)) if cluster.node else None
    gpu = cluster.gpu or (node.gpu.name if node else "")
    if gpu or raw.get("profile"):  # a machine of one's own is named by its profile
        cells["gpu"] = str(gpu or raw["profile"])
    if table is TRAINING:
        cells["precision"] = str(_at(raw, "train", "precision") or "")
        stack = raw.get("stack")
        cells["stack"] = str(stack.get("name") or "") if isinstance(stack, dict) else str(stack or "")
    else:
        engine = _at(raw, "serve", "engine")
        cells["precision"] = str(_at(raw, "serve", "precision") or "")
        cells["engine"] = str(engine.get("name") or "vllm") if isinstance(engine, dict) else str(engine or "vllm")
        if isinstance(engine, dict):
            cells["engine_version"] = str(engine.get("version") or "")
    return {name: text for name, text in cells.items() if text}


def _at(raw: Mapping[str, Any], section: str, key: str) -> Any:
    inside = raw.get(section)
    return inside.get(key) if isinstance(inside, Mapping) else None


def differ(column: str, one: str, other: str) -> bool:
    """Whether two cells of a column say different things: spellings of a GPU, model, number or precision aside."""
    if one.strip().lower() == other.strip().lower():
        return False
    reading = {"gpu": _gpu, "model": _model, "precision": _precision, "software": stack_named}.get(column, _plain)
    return bool(reading(one) != reading(other))


def _gpu(text: str) -> str:
    try:
        return load_gpu(text).name
    except FactError:
        return text


def _model(text: str) -> str:
    try:
        return load_model(text).name
    except ArchError:
        return text


def _precision(text: str) -> str:
    from moesim.calibrate.rows.training import precision_of

    try:
        return precision_of(text)
    except ScenarioError:
        return text


def _plain(text: str) -> str:
    try:
        return f"{float(text):g}"
    except ValueError:
        return text.strip().lower()


def training_under(row: Row) -> tuple[Raw, list[str]]:
    """The scenario of a training row that names one, with what only the row states. ScenarioError where both differ."""
    raw = _checked(row, TRAINING)
    said = [f"scenario = {text_of(row, 'scenario')}: what the row's cells leave open"]
    _fill_numbers(row, raw)
    train, layout = raw["train"], raw.setdefault("layout", {})
    for column, (section, key) in _YES_NO.items():
        word = yes_no(row, column)
        if word is not None:
            raw[section].setdefault(key, word)
    for column, place, key, read in _WORDS:
        if text_of(row, column):
            {"train": train, "layout": layout}[place].setdefault(key, read(text_of(row, column)))
    stack = raw.get("stack") or {}
    stack = dict(stack) if isinstance(stack, dict) else {"name": stack}
    name = text_of(row, "stack") or stack_named(text_of(row, "software")) or ""
    if name:
        stack.setdefault("name", name)
    for key, value in settings_of(row).items():
        stack.setdefault(key, value)
    if stack:
        raw["stack"] = stack
    if "balanced" in text_of(row, "routing").lower():
        raw.setdefault("routing", "balanced")
    return raw, said


def _digit(text: str) -> int:
    return int(next((c for c in text if c.isdigit()), "0"))


def _precision_word(text: str) -> str:
    from moesim.calibrate.rows.training import precision_of

    return precision_of(text)


_WORDS: tuple[tuple[str, str, str, Callable[[str], Any]], ...] = (
    ("precision", "train", "precision", _precision_word),
    ("recompute", "train", "recompute", recompute_of),
    ("zero", "layout", "zero", _digit),
)


def serving_under(row: Row, requests: Raw) -> tuple[Raw, list[str]]:
    """The scenario of a serving row that names one, under the row's load. ScenarioError where both differ."""
    raw = _checked(row, SERVING)
    _fill_numbers(row, raw)
    raw["serve"]["requests"] = requests
    return raw, [f"scenario = {text_of(row, 'scenario')}: its deployment under the row's load"]


def _checked(row: Row, table: Table) -> Raw:
    """The scenario that a row names. ScenarioError where it lacks what the row is of, or both say different things."""
    path = text_of(row, "scenario")
    raw = scenario_file(path)
    section = "serve" if table is SERVING else "train"
    if not raw.get(section):
        raise ScenarioError(f"column scenario: {path} has no section {section}, which a row of this kind needs")
    for column, text in cells_of(raw, table).items():
        own = text_of(row, column)
        if own and text != "inline" and differ(column, own, text):
            raise ScenarioError(f"column {column}: {own[:40]!r}, but {path} says {text[:40]!r}; mend one of them")
    return raw


def _fill_numbers(row: Row, raw: Raw) -> None:
    """Whole numbers that only the row states."""
    for column, (section, key) in _WHOLE.items():
        value = whole_of(row, column)
        if value and (section in raw or section == "layout"):
            raw.setdefault(section, {}).setdefault(key, value)
