"""Full disks, links, pipes and files that are there already: nothing is torn, nothing hangs."""

from __future__ import annotations

import os
import resource
import subprocess

from tests.faults.bench import JOB, Bench, at_most, must
from tests.faults.registry import REPORT, Skipped, scenario

_FEW = at_most({resource.RLIMIT_FSIZE: 600})  # bytes of a file: a disk that is full as soon as something is written


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
    _full_disk(bench, "r.html", *REPORT, "r.html")


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
        bench.run(*REPORT, "small/r.html").must_say(3, "No space left")
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
    bench.run(*REPORT, "r.html").must_say(0)
    must((bench.folder / "r.html").is_symlink() and target.stat().st_size > 1000, "the link was replaced")


@scenario("output is a pipe that nobody reads")
def _fifo_out(bench: Bench) -> None:
    os.mkfifo(bench.folder / "r.html")
    bench.run(*REPORT, "r.html").must_say(2, "pipe")


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
