"""The clock of a training step: seconds and events/s, folded and with every rank drawn, and a hundred steps.

Run with `python benchmarks/clock.py`.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter, process_time

import yaml
from rich.console import Console
from rich.table import Table

from moesim.calibrate.rows.outcomes import usable_cores
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.many_steps import many_steps
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

EXAMPLE = Path(__file__).parents[1] / "examples" / "deepseek-v3-h800.yaml"
CASES: tuple[tuple[str, dict[str, object], bool], ...] = (
    ("folded, all ranks alike", {"routing": "balanced"}, False),
    ("every operation an event", {"routing": "balanced"}, True),
    ("2,048 ranks, rows drawn", {}, False),
    ("2,048 ranks, skewed", {"routing": {"lognormal": 0.58, "group_sigma": 0.36}}, False),
    ("2,048 ranks, one slow GPU", {"routing": "balanced", "slow": {"ids": [1024], "factor": 0.8}}, False),
    ("32,768 ranks, rows drawn", {"cluster": {"node": "hgx-h800", "gpus": 32768}}, False),
)
TIMES = 16  # as many GPUs and sequences as the example, in the last case
STEPS = 100


def main() -> None:
    """One line a case: CPU seconds with and without building prices, the step, events and their rate."""
    question = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    table = Table(title="DeepSeek-V3 on 2,048 H800, pp 16, EP 64, 120 micro-batches; CPU seconds")
    for column in ("case", "cold", "warm", "step", "pieces", "per second"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, words, exact in CASES:
        train = {**question["train"]}
        if "cluster" in words:
            train["global_batch"] *= TIMES
        resolved = resolve(parse_scenario({**question, "train": train, **words}))
        begin = process_time()
        prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
        step = simulate_step(prices, exact=exact)
        cold = process_time() - begin
        begin = process_time()
        simulate_step(prices, exact=exact)
        warm = process_time() - begin
        events = len(simulate_step(prices, exact=exact, record=True).pieces)
        seconds = f"{step.step_time_s:.3f} s"
        table.add_row(name, f"{cold:.2f} s", f"{warm:.2f} s", seconds, f"{events:,}", f"{events / warm:,.0f}")
    print_table(table)
    begin = perf_counter()
    run = many_steps(question, STEPS, workers=usable_cores())
    took = perf_counter() - begin
    print_table(f"{STEPS} steps, rows drawn, {usable_cores()} processes: {took:.0f} s, mean {run.mean_s:.3f} s a step")


def print_table(what: object) -> None:
    """To the terminal, at a width that a page holds."""
    Console(width=110).print(what)


if __name__ == "__main__":
    main()
