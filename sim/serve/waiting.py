"""Waiting: a queue with classes. Who is more urgent goes first; who is alike, in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Waiting:
    """Requests by class, the smallest number first; the interface of the deque that it stands for."""

    __slots__ = ("_count", "_of", "_queues")

    def __init__(self, of: Sequence[int]) -> None:
        """`of`: the class of each request."""
        self._of = of
        self._queues: dict[int, deque[int]] = {c: deque() for c in sorted(set(of))}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> int:
        """The head of the queue, place 0."""
        return self._first()[place]

    def _first(self) -> deque[int]:
        return next(queue for queue in self._queues.values() if queue)

    def append(self, request: int) -> None:
        """Behind all others of its class."""
        self._queues[self._of[request]].append(request)
        self._count += 1

    def appendleft(self, request: int) -> None:
        """Before all others of its class: it was here already."""
        self._queues[self._of[request]].appendleft(request)
        self._count += 1

    def popleft(self) -> int:
        """Take the head."""
        self._count -= 1
        return self._first().popleft()
