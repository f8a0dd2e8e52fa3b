"""Every benchmark loads: what it measures is still there."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_benchmark_loads_and_says_what_it_measures(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(path.parent))  # some share a clock
    names = runpy.run_path(str(path), run_name="loaded")
    assert names["__doc__"] and any(callable(thing) for name, thing in names.items() if not name.startswith("_"))
