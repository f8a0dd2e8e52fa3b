"""Who measured a row: the publisher that a citation names. Rows of one source repeat each other's errors."""

from __future__ import annotations

import re

from moesim.calibrate.rows.cells import Row, text_of


def source_of(text: str) -> str:
    """The publisher named by a citation: its words up to the first file, table, bracket or section."""
    words = r"\s*[(:,@]|\s+(?:README|Table|section|benchmarks/|\S+/|\S+\.md)"
    return re.split(words, text.strip(), maxsplit=1)[0].strip()


def serving_source_of(row: Row) -> str:
    """Team, engine with the two first numbers of its version, and GPU: one team measures many stacks, and each of them
    is off in its own way."""
    version = re.match(r"\d+\.\d+", text_of(row, "engine_version"))
    engine = f"{text_of(row, 'engine').lower()} {version.group(0) if version else ''}".strip()
    return f"{source_of(text_of(row, 'source'))}, {engine}, {text_of(row, 'gpu')}"


def comm_source_of(row: Row) -> str:
    """Team, library and GPU of a transfer."""
    return f"{source_of(text_of(row, 'source'))}, {text_of(row, 'library')}, {text_of(row, 'gpu')}"
