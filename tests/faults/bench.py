"""What fault scenarios have in common: a folder, the command as a process, and ways to hurt it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

JOB = """\
model: mixtral-8x7b
cluster: {node: dgx-h100, gpus: 16}
layout: {pp: 2, vpp: 4, ep: 8}
train: {global_batch: 256, seq_len: 4096, recompute: full}
"""
_MANY = ",".join(str(32 * n) for n in range(2, 8))
SWEEP = ("sweep", "job.yaml", "--set", f"train.global_batch={_MANY}", "--set", "layout.vpp=4,2", "--out", "t.csv")
_LONGEST_S = 300.0


class Wrong(AssertionError):
    """A scenario that did not end as it must; its text says what was seen."""


def must(holds: object, said: str) -> None:
    """Wrong with `said` unless it holds."""
    if not holds:
        raise Wrong(said)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    def must_say(self, code: int, *words: str) -> None:
        """Wrong unless it ended with this code and one line with these words."""
        must(self.code == code, f"exit code {self.code}, not {code}: {self.err[-300:]}")
        must("Traceback" not in self.err, f"a traceback: {self.err[-300:]}")
        for word in words:
            must(word in self.err, f"{word!r} is not in: {self.err[-300:]}")


@dataclass(slots=True)
class Bench:
    """A folder with a scenario, where commands run."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> Path:
        """A file of the folder."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def start(self, *words: str, before: Callable[[], None] | None = None, **streams: int) -> subprocess.Popen[str]:
        """A command that runs; `before` runs in its process first."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell ignores it for what it starts in the background
            if before is not None:
                before()

        return subprocess.Popen(
            [sys.executable, "-m", "moesim", *words], cwd=self.folder, text=True, preexec_fn=prepare,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **self.environment},
            start_new_session=True, **pipes,
        )  # fmt: skip

    def run(self, *words: str, before: Callable[[], None] | None = None, **streams: int) -> Ended:
        """A command to its end."""
        begin = time.monotonic()
        process = self.start(*words, before=before, **streams)
        try:
            out, err = process.communicate(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise Wrong(f"moesim {' '.join(words)[:80]} hangs") from None
        return Ended(process.returncode, out or "", err or "", time.monotonic() - begin)

    def shell(self, line: str, **more: str) -> Ended:
        """A line of the shell, `moesim` standing for the command."""
        begin = time.monotonic()
        line = line.replace("moesim ", f"{sys.executable} -m moesim ", 1)
        root = str(Path(__file__).resolve().parents[2])
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, text=True, capture_output=True, timeout=_LONGEST_S,
            env={**os.environ, "PYTHONPATH": root, **self.environment, **more},
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - begin)

    def after_points(self, number: int, *words: str) -> subprocess.Popen[str]:
        """A sweep that runs and has written so many points."""
        process = self.start(*words)
        journal, end = self.folder / "t.csv.part", time.monotonic() + _LONGEST_S
        while time.monotonic() < end:
            if process.poll() is not None:
                raise Wrong(f"the sweep ended too early: {process.communicate()[1][-300:]}")
            if journal.exists() and journal.read_text(encoding="utf-8", errors="replace").count("\n") > number:
                return process
            time.sleep(0.02)
        raise Wrong("the sweep wrote no points")


def children_of(pid: int) -> list[int]:
    """Processes whose ancestors include this one, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # ended while we looked
                continue
    found, border = [], [pid]
    while border:
        border = [child for child, parent in parents.items() if parent in border]
        found += border
    return found


def gone(pids: list[int], within_s: float) -> bool:
    """Whether all of them have ended in time (or are nobody's remains)."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(_lives(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def at_most(limits: Mapping[int, int]) -> Callable[[], None]:
    """Sets limits of the system (resource.RLIMIT_...) in a process that starts."""

    def limit() -> None:
        for what, most in limits.items():
            resource.setrlimit(what, (most, most))

    return limit
