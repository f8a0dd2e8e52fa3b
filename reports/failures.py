"""The one boundary of the command line: whatever ends a command is one line and an exit code, and leaves no child.

2: the question is bad. 3: this machine cannot go on (full disk, no memory, lost workers, a missing package). 128 and
the number of the signal after one. Anything else is a defect of moesim and shows.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from moesim.files.whole import ran_out
from moesim.files.words import one_line
from moesim.refusal import MachineFailure, Refusal

BAD_INPUT, MACHINE, BROKEN_PIPE = 2, 3, 1
_ENDS_WITHIN_S = 1.5  # after a signal, whatever still runs

# package that may be missing -> the extra that brings it
_EXTRAS = {"scipy": "calibrate", "torch": "calibrate", "pyarrow": "parquet", "distributed": "dask", "dask": "dask"}


class _Stopped(KeyboardInterrupt):
    """A signal that ends us; raised where the work is, so that files and children are left in order."""


def guarded(command: Callable[[], int]) -> int:
    """Run a command: its exit code, or one line on stderr and the code that says whose fault it is."""
    _writable_streams()
    with _signals() as caught:
        try:
            code = command()
            sys.stdout.flush()
            return code if not caught else 128 + caught[0]
        except KeyboardInterrupt:
            return 128 + (caught or [signal.SIGINT])[0]
        except Exception as error:
            ended = _ended(error)
            if ended is None:
                raise
            return ended


def _ended(error: Exception) -> int | None:
    """The exit code of what ended a command, said on stderr; None for a defect of moesim."""
    if isinstance(error, Refusal):
        return complain(str(error))
    if isinstance(error, MachineFailure):
        return complain(str(error), MACHINE)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError):
        return complain("out of memory; ask for less at once, or use a machine with more", MACHINE)
    if isinstance(error, RecursionError):
        return complain("the input is nested too deep to be read; a scenario has at most a few levels")
    if isinstance(error, UnicodeError):
        return complain(
            f"this place cannot hold the text ({' '.join(str(error).split())[:100]}); set PYTHONIOENCODING=utf-8",
            MACHINE,
        )
    if isinstance(error, ImportError) and (error.name or "").split(".")[0] in _EXTRAS:
        package = (error.name or "").split(".")[0]
        return complain(f"this needs {package}: pip install 'moesim[{_EXTRAS[package]}]'", MACHINE)
    return None


def _of_system(error: OSError) -> int | None:
    if isinstance(error, BrokenPipeError) or error.errno == errno.EPIPE:
        _drop_stdout()
        return BROKEN_PIPE
    if ran_out(error):
        if error.errno != errno.EMFILE:
            _drop_stdout()
        where = f" ({error.filename})" if error.filename is not None else ""
        return complain(f"this machine ran out: {error.strerror}{where}; make room and run it again", MACHINE)
    if error.filename is not None:
        return complain(f"cannot read {os.fsdecode(error.filename)}: {error.strerror}")
    return complain(f"this machine said: {error.strerror or error}", MACHINE)


def complain(message: str, code: int = BAD_INPUT) -> int:
    """Print one line `error: ...` on stderr; returns the exit code."""
    try:
        sys.stderr.write(f"error: {one_line(message)}\n")
        sys.stderr.flush()
    except OSError:  # nobody can be told; the exit code says it
        return code
    return code


def _writable_streams() -> None:
    """Streams that can always be written to: closed ones lead nowhere, characters they cannot hold are escaped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who called us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # lives as long as we do
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does; yields the signals that came. Old handlers come back."""
    caught: list[int] = []
    deadlines: list[threading.Timer] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not caught:
            caught.append(number)
            threading.excepthook = lambda _: None  # threads of a pool that is torn down complain of it
            deadline = threading.Timer(_ENDS_WITHIN_S, _end_now, (number,))
            deadline.daemon = True
            deadline.start()
            deadlines.append(deadline)
            raise _Stopped

    complained = threading.excepthook
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, old in before.items():
        if old is not signal.SIG_IGN:  # nohup wants no SIGHUP
            signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        for deadline in deadlines:
            deadline.cancel()
        threading.excepthook = complained


def _end_now(number: int) -> None:
    """Something does not let go (a worker in the middle of a task): children see that we are gone and end too."""
    os._exit(128 + number)


def _drop_stdout() -> None:
    """Nobody reads it, or it is full: say nothing more, and keep the interpreter from complaining at exit."""
    if sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
