"""Hostile inputs of every command as a table; exit code 1 if any ends wrong, which is then kept in out/fuzz.

python -m tests.fuzz [--number 3000] [--seed 16] [--commands train,serve] [--workers 2]
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import pkgutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import moesim
from tests.fuzz.inputs import WEIGHTS, Input, input_at
from tests.fuzz.judge import Ended, judged

OUT = Path("out/fuzz")
_SHOW_EVERY = 200  # inputs
_KEPT = 4000  # characters of what an input said


def load_everything() -> None:
    """Every module that an input may need, once, before the first fork."""
    for name in ("calibrate.own", "calibrate.rows", "calibrate.record", "sim", "reports", "hwmodels", "traces"):
        package = importlib.import_module(f"moesim.{name}")
        for found in pkgutil.walk_packages(package.__path__, f"moesim.{name}."):
            importlib.import_module(found.name)
    assert moesim.__name__ in sys.modules


def keep(asked: Input, ended: Ended, name: str) -> None:
    """An input that ended wrong: its files, its command line and what came of it."""
    folder = OUT / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, raw in asked.files.items():
        (folder / file).write_bytes(raw)
    said = f"{list(asked.words)!r}\n\n{ended.wrong}\n\nexit code {ended.code}\n\n{ended.err[-4000:]}\n"
    (folder / "case.txt").write_text(said, encoding="utf-8", errors="backslashreplace")


def ended_of(task: tuple[int, int, tuple[str, ...]]) -> tuple[int, str, Ended]:
    """An input by its number, its command, and how it ended; made here, for some files are large."""
    asked = input_at(*task)
    ended = judged(asked)
    return task[0], asked.command, replace(ended, out=ended.out[:_KEPT], err=ended.err[-_KEPT:])


def main(arguments: list[str]) -> int:
    """Run them, and print how each command ended."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--number", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="index to begin at")
    parser.add_argument("--commands", default="", help=f"out of {','.join(WEIGHTS)}")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    asked = parser.parse_args(arguments)
    commands = tuple(name for name in asked.commands.split(",") if name)
    load_everything()
    counts: Counter[tuple[str, str]] = Counter()
    tasks = [(index, asked.seed, commands) for index in range(asked.first, asked.number)]
    # workers begin anew now and then: what an input leaves behind in one counts as memory of those that follow
    with multiprocessing.get_context("fork").Pool(asked.workers, maxtasksperchild=20) as pool:
        for index, command, ended in pool.imap(ended_of, tasks):
            verdict = "wrong" if ended.wrong else "answered" if ended.code in (0, 1) else "refused"
            counts[command, verdict] += 1
            if counts.total() % _SHOW_EVERY == 0:
                sys.stderr.write(f"{counts.total()} of {len(tasks)} inputs\n")
            if ended.wrong:
                keep(input_at(index, asked.seed, commands), ended, f"{asked.seed}.{index}")
                said = f"{asked.seed}.{index} {command}: {ended.wrong}"
                print(said.encode("ascii", "backslashreplace").decode(), flush=True)
    print(f"{'command':10} {'inputs':>8} {'answered':>9} {'refused':>8} {'wrong':>6}")
    kinds = ("answered", "refused", "wrong")
    for name in [*dict.fromkeys(command for command, _ in counts), "all"]:
        row = [sum(n for (c, v), n in counts.items() if v == kind and name in (c, "all")) for kind in kinds]
        print(f"{name:10} {sum(row):8} {row[0]:9} {row[1]:8} {row[2]:6}")
    return int(any(verdict == "wrong" for _, verdict in counts))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
