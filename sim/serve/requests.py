"""RequestLog: what was asked and what became of it, one number per request and column: the loop is hot."""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class RequestLog:
    """Columns by request number. Seconds are absolute; 0 stands where nothing has happened yet."""

    arrival_s: list[float]
    prompt: list[int]  # input tokens
    output: list[int]  # output tokens
    prefix: list[int]  # leading input tokens that an earlier request shared
    first_s: MutableSequence[float] = field(default_factory=lambda: array("d"))  # first token leaves
    finish_s: MutableSequence[float] = field(default_factory=lambda: array("d"))  # last token leaves
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.first_s = array("d", bytes(8 * len(self.prompt)))
        self.finish_s = array("d", bytes(8 * len(self.prompt)))

    def __len__(self) -> int:
        return len(self.prompt)


def request_log(
    arrival_s: Sequence[float], prompt: Sequence[int], output: Sequence[int], prefix: Sequence[int] | None = None
) -> RequestLog:
    """A fresh log of these requests, in order of arrival."""
    return RequestLog(list(arrival_s), list(prompt), list(output), list(prefix) if prefix else [0] * len(prompt))
