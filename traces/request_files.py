"""load_requests: a request trace as it is published, told by what is in it; wrong files are refused in one line."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TextIO

from moesim.files.opening import Opening, opened
from moesim.traces.readers.objects import read_lines, read_list
from moesim.traces.readers.rows import FORMS, Loaded
from moesim.traces.readers.tables import read_table
from moesim.traces.routing import BadTrace

MAX_BYTES = 1_000_000_000  # of a trace, unpacked


def load_requests(path: str | Path) -> Loaded:
    """Requests of a published trace or of our own CSV, sorted, from zero on; the form is told by the content.

    Reads CSV of arrival_s,input_tokens,output_tokens[,prefix], the traces of Azure, BurstGPT, Mooncake and Bailian, and
    ShareGPT's conversations, each also gzipped. Rows without an answer are left out; what was left out or assumed is
    in `said`. BadTrace names the file, the line, what is wrong and which files are read.
    """
    file = Path(path)
    with opened(file, Opening("trace", MAX_BYTES, BadTrace, f"moesim reads: {FORMS}")) as text:
        return _read(text, str(file))


def _read(text: TextIO, name: str) -> Loaded:
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
