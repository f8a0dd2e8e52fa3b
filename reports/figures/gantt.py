"""The stages of one step as a Gantt chart; a long middle is cut out, start and end keep one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moesim.reports.figures.palette import BACKGROUND, BUBBLE, END, HOST, INK, PHASE_LABELS, PHASES
from moesim.reports.text import seconds
from moesim.sim.clock.plan import Lane
from moesim.sim.clock.timeline import Timeline
from moesim.sim.layout.pipeline import Slot

Box = tuple[float, float, float, float]  # seconds, row, seconds, height
Boxes = dict[str, list[Box]]

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from moesim.sim.train.prediction import Prediction

_WHOLE = 90  # slots per rank up to which the whole step is drawn
_PIECE = 34  # slots per rank in each of the two pieces of a longer one
_END_SHARE = 0.15  # largest part of the second piece that goes to the end of the step
_ROW, _THIN = 0.62, 0.16  # heights of a stage's bar and of the strips below it; a row is 1 high
_LABEL_INCH = 0.17  # narrowest bar that carries its micro-batch number
_WORD_INCH = 0.36  # narrowest overlapped pair that carries both


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds from `start_s` to `end_s`, drawn `inches` wide."""

    start_s: float
    end_s: float
    inches: float

    def clip(self, start_s: float, end_s: float) -> tuple[float, float] | None:
        """(start, length) of the visible part; None when nothing is seen."""
        low, high = max(start_s, self.start_s), min(end_s, self.end_s)
        return (low, high - low) if high > low else None

    def wide(self, time_s: float) -> float:
        """Inches that a number of seconds takes."""
        return time_s / (self.end_s - self.start_s) * self.inches


def windows(p: Prediction, inches: float) -> tuple[Window, ...]:
    """The whole step when its slots can be told apart, else its first and last part at one scale."""
    end = max(p.step_time_s, p.step.timeline.makespan_s)
    lanes = p.step.timeline.program.lanes
    slots = max((len(items) for lane, items in lanes.items() if lane.stream == "compute"), default=1)
    if slots <= _WHOLE:
        return (Window(0.0, end, inches),)
    ramp = 2.2 * len(p.step.timeline.ranks())  # the pipeline fills and drains within about two slots per rank
    body = p.step.timeline.makespan_s
    piece = body * min(0.45, max(_PIECE, ramp) / slots)
    shown = min(end, body + _END_SHARE * piece)  # a long end of the step is cut short, its seconds are written on it
    return Window(0.0, piece, inches / 2), Window(shown - piece, shown, inches / 2)


def draw_lanes(axes: Axes, p: Prediction, window: Window) -> list[tuple[str, Any]]:
    """Draw every rank inside `window`; returns (label, colour) of what was drawn, for the legend."""
    timeline, ranks = p.step.timeline, p.step.timeline.ranks()
    boxes: Boxes = {}
    for row, rank in enumerate(ranks):
        top = len(ranks) - 1 - row + 0.5 * (1.0 - _ROW)
        span = window.clip(0.0, timeline.makespan_s)
        if span:
            boxes.setdefault("bubble", []).append((span[0], top, span[1], _ROW))
        _slots(axes, p, rank, window, boxes, top)
        _strip(timeline, Lane(rank, "dp"), window, boxes.setdefault("dp", []), top - _THIN)
        if p.breakdown_s.get("host", 0.0) > 0.01 * p.step_time_s:
            _strip(timeline, Lane(rank, "host"), window, boxes.setdefault("host", []), top + _ROW)
        tail = window.clip(timeline.makespan_s, p.step_time_s)
        if tail:
            boxes.setdefault("end", []).append((tail[0], top, tail[1], _ROW))
            if row == 0 and tail[0] + tail[1] < p.step_time_s:
                size = 8.0 if len(ranks) <= 24 else 6.0
                text = seconds(p.step_time_s - timeline.makespan_s)
                axes.text(
                    tail[0] + tail[1] / 2,
                    top + _ROW / 2,
                    text,
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white",
                )
    return _paint(axes, boxes, window)


def _slots(axes: Axes, p: Prediction, rank: int, window: Window, boxes: Boxes, top: float) -> None:
    timeline, ranks = p.step.timeline, p.resolved.job.layout.pp
    digits = len(str(p.resolved.job.micro_batches - 1))
    for item in timeline.program.lanes[Lane(rank, "compute")]:
        slot, seen = p.step.slots.get(item), window.clip(timeline.start_s[item], timeline.end_s[item])
        if slot is None or seen is None:
            continue
        kind = slot.phase if slot.phase == "FB" else f"{slot.phase}{min(_chunk(slot, rank, ranks), len(_SHADES) - 1)}"
        boxes.setdefault(kind, []).append((seen[0], top, seen[1], _ROW))
        text = _number(slot, window.wide(seen[1]), digits)
        if text:
            middle = seen[0] + seen[1] / 2, top + _ROW / 2
            colour = INK if slot.phase in ("B", "I", "FB") else "white"
            axes.text(*middle, text, ha="center", va="center", fontsize=6.5, color=colour, clip_on=True)


def _chunk(slot: Slot, rank: int, ranks: int) -> int:
    """0 for the rank's own stage; 1, 2, ... for further chunks, or for DualPipe's opposite direction."""
    return slot.stage // ranks if slot.stage % ranks == rank else 1


def _number(slot: Slot, inches: float, digits: int) -> str:
    if slot.phase == "FB":
        return f"{slot.micro_batch}+{slot.micro_batch_b}" if inches >= _WORD_INCH else ""
    return str(slot.micro_batch) if inches >= max(_LABEL_INCH, 0.06 + 0.055 * digits) else ""


def _strip(timeline: Timeline, lane: Lane, window: Window, boxes: list[Box], bottom: float) -> None:
    for item in timeline.program.lanes.get(lane, []):
        seen = window.clip(timeline.start_s[item], timeline.end_s[item])
        if seen:
            boxes.append((seen[0], bottom, seen[1], _THIN))


_SHADES = (0.0, 0.35, 0.55)  # share of white in the colour of a rank's first, second, further chunks
# label and colour
_OTHERS = {
    "bubble": ("idle: bubble or waiting", BUBBLE),
    "FB": (PHASE_LABELS["FB"], PHASES["FB"]),
    "dp": ("gradient and weight exchange", BACKGROUND),
    "host": ("host issues kernels", HOST),
    "end": ("optimizer, stragglers, fixed costs", END),
}


def _kinds() -> dict[str, tuple[str, Any]]:
    """Label and colour of every kind of box, in drawing order."""
    from matplotlib.colors import to_rgb

    kinds: dict[str, tuple[str, Any]] = {"bubble": _OTHERS["bubble"]}
    for phase in ("F", "B", "I", "W"):
        for number, white in enumerate(_SHADES):
            label = PHASE_LABELS[phase] + ("" if number == 0 else ", other chunk")
            kinds[f"{phase}{number}"] = label, tuple(c + (1 - c) * white for c in to_rgb(PHASES[phase]))
    return kinds | _OTHERS


def _paint(axes: Axes, boxes: Boxes, window: Window) -> list[tuple[str, Any]]:
    """Draw all boxes of a kind at once; labels of lighter shades of a colour are left out."""
    from matplotlib.collections import PolyCollection

    drawn = []
    for kind, (label, colour) in _kinds().items():
        rectangles = boxes.get(kind)
        if not rectangles:
            continue
        corners = [((x, y), (x + w, y), (x + w, y + h), (x, y + h)) for x, y, w, h in rectangles]
        mean = sum(box[2] for box in rectangles) / len(rectangles)
        line = 0.0 if kind in ("bubble", "dp", "host", "end") else min(0.4, 6.0 * window.wide(mean))
        axes.add_collection(PolyCollection(corners, facecolors=colour, edgecolors="white", linewidths=line))
        if not label.endswith("other chunk"):
            drawn.append((label, colour))
    return drawn
