"""Failures that a person can mend: one clear line and exit code 2. Anything else is a defect and shows."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moesim.refusal import Refusal

BAD_INPUT, INTERRUPTED, BROKEN_PIPE = 2, 130, 1


class OutputError(Refusal):
    """A file that cannot be written, or an unknown picture format; the message says what would do."""


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
    except Refusal as refusal:
        return complain(str(refusal))


def complain(message: str) -> int:
    """Print one line `error: ...` on stderr; returns exit code 2."""
    line = " ".join(message.split())
    sys.stderr.write(f"error: {line}\n")
    return BAD_INPUT


def _closed_pipe() -> int:
    """The reader went away (`| head`): say nothing, and keep the interpreter from complaining at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE
