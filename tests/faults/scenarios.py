"""Thirty and more things that go wrong around a command; each must lose nothing and keep nothing that is wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.faults.bench import JOB, SWEEP, Bench, at_most, children_of, gone, must

SCENARIOS: dict[str, Callable[[Bench], None]] = {}
_REPORT = ("report", "job.yaml", "--plan", "none", "--out")
_FEW = at_most({resource.RLIMIT_FSIZE: 600})  # bytes of a file: a disk that is full as soon as something is written


def scenario(title: str) -> Callable[[Callable[[Bench], None]], Callable[[Bench], None]]:
    """Puts a function into SCENARIOS under its title."""

    def keep(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        SCENARIOS[title] = function
        return function

    return keep


class Skipped(Exception):  # not an error: this machine cannot play the scenario
    """The scenario needs something that is not here; its text says what."""


@cache
def _whole() -> bytes:
    """The table of an undisturbed sweep."""
    with TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.write("job.yaml", JOB)
        bench.run(*SWEEP, "--workers", "1").must_say(0)
        return (bench.folder / "t.csv").read_bytes()


def _goes_on(bench: Bench, *more: str) -> None:
    """The same command again gives the table that an undisturbed one gives, and says that it goes on."""
    bench.run(*SWEEP, "--workers", "2", *more).must_say(0, "going on: ")
    must((bench.folder / "t.csv").read_bytes() == _whole(), "the resumed table is another one")
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
    _goes_on(bench)


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
    _goes_on(bench)


@scenario("sweep: a worker is killed (out of memory)")
def _lost_worker(bench: Bench) -> None:
    process = bench.after_points(3, *SWEEP, "--workers", "2")
    busy = [pid for pid in children_of(process.pid) if "loky" in _command(pid) and "tracker" not in _command(pid)]
    os.kill(busy[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    must(process.returncode == 3 and "worker process was killed" in said, f"{process.returncode}: {said[-300:]}")
    _goes_on(bench)


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
    _goes_on(bench)


@scenario("journal: foreign lines, bytes that are no text")
def _foreign(bench: Bench) -> None:
    journal = _half_done(bench)
    with journal.open("ab") as handle:
        handle.write(b'{"key": "{}", "row": {"step_time_s": 1}}\n[1]\n\xff\xfe\x00\n{"crc": 1, "key": 2}\n')
    _goes_on(bench)


@scenario("journal: a number in it was altered")
def _altered(bench: Bench) -> None:
    journal = _half_done(bench)
    lines = journal.read_text(encoding="utf-8").split("\n")
    lines[1] = lines[1].replace('"step_time_s": ', '"step_time_s": 1')
    journal.write_text("\n".join(lines), encoding="utf-8")
    _goes_on(bench)


@scenario("journal: of a scenario that was changed since")
def _changed(bench: Bench) -> None:
    _half_done(bench)
    bench.write("job.yaml", JOB.replace("4096", "8192"))
    bench.run(*SWEEP, "--workers", "1").must_say(0, "changed since")
    resumed = (bench.folder / "t.csv").read_bytes()
    bench.run(*SWEEP[:-1], "fresh.csv", "--workers", "1").must_say(0)
    must(resumed == (bench.folder / "fresh.csv").read_bytes() != _whole(), "old points are mixed with new ones")


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
    must(first.returncode == 0 and (bench.folder / "t.csv").read_bytes() == _whole(), "the first one was disturbed")


def _full_disk(bench: Bench, name: str, *words: str) -> None:
    """What was there stays to the byte, and nothing else is left."""
    before = bench.write(name, "as it was").read_bytes()
    there = sorted(os.listdir(bench.folder))
    bench.run(*words, before=_FEW).must_say(3, "cannot write", "as it was")
    must((bench.folder / name).read_bytes() == before, f"{name} was destroyed")
    must(sorted(os.listdir(bench.folder)) == there, f"left behind: {sorted(os.listdir(bench.folder))}")
    bench.run(*words).must_say(0)
    must((bench.folder / name).read_bytes() != before, f"{name} is not written with room for it")


@scenario("full disk: report")
def _full_report(bench: Bench) -> None:
    _full_disk(bench, "r.html", *_REPORT, "r.html")


@scenario("full disk: figure")
def _full_figure(bench: Bench) -> None:
    bench.environment["MPLCONFIGDIR"] = str(bench.folder.parent)
    _full_disk(bench, "f.svg", "train", "job.yaml", "--figure", "f.svg")


@scenario("full disk: timeline")
def _full_trace(bench: Bench) -> None:
    _full_disk(bench, "t.json", "train", "job.yaml", "--timeline", "t.json")


@scenario("full disk: table of a sweep")
def _full_table(bench: Bench) -> None:
    words = ("sweep", "job.yaml", "--set", "cluster.gpus=64", "--out", "t.csv", "--workers", "1")
    before = bench.write("t.csv", "as it was").read_bytes()
    bench.run(*words, before=_FEW).must_say(3, "cannot write")
    must((bench.folder / "t.csv").read_bytes() == before, "the table was destroyed")
    bench.run(*words).must_say(0)


@scenario("full disk: a real one, 64 KiB")
def _tmpfs(bench: Bench) -> None:
    small = bench.folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        raise Skipped("no right to mount a small file system")
    try:
        (small / "r.html").write_text("as it was", encoding="utf-8")
        bench.run(*_REPORT, "small/r.html").must_say(3, "No space left")
        must((small / "r.html").read_text(encoding="utf-8") == "as it was", "the report was destroyed")
        must(os.listdir(small) == ["r.html"], "something is left behind")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@scenario("init never overwrites")
def _init(bench: Bench) -> None:
    bench.run("init", "job.yaml").must_say(2, "exists and is not overwritten")
    must((bench.folder / "job.yaml").read_text(encoding="utf-8") == JOB, "the scenario was overwritten")


@scenario("a link stays a link; what it names is replaced")
def _link(bench: Bench) -> None:
    target = bench.write("real.html", "old")
    (bench.folder / "r.html").symlink_to(target)
    bench.run(*_REPORT, "r.html").must_say(0)
    must((bench.folder / "r.html").is_symlink() and target.stat().st_size > 1000, "the link was replaced")


@scenario("output is a pipe that nobody reads")
def _fifo_out(bench: Bench) -> None:
    os.mkfifo(bench.folder / "r.html")
    bench.run(*_REPORT, "r.html").must_say(2, "pipe")


@scenario("input is a pipe that nobody writes")
def _fifo_in(bench: Bench) -> None:
    os.mkfifo(bench.folder / "in.yaml")
    bench.write("own.yaml", JOB.replace("mixtral-8x7b", "in.yaml"))
    bench.write("profile.yaml", JOB + "profile: in.json\n")
    os.mkfifo(bench.folder / "in.json")
    bench.write("counts.yaml", JOB + "routing: {counts: in.csv}\n")
    os.mkfifo(bench.folder / "in.csv")
    logs = ("calibrate", "--from", "nccl-tests", "in.csv")
    for name in ("in", "own", "profile", "counts"):
        bench.run("train", f"{name}.yaml").must_say(2)
    for words in (("validate", "in.csv"), logs, ("show", "in.yaml")):
        bench.run(*words).must_say(2)


@scenario("stdout is full")
def _full_stdout(bench: Bench) -> None:
    bench.shell("moesim train job.yaml > /dev/full").must_say(3, "ran out")


@scenario("stdout is closed")
def _closed_stdout(bench: Bench) -> None:
    bench.shell("moesim train job.yaml >&-").must_say(0)


@scenario("stderr is closed")
def _closed_stderr(bench: Bench) -> None:
    ended = bench.shell("moesim train job.yaml 2>&-")
    must(ended.code == 0 and "step" in ended.out, f"exit code {ended.code}")
    must(bench.shell("moesim train nowhere.yaml 2>&-").code == 2, "another exit code")


@scenario("the reader of stdout goes away")
def _pipe(bench: Bench) -> None:
    ended = bench.shell("moesim show mixtral-8x7b | head -1; exit ${PIPESTATUS[0]}")
    must(ended.code in (0, 1) and not ended.err, f"{ended.code}: {ended.err[-200:]}")


@scenario("a terminal without Unicode")
def _ascii(bench: Bench) -> None:
    ended = bench.shell("moesim train nowhere-\u00e9.yaml", LC_ALL="C.UTF-8", PYTHONIOENCODING="ascii")
    ended.must_say(2, "nowhere-\\xe9.yaml")
    ended = bench.shell("moesim train job.yaml", LC_ALL="C.UTF-8", PYTHONIOENCODING="ascii")
    must(ended.code == 0 and ended.out.isascii() and "step" in ended.out, f"{ended.code}: {ended.err[-300:]}")


@scenario("no file descriptors left")
def _descriptors(bench: Bench) -> None:
    for most in (6, 12):
        ended = bench.run(*_REPORT, "r.html", before=at_most({resource.RLIMIT_NOFILE: most}))
        must(ended.code in (0, 3), f"with {most}: exit code {ended.code}: {ended.err[-300:]}")


@scenario("no memory left")
def _memory(bench: Bench) -> None:
    bench.write("job.yaml", JOB + "routing: {counts: big.npy}\n")
    import numpy as np

    np.save(bench.folder / "big.npy", np.ones((4000, 32, 8)))
    ended = bench.run("train", "job.yaml", before=at_most({resource.RLIMIT_AS: 700_000_000}))
    must(ended.code in (0, 2, 3) and "Traceback" not in ended.err, f"{ended.code}: {ended.err[-300:]}")


@scenario("an optional package is missing: distributed")
def _extra(bench: Bench) -> None:
    hide = bench.folder / "hidden"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text("import sys\nsys.modules['distributed'] = None\n", encoding="utf-8")
    root = str(Path(__file__).resolve().parents[2])
    asked = "moesim sweep job.yaml --set cluster.gpus=32,64 --dask tcp://127.0.0.1:9"
    ended = bench.shell(asked, PYTHONPATH=f"{hide}:{root}")
    ended.must_say(3, "pip install 'moesim[dask]'")


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
    must((bench.folder / "t.csv").read_bytes() == _whole(), "another table")


@scenario("Dask: all workers are killed")
def _all_lost(bench: Bench) -> None:
    with _cluster(1) as (address, _, held):
        process = bench.after_points(3, *SWEEP, "--dask", address)
        held[0].kill()
        _, said = process.communicate(timeout=100)
    must(process.returncode == 3 and "Dask" in said, f"{process.returncode}: {said[-300:]}")
    _goes_on(bench)


@scenario("Dask: the scheduler is killed")
def _scheduler_lost(bench: Bench) -> None:
    with _cluster(1) as (address, scheduler, _):
        process = bench.after_points(3, *SWEEP, "--dask", address)
        scheduler.kill()
        _, said = process.communicate(timeout=100)
    must(process.returncode == 3 and "Dask" in said, f"{process.returncode}: {said[-300:]}")
    _goes_on(bench)


@scenario("the same bytes: hash seeds, locales, workers")
def _same(bench: Bench) -> None:
    words = "moesim sweep job.yaml --set cluster.gpus=32,64 --set train.precision=bf16,fp8 --json"
    seen = {
        bench.shell(f"{words} --workers {workers}", PYTHONHASHSEED=seed, LC_ALL=locale).out
        for workers, seed, locale in ((1, "0", "C"), (2, "1", "C.UTF-8"), (1, "77", "POSIX"))
    }
    must(len(seen) == 1 and "step_time_s" in next(iter(seen)), f"{len(seen)} different answers")


@scenario("the same bytes: pages and figures, twice")
def _same_pages(bench: Bench) -> None:
    for seed in ("0", "1"):
        bench.environment["PYTHONHASHSEED"] = seed
        bench.run(*_REPORT, f"r{seed}.html").must_say(0)
        bench.run("train", "job.yaml", "--figure", f"f{seed}.svg", "--timeline", f"t{seed}.json").must_say(0)
    for one, two in (("r0.html", "r1.html"), ("f0.svg", "f1.svg"), ("t0.json", "t1.json")):
        first, second = ((bench.folder / name).read_bytes().replace(name.encode(), b"") for name in (one, two))
        must(first == second, f"{one} and {two} differ")
