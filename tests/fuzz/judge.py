"""One input in a process of its own, and whether it ended as it must."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moesim.files.words import visible
from moesim.reports.cli.app import run
from tests.fuzz.inputs import Input
from tests.fuzz.values import lay_traps

CPU_S, WALL_S = 20, 60  # of one input; a machine with other work is slow by the clock
REPORT_CPU_S = 120  # a page asks hundreds of questions
MOST_BYTES = 1 << 30  # of memory that is held
_MOST_LINE = 510
_SPACES = "\n\t\u00a0\u2009\u202f"
# a million requests or steps are long work, and not what this is about
_LONG = re.compile(rb"(count|concurrency|--steps|rate_per_s)['\": =]*[0-9.]*([0-9]{5,}|e)")
_PYTHON_FAULT = 70  # an exception that nobody caught
# quantities that are never below zero, and words that make them differences
_QUANTITY = re.compile(r"_(s|bytes|usd|flops|w|per_s|j|kwh|gpus|tokens)$")
_DIFFERENCE = re.compile(
    r"chang|delta|saved|margin|left|slack|less|more|lost|gain|worth|free|apart|versus|against|cheaper|spare"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended, and why that is wrong; empty where it is not."""

    code: int
    out: str
    err: str
    peak_bytes: int
    seconds: float
    wrong: str


def judged(asked: Input) -> Ended:
    """Run it, and judge."""
    with TemporaryDirectory(prefix="fuzz") as name:
        folder = Path(name)
        for file, raw in asked.files.items():
            (folder / file).write_bytes(raw)
        if any(trap in f"{asked}" for trap in ("pipe.fifo", "zero.dev", "bomb.gz", "random.bin")):
            lay_traps(folder)
        begin = time.monotonic()
        status, peak = _child(asked, folder)
        seconds = time.monotonic() - begin
        out, err = ((folder / stream).read_bytes().decode("utf-8", "replace") for stream in (".out", ".err"))
        left = sorted(f.name for f in folder.iterdir() if f.name.startswith(".moesim-"))
    code = os.waitstatus_to_exitcode(status)
    wrong = wrong_of(code, out, err, peak, asked) or (f"left behind: {left[0]}" if left else "")
    return Ended(code, out, err, peak, seconds, wrong)


def _child(asked: Input, folder: Path) -> tuple[int, int]:
    """Wait status and peak memory of a forked child that runs the input."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run(asked, folder)
    begin = time.monotonic()
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            return status, used.ru_maxrss * 1024
        if time.monotonic() - begin > WALL_S / CPU_S * _most_s(asked):
            os.killpg(pid, signal.SIGKILL)
            begin = float("inf")
        time.sleep(0.003)


def _most_s(asked: Input) -> int:
    return REPORT_CPU_S if asked.command == "report" else CPU_S


def _run(asked: Input, folder: Path) -> None:
    """In the child: never returns."""
    code = _PYTHON_FAULT
    try:
        os.setsid()
        os.chdir(folder)
        for number, stream in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # lives as long as the child
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # lives as long as the child
        most_s = _most_s(asked)
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s + 1))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (_held_bytes() + 2 * MOST_BYTES, resource.RLIM_INFINITY))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if len(os.sched_getaffinity(0)) == 1 else _one())
        code = run(list(asked.words))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _one() -> set[int]:
    """One core: what asks for as many processes as there are cores then runs in this one."""
    free = sorted(os.sched_getaffinity(0))
    return {free[os.getpid() % len(free)]}


def _held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def wrong_of(code: int, out: str, err: str, peak: int, asked: Input) -> str:
    """What is wrong with how it ended, in one line; empty where nothing is."""
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        if code == -signal.SIGXCPU and _LONG.search(
            b"\n".join((" ".join(asked.words).encode("utf-8", "replace"), *asked.files.values()))
        ):
            return ""
        return "hangs" if code == -signal.SIGKILL else f"takes more than {_most_s(asked)} s of a core"
    if "Traceback" in err or code == _PYTHON_FAULT:
        return "a traceback: " + " ".join(err.strip().split("\n")[-1].split())[:200]
    if code not in (0, 1, 2, 3) or (code == 1 and asked.command != "sweep"):
        return f"exit code {code}"
    if peak > MOST_BYTES:
        return f"holds {peak >> 20} MiB"
    for stream, name in ((out, "stdout"), (err, "stderr")):
        if visible(stream, kept=_SPACES) != stream:
            return f"{name} has control characters: {_first(stream)!r}"
    errors = [line for line in err.split("\n") if line.startswith("error: ")]
    if code in (2, 3) and len(errors) != 1 and "Usage:" not in out:
        return f"exit code {code} with {len(errors)} lines of error"
    if any(len(line) > _MOST_LINE for line in errors):
        return f"an error of {max(map(len, errors))} characters"
    if code == 3:
        return f"blames the machine: {errors[0][:150]}"
    return _wrong_json(out) if code == 0 and "--json" in asked.words and asked.command != "init" else ""


def _first(text: str) -> str:
    at = next(i for i, c in enumerate(text) if visible(c, kept=_SPACES) != c)
    return text[max(0, at - 30) : at + 10]


def _wrong_json(out: str) -> str:
    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    try:
        tree = json.loads(out, parse_constant=no_number)
    except ValueError as error:
        return f"is not JSON: {error}"
    return _below_zero(tree, "")


def _below_zero(tree: Any, place: str) -> str:
    """Where a quantity is below zero or no number; empty where none is."""
    if isinstance(tree, dict):
        return next((said for k, v in tree.items() if (said := _below_zero(v, f"{place}.{k}"))), "")
    if isinstance(tree, list):
        return next((said for v in tree if (said := _below_zero(v, place))), "")
    if isinstance(tree, float) and not isfinite(tree):
        return f"{place} is {tree}"
    name = place.rpartition(".")[2]
    if isinstance(tree, (int, float)) and tree < 0 and _QUANTITY.search(name) and not _DIFFERENCE.search(place):
        return f"{place} is {tree}"
    return ""
