"""load_measured: any file of measured runs as rows: a CSV, a training log, or a result of a benchmark of serving."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from moesim.calibrate.rows.cells import counted, text_of
from moesim.calibrate.rows.files import BadRows, RowFile, load_rows, rows_of
from moesim.calibrate.rows.kinds import SERVING, TABLES, TRAINING, Table
from moesim.calibrate.rows.measured.deepspeed import DeepSpeedLog
from moesim.calibrate.rows.measured.engine_results import engine_results, is_engine_result
from moesim.calibrate.rows.measured.inferencemax import inferencemax, is_inferencemax
from moesim.calibrate.rows.measured.load_generators import genai_perf, guidellm, is_genai_perf, is_guidellm
from moesim.calibrate.rows.measured.megatron import MegatronLog
from moesim.calibrate.rows.measured.nemo import NemoLog
from moesim.calibrate.rows.measured.told import FORMS, MEASURED_FILE, Told, bare
from moesim.calibrate.rows.measured.torchtitan import TorchtitanLog
from moesim.calibrate.rows.under_scenario import cells_of, differ, scenario_file
from moesim.files.opening import bounded, opened, parsed_json
from moesim.hwmodels.facts import did_you_mean

_LONGEST_LINE = 20_000
_MOST_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """Rows ready to be predicted, and what was read, assumed and left out."""

    file: RowFile
    notes: tuple[str, ...] = ()


def load_measured(
    path: str | Path, scenario: str | Path | None = None, settings: Mapping[str, str] | None = None
) -> Loaded:
    """Rows of a file in any of FORMS. BadRows or ScenarioError says what the file lacks, or contradicts.

    scenario: a scenario file that says what the file leaves open. settings: cells by column, for what neither says.
    A CSV is taken as it is where neither is given.
    """
    file = Path(path)
    told = None if file.suffix.lower() == ".csv" else _read(file)
    if told is None:
        rows = load_rows(file)
        if scenario is None and not settings:
            return Loaded(rows)
        told = Told("CSV of runs", rows.rows)
    table = _table_of(told)
    return _completed(told, table, file, scenario, dict(settings or {}))


def _table_of(told: Told) -> Table:
    logs = (MegatronLog.form, NemoLog.form, TorchtitanLog.form, DeepSpeedLog.form)
    if told.form == "CSV of runs":
        from moesim.calibrate.rows.kinds import table_of

        return table_of(told.rows[0])
    return TRAINING if told.form in logs else SERVING


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(file: Path) -> Told | None:
    """What the file tells; None for a CSV."""
    with opened(file, MEASURED_FILE) as text:
        head: list[str] = []
        for line in text:
            head.append(line[:_LONGEST_LINE])
            if line.strip():
                break
        first = head[-1].strip() if head else ""
        if not first:
            raise BadRows(f"{file} is empty; {MEASURED_FILE.reads}")
        if first[0] in "{[" and not re.match(r"\[[^{\[]*[A-Za-z:]", first):
            return _result("".join(head[:-1]) + head[-1] + text.read(), file)
        if _is_header(first):
            return None
        return _log(chain(head, text), file)


@contextmanager
def _of(file: Path) -> Iterator[None]:
    """Refusals of what stands in a file, with its name."""
    try:
        yield
    except BadRows as refusal:
        raise BadRows(f"{file}: {refusal}") from None


def _is_header(line: str) -> bool:
    """Whether a line is the header of a CSV of runs: two columns of ours or more."""
    cells = {cell.strip() for cell in line.lstrip("\ufeff").split(",")}
    return any(len(cells & set(table.workload)) >= 2 for table in TABLES)


def _log(lines: Iterator[str] | TextIO | chain[str], file: Path) -> Told:
    readers = (MegatronLog(), NemoLog(), TorchtitanLog(), DeepSpeedLog())
    lossy = False
    for line in bounded(lines, str(file), MEASURED_FILE):
        lossy = lossy or "\ufffd" in line
        plain = bare(line[:_LONGEST_LINE])
        for reader in readers:
            reader.take(plain)
    with _of(file):
        told = next((told for told in (reader.told() for reader in readers) if told is not None), None)
    if told is None:
        raise BadRows(
            f"{file} holds no line with a step time that is known, and is no table or result; it is read: {FORMS}"
        )
    if lossy:
        return Told(told.form, told.rows, (*told.notes, "bytes that are no UTF-8 were replaced"), told.asks, told.pace)
    return told


def _result(text: str, file: Path) -> Told:
    """A JSON object, a list of them, or one a line."""
    records, cut = _records(text, file)
    if not records or not all(isinstance(record, Mapping) for record in records):
        raise BadRows(f"{file} holds JSON, but no objects of results; {MEASURED_FILE.reads}")
    if len(records) > _MOST_ROWS:
        raise BadRows(f"{file} holds {len(records):,} results; at most {_MOST_ROWS:,} are read")
    with _of(file):
        told = _told_by(records)
    if told is None:
        keys = ", ".join(map(str, records[0]))[:100]
        raise BadRows(f"{file} holds a result of no form that is known (its keys: {keys}); {MEASURED_FILE.reads}")
    if not any(_measured_of(row, SERVING) for row in told.rows):
        raise BadRows(f"{file} ({told.form}) is without a measured value: no latency and no rate is above zero")
    return Told(told.form, told.rows, (*cut, *told.notes), told.asks)


def _told_by(records: list[Any]) -> Told | None:
    if is_inferencemax(records):
        return inferencemax(records)
    if all(is_engine_result(record) for record in records):
        return engine_results(records)
    if len(records) == 1 and is_genai_perf(records[0]):
        return genai_perf(records[0])
    if len(records) == 1 and is_guidellm(records[0]):
        return guidellm(records[0])
    return None


def _records(text: str, file: Path) -> tuple[list[Any], list[str]]:
    """The objects of a file, and whether its last line was cut off."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines):
        whole = [parsed_json(line, f"{file}, line {i}", MEASURED_FILE) for i, line in enumerate(lines[:-1], 1)]
        try:
            return [*whole, parsed_json(lines[-1], f"{file}, line {len(lines)}", MEASURED_FILE)], []
        except BadRows:
            return whole, ["the last line is cut off and left out"]
    parsed = parsed_json(text, str(file), MEASURED_FILE)
    return (parsed, []) if isinstance(parsed, list) else ([parsed], [])


# -- completing -------------------------------------------------------------------------------------------------------


def _completed(told: Told, table: Table, file: Path, scenario: str | Path | None, settings: dict[str, str]) -> Loaded:
    """The rows with what a scenario and settings say. BadRows where these contradict the file or say too little."""
    settings = counted(settings)
    _check_settings(settings, table)
    lent = cells_of(scenario_file(scenario), table) if scenario is not None else {}
    rows, notes = [], list(told.notes)
    for number, own in enumerate(told.rows, 1):
        row = counted(own)
        place = f"{file}" if len(told.rows) == 1 else f"{file}, row {number}"
        _agree(row, settings, f"{place} says", "--set")
        row |= settings
        if scenario is not None:
            _agree(row, lent, f"{place} says", str(scenario))
            row |= {name: text for name, text in lent.items() if not text_of(row, name) and name in table.workload}
            row["scenario"] = str(scenario)
        rows.append(row)
    _check_complete(told, table, rows, file, () if scenario is not None else told.asks)
    if told.pace is not None:
        for row in rows:
            with _of(file):
                cells, said = told.pace.settled(row)
            row |= cells
            notes += said
    if table is TRAINING and told.form != "CSV of runs" and not any(_measured_of(row, table) for row in rows):
        raise BadRows(f"{file} ({told.form}) is without a positive step time; nothing to compare")
    for number, row in enumerate(rows, 1):
        row.setdefault("id", f"{file.stem}-{number}" if len(rows) > 1 else file.stem)
        row.setdefault("source", told.form)
    made = rows_of(rows, str(file), table)
    read = f"{told.form}: {len(rows)} row{'s' if len(rows) > 1 else ''}"
    return Loaded(made, (read, *dict.fromkeys(notes)))


def _measured_of(row: Mapping[str, str], table: Table) -> bool:
    return any(row.get(metric) for metric in table.metrics)


def _check_settings(settings: Mapping[str, str], table: Table) -> None:
    for name in settings:
        if name not in table.workload or name == "scenario":
            hint = did_you_mean(name, [column for column in table.workload if column != "scenario"])
            raise BadRows(f"--set {name[:40]}: no column of {table.name} rows; {hint}")


def _agree(row: Mapping[str, str], other: Mapping[str, str], place: str, whose: str) -> None:
    """BadRows where both say something, and not the same."""
    for name, text in other.items():
        own = text_of(row, name)
        if own and text != "inline" and differ(name, own, text):
            raise BadRows(f"{place} {name} = {own[:60]}, but {whose} says {text[:60]}; mend one of them")


def _check_complete(told: Told, table: Table, rows: list[dict[str, str]], file: Path, asks: tuple[str, ...]) -> None:
    """BadRows that names every cell that is still missing, and how to give it."""
    needed = [*table.needed, *asks]
    if told.pace is not None:
        needed += told.pace.needs
    if table is SERVING:
        needed = [name for name in needed if name != "concurrency"]
    missing = list(dict.fromkeys(name for name in needed if not all(text_of(row, name) for row in rows)))
    if table is TRAINING and not all(text_of(row, "pp") or text_of(row, "dp") or row.get("scenario") for row in rows):
        missing.append("pp")
    if table is SERVING and not all(text_of(r, "concurrency") or text_of(r, "arrival") for r in rows):
        missing.append("concurrency")
    if table is SERVING and all(text_of(row, "prefill_workers") for row in rows):
        missing = [name for name in missing if name != "tp"]
    if missing:
        example = " ".join(f"--set {name}={_EXAMPLE.get(name, '...')}" for name in missing[:4])
        notes = [note for note in told.notes if note.startswith("sizes (")]
        raise BadRows(
            f"{file} ({told.form}) does not say {', '.join(missing)}{'; its ' + notes[0] if notes else ''}; give "
            f"a scenario of the run (moesim validate {file.name} --scenario my.yaml) or {example}"
        )


_EXAMPLE = {
    "gpu": "H100", "gpus": "8", "tp": "8", "precision": "bf16", "engine": "vllm", "model": "llama-3.1-8b",
    "isl": "1024", "osl": "1024", "seq_len": "4096", "gbs": "256", "concurrency": "64", "pp": "1",
}  # fmt: skip


def settings_asked(texts: list[str]) -> dict[str, str]:
    """'tp=8' as column and cell. BadRows for anything else, and for a column that is set twice."""
    asked: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadRows(f"--set {text[:60]!r}: write COLUMN=VALUE, as --set gpu=H100")
        if name.strip() in asked:
            raise BadRows(f"--set {name.strip()[:40]} is given twice")
        asked[name.strip()] = value.strip()
    return asked
