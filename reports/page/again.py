"""How to get the same page again: the scenario as it is written, the commands, the version."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from moesim.reports.page.section import Section


def again(files: Sequence[Path], options: Sequence[str]) -> Section:
    """About the whole page."""
    texts = [(f.name, f.read_text(encoding="utf-8")) for f in files]
    names = " ".join(str(f) for f in files)
    commands = [" ".join(["moesim report", names, *options])]
    data = {
        "version": _version(),
        "commands": commands,
        "scenarios": {name: {"sha256": sha256(text.encode()).hexdigest(), "text": text} for name, text in texts},
    }
    lead = f"moesim {data['version']}; the same files and options give the same page, byte for byte."
    return Section("again", "How to reproduce this", lead, data, {"texts": texts, "commands": commands})


def _version() -> str:
    try:
        return version("moesim")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "from source"
