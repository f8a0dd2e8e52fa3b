"""Which spans of a thread contain a moment: operators and ranges that call each other lie inside one another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence


class Nesting:
    """Spans (start, end) of one thread, in any unit of time, in order of start and the longer first."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        self._starts = [start for start, _ in spans]
        self._ends = [end for _, end in spans]
        self._outer: list[int] = []  # the span around each, -1 for none
        open_spans: list[int] = []
        for number, (start, _) in enumerate(spans):
            while open_spans and self._ends[open_spans[-1]] <= start:
                open_spans.pop()
            self._outer.append(open_spans[-1] if open_spans else -1)
            open_spans.append(number)

    def around(self, moment: float) -> Iterator[int]:
        """Numbers of the spans that contain a moment, the innermost first."""
        number = bisect_right(self._starts, moment) - 1
        while number >= 0:
            if self._ends[number] >= moment:
                yield number
            number = self._outer[number]
