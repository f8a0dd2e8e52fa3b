"""Files that are written whole or not at all: beside the place, flushed, then put in place of what was there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moesim.refusal import MachineFailure, Refusal

# what a machine runs out of; everything else that a system says of a path is about the path
_RAN_OUT = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
)


class OutputError(Refusal):
    """A file that cannot be written, or an unknown picture format; the message says what would do."""


def ran_out(error: OSError) -> bool:
    """True when the machine is to blame (disk, descriptors, memory), not what was asked."""
    return error.errno in _RAN_OUT


def cannot_write(path: Path, error: OSError) -> Exception:
    """What a failed write is: the machine's failure when it ran out of something, else a refusal."""
    said = f"cannot write {str(path)[:200]}: {error.strerror or error}"
    if ran_out(error):
        return MachineFailure(f"{said}; what was there is as it was; make room, or write elsewhere")
    return OutputError(said)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says while `path` is written into an OutputError or a MachineFailure."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place at the end; on any failure `path` is as it was.

    What is no plain file (a terminal, /dev/null, a pipe that somebody reads) is written to as it is. OutputError or
    MachineFailure for what the file system says.
    """
    with writing(path):
        if not _replaceable(path):
            yield path
            return
        target = Path(os.path.realpath(path))  # a link stays one, and what it names is replaced
        beside = target.with_name(f".moesim-{os.getpid()}.part{target.suffix[:16]}")
        try:
            yield beside
            _flush(beside)
            if target.exists():
                os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text or none of it, in UTF-8 with plain line ends."""
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)


def write_new(path: Path, text: str) -> None:
    """As `write_text`, where nothing may be there yet. OutputError when something is."""
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path} exists and is not overwritten; give another path")
    write_text(path, text)


def check_writable(path: Path) -> None:
    """OutputError when `path` clearly cannot be written; asked before the work starts. Creates nothing."""
    if "\0" in str(path):
        raise OutputError(f"cannot write {str(path)[:200]!r}: a name holds no zero byte")
    with writing(path):
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: folder {path.parent} does not exist")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise OutputError(f"cannot write {path}: permission denied")
        if path.is_fifo() and path.parent != Path("/dev/fd"):
            raise OutputError(f"cannot write {path}: it is a pipe, which waits for a reader; name a file")


def _replaceable(path: Path) -> bool:
    return not path.exists() or path.is_file()


def _flush(path: Path) -> None:
    """On disk before it takes the place of what was there: a machine that stops leaves one of the two."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
