"""A file that somebody else wrote, opened with care: plain, of bounded size also when unpacked, text; else refused."""

from __future__ import annotations

import gzip
import io
import json
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from moesim.refusal import Refusal

_HEAD = 4096
_GZIP = b"\x1f\x8b"
_POINTER = b"version https://git-lfs"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Opening:
    """How files of one kind are opened: what they are called, their most bytes unpacked, and how they are refused.

    lossy: bytes that are no UTF-8 become U+FFFD, which the reader has to say, instead of a refusal.
    """

    kind: str  # trace, log, ...; "" for any
    most_bytes: int
    refusal: type[Refusal]
    reads: str  # what would do: ends every refusal about the form
    lossy: bool = False


def check_plain(path: Path, how: Opening) -> None:
    """Refuses a file that is missing, a folder, a pipe or a device (which would hang), or too large."""
    name = f"{how.kind} {path}".strip()
    shown = f"{how.kind} {str(path)[:200]}".strip()
    try:
        status = path.stat()
    except ValueError as error:  # a name that the file system cannot be asked for
        raise how.refusal(f"cannot read {shown!r}: {error}") from None
    except OSError as error:
        raise how.refusal(f"cannot read {shown}: {error.strerror or error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise how.refusal(f"cannot read {name}: it is a folder; name a file. {how.reads}")
    if not stat.S_ISREG(status.st_mode):
        raise how.refusal(f"cannot read {name}: it is no plain file; write it to one first. {how.reads}")
    if status.st_size > how.most_bytes:
        raise how.refusal(
            f"{name} has {status.st_size:,} bytes; a {how.kind or 'file'} has at most {how.most_bytes:,}: cut it"
        )


@contextmanager
def opened(path: Path, how: Opening) -> Iterator[TextIO]:
    """The text of a file, gzipped or not; what the system or the packing says against it becomes a refusal."""
    name = f"{how.kind} {path}".strip()
    check_plain(path, how)
    try:
        with path.open("rb") as packed:
            yield _text(packed, name, how)
    except Refusal:
        raise
    except EOFError:
        raise how.refusal(f"{name} is a gzip file that ends too early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise how.refusal(f"{name} is a broken gzip file ({error}); fetch it again") from None
    except UnicodeDecodeError:
        raise how.refusal(f"{name} is not a text file in UTF-8; {how.reads}") from None
    except OSError as error:
        raise how.refusal(f"cannot read {name[:220]}: {error.strerror or error}") from None


MOST_LINES = 5_000_000  # of a log: a few seconds of reading; a small gzip file may unpack to far more


def bounded(lines: Iterable[str], name: str, how: Opening) -> Iterator[str]:
    """Lines until there are too many, which is refused."""
    for number, line in enumerate(lines):
        if number >= MOST_LINES:
            raise how.refusal(f"{how.kind} {name} has more than {MOST_LINES:,} lines; cut it".strip())
        yield line


class _Bounded(io.RawIOBase):
    """Bytes of a stream until there are too many: a small gzip file may unpack to any size."""

    def __init__(self, inner: BinaryIO, name: str, how: Opening) -> None:
        self._inner, self._name, self._how, self._left = inner, name, how, how.most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typed as any buffer
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise self._how.refusal(f"{self._name} unpacks to more than {self._how.most_bytes:,} bytes; cut it")
        buffer[: len(data)] = data
        return len(data)


def _text(packed: BinaryIO, name: str, how: Opening) -> TextIO:
    gzipped = packed.read(2) == _GZIP
    packed.seek(0)
    inner: BinaryIO = gzip.GzipFile(fileobj=packed) if gzipped else packed  # type: ignore[assignment]  # is read like one
    stream = io.BufferedReader(_Bounded(inner, name, how), 1 << 20)
    head = stream.peek(_HEAD)[:_HEAD]
    if not head and how.lossy:
        raise how.refusal(f"{name} is empty; {how.reads}")
    if head.startswith(_POINTER):
        raise how.refusal(f"{name} is a Git LFS pointer, not the {how.kind}; fetch it with git lfs pull")
    if head.startswith(_UTF16) and how.lossy:  # what some shells write when they redirect
        return io.TextIOWrapper(stream, encoding="utf-16", errors="replace", newline="")
    if b"\0" in head:
        raise how.refusal(f"{name} is a binary file, not text in UTF-8; {how.reads}")
    return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace" if how.lossy else "strict", newline="")


def parsed_json(text: str, place: str, how: Opening) -> Any:
    """JSON, or a refusal that says where it ends to be some; nothing of the text is repeated."""
    try:
        return json.loads(text)
    except RecursionError:
        raise how.refusal(f"{place} is nested too deep; {how.reads}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        cut = "; it may be cut off" if error.pos >= len(text.rstrip()) - 1 and len(text) > 1 else ""
        raise how.refusal(f"{place} is not JSON ({error.msg} at {where}{cut}); {how.reads}") from None
    except ValueError:  # numbers of thousands of digits
        raise how.refusal(f"{place} is not JSON (a number without end); {how.reads}") from None
