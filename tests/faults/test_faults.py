"""The fault scenarios that take a second or two; all of them: `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.bench import JOB, Bench
from tests.faults.scenarios import SCENARIOS

QUICK = (
    "full disk: timeline", "init never overwrites", "stdout is full",
    "stdout is closed", "a terminal without Unicode", "input is a pipe that nobody writes",
    "an optional package is missing: distributed",
)  # fmt: skip


def test_there_are_thirty_scenarios_and_more() -> None:
    assert len(SCENARIOS) >= 30 and set(QUICK) <= set(SCENARIOS)


@pytest.mark.parametrize("title", QUICK)
def test_scenario(title: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write("job.yaml", JOB)
    SCENARIOS[title](bench)
