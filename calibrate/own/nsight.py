"""Nsight Systems reports exported as SQLite: kernels joined to the NVTX ranges in which PyTorch wrote their shapes.

Kernels have no shapes of their own. torch.autograd.profiler.emit_nvtx(record_shapes=True) writes an operator and its
sizes as the text of a range around its launches; formats are told by the kernels' names.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from moesim.calibrate.own.bad_source import PROFILER_TRACE, BadSource
from moesim.calibrate.own.kineto import TraceRead
from moesim.calibrate.own.nesting import Nesting
from moesim.calibrate.own.operators import Operator, dtype_of_kernel, is_read, operator_of_range, work_of_operator
from moesim.files.opening import Opening, check_plain

_HOW = "moesim reads the SQLite export of Nsight Systems: nsys export --type sqlite report.nsys-rep"
NSIGHT_EXPORT = Opening("", 8_000_000_000, BadSource, _HOW)
_MOST_ROWS = 5_000_000  # of a table; a longer run says nothing more
_NEEDED = ("CUPTI_ACTIVITY_KIND_KERNEL", "StringIds")
_SHAPES = (
    "run it under torch.autograd.profiler.emit_nvtx(record_shapes=True) with nsys profile --trace=cuda,nvtx, or use "
    "the PyTorch profiler with record_shapes=True"
)
_STEP, _MOST_STEPS = 1_000_000, 10_000  # instructions of the database between two looks, and looks


def is_nsight(path: Path, form: str = "") -> bool:
    """Whether a file is an SQLite database, by its first bytes; `form` is kineto or nsight where it is said.

    BadSource, in words of the form that is meant, for what cannot be opened, and for a report that is not exported.
    """
    report = path.suffix in (".nsys-rep", ".qdrep")
    check_plain(path, PROFILER_TRACE if form == "kineto" and not report else NSIGHT_EXPORT)
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise BadSource(f"cannot read {path}: {error.strerror}") from None
    exported = head.startswith(b"SQLite format 3\0")
    if not exported and (report or (form == "nsight" and not _is_trace(head))):
        raise BadSource(f"export {path} is no SQLite file; {_HOW}")
    return exported


def _is_trace(head: bytes) -> bool:
    """Whether a file begins as JSON does, or is packed: a trace of PyTorch under the other name."""
    return head.startswith(b"\x1f\x8b") or head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def read_nsight(path: Path) -> TraceRead:
    """Works with the seconds of their kernels. BadSource says which tables or ranges are missing, and what would do."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as base:
            base.execute("PRAGMA query_only = 1")
            base.set_progress_handler(_Budget().spent, _STEP)
            return _read(base, path)
    except sqlite3.Error as error:
        raise BadSource(f"export {path} is a broken SQLite file ({str(error)[:80]}); {_HOW}") from None


class _Budget:
    """Ends a query that works for minutes: no export of a run that a person profiles does."""

    def __init__(self) -> None:
        self.left = _MOST_STEPS

    def spent(self) -> bool:
        """Called every _STEP instructions of the database; True interrupts it."""
        self.left -= 1
        return self.left < 0


def _read(base: sqlite3.Connection, path: Path) -> TraceRead:
    tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    lacking = [table for table in _NEEDED if table not in tables]
    if lacking:
        raise BadSource(f"export {path} lacks table {', '.join(lacking)}: no CUDA kernels were traced; {_HOW}")
    read = TraceRead(gpu=_gpu(base, tables))
    kernels = _kernels(base, read)
    read.kernels = len(kernels)
    if not kernels and read.untimed:
        untimed = "; ".join(f"{n:,} {what}" for what, n in read.untimed.items())
        raise BadSource(f"export {path}: {untimed}: no kernel has a time; export the report again; {_HOW}")
    if not kernels:
        raise BadSource(f"export {path} holds no kernels; profile with --trace=cuda,nvtx")
    if "NVTX_EVENTS" not in tables or "CUPTI_ACTIVITY_KIND_RUNTIME" not in tables:
        lacks = [t for t in ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME") if t not in tables]
        raise BadSource(
            f"export {path}: {len(kernels):,} kernels, but no shapes: it lacks table {', '.join(lacks)}; {_SHAPES}"
        )
    launches = _launches(base)
    ranges = _ranges(base)
    if not ranges:
        raise BadSource(f"export {path}: {len(kernels):,} kernels, none in an NVTX range with sizes; {_SHAPES}")
    nesting = {thread: Nesting([span[:2] for span in spans]) for thread, spans in ranges.items()}
    times: dict[tuple[Any, int], float] = defaultdict(float)
    formats: dict[tuple[Any, int], str] = {}
    for correlation, process, seconds, name in kernels:
        launch = launches.get((correlation, process))
        spans = ranges.get(launch[0], []) if launch else []
        if launch is None or not spans:
            continue
        around = list(nesting[launch[0]].around(launch[1]))
        if not around:
            continue
        found = next((i for i in around if is_read(spans[i][2].name)), around[0])
        read.joined += 1
        times[launch[0], found] += seconds
        formats[launch[0], found] = formats.get((launch[0], found)) or dtype_of_kernel(name)
    for key, seconds in times.items():
        _take(ranges[key[0]][key[1]][2], seconds, formats[key], read)
    return read


def _take(op: Operator, seconds: float, dtype: str, read: TraceRead) -> None:
    read.with_shapes += 1
    work = work_of_operator(op, dtype)
    if not isinstance(work, str):
        read.works.append((work, seconds))
    elif is_read(op.name):
        unsaid = "" if dtype else " (no kernel name says the format)"
        read.skipped[f"{op.name} {work}{unsaid}"] += 1


def _gpu(base: sqlite3.Connection, tables: set[str]) -> str:
    if "TARGET_INFO_GPU" not in tables:
        return ""
    row = base.execute("SELECT name FROM TARGET_INFO_GPU LIMIT 1").fetchone()
    return str(row[0])[:60] if row and row[0] else ""


def _columns(base: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in base.execute(f"PRAGMA table_info({table})")}


def _process(global_id: object) -> int:
    """The process of a thread: Nsight packs it above the lowest 24 bits."""
    return int(global_id) >> 24 if isinstance(global_id, int) else 0


def _kernels(base: sqlite3.Connection, read: TraceRead) -> list[tuple[int, int, float, str]]:
    """(correlation, process, seconds, name) of every kernel."""
    have = _columns(base, "CUPTI_ACTIVITY_KIND_KERNEL")
    name = "demangledName" if "demangledName" in have else "shortName"
    process = "k.globalPid" if "globalPid" in have else "0"
    rows = base.execute(
        f"SELECT k.correlationId, {process}, k.end - k.start, s.value FROM CUPTI_ACTIVITY_KIND_KERNEL k "
        f"LEFT JOIN StringIds s ON s.id = k.{name} LIMIT {_MOST_ROWS}"
    )
    kernels = []
    for correlation, process_id, ns, called in rows:
        if isinstance(ns, int) and ns > 0:
            kernels.append((correlation, _process(process_id), ns * 1e-9, str(called or "")))
        else:
            read.untimed["kernels whose end is not behind their start"] += 1
    return kernels


def _launches(base: sqlite3.Connection) -> dict[tuple[int, int], tuple[Any, int]]:
    """Thread and nanosecond of every launch, by correlation and process."""
    rows = base.execute(f"SELECT correlationId, globalTid, start FROM CUPTI_ACTIVITY_KIND_RUNTIME LIMIT {_MOST_ROWS}")
    return {(c, _process(tid)): (tid, start) for c, tid, start in rows if isinstance(start, int)}


Range = tuple[int, int, Operator]


def _ranges(base: sqlite3.Connection) -> dict[Any, list[Range]]:
    """Ranges with sizes of every thread in order of start: start and end in nanoseconds, and the operator."""
    have = _columns(base, "NVTX_EVENTS")
    text = "COALESCE(e.text, s.value)" if "textId" in have else "e.text"
    join = "LEFT JOIN StringIds s ON s.id = e.textId" if "textId" in have else ""
    rows = base.execute(
        f"SELECT e.start, e.end, e.globalTid, {text} FROM NVTX_EVENTS e {join} "
        f"WHERE e.end IS NOT NULL LIMIT {_MOST_ROWS}"
    )
    threads: dict[Any, list[Range]] = defaultdict(list)
    for start, end, thread, said in rows:
        op = operator_of_range(said) if isinstance(said, str) and "sizes = " in said else None
        if op is not None and isinstance(start, int) and isinstance(end, int):
            threads[thread].append((start, end, op))
    for spans in threads.values():
        spans.sort(key=lambda span: (span[0], -span[1]))
    return threads
