"""How long the layout search takes: `python benchmarks/plan.py`. Layouts judged per second, and whole plans."""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.need import Needs, deployments
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.space import ServeCandidate, Shape, shapes
from moesim.sim.plan.train.judge import Judge
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.plan.train.space import candidates, default_space
from moesim.sim.question.scenario import load_scenario
from moesim.sim.question.serving_sections import SloAsk
from moesim.sim.serve.slo import slo_of

EXAMPLES = Path(__file__).parents[1] / "examples"
SERVED = ("serve-mixtral-8x7b-poisson", "serve-deepseek-v3-h200", "plan-deepseek-v3-96h200")
NAMES = ("deepseek-v3-h800", "mixtral-8x7b-h100", "llama-3.1-70b-h100")


def judged_per_second(name: str) -> tuple[int, float, float]:
    """Layouts, and how many of them are judged in a second on one core: first time, and with every cell priced."""
    judge = Judge(load_scenario(EXAMPLES / f"{name}.yaml"))
    layouts = list(candidates(judge.base, default_space(judge.base, judge.open_stack.dispatcher, {})))
    usable = judge.base.cluster.gpu.usable_bytes
    rates = []
    for _ in range(2):
        begin = perf_counter()
        for candidate in layouts:
            if judge.memory_bytes(candidate) <= usable:
                judge.bound_s(candidate)
        rates.append(len(layouts) / (perf_counter() - begin))
    return len(layouts), rates[0], rates[1]


def main() -> None:
    """Print both tables."""
    console = Console()
    table = Table(title="Layouts judged by bounds, one core")
    for column in ("job", "layouts", "per second, first time", "per second, cells priced"):
        table.add_column(column, justify="left" if column == "job" else "right")
    for name in NAMES:
        count, cold, warm = judged_per_second(name)
        table.add_row(name, f"{count:,}", f"{cold:,.0f}", f"{warm:,.0f}")
    console.print(table)
    workers = os.cpu_count() or 1
    plans = Table(title=f"Whole plans, {workers} processes")
    for column in ("job", "seconds", "simulated", "best layout"):
        plans.add_column(column, justify="right" if column in ("seconds", "simulated") else "left")
    for name in NAMES:
        begin = perf_counter()
        plan = plan_train(EXAMPLES / f"{name}.yaml", effort=Effort(workers=workers))
        run = sum(s.simulated for s in plan.searches)
        plans.add_row(name, f"{perf_counter() - begin:.1f}", f"{run:,}", plan.options[0].finalist.candidate.title)
    console.print(plans)
    console.print(serving())
    console.print(by_hand())


def serving() -> Table:
    """Deployments judged by bounds per second, and whole plans of serving, on one core."""
    table = Table(title="Serving: deployments judged by bounds, and whole plans, one core")
    for column in (
        "load",
        "deployments",
        "per second, first time",
        "layouts priced",
        "seconds of a plan",
        "simulated",
        "best",
    ):
        table.add_column(column, justify="left" if column in ("load", "best") else "right")
    for name in SERVED:
        scenario = load_scenario(EXAMPLES / f"{name}.yaml")
        judge = ServeJudge(scenario, slo_of("", scenario.serve.slo if scenario.serve else SloAsk()))
        base = judge.base
        fitting = [s for s in shapes(base.arch, base.cluster.gpus, base.cluster.domain, {}) if judge.fits(s) is None]
        choices = deployments(judge, fitting, {}, False, Needs(judge))
        rates = []
        for _ in range(2):
            begin = perf_counter()
            for candidate in choices:
                judge.bounds(candidate)
            rates.append(len(choices) / (perf_counter() - begin))
        begin = perf_counter()
        plan = plan_serve(scenario)
        run = sum(len(s.served) for s in plan.searches)
        seconds = perf_counter() - begin
        best = plan.options[0].served.candidate.title
        table.add_row(name, f"{len(choices):,}", *(f"{r:,.0f}" for r in rates), f"{seconds:.1f}", f"{run:,}", best)
    return table


def by_hand() -> Table:
    """DeepSeek-V3 on 96 H200 as people lay it out, without a search."""
    scenario = load_scenario(EXAMPLES / "plan-deepseek-v3-96h200.yaml")
    judge = ServeJudge(scenario, slo_of("", scenario.serve.slo if scenario.serve else SloAsk()))
    batch = judge.base.engine.max_batch
    wide = {n: Shape(1, 1, n, n) for n in (8, 16, 32, 64)}
    pools = ((2, 32, 1, 32), (1, 32, 1, 64), (1, 32, 2, 32), (3, 16, 3, 16), (4, 16, 1, 32))  # workers and ranks
    hands = [ServeCandidate(wide[d], n, batch, wide[p], m) for m, p, n, d in pools]
    hands += [ServeCandidate(wide[n], 96 // n, batch) for n in (8, 16, 32)]
    table = Table(title="plan-deepseek-v3-96h200, laid out by hand")
    for column in ("deployment", "within the limits", "tokens/s/GPU", "goodput per GPU"):
        table.add_column(column, justify="left" if column == "deployment" else "right")
    for c in hands:
        s = judge.simulate(c)
        figures = (
            f"{s.attained_share:.0%}",
            f"{s.output_tokens_per_s / c.gpus:.0f}",
            f"{s.goodput_per_s / c.gpus:.2f}",
        )
        table.add_row(c.title, *figures)
    return table


if __name__ == "__main__":
    main()
