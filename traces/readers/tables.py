"""Tables with one request a line: our own CSV, Azure's, BurstGPT's."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass

from moesim.traces.readers.rows import FORMS, Loaded, Rows, loaded, prompt_of, tokens_of
from moesim.traces.readers.times import TimeReader, counted, reader_of_times
from moesim.traces.routing import BadTrace

_PREFIXES = ("prefix", "shared_prefix_tokens_infinite_cache", "cached_tokens")  # the last: of `serve --records`


@dataclass(frozen=True, slots=True)
class _Form:
    """Names of the columns of one published table."""

    time: str
    inputs: str
    outputs: str

    @property
    def needed(self) -> tuple[str, str, str]:
        return self.time, self.inputs, self.outputs


_OWN = _Form("arrival_s", "input_tokens", "output_tokens")
_FORMS = (
    _OWN,
    _Form("TIMESTAMP", "ContextTokens", "GeneratedTokens"),  # Azure LLM inference, 2023 and 2024
    _Form("Timestamp", "Request tokens", "Response tokens"),  # BurstGPT
)


def read_table(lines: Iterable[str], name: str) -> Loaded:
    """Requests of a CSV whose header is one of the known ones. BadTrace names line, column and what would do."""
    cells = csv.reader(lines, strict=True)
    try:
        return _read(cells, name)
    except csv.Error as error:
        raise BadTrace(f"trace {name}, line {cells.line_num}: not a CSV: {error}; moesim reads: {FORMS}") from None


def _read(lines: csv._reader, name: str) -> Loaded:  # type: ignore[name-defined]  # csv has no public name for it
    header = [cell.strip() for cell in next((cells for cells in lines if cells and any(cells)), [])]
    form = _form_of(header, name)
    lower = [cell.lower() for cell in header]
    twice = next((column for column in (*form.needed, *_PREFIXES) if lower.count(column.lower()) > 1), None)
    if twice is not None:
        raise BadTrace(f"trace {name} has column {twice} twice; leave one of them")
    time_at, input_at, output_at = (lower.index(column.lower()) for column in form.needed)
    prefix_at = next((lower.index(column) for column in _PREFIXES if column in lower), None) if form is _OWN else None
    rows = Rows()
    read_time: TimeReader | None = None
    for cells in lines:
        if not any(cell and not cell.isspace() for cell in cells):
            continue
        place = f"trace {name}, line {lines.line_num}"
        if len(cells) != len(header):
            raise BadTrace(f"{place}: {len(cells)} cells under {len(header)} columns")
        if read_time is None:
            read_time, said = _time_reader(form, cells[time_at], place)
            rows.said += said
        time_s = read_time(cells[time_at], place)
        inputs = prompt_of(cells[input_at].strip(), place, form.inputs)
        outputs = tokens_of(cells[output_at].strip(), place, form.outputs)
        if outputs < 1:
            rows.unanswered += 1
            continue
        rows.times_s.append(time_s)
        rows.inputs.append(inputs)
        rows.outputs.append(outputs)
        if prefix_at is not None:
            rows.prefixes.append(tokens_of(cells[prefix_at].strip(), place, "prefix"))
    longer = sum(prefix > prompt for prefix, prompt in zip(rows.prefixes, rows.inputs, strict=False))
    if longer:
        rows.said.append(f"prefix: rows with more tokens than their prompt has; all of it is taken: {longer:,}")
    return loaded(rows, name)


def _time_reader(form: _Form, first: str, place: str) -> tuple[TimeReader, list[str]]:
    if form is _OWN:
        return counted(form.time, 1.0), []
    return reader_of_times(first.strip(), form.time, place)


def _form_of(header: list[str], name: str) -> _Form:
    """The known table with these columns, in any order and case. BadTrace names what the nearest one lacks."""
    lower = {cell.lower() for cell in header}
    nearest = max(_FORMS, key=lambda form: sum(column.lower() in lower for column in form.needed))
    missing = [column for column in nearest.needed if column.lower() not in lower]
    if not missing:
        return nearest
    if len(missing) == len(nearest.needed):
        raise BadTrace(f"trace {name}: its first line is the header of no trace that is known; moesim reads: {FORMS}")
    has = ", ".join(column for column in nearest.needed if column not in missing)
    raise BadTrace(f"trace {name} lacks column {', '.join(missing)} beside {has}; moesim reads: {FORMS}")
