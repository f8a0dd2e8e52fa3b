"""How long the simulator takes: one command, no assertion on the clock.   python benchmarks/train.py

Prints the DeepSeek-V3 example (whole command in a fresh process, engine alone, memory), events and segments per second,
and how cost grows with layers, micro-batches and ranks.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from timing import timed

from moesim.sim.question.scenario import load_scenario, parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.segments import Variant
from moesim.sim.train.step import simulate_step

EXAMPLE = Path(__file__).parents[1] / "examples" / "deepseek-v3-h800.yaml"
SHELL = "from moesim.reports.cli.app import main; main()"
PEAK = "import resource, sys; sys.stderr.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))"

BASE: dict[str, Any] = {
    "model": {"base": "deepseek-v3", "layers": 16, "first_dense_layers": 0},
    "cluster": {"node": "dgx-h100", "gpus": 256},
    "layout": {"pp": 4, "ep": 8, "schedule": "1f1b"},
    "train": {"global_batch": 64 * 32, "seq_len": 4096, "precision": "fp8"},
}


def prices_of(scenario: dict[str, Any] | None = None) -> StepPrices:
    """A fresh prices, nothing priced yet."""
    resolved = resolve(load_scenario(EXAMPLE) if scenario is None else parse_scenario(scenario))
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning())


def shell_to_prompt() -> tuple[float, float]:
    """(seconds, MiB at the peak) of `moesim train` on the example in a fresh process."""
    command = [sys.executable, "-c", SHELL, "train", str(EXAMPLE), "--no-memory-check"]
    root = EXAMPLE.parents[1]
    span = timed(lambda: subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL), 3)
    ask = f"from moesim import predict_train; predict_train({str(EXAMPLE)!r}, check_memory=False); {PEAK}"
    done = subprocess.run([sys.executable, "-c", ask], cwd=root, check=True, capture_output=True, text=True)
    return span, float(done.stderr.split()[-1]) / (1024 if sys.platform != "darwin" else 1024**2)


def main_job(console: Console) -> None:
    """The DeepSeek-V3 example, end to end and part by part."""
    whole_s, peak_mib = shell_to_prompt()
    cold_s = timed(lambda: simulate_step(prices_of()), 5)
    warm = prices_of()
    segments = len(simulate_step(warm).slots)
    replay_s, recursion_s = timed(lambda: simulate_step(warm), 5), timed(lambda: simulate_step(warm, events=False), 5)
    exact_s = timed(lambda: simulate_step(warm, exact=True), 1)
    step = step_program(warm)
    program, slots = step.plan, step.slots
    ops = sum(len(warm.segment(slot, Variant()).ops) for slot in slots.values())
    table = Table(title="DeepSeek-V3, 2,048 GPUs, 16 pipeline ranks, 120 micro-batches")
    table.add_column("what")
    table.add_column("value", justify="right")
    for row in (
        ("shell to prompt: moesim train", f"{whole_s:.2f} s"),
        ("peak memory of a prediction", f"{peak_mib:,.0f} MiB"),
        ("build, price and run, nothing cached", f"{cold_s * 1e3:,.0f} ms"),
        ("replay on SimPy", f"{replay_s * 1e3:,.0f} ms, {segments / replay_s:,.0f} segments/s"),
        ("replay on the bare heap", f"{recursion_s * 1e3:,.0f} ms, {segments / recursion_s:,.0f} segments/s"),
        ("op by op (exact)", f"{exact_s:,.2f} s, {ops / exact_s:,.0f} ops/s of {ops:,}"),
        ("items in the replayed program", f"{len(program):,}"),
    ):
        table.add_row(*row)
    console.print(table)


def _simulate(scenario: dict[str, Any]) -> object:
    return simulate_step(prices_of(scenario))


def growth(console: Console) -> None:
    """Seconds of build + price + run while one size grows."""
    table = Table(title="Growth, one size at a time: seconds, and their ratio to the line before")
    for column in ("size", "value", "seconds", "ratio"):
        table.add_column(column, justify="left" if column == "size" else "right")
    for name, values, change in SWEEPS:
        before: float | None = None
        for value in values:
            span = timed(partial(_simulate, change(value)))
            table.add_row(name, f"{value:,}", f"{span:.3f}", "" if before is None else f"{span / before:.2f}")
            before = span
        table.add_section()
    console.print(table)


def _layers(value: int) -> dict[str, Any]:
    return {**BASE, "model": {"base": "deepseek-v3", "layers": value, "first_dense_layers": 0}}


def _skewed(value: int) -> dict[str, Any]:
    return {**_layers(value), "routing": {"lognormal": 0.65}}


def _micro_batches(value: int) -> dict[str, Any]:
    return {**BASE, "train": {**BASE["train"], "global_batch": 64 * value}}


def _pipeline(value: int) -> dict[str, Any]:
    layout = {**BASE["layout"], "pp": value}
    return {**BASE, "layout": layout, "train": {**BASE["train"], "global_batch": 256 // value * 32}}


def _gpus(value: int) -> dict[str, Any]:
    cluster = {**BASE["cluster"], "gpus": value}
    return {**BASE, "cluster": cluster, "train": {**BASE["train"], "global_batch": value // 4 * 32}}


SWEEPS: list[tuple[str, tuple[int, ...], Callable[[int], dict[str, Any]]]] = [
    ("layers, balanced", (8, 16, 32), _layers),
    ("layers, each with its own skew", (8, 16, 32), _skewed),
    ("micro-batches", (32, 64, 128, 256), _micro_batches),
    ("pipeline ranks", (2, 4, 8, 16), _pipeline),
    ("GPUs", (256, 1024, 4096, 16384), _gpus),
]


def main() -> None:
    """Measure and print."""
    console = Console(width=100)
    console.print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores")
    main_job(console)
    growth(console)


if __name__ == "__main__":
    main()
