"""Progress on stderr: one bar where a person looks at it; elsewhere nothing, or a plain line at every tenth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[str, int, int], None]


@contextmanager
def progress_bar(lines: bool = False) -> Iterator[Show]:
    """Call what it yields with (what is being done, how much of it, of how much).

    lines: where stderr is no terminal, write a line at every tenth of the work (for what takes minutes in a log).
    """
    from rich.console import Console
    from rich.progress import Progress

    screen = Console(stderr=True)
    if lines and not screen.is_terminal:
        yield _Lines()
        return
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield show


class _Lines:
    """A line where something new begins, and where a tenth of it has just been reached."""

    def __init__(self) -> None:
        self._said = ("", -1)

    def __call__(self, what: str, done: int, total: int) -> None:
        begun = (what.partition(",")[0], done * 10 // max(total, 1))  # after a comma: the best so far
        if begun != self._said:
            self._said = begun
            sys.stderr.write(f"{what}: {done:,} of {total:,}\n")
            sys.stderr.flush()
