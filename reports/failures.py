"""Failures that a person can mend: one clear line and exit code 2. Anything else is a defect and shows."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 1


class OutputError(ValueError):
    """A file that cannot be written, or an unknown picture format; the message says what would do."""


def ours() -> tuple[type[Exception], ...]:
    """Every exception that our rooms raise for questions which cannot be answered. Imports the rooms."""
    from moesim.calibrate.measure.device import NoDevice
    from moesim.calibrate.measure.samples import BadSamples
    from moesim.calibrate.measure.workers import CrewFailed
    from moesim.calibrate.own.deployments import BadDeployment
    from moesim.calibrate.own.sources import BadSource
    from moesim.calibrate.rows.files import BadRows
    from moesim.hwmodels.facts import FactError
    from moesim.hwmodels.profile import NoFit
    from moesim.hwmodels.units import UnitError
    from moesim.sim.clock.program import Deadlock
    from moesim.sim.layout.layout import BadLayout
    from moesim.sim.model.arch import ArchError
    from moesim.sim.question.scenario import ScenarioError
    from moesim.sim.software.stack import StackError
    from moesim.sim.train.memory import DoesNotFit
    from moesim.traces.routing import BadTrace

    return (
        OutputError, NoDevice, BadSamples, BadSource, BadDeployment, CrewFailed, BadRows, FactError, NoFit, UnitError,
        ArchError, BadLayout, DoesNotFit, Deadlock, ScenarioError, StackError, BadTrace,
    )  # fmt: skip


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says while `path` is written into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """OutputError when `path` clearly cannot be written; asked before the work starts. Creates nothing."""
    if path.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: folder {path.parent} does not exist")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OutputError(f"cannot write {path}: permission denied")


def guarded(command: Callable[[], int]) -> int:
    """Run a command: its exit code, 2 after one line on stderr, 130 after Ctrl-C, 1 for a closed pipe."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _closed_pipe()
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _closed_pipe()
        if error.filename is None:
            raise
        return complain(f"cannot read {os.fspath(error.filename)!s}: {error.strerror}")
    except (ValueError, RuntimeError) as error:
        if not isinstance(error, ours()):
            raise
        return complain(str(error))


def complain(message: str) -> int:
    """Print one line `error: ...` on stderr; returns exit code 2."""
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")
    return BAD_INPUT


def _closed_pipe() -> int:
    """The reader went away (`| head`): say nothing, and keep the interpreter from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
