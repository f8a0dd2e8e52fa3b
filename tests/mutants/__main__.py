"""Mutation testing: a random sample of small wrong changes, each run against the tests that reach its line.

    python -m tests.mutants                 # 300 of all, seed 16; writes out/mutants/result.json and prints survivors
    python -m tests.mutants --again         # only those that survived the last time

A change is caught when a test fails, breaks, or runs over its time. Tests run cheapest first, until one fails or the
budget is spent; what survives a short budget gets the whole one. Survivors that change nothing that anybody can see
are listed with the reason in equivalent.yaml. Do not edit the tree while tests are recorded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.mutants.mutate import Mutant, all_mutants, sampled

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "mutants"
TESTS = (
    "tests/hwmodels tests/sim/clock tests/sim/train tests/sim/serve tests/sim/layers tests/sim/layout "
    "tests/sim/transfer",
    "tests/pinned tests/laws tests/test_tiny.py",
)
EQUIVALENT = Path(__file__).with_name("equivalent.yaml")
_SLACK, _LEAST_S = 4.0, 20.0  # a test may take so many times what it took, and at least so long


@dataclass(frozen=True, slots=True)
class Reach:
    """Tests by line of a file, and seconds by test."""

    seconds: dict[str, float]
    lines: dict[tuple[str, int], frozenset[str]]

    def tests_for(self, mutant: Mutant, budget_s: float) -> list[str]:
        """Tests that reach the line, cheapest first, as many as the budget holds; at least one."""
        reached = self.lines.get((mutant.file, mutant.line)) or frozenset()
        if not reached:  # a line that runs when the module is loaded: a constant, a default
            reached = frozenset().union(*(tests for (file, _), tests in self.lines.items() if file == mutant.file))
        if not reached:  # of a file that every test loads and none runs anything of
            reached = frozenset(self.seconds)
        found = sorted(reached, key=lambda test: (self.seconds[test], test))
        taken, spent_s = [], 0.0
        for test in found:
            spent_s += self.seconds[test]
            if taken and spent_s > budget_s:
                break
            taken.append(test)
        return taken


def record() -> None:
    """Run the tests once, in two processes, and note what each reaches."""
    OUT.mkdir(parents=True, exist_ok=True)
    runs = []
    for number, folders in enumerate(TESTS):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.reach", "-p", "no:cacheprovider"]
        command += ["--reach", str(OUT / f"reach-{number}.json"), *folders.split()]
        with (OUT / f"reach-{number}.log").open("w") as log:
            runs.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT))
    if any(run.wait() not in (0, 1) for run in runs):
        raise SystemExit(f"the tests do not run: see {OUT}/reach-*.log")


def read_reach() -> Reach:
    """What `record` noted."""
    seconds: dict[str, float] = {}
    lines: dict[tuple[str, int], set[str]] = {}
    for file in sorted(OUT.glob("reach-*.json")):
        raw = json.loads(file.read_text(encoding="utf-8"))
        names = list(raw["seconds"])
        for test in raw["failed"]:
            sys.stderr.write(f"left out, for it fails without any change: {test}\n")
        seconds |= raw["seconds"]
        for name, by_line in raw["lines"].items():
            for line, tests in by_line.items():
                lines.setdefault((name, int(line)), set()).update(names[i] for i in tests)
    return Reach(seconds, {place: frozenset(tests) for place, tests in lines.items()})


def judge(task: tuple[Mutant, list[str], float]) -> tuple[Mutant, str, float]:
    """What becomes of one change: caught, survived, or reached by no test."""
    mutant, tests, expected_s = task
    if not tests:
        return mutant, "unreached", 0.0
    tree = Path(_TREES[multiprocessing.current_process().name])
    file = tree / mutant.file
    text = file.read_text(encoding="utf-8")
    if tree not in _CHECKED:  # without any change the tests pass here too, or every change would seem to be caught
        code = _run(tree, tests, _SLACK * expected_s + _LEAST_S)
        if code:
            raise RuntimeError(f"tests fail without a change: {code}; {tests[:3]}")
        _CHECKED.append(tree)
    begin = time.monotonic()
    try:
        file.write_text(mutant.applied(text), encoding="utf-8")
        code = _run(tree, tests, _SLACK * expected_s + _LEAST_S)
    finally:
        file.write_text(text, encoding="utf-8")
    return mutant, "survived" if code == 0 else "caught", time.monotonic() - begin


_TREES: Any = {}
_CHECKED: list[Path] = []


def _adopt(trees: Any) -> None:
    """A worker takes one copy of the tree for itself, and loads what no change touches."""
    _TREES[multiprocessing.current_process().name] = trees.get()
    import numpy  # noqa: F401  # loaded here once, not in every child
    import pandas  # noqa: F401  # so too
    import pydantic  # noqa: F401  # so too


def _run(tree: Path, tests: list[str], most_s: float) -> int:
    """The exit code of pytest in a child of this process; one that runs over its time has failed."""
    child = os.fork()
    if child == 0:
        os.setsid()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        sys.dont_write_bytecode = True
        try:
            code = pytest_main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests])
        except BaseException:  # whatever it is, this copy of the worker must not go on
            code = 99
        os._exit(code)
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1


def pytest_main(arguments: list[str]) -> int:
    """pytest, loaded where it is used."""
    import pytest

    return int(pytest.main(arguments))


def run(mutants: list[Mutant], reach: Reach, budget_s: float, workers: int) -> list[dict[str, Any]]:
    """Judge every change; progress on stderr."""
    tasks = []
    for mutant in mutants:
        tests = reach.tests_for(mutant, budget_s)
        tasks.append((mutant, tests, sum(reach.seconds[test] for test in tests)))
    context = multiprocessing.get_context("fork")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        trees = context.SimpleQueue()
        for number in range(workers):
            tree = Path(folder) / str(number)
            shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv", "out", "*.pyc"))
            trees.put(str(tree))
        with context.Pool(workers, _adopt, (trees,)) as pool:
            for mutant, became, seconds in pool.imap_unordered(judge, tasks):
                results.append({"mutant": mutant.key, "became": became, "seconds": round(seconds, 1)})
                sys.stderr.write(f"{len(results)} of {len(tasks)}: {became:9} {mutant.key}\n")
    return sorted(results, key=lambda result: str(result["mutant"]))


def in_rounds(mutants: list[Mutant], reach: Reach, budget_s: float, workers: int) -> list[dict[str, Any]]:
    """Most changes fall to the cheapest tests: a quarter of the budget first, then all of it for what survived."""
    first = run(mutants, reach, budget_s / 4.0, workers)
    left = {result["mutant"] for result in first if result["became"] == "survived"}
    kept = [result for result in first if result["mutant"] not in left]
    return [*kept, *run([m for m in mutants if m.key in left], reach, budget_s, workers)]


def report(results: list[dict[str, Any]]) -> int:
    """Print what was caught, and every survivor with its line; 1 when too few were."""
    reasons: dict[str, str] = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8")) or {}
    counts = Counter(result["became"] for result in results)
    left = [r["mutant"] for r in results if r["became"] != "caught"]
    same = [key for key in left if _named(key) in reasons]
    judged = len(results) - len(same)
    print(f"{len(results)} changes: {counts['caught']} caught, {len(left)} not, of which {len(same)} change nothing")
    print(f"caught of those that change something: {counts['caught'] / max(judged, 1):.1%}")
    for key in left:
        file, line = key.split(":")[:2]
        text = (ROOT / file).read_text(encoding="utf-8").split("\n")[int(line) - 1].strip()
        print(f"  {key}\n      {text}\n      {reasons.get(_named(key), 'survived')}")
    return int(counts["caught"] < 0.85 * judged)


def _named(key: str) -> str:
    """A change by the text of its line: as the list of equivalent ones names it."""
    place, _, change = key.partition(" ")
    file, line, column = place.split(":")
    text = (ROOT / file).read_text(encoding="utf-8").split("\n")[int(line) - 1]
    return f"{file} | {text.strip()} | {int(column) - len(text) + len(text.lstrip())} | {change}"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--budget", type=float, default=45.0, help="seconds of tests for one change")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--again", action="store_true", help="only what was not caught the last time")
    parser.add_argument("--keep-reach", action="store_true", help="do not record again which tests reach what")
    asked = parser.parse_args()
    mutants = list(sampled(all_mutants(ROOT), asked.number, asked.seed))
    before: list[dict[str, Any]] = []
    if asked.again:
        before = json.loads((OUT / "result.json").read_text(encoding="utf-8"))
        left = {r["mutant"] for r in before if r["became"] != "caught"}
        before = [r for r in before if r["became"] == "caught"]
        mutants = [m for m in mutants if m.key in left]
    if not asked.keep_reach:
        record()
    reach = read_reach()
    results = [*before, *in_rounds(mutants, reach, asked.budget, asked.workers)]
    results.sort(key=lambda result: str(result["mutant"]))
    (OUT / "result.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return report(results)


if __name__ == "__main__":
    raise SystemExit(main())
