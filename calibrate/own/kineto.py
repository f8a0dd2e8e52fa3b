"""PyTorch profiler traces: kernels joined to the operator that launched them, and transfers of NCCL and RCCL.

A kernel names the launch it came from (correlation); the launch lies, in time and on its thread, inside the operator
that made it. Old traces number operators and kernels alike (External id) instead: used where no launch is recorded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from moesim.calibrate.own.bad_source import PROFILER_TRACE, BadSource
from moesim.calibrate.own.nesting import Nesting
from moesim.calibrate.own.operators import Kernel, is_read, operator_of, work_of_operator
from moesim.calibrate.own.transfers import TransferSample
from moesim.files.opening import opened, parsed_json
from moesim.hwmodels.work import CommKind

_LAUNCHES = ("cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver", "runtime", "privateuse1_runtime")
_OPERATORS = ("cpu_op", "operator", "")  # the oldest traces give operators no category
_COLLECTIVES: dict[str, CommKind] = {
    "allreduce": "all_reduce", "allreduce_coalesced": "all_reduce", "_allgather_base": "all_gather",
    "allgather": "all_gather", "allgather_into_tensor_coalesced": "all_gather",
    "_reduce_scatter_base": "reduce_scatter", "reduce_scatter": "reduce_scatter",
    "reduce_scatter_tensor_coalesced": "reduce_scatter",
    "all_to_all": "all_to_all", "all_to_allv": "all_to_all", "alltoall_base": "all_to_all", "broadcast": "broadcast",
}  # fmt: skip
_BYTES = {
    "float": 4, "float32": 4, "bfloat16": 2, "half": 2, "float16": 2, "byte": 1, "char": 1, "int": 4, "long": 8,
    "double": 8, "float8_e4m3fn": 1, "float8_e5m2": 1, "bool": 1, "uint8": 1, "int8": 1, "int32": 4, "int64": 8,
}  # fmt: skip


@dataclass
class TraceRead:
    """What traces hold: works with the seconds of their kernels, transfers, the GPU, and counts for refusals."""

    works: list[tuple[Kernel, float]] = field(default_factory=list)
    transfers: list[TransferSample] = field(default_factory=list)
    gpu: str = ""
    notes: list[str] = field(default_factory=list)
    kernels: int = 0
    operators: int = 0  # of the CPU, whether they launched anything or not
    joined: int = 0  # of the kernels, to an operator, with shapes or without
    with_shapes: int = 0
    graphs: int = 0  # of the kernels, launched by CUDA graphs, which keep no operators
    skipped: Counter[str] = field(default_factory=Counter)  # "aten::bmm is a batch ...": how often
    untimed: Counter[str] = field(default_factory=Counter)  # "kernels whose dur is text": how often

    def note(self, line: str) -> None:
        """Say something once."""
        if line not in self.notes:
            self.notes.append(line)


@dataclass(frozen=True, slots=True)
class _Thread:
    """Operators of one thread in order of start, the outer ones first."""

    nesting: Nesting
    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Launch:
    thread: tuple[Any, Any]
    at_s: float
    graph: bool


def read_trace(path: Path) -> TraceRead:
    """Everything that one trace tells. BadSource where the file is no trace, never for one that tells little."""
    with opened(path, PROFILER_TRACE) as stream:
        trace = parsed_json(stream.read(), f"trace {path}", PROFILER_TRACE)
    events = trace.get("traceEvents") if isinstance(trace, dict) else trace
    if not isinstance(events, list):
        found = "its JSON has " + (
            ", ".join(map(str, trace))[:80] if isinstance(trace, dict) and trace else "no events"
        )
        raise BadSource(f"trace {path} has no list traceEvents ({found}); {PROFILER_TRACE.reads}")
    told = trace if isinstance(trace, dict) else {}
    read = TraceRead(gpu=_device(told))
    whole = [
        e for e in events if isinstance(e, dict) and e.get("ph", "X") == "X" and isinstance(e.get("args", {}), dict)
    ]
    threads, by_external = _operators(whole, read)
    read.operators = sum(len(thread.events) for thread in threads.values())
    launches = _launches(whole, read)
    times: dict[int, float] = defaultdict(float)  # id of the operator's event -> seconds of its kernels
    held: dict[int, Mapping[str, Any]] = {}
    for event in whole:
        if str(event.get("cat", "")).lower() != "kernel":
            continue
        seconds = _microseconds(event, "dur", "kernels", read)
        if seconds is None:
            continue
        read.kernels += 1
        if _take_transfer(event, seconds, told, path, read):
            continue
        operator = _operator_behind(event, launches, threads, by_external, read)
        if operator is not None:
            number = operator["_number"]
            times[number] += seconds
            held[number] = operator
    for number, launched in held.items():
        _take_operator(launched, times[number], read)
    return read


def _microseconds(event: Mapping[str, Any], key: str, what: str, read: TraceRead) -> float | None:
    """A time of an event in seconds; None, counted by what is wrong, where it is none. Kernels take more than 0."""
    value = event.get(key)
    try:
        number = float("nan") if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    least = number > 0.0 if what == "kernels" else number >= 0.0 or key == "ts"
    if isfinite(number) and least:
        return number * 1e-6
    kind = "missing" if value is None else "text" if isinstance(value, str) else "no number"
    if isinstance(value, int | float) and not isinstance(value, bool):
        kind = "negative" if number < 0.0 else "0" if number == 0.0 else "nan or infinite"
    read.untimed[f"{what} whose {key} is {kind}"] += 1
    return None


def _device(told: Mapping[str, Any]) -> str:
    """The GPU as the trace's device properties name it."""
    devices = told.get("deviceProperties")
    names = [str(d.get("name", "")) for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    return next((name[:60] for name in names if name), "")


def _operators(events: list[dict[str, Any]], read: TraceRead) -> tuple[dict[Any, _Thread], dict[Any, dict[str, Any]]]:
    """Operators by thread, and by their External id."""
    spans: dict[Any, list[tuple[float, float, dict[str, Any]]]] = defaultdict(list)
    by_external: dict[Any, dict[str, Any]] = {}
    for number, event in enumerate(events):
        if str(event.get("cat", "")).lower() not in _OPERATORS:
            continue
        start = _microseconds(event, "ts", "operators", read)
        length = _microseconds(event, "dur", "operators", read) if "dur" in event else 0.0
        if start is None or length is None:
            continue
        event["_number"] = number
        spans[_hashable(event.get("pid")), _hashable(event.get("tid"))].append((start, start + length, event))
        external = _external(event)
        if external is not None:
            by_external[external] = event
    threads = {}
    for thread, held in spans.items():
        held.sort(key=lambda span: (span[0], -span[1]))
        threads[thread] = _Thread(Nesting([span[:2] for span in held]), tuple(span[2] for span in held))
    return threads, by_external


def _hashable(value: object) -> Any:
    return value if isinstance(value, int | float | str) else None


def _external(event: Mapping[str, Any]) -> Any:
    """The number that operators and what they launch share, in both spellings."""
    args = event.get("args", {})
    return _hashable(args.get("External id", args.get("external id")))


def _launches(events: list[dict[str, Any]], read: TraceRead) -> dict[Any, _Launch]:
    """Launches by correlation."""
    launches: dict[Any, _Launch] = {}
    for event in events:
        correlation = _hashable(event.get("args", {}).get("correlation"))
        if str(event.get("cat", "")).lower() not in _LAUNCHES or correlation is None:
            continue
        at = _microseconds(event, "ts", "launches", read)
        if at is None:
            continue
        thread = (_hashable(event.get("pid")), _hashable(event.get("tid")))
        launches[correlation] = _Launch(thread, at, "graphlaunch" in str(event.get("name", "")).lower())
    return launches


def _operator_behind(
    kernel: Mapping[str, Any],
    launches: Mapping[Any, _Launch],
    threads: Mapping[Any, _Thread],
    by_external: Mapping[Any, dict[str, Any]],
    read: TraceRead,
) -> Mapping[str, Any] | None:
    """The event of the operator that a kernel came from: the innermost that is of a kind that is read, else any."""
    args = kernel.get("args", {})
    launch = launches.get(_hashable(args.get("correlation")))
    if launch is not None:
        if launch.graph:
            read.graphs += 1
            return None
        thread = threads.get(launch.thread)
        around = [thread.events[number] for number in thread.nesting.around(launch.at_s)] if thread else []
        if around:
            return next((event for event in around if is_read(str(event.get("name", "")))), around[0])
    external = _external(kernel)
    if launch is not None and external == args.get("correlation"):  # not an operator's number
        return None
    return by_external.get(external)


def _take_operator(event: Mapping[str, Any], seconds: float, read: TraceRead) -> None:
    """One operator with the time of its kernels."""
    read.joined += 1
    args = event.get("args", {})
    values = args.get("Concrete Inputs") or args.get("Concrete Inputs ")
    op = operator_of(str(event.get("name", "")), args.get("Input Dims"), args.get("Input type"), values)
    if op is None:
        return
    read.with_shapes += 1
    work = work_of_operator(op)
    if isinstance(work, str):
        if is_read(op.name):
            read.skipped[f"{op.name} {work}"] += 1
        return
    read.works.append((work, seconds))


def _take_transfer(
    event: Mapping[str, Any], seconds: float, told: Mapping[str, Any], path: Path, read: TraceRead
) -> bool:
    """One collective with the sizes that NCCL's kernels carry; whether the kernel was one at all."""
    name = str(event.get("name", "")).lower()
    args = event.get("args", {})
    if not name.startswith(("nccldevkernel", "ncclkernel", "nccl:", "rccl")) and "Collective name" not in args:
        return False
    called = str(args.get("Collective name", "")).lower()
    kind = _COLLECTIVES.get(called)
    ranks, sent, received = (_count(args.get(key)) for key in ("Group size", "In msg nelems", "Out msg nelems"))
    size = _BYTES.get(str(args.get("dtype", "")).lower())
    if kind is None or not ranks or ranks < 2 or size is None:
        lacks = (
            f"collective {called!r} is not read" if called else "they carry no sizes (PyTorch 2.4 or later writes them)"
        )
        read.skipped[f"NCCL kernels: {lacks[:80]}"] += 1
        return True
    elements = {"all_gather": received, "reduce_scatter": sent}.get(kind, sent)
    if elements:
        read.transfers.append(
            TransferSample(kind, float(elements * size), seconds, ranks, _per_host(args, told, ranks), str(path))
        )
    return True


def _count(value: object) -> int:
    try:
        count = int(str(value))
    except ValueError:
        return 0
    return count if 0 < count < 1 << 48 else 0


def _per_host(args: Mapping[str, Any], told: Mapping[str, Any], ranks: int) -> int:
    """Ranks of a group that one host holds, by its ranks and the GPUs of a host; 0 where neither is recorded."""
    devices = told.get("deviceProperties")
    of_host = len(devices) if isinstance(devices, list) else 0
    listed = [int(n) for n in str(args.get("Process Group Ranks", "")).strip("[] ").split(",") if n.strip().isdigit()]
    if of_host and len(listed) == ranks:
        return max(Counter(rank // of_host for rank in listed).values())
    return min(ranks, of_host) if of_host and ranks <= of_host else 0


def why_no_shapes(read: TraceRead, name: str) -> str:
    """What a trace lacks, counted: no kernels at all, none joined, no shapes, or none of a kind that is read."""
    untimed = "; ".join(f"{n:,} {what}" for what, n in read.untimed.most_common(4))
    if not read.kernels and any(what.startswith("kernels") for what in read.untimed):
        return f"{name}: {untimed}: none has a time; dur is microseconds above 0, as export_chrome_trace writes it"
    if not read.kernels:
        return f"{name} holds no GPU kernels; record with activities=[CPU, CUDA]"
    count = f"{read.kernels:,} kernels" + (f" (left out: {untimed})" if untimed else "")
    if read.graphs and not read.with_shapes:
        return (
            f"{name}: {read.graphs:,} of {count} were launched by CUDA graphs, which keep no operators; profile a run "
            "without graphs (enforce_eager, --disable-cuda-graph)"
        )
    if not read.joined and read.operators:
        return (
            f"{name}: {count}, none launched by one of its {read.operators:,} operators: launches (cuda_runtime) are "
            "missing, or the trace was cut or filtered; give it whole, recorded with record_shapes=True"
        )
    if not read.joined:
        return (
            f"{name}: {count}, none joined to an operator: the trace holds no CPU side; record with "
            "activities=[CPU, CUDA] and record_shapes=True"
        )
    if not read.with_shapes:
        return (
            f"{name}: {count}, joined to {read.joined:,} operators without shapes: record_shapes=True was off; record "
            "with activities=[CPU, CUDA] and record_shapes=True"
        )
    why = "; ".join(f"{n:,} x {reason}" for reason, n in read.skipped.most_common(2))
    kinds = "mm, addmm, linear, _scaled_mm, _grouped_mm, scaled_dot_product"
    return f"{name}: {read.with_shapes:,} operators with shapes, none of them {kinds}" + (f" ({why})" if why else "")
