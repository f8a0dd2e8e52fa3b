"""Logs of nccl-tests and rccl-tests: tables of times behind any launcher's prefixes, with or without each column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from moesim.calibrate.own.bad_source import NCCL_LOG, BadSource
from moesim.calibrate.own.rank_lines import Placement, Ranks, placement
from moesim.files.opening import bounded, opened
from moesim.files.words import counted
from moesim.hwmodels.work import CommKind

_KIND_OF: dict[str, CommKind] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send",
    "broadcast": "broadcast",
}
UNREAD = ("reduce", "gather", "scatter", "hypercube", "alltoallv")  # no closed form of ours: named and left out
_TEST = re.compile(rf"\b({'|'.join((*_KIND_OF, 'alltoallv', *UNREAD))})_perf", re.IGNORECASE)
_STARTS = re.compile(r"Collective test starting|nThread|Using devices|nccl-tests version|rccl-tests", re.IGNORECASE)
_TYPES = (
    "int8|uint8|char|int32|uint32|int|int64|uint64|half|fp16|float16|float|fp32|float32|double|fp64|bfloat16|bf16|"
    "f8e4m3|f8e5m2|fp8_e4m3|fp8_e5m2|float8_e4m3|float8_e5m2"
)
_ROW = re.compile(rf"(?:^|[\s:|>\]])(\d+)\s+(\d+)\s+({_TYPES})\s+(\S.*)$", re.IGNORECASE)
_CUT_ROW = re.compile(rf"(?:^|[\s:|>\]])(\d+)\s+(\d+)(?:\s+({_TYPES}).*)?$", re.IGNORECASE)
_ENDS = re.compile(r"Out of bounds values|Avg bus bandwidth", re.IGNORECASE)
_AGREE = 0.02  # assumed: printed times and bandwidths agree to their last digits
_ROUNDING = 0.1  # assumed: errors of additions in any format are below, counts of wrong elements are not
_MOST_DIGITS = 18  # of a size in bytes
_ERRORS = re.compile(r"Test (?:NCCL|CUDA|HIP|RCCL) failure|NCCL failure|unhandled (?:cuda|system) error", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Timed:
    """One size of a table, out of place."""

    size_bytes: int  # the buffer of the whole operation, as `work.Comm` counts it
    seconds: float
    bus_ratio: float  # bus over algorithm bandwidth as printed
    wrong: bool


@dataclass(frozen=True, slots=True)
class NcclTest:
    """One test of a log: a collective, its ranks, and its sizes whose results were right."""

    kind: CommKind
    where: Placement
    rows: tuple[Timed, ...]
    log: str
    notes: tuple[str, ...]


@dataclass
class _Section:
    """A test while its lines are read."""

    name: str = ""
    ranks: Ranks = field(default_factory=Ranks)
    rows: list[Timed] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)  # lines of the table without a usable time, by what is wrong
    ended: bool = False


def read_nccl_log(path: Path) -> list[NcclTest]:
    """The tests of a log, in its order. BadSource names what is missing, and where."""
    sections, said = _sections(path)
    tests = [test for section in sections for test in _test_of(section, path)]
    unread = sorted({section.name for section in sections if section.name in UNREAD and section.rows})
    if unread:
        named = ", ".join(f"{name}_perf" for name in unread)
        said.append(f"{named}: no closed form of these here, left out")
    said += [
        f"{section.name}_perf: wrong results (#wrong > 0), left out as a whole"
        for section in sections
        if any(row.wrong for row in section.rows)
    ]
    said += [
        f"{_called(section)}: {counted(n, 'line')} with {what}, left out"
        for section in sections
        for what, n in section.odd.items()
    ]
    if tests:
        first = tests[0]
        return [NcclTest(first.kind, first.where, first.rows, first.log, (*said, *first.notes)), *tests[1:]]
    raise BadSource(_why_none(path, sections, unread))


def _called(section: _Section) -> str:
    return f"{section.name}_perf" if section.name else "a test without a name"


def _why_none(path: Path, sections: list[_Section], unread: list[str]) -> str:
    """What is missing, truthfully: a test that is read, its name, its times, right results."""
    if unread:
        able = ", ".join(f"{name}_perf" for name in _KIND_OF)
        return f"{path} holds only {', '.join(unread)}, which have no closed form here; moesim reads {able}"
    rows = [row for section in sections for row in section.rows]
    wrong = sum(row.wrong for row in rows)
    if wrong:
        return (
            f"{path}: {wrong} of {len(rows)} sizes have wrong results (#wrong > 0): times of a link or library that "
            "breaks data say nothing; mend it and run again"
        )
    odd = sum((section.odd for section in sections), Counter[str]())
    if not rows and odd:
        found = "; ".join(f"{n} with {what}" for what, n in odd.items())
        return f"{path}: {odd.total():,} lines of a table, none with a usable time ({found}); run the test again"
    if not rows:
        return f"{path} does not say any line of times; {NCCL_LOG.reads}: give the whole output of a test"
    return f"{path} does not say which test it is; name it as its file is called, such as all_reduce.log"


def _sections(path: Path) -> tuple[list[_Section], list[str]]:
    sections, said, last, lossy, failed = [_Section()], [], "", False, 0
    with opened(path, NCCL_LOG) as lines:
        for line in _lines(bounded(lines, str(path), NCCL_LOG)):
            lossy = lossy or "\ufffd" in line
            failed += bool(_ERRORS.search(line))
            _take(line, sections)
            last = line if line.strip() else last
    if lossy:
        said.append("bytes that are no UTF-8 were replaced")
    if failed:
        said.append(f"the log reports {failed} failures of the library")
    if sections[-1].rows and not sections[-1].ended:
        cut = _CUT_ROW.search(last) and not _timed(last)
        if cut and _ROW.search(last):
            sections[-1].odd[_wrong_with(last)] -= 1  # said here
            sections[-1].odd = +sections[-1].odd
        what = "its last line is cut off and left out" if cut else "its summary is missing"
        said.append(f"the log ends early: {what}")
    return sections, said


def _lines(stream: Iterator[str]) -> Iterator[str]:
    """Lines without colours, ends and carriage returns."""
    for line in stream:
        yield re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line[:4000]).rstrip("\r\n").replace("\r", "")


def _take(line: str, sections: list[_Section]) -> None:
    """Put one line into the test that it belongs to; a start line after times begins the next one."""
    here = sections[-1]
    row = _timed(line)
    if row is not None:
        here.rows.append(row)
        return
    if _ROW.search(line):
        here.odd[_wrong_with(line)] += 1
        return
    if _ENDS.search(line):
        here.ended = True
        return
    named = _TEST.search(line)
    name = named.group(1).lower() if named else ""
    begins = bool(here.rows) and (bool(name) or _STARTS.search(line) is not None)
    if begins:
        here = _Section(here.name, Ranks(**vars(here.ranks)))
        sections.append(here)
    if name:
        here.name = name
    if "Rank" in line and here.ranks.host_of and _begins_ranks(line):
        here.ranks = Ranks(per_host_asked=here.ranks.per_host_asked)
    here.ranks.read(line)


def _begins_ranks(line: str) -> bool:
    """Whether a new list of ranks begins."""
    return re.search(r"\bRank\s+0\s", line) is not None


def _size(digits: str) -> int:
    """Bytes of a buffer; 0 for more than an exabyte, which nobody has."""
    return int(digits) if len(digits) <= _MOST_DIGITS else 0


def _timed(line: str) -> Timed | None:
    """The out-of-place time of a table's line, found by what agrees: size over time is the algorithm bandwidth.

    So it does not matter which of root, redop and error a release prints, nor whether it counts milliseconds.
    """
    found = _ROW.search(line)
    if not found:
        return None
    size, rest = _size(found.group(1)), found.group(4).split()
    for at in range(min(4, len(rest) - 2)):
        values = [_number(cell) for cell in rest[at : at + 3]]
        if None in values or not size:
            continue
        time, algbw, busbw = (value or 0.0 for value in values)
        for unit_s in (1e-6, 1e-3):
            if time > 0.0 and algbw > 0.0 and _agree(size / (time * unit_s) / 1e9, algbw, time):
                return Timed(size, time * unit_s, busbw / algbw, _is_wrong(rest[at + 3 : at + 8]))
    return None


def _wrong_with(line: str) -> str:
    """Why a line of a table has no time out of place that can be taken."""
    found = _ROW.search(line)
    cells = found.group(4).split()[:7] if found else []
    if found and not _size(found.group(1)):
        return "buffers of no bytes, or of more than any memory holds"
    if any(re.fullmatch(r"[-+]?(nan|inf|infinity)", cell, re.IGNORECASE) for cell in cells):
        return "times or bandwidths of inf or nan"
    if any(cell.startswith("-") and _number(cell[1:]) and cell != "-1" for cell in cells):  # a root of -1 is none
        return "negative times or bandwidths"
    if sum(_number(cell) is not None for cell in cells) < 3:
        return "too few numbers"
    values = [_number(cell) for cell in cells]
    if any(value == 0.0 for value in values[:5]):
        return "a time or bandwidth of 0, which tells nothing of so small a buffer"
    return "times and bandwidths that do not agree"


def _is_wrong(after: list[str]) -> bool:
    """Whether the error column out of place, or the one in place behind three more numbers, is above rounding.

    New releases count wrong elements, old ones print the largest error (6e-08 of additions in 32 bits is none).
    """
    return any((_number(after[at]) or 0.0) > _ROUNDING for at in (0, 4) if len(after) > at)


def _agree(implied: float, printed: float, time: float) -> bool:
    """Whether a bandwidth is size over time, as far as the printed digits of both tell."""
    rounding = 0.0051 / printed + 0.051 / time
    return abs(implied / printed - 1.0) <= _AGREE + rounding and printed > 0.0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0.0 <= value < 1e15 else None


def _test_of(section: _Section, path: Path) -> list[NcclTest]:
    """The test of a section; none where it has no times, or is of a kind that is not read."""
    name = section.name
    if not name:
        name = section.name = _name_in_file(path)
    rows = section.rows
    if name not in _KIND_OF or not rows or any(row.wrong for row in rows):
        return []
    kind = _KIND_OF[name]
    implied = _implied_ranks(kind, rows)
    where = placement(section.ranks, implied, kind)
    if where.ranks < 2:
        alone = "; without MPI=1 each process tests alone" if where.ranks == 1 else ""
        raise BadSource(
            f"{path} does not say that there are two ranks or more ({where.ranks} found): its rank lines "
            f"(`#  Rank  0 ... on host device 0`) are missing, bandwidths of {name} do not tell: give it whole{alone}"
        )
    return [NcclTest(kind, where, tuple(rows), str(path), (*where.notes, *_odd_ratio(kind, where, rows)))]


def _name_in_file(path: Path) -> str:
    """The test that a file is called after, in any spelling: allreduce-8.log; "" for none."""
    squeezed = re.sub(r"[^a-z]", "", path.name.lower())
    known = sorted((*_KIND_OF, *UNREAD), key=len, reverse=True)
    return next((name for name in known if name.replace("_", "") in squeezed), "")


def _bus_ratio(kind: CommKind, ranks: int) -> float:
    """Bus over algorithm bandwidth (nccl-tests, doc/PERFORMANCE.md)."""
    if kind in ("send", "broadcast"):
        return 1.0
    return (ranks - 1) / ranks * (2.0 if kind == "all_reduce" else 1.0)


def _told_ratio(rows: list[Timed]) -> float:
    """The ratio that the larger half of the sizes prints: small bandwidths have too few digits."""
    return median(row.bus_ratio for row in sorted(rows, key=lambda row: row.size_bytes)[len(rows) // 2 :])


def _implied_ranks(kind: CommKind, rows: list[Timed]) -> int:
    """Ranks by bus over algorithm bandwidth; 0 where it does not depend on them, or hardly."""
    share = _told_ratio(rows) / (2.0 if kind == "all_reduce" else 1.0)
    if kind in ("send", "broadcast") or not 0.4 < share < 0.9975:
        return 0
    return max(2, round(1.0 / (1.0 - share)))


def _odd_ratio(kind: CommKind, where: Placement, rows: list[Timed]) -> list[str]:
    """Says where the bandwidths of a table are not those of as many ranks as its rank lines name."""
    told, meant = _told_ratio(rows), _bus_ratio(kind, where.ranks)
    if told <= 0.0 or abs(told / meant - 1.0) <= _AGREE:
        return []
    return [
        f"{kind}: bus over algorithm bandwidth is {told:.3f}, but {meant:.3f} for {where.ranks} ranks: times are "
        "taken, bus bandwidths are not"
    ]
