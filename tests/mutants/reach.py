"""Which tests reach which lines, and how long each takes: recorded test by test, with every cache emptied between.

python -m pytest -p tests.mutants.reach --reach out/mutants/reach-0.json tests/hwmodels
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.mutants.mutate import ROOMS

_CACHED = type(functools.lru_cache(lambda: None))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reach", default="", help="write which tests reach which lines into this file")


class _Recorder:
    def __init__(self, path: Path, root: Path) -> None:
        import coverage

        self.path, self.root = path, root
        self.coverage = coverage.Coverage(
            data_file=None, config_file=False, include=[f"*/{room}/*.py" for room in ROOMS], messages=False
        )
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()  # without any change: such a test would seem to catch everything
        self.coverage.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, None]:
        _empty_caches()
        self.coverage.switch_context(item.nodeid)
        begin = time.perf_counter()
        yield
        self.seconds[item.nodeid] = time.perf_counter() - begin

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        number = {test: i for i, test in enumerate(self.seconds) if test not in self.failed}
        for file in sorted(data.measured_files()):
            by_line = data.contexts_by_lineno(file)
            name = str(Path(file).resolve().relative_to(self.root))
            if not name.startswith("tests"):
                lines[name] = {str(n): sorted(number[t] for t in ts if t in number) for n, ts in by_line.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(
            json.dumps({"seconds": self.seconds, "failed": sorted(self.failed), "lines": lines}), encoding="utf-8"
        )


def _empty_caches() -> None:
    """A test that finds another one's answer in a cache would seem not to reach the code that made it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("moesim"):
            for value in list(vars(module).values()):
                if isinstance(value, _CACHED):
                    value.cache_clear()


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--reach")
    if path:
        config.pluginmanager.register(_Recorder(Path(path).resolve(), config.rootpath.resolve()), "reach")
