"""Dask clusters that nobody answers for, or that lose workers or their scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.bench import SWEEP, Bench, must
from tests.faults.registry import Skipped, scenario
from tests.faults.sweeps import goes_on, whole


@contextmanager
def _cluster(workers: int) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler and its workers, as processes."""
    try:
        import distributed  # noqa: F401  # is it there?
    except ImportError:
        raise Skipped("the extra 'dask' is not installed") from None
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with TemporaryDirectory() as folder:
        said = Path(folder) / "scheduler.json"
        root = str(Path(__file__).resolve().parents[2])
        more = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": root}}
        run = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
        scheduler = subprocess.Popen([*run, "--no-dashboard", "--scheduler-file", str(said)], **quiet, **more)
        end = time.monotonic() + 30
        while not said.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.3)
        address = json.loads(said.read_text(encoding="utf-8"))["address"]
        run = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        held = [
            subprocess.Popen([*run, "--no-nanny", "--death-timeout", "20"], **quiet, **more) for _ in range(workers)
        ]
        try:
            yield address, scheduler, held
        finally:
            for process in (*held, scheduler):
                process.kill()
                process.wait()


@scenario("Dask: nobody answers")
def _no_scheduler(bench: Bench) -> None:
    ended = bench.run(*SWEEP, "--dask", "tcp://127.0.0.1:9")
    ended.must_say(3, "no Dask scheduler answers")
    must(ended.seconds < 15, f"took {ended.seconds:.0f} s to say so")


@scenario("Dask: a scheduler without workers")
def _no_workers(bench: Bench) -> None:
    with _cluster(0) as (address, _, _):
        ended = bench.run(*SWEEP, "--dask", address)
    ended.must_say(3, "has no worker")
    must(ended.seconds < 15, f"took {ended.seconds:.0f} s to say so")


@scenario("Dask: one of two workers is killed")
def _one_lost(bench: Bench) -> None:
    with _cluster(2) as (address, _, held):
        process = bench.after_points(3, *SWEEP, "--dask", address)
        held[0].kill()
        _, said = process.communicate(timeout=100)
    must(process.returncode == 0, f"{process.returncode}: {said[-300:]}")
    must((bench.folder / "t.csv").read_bytes() == whole(), "another table")


def _lost(bench: Bench, whole_cluster: bool) -> None:
    """The only worker, or the scheduler, is killed in the middle; what was done is kept."""
    with _cluster(1) as (address, scheduler, held):
        process = bench.after_points(3, *SWEEP, "--dask", address)
        (scheduler if whole_cluster else held[0]).kill()
        _, said = process.communicate(timeout=100)
    must(process.returncode == 3 and "Dask" in said, f"{process.returncode}: {said[-300:]}")
    goes_on(bench)


@scenario("Dask: all workers are killed")
def _all_lost(bench: Bench) -> None:
    _lost(bench, whole_cluster=False)


@scenario("Dask: the scheduler is killed")
def _scheduler_lost(bench: Bench) -> None:
    _lost(bench, whole_cluster=True)
