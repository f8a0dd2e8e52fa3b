"""What is around a command: streams, terminals, limits of the system, packages, hash seeds."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.faults.bench import JOB, Bench, at_most, must
from tests.faults.registry import REPORT, scenario


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
        ended = bench.run(*REPORT, "r.html", before=at_most({resource.RLIMIT_NOFILE: most}))
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
        bench.run(*REPORT, f"r{seed}.html").must_say(0)
        bench.run("train", "job.yaml", "--figure", f"f{seed}.svg", "--timeline", f"t{seed}.json").must_say(0)
    for one, two in (("r0.html", "r1.html"), ("f0.svg", "f1.svg"), ("t0.json", "t1.json")):
        first, second = ((bench.folder / name).read_bytes().replace(name.encode(), b"") for name in (one, two))
        must(first == second, f"{one} and {two} differ")
