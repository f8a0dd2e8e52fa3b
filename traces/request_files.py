"""load_requests: a request trace as it is published, told by what is in it; wrong files are refused in one line."""

from __future__ import annotations

import gzip
import io
import stat
import zlib
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from moesim.traces.readers.objects import read_lines, read_list
from moesim.traces.readers.rows import FORMS, Loaded
from moesim.traces.readers.tables import read_table
from moesim.traces.routing import BadTrace

MAX_BYTES = 1_000_000_000  # of a trace, unpacked
_HEAD = 4096
_GZIP = b"\x1f\x8b"
_POINTER = b"version https://git-lfs"


def load_requests(path: str | Path) -> Loaded:
    """Requests of a published trace or of our own CSV, sorted, from zero on; the form is told by the content.

    Reads CSV of arrival_s,input_tokens,output_tokens[,prefix], the traces of Azure, BurstGPT, Mooncake and Bailian, and
    ShareGPT's conversations, each also gzipped. Rows without an answer are left out; what was left out or assumed is
    in `said`. BadTrace names the file, the line, what is wrong and which files are read.
    """
    file = Path(path)
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadTrace(f"trace {file} is a folder; name a file. moesim reads: {FORMS}")
        if not stat.S_ISREG(status.st_mode):
            raise BadTrace(f"trace {file} is no plain file; write it to one first. moesim reads: {FORMS}")
        if status.st_size > MAX_BYTES:
            raise BadTrace(f"trace {file} has {status.st_size:,} bytes; a trace has at most {MAX_BYTES:,}: cut it")
        with file.open("rb") as packed:
            return _read(packed, str(file))
    except BadTrace:
        raise
    except EOFError:
        raise BadTrace(f"trace {file} is a gzip file that ends too early; fetch it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadTrace(f"trace {file} is a broken gzip file ({error}); fetch it again") from None
    except UnicodeDecodeError:
        raise BadTrace(f"trace {file} is not a text file in UTF-8; moesim reads: {FORMS}") from None
    except ValueError as error:  # a name that the file system cannot be asked for
        raise BadTrace(f"cannot read trace {str(file)[:200]!r}: {error}") from None
    except OSError as error:
        raise BadTrace(f"cannot read trace {str(file)[:200]}: {error.strerror or error}") from None


class _Bounded(io.RawIOBase):
    """Bytes of a stream until there are too many: a small gzip file may unpack to any size."""

    def __init__(self, inner: BinaryIO, name: str) -> None:
        self._inner, self._name, self._left = inner, name, MAX_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # typed as any buffer
        data = self._inner.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise BadTrace(f"trace {self._name} unpacks to more than {MAX_BYTES:,} bytes; cut it")
        buffer[: len(data)] = data
        return len(data)


def _read(packed: BinaryIO, name: str) -> Loaded:
    gzipped = packed.read(2) == _GZIP
    packed.seek(0)
    inner: BinaryIO = gzip.GzipFile(fileobj=packed) if gzipped else packed  # type: ignore[assignment]  # is read like one
    stream = io.BufferedReader(_Bounded(inner, name), 1 << 20)
    head = stream.peek(_HEAD)[:_HEAD]
    if head.startswith(_POINTER):
        raise BadTrace(f"trace {name} is a Git LFS pointer, not the trace; fetch it with git lfs pull")
    if b"\0" in head:
        raise BadTrace(f"trace {name} is a binary file, not text; moesim reads: {FORMS}")
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    blank = []
    for first in text:
        if not first.isspace():
            break
        blank.append("\n")  # kept: errors count lines
    else:
        raise BadTrace(f"trace {name} holds no requests: it is empty; moesim reads: {FORMS}")
    lines = chain(blank, [first], text)
    mark = first.lstrip()[0]
    if mark == "{":
        return read_lines(lines, name)
    if mark == "[":
        return read_list("".join(lines), name)
    return read_table(lines, name)
