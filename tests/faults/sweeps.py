"""Sweeps that are stopped, killed or disturbed, and journals that were changed: what is done stays, nothing else."""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.bench import JOB, SWEEP, Bench, children_of, gone, must
from tests.faults.registry import scenario


@cache
def whole() -> bytes:
    """The table of an undisturbed sweep."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.write("job.yaml", JOB)
        bench.run(*SWEEP, "--workers", "1").must_say(0)
        return (bench.folder / "t.csv").read_bytes()


def goes_on(bench: Bench, *more: str) -> None:
    """The same command again gives the table that an undisturbed one gives, and says that it goes on."""
    bench.run(*SWEEP, "--workers", "2", *more).must_say(0, "going on: ")
    must((bench.folder / "t.csv").read_bytes() == whole(), "the resumed table is another one")
    must(not (bench.folder / "t.csv.part").exists(), "the journal is left behind")


def _stopped(bench: Bench, number: signal.Signals) -> None:
    process = bench.after_points(3, *SWEEP, "--workers", "2")
    workers, begin = children_of(process.pid), time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    must(time.monotonic() - begin < 2.5, f"took {time.monotonic() - begin:.1f} s to end")
    must(process.returncode == 128 + number, f"exit code {process.returncode}: {said[-300:]}")
    must("Traceback" not in said and "goes on from there" in said, f"says {said[-300:]!r}")
    must(workers and gone(workers, 2.0), "workers live on")
    goes_on(bench)


@scenario("sweep: Ctrl-C")
def _interrupt(bench: Bench) -> None:
    _stopped(bench, signal.SIGINT)


@scenario("sweep: SIGTERM")
def _terminate(bench: Bench) -> None:
    _stopped(bench, signal.SIGTERM)


@scenario("sweep: SIGHUP, the terminal goes")
def _hang_up(bench: Bench) -> None:
    _stopped(bench, signal.SIGHUP)


@scenario("sweep: kill -9; workers do not live on, the rest is done later")
def _killed(bench: Bench) -> None:
    process = bench.after_points(3, *SWEEP, "--workers", "2")
    workers = children_of(process.pid)
    process.kill()
    process.communicate()
    must(workers and gone(workers, 3.0), "workers live on")
    goes_on(bench)


@scenario("sweep: a worker is killed (out of memory)")
def _lost_worker(bench: Bench) -> None:
    process = bench.after_points(3, *SWEEP, "--workers", "2")
    busy = [pid for pid in children_of(process.pid) if "loky" in _command(pid) and "tracker" not in _command(pid)]
    os.kill(busy[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    must(process.returncode == 3 and "worker process was killed" in said, f"{process.returncode}: {said[-300:]}")
    goes_on(bench)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # ended while we looked
        return ""


def _half_done(bench: Bench) -> Path:
    process = bench.after_points(3, *SWEEP, "--workers", "1")
    process.kill()
    process.communicate()
    return bench.folder / "t.csv.part"


@scenario("journal: its last line is torn")
def _torn(bench: Bench) -> None:
    journal = _half_done(bench)
    journal.write_bytes(journal.read_bytes()[:-20])
    goes_on(bench)


@scenario("journal: foreign lines, bytes that are no text")
def _foreign(bench: Bench) -> None:
    journal = _half_done(bench)
    with journal.open("ab") as handle:
        handle.write(b'{"key": "{}", "row": {"step_time_s": 1}}\n[1]\n\xff\xfe\x00\n{"crc": 1, "key": 2}\n')
    goes_on(bench)


@scenario("journal: a number in it was altered")
def _altered(bench: Bench) -> None:
    journal = _half_done(bench)
    lines = journal.read_text(encoding="utf-8").split("\n")
    lines[1] = lines[1].replace('"step_time_s": ', '"step_time_s": 1')
    journal.write_text("\n".join(lines), encoding="utf-8")
    goes_on(bench)


@scenario("journal: of a scenario that was changed since")
def _changed(bench: Bench) -> None:
    _half_done(bench)
    bench.write("job.yaml", JOB.replace("4096", "8192"))
    bench.run(*SWEEP, "--workers", "1").must_say(0, "changed since")
    resumed = (bench.folder / "t.csv").read_bytes()
    bench.run(*SWEEP[:-1], "fresh.csv", "--workers", "1").must_say(0)
    must(resumed == (bench.folder / "fresh.csv").read_bytes() != whole(), "old points are mixed with new ones")


def _file_changes(bench: Bench, key: str, name: str, before: str, after: str) -> None:
    """A file that the scenario names changes between two runs: no old point may stay."""
    bench.write(name, before)
    lines = [line for line in JOB.split("\n") if not line.startswith(f"{key}:")]
    value = f"{{counts: {name}}}" if key == "routing" else name
    bench.write("job.yaml", "\n".join([*lines, f"{key}: {value}"]))
    _half_done(bench)
    bench.write(name, after)
    bench.run(*SWEEP, "--workers", "1").must_say(0, "changed since")
    resumed = (bench.folder / "t.csv").read_bytes()
    bench.run(*SWEEP[:-1], "fresh.csv", "--workers", "1").must_say(0)
    must(resumed == (bench.folder / "fresh.csv").read_bytes(), "old points are mixed with new ones")


@scenario("journal: the model's file was changed since")
def _model_changed(bench: Bench) -> None:
    _file_changes(bench, "model", "model.yaml", "base: mixtral-8x7b\n", "base: mixtral-8x7b\ntop_k: 1\n")


@scenario("journal: the file of expert counts was changed since")
def _counts_changed(bench: Bench) -> None:
    _file_changes(bench, "routing", "counts.csv", "1,1,1,1,1,1,1,1\n", "9,1,1,1,1,1,1,1\n")


@scenario("two sweeps into one table")
def _two(bench: Bench) -> None:
    first = bench.after_points(3, *SWEEP, "--workers", "1")
    bench.run(*SWEEP, "--workers", "1").must_say(2, "another sweep is writing")
    first.communicate(timeout=100)
    must(first.returncode == 0 and (bench.folder / "t.csv").read_bytes() == whole(), "the first one was disturbed")
