"""Software releases by date: 'YY.MM' out of the ways people write them, and how grown-up a stack of that date is."""

from __future__ import annotations

import re


def parse_release(text: str) -> str:
    """'YY.MM' of a release ('Megatron-Bridge 26.04.01' -> '26.04'), or '' when the text names no month."""
    found = re.search(r"(?<![\d.])(2\d)\.(0[1-9]|1[0-2])(?!\d)", text)
    if found:
        return f"{found.group(1)}.{found.group(2)}"
    if re.search(r"\bdev\b", text):
        return "25.01"  # a development container, from before the first release of its line
    half = re.search(r"20(\d\d)H([12])", text)
    if half:
        return f"{half.group(1)}.{'04' if half.group(2) == '1' else '09'}"
    return ""


def release_age(release: str) -> str:
    """young (before 26.02), mid (26.02 to 26.05), late (26.06 on) or unknown: how grown-up a tuned MoE stack is.

    `release` is 'YY.MM' or ''.
    """
    if not release:
        return "unknown"
    if release < "26.02":
        return "young"
    return "mid" if release < "26.06" else "late"
