"""Who measured a row: the publisher that a citation names. Rows of one source repeat each other's errors."""

from __future__ import annotations

import re


def source_of(text: str) -> str:
    """The publisher named by a citation: its words up to the first file, table, bracket or section."""
    words = r"\s*[(:,@]|\s+(?:README|Table|section|benchmarks/|\S+/|\S+\.md)"
    return re.split(words, text.strip(), maxsplit=1)[0].strip()
