"""A simulated step as a Chrome trace: opens in Perfetto (ui.perfetto.dev) and chrome://tracing.

Slots and transfers between them are always there. A recorded step also has what runs inside its slots, a track per
stream, and how full the wires of every rank are, as counters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moesim.files.whole import replacing
from moesim.reports.tables.train import WIRE_TITLES
from moesim.sim.layout.pipeline import Slot
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.wire_use import stretches, wire_use

_US = 1e6  # the format counts microseconds
_THREADS = {"compute": 1, "comm": 2, "host": 3, "dp": 4, "down": 20, "cpu": 21, "up": 22, "dp.after": 23}
_END = 5  # the thread of what follows the pipeline: optimizer and fixed costs
_INSIDE = {"compute": 6, "comm": 7, "gather": 8, "up": 9}  # streams inside slots
_SENDS = 100  # and more: one thread per rank that is sent to
PHASE_TITLES = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "FB": "forward + backward, overlapped",
}


def write_chrome_trace(p: Prediction, path: str | Path) -> None:
    """Write the trace. OutputError when the file cannot be written."""
    file = Path(path)
    with replacing(file) as beside, beside.open("w", encoding="utf-8") as handle:
        json.dump(chrome_trace(p), handle, separators=(",", ":"), allow_nan=False)
        handle.write("\n")


def chrome_trace(p: Prediction) -> dict[str, Any]:
    """The trace, in microseconds: a process per pipeline rank; threads compute, host, dp, one per rank it sends to.

    Where GPUs of a stage differ, times are the latest member's, and wires the busiest one's.
    """
    job = p.resolved.job
    return {
        "traceEvents": [*_names(p), *_slices(p), *_inside(p), *_tail(p), *_counters(p)],
        "displayTimeUnit": "ms",
        "otherData": {
            "model": job.arch.name,
            "cluster": job.cluster.name,
            "stack": job.stack.name,
            "schedule": job.layout.schedule,
            "step_time_s": p.step_time_s,
        },
    }


def _meta(kind: str, pid: int, tid: int, **args: str | int) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}


def _names(p: Prediction) -> Iterator[dict[str, Any]]:
    layout, lanes = p.resolved.job.layout, p.step.timeline.program.lanes
    inside = {(s.rank, s.stream) for s in stretches(p.step)}
    for rank in p.step.timeline.ranks():
        held = [rank, layout.pp - 1 - rank] if layout.schedule == "dualpipe" else layout.chunks_of(rank)
        shown = f"stage {', '.join(map(str, held))}"
        yield _meta("process_name", rank, 0, name=f"pipeline rank {rank} ({shown})")
        yield _meta("process_sort_index", rank, 0, sort_index=rank)
        used = {lane.stream for lane in lanes if lane.rank == rank}
        for stream in sorted(used, key=_thread):
            yield _meta("thread_name", rank, _thread(stream), name=stream)
            yield _meta("thread_sort_index", rank, _thread(stream), sort_index=_thread(stream))
        for stream in sorted((name for of, name in inside if of == rank), key=_inside_thread):
            yield _meta("thread_name", rank, _inside_thread(stream), name=f"inside slots: {stream}")
            yield _meta("thread_sort_index", rank, _inside_thread(stream), sort_index=_inside_thread(stream))
        yield _meta("thread_name", rank, _END, name="end of step")
        yield _meta("thread_sort_index", rank, _END, sort_index=_END)


def _thread(stream: str) -> int:
    kind, _, target = stream.partition(".")
    return _SENDS + int(target) if kind == "send" else _THREADS.get(stream, len(_THREADS) + 2)


def _inside_thread(stream: str) -> int:
    return _INSIDE.get(stream, len(_INSIDE) + 6)


def slot_args(slot: Slot) -> dict[str, int | str]:
    """Phase, micro-batch and stage of a slot; of both halves for an overlapped pair."""
    args: dict[str, int | str] = {
        "phase": PHASE_TITLES.get(slot.phase, slot.phase),
        "micro_batch": slot.micro_batch,
        "stage": slot.stage,
    }
    if slot.phase == "FB":
        args |= {"micro_batch_backward": slot.micro_batch_b, "stage_backward": slot.stage_b}
    return args


def _slices(p: Prediction) -> Iterator[dict[str, Any]]:
    """Complete events; slots are named by phase and micro-batch, so that Perfetto colours them by phase."""
    timeline = p.step.timeline
    for item, (label, lane) in enumerate(zip(timeline.program.labels, timeline.program.lane_of, strict=True)):
        slot = p.step.slots.get(item)
        start, end = timeline.start_s[item], timeline.end_s[item]
        yield {
            "ph": "X",
            "name": _slot_name(slot) if slot else label,
            "cat": lane.stream,
            "pid": lane.rank,
            "tid": _thread(lane.stream),
            "ts": start * _US,
            "dur": (end - start) * _US,
            "args": slot_args(slot) if slot else {},
        }


def _slot_name(slot: Slot) -> str:
    if slot.phase == "FB":
        return f"forward {slot.micro_batch} + backward {slot.micro_batch_b}"
    return f"{PHASE_TITLES.get(slot.phase, slot.phase)} {slot.micro_batch}"


def _inside(p: Prediction) -> Iterator[dict[str, Any]]:
    """What runs inside slots, where the step was recorded."""
    for stretch in stretches(p.step):
        yield {
            "ph": "X",
            "name": stretch.name,
            "cat": "inside",
            "pid": stretch.rank,
            "tid": _inside_thread(stretch.stream),
            "ts": stretch.start_s * _US,
            "dur": (stretch.end_s - stretch.start_s) * _US,
            "args": {"category": stretch.category},
        }


def _counters(p: Prediction) -> Iterator[dict[str, Any]]:
    """How full every wire is, in per cent of its rate, where the step was recorded."""
    if not p.step.pieces:
        return
    for (rank, wire), rows in wire_use(p.step).items():
        name = f"{WIRE_TITLES[wire]} in use"
        for second, share in rows:
            yield {
                "ph": "C",
                "name": f"{name}, {rank}" if wire == "uplink" else name,
                "pid": 0 if wire == "uplink" else rank,
                "ts": second * _US,
                "args": {"%": round(100.0 * share, 3)},
            }


def _tail(p: Prediction) -> Iterator[dict[str, Any]]:
    """What follows the pipeline on every rank, so that the trace is as long as the step."""
    start = p.step.timeline.makespan_s
    for rank in p.step.timeline.ranks():
        yield {
            "ph": "X",
            "name": "gradients, optimizer, stragglers, constant",
            "cat": "end of step",
            "pid": rank,
            "tid": _END,
            "ts": start * _US,
            "dur": max(0.0, p.step_time_s - start) * _US,
            "args": {},
        }
