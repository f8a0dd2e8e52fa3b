"""How fast serving is simulated: `python benchmarks/serve.py [--requests FILE]`. Requests per second, one thread.

10,000 requests like Azure's conversation trace (the shipped generator, seed 0) on one replica, with paged KV blocks,
percentiles and a record of every request, in seconds of this process's own CPU; then what features, replicas, experts
and length of the run cost; then one warm answer, and how many deployments of a plan are judged by their bounds.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from functools import partial
from math import pi, sin
from pathlib import Path
from time import process_time

from rich.console import Console
from rich.table import Table

from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.need import Needs, deployments
from moesim.sim.plan.serve.space import shapes
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies, spread
from moesim.sim.serve.day import predict_day
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.kept import Kept
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.slo import Slo
from moesim.sim.serve.workload import Workload
from moesim.traces.day import Hour

COUNT = 10_000
# the field: requests per second of CPU time, one process. Measured on two cores like these (November 2026), or reported
FIELD = (
    ("AISimulate 0.13 (Rust), Azure's 19,366, kernel tables; measured", 8200),
    ("AISimulate 0.13, the same, a polynomial for kernels; measured", 18500),
    ("AISimulate 0.13, Mooncake's 12,031, blocks and its router, 8 workers; measured", 2300),
    ("BLIS inference-sim (Go), 10,000 of Azure; as reported", 520),
    ("Vidur (Python), 10,000 of Azure; as reported", 278),
)
DAY = tuple(Hour(10.0 + 8.0 * sin((h - 9) / 12.0 * pi)) for h in range(24))


def question(
    model: str = "llama-3.1-8b", count: int = COUNT, kind: str = "azure-conversation", **serve: object
) -> dict:
    """A scenario of one H100 per replica."""
    requests = {"kind": kind, "count": count, **dict(serve.pop("requests", {}))}  # type: ignore[call-overload]  # a dict
    gpus = int(serve.pop("gpus", 1))  # type: ignore[call-overload]  # an int
    tp = int(serve.pop("tp", 1))  # type: ignore[call-overload]  # an int
    return {
        "model": model,
        "cluster": {"node": "dgx-h100", "gpus": gpus},
        "layout": {"tp": tp},
        "serve": {"engine": "vllm", "precision": "fp8", "requests": requests, **serve},
    }


def prepared(scenario: dict, trace: Path | None = None) -> Callable[[], ServeRun]:
    """The run with kernels priced beforehand, as a planner that asks many times would have them."""
    resolved: ResolvedServe = resolve_serve(parse_scenario(scenario), trace)
    tuning, priced = resolved.tuning(), PricedJobs()
    few = Workload(resolved.workload.requests.first(1000), resolved.workload.clients)
    simulate(resolved.deployment, few, tuning, priced)

    def run() -> ServeRun:
        done = simulate(resolved.deployment, resolved.workload, tuning, priced)
        latency = latencies(done.log)
        for values in (latency.ttft_s, latency.tpot_s, latency.e2e_s):
            spread(values)
        return done

    return run


def best_s(call: Callable[[], ServeRun], repeats: int = 3) -> tuple[float, ServeRun]:
    """Least CPU seconds of several runs, and the last run."""
    times = []
    for _ in range(repeats):
        begin = process_time()
        done = call()
        times.append(process_time() - begin)
    return min(times), done


def warm_answers() -> list[tuple[str, float]]:
    """(question, CPU milliseconds) of whole answers, from the scenario on, with prices kept from the same question."""
    clients = {"concurrency": 32, "input_tokens": 1000, "output_tokens": 200, "jitter": 0.2}
    kept, found = Kept(), []
    for title, scenario in (
        ("300 requests of a trace", question(count=300, requests={"rate_per_s": 6.0})),
        (
            "320 requests of 32 clients, Mixtral",
            question("mixtral-8x7b", 320, "closed", gpus=2, tp=2, requests=clients),
        ),
    ):
        answer = partial(predict_serve, scenario, kept=kept)
        answer()
        found.append((title, min(_cpu_s(answer) for _ in range(9)) * 1e3))
    return found


def judged_per_s() -> float:
    """Deployments of Mixtral on 16 GPUs under 2,000 requests, a bound for each, jobs priced before."""
    load = {"kind": "poisson", "rate_per_s": 30.0, "count": 2000, "input_tokens": 900, "output_tokens": 120}
    scenario = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 16}, "serve": {"requests": load}}
    judge = ServeJudge(parse_scenario(scenario), Slo(1.0, 0.05))
    every = shapes(judge.base.arch, 16, judge.base.cluster.domain, {})
    found = deployments(judge, [s for s in every if judge.fits(s) is None], {}, True, Needs(judge))

    def judged() -> None:
        judge._bounds.clear()  # as if none had been asked before
        for candidate in found:
            judge.bounds(candidate)

    judged()
    return len(found) / min(_cpu_s(judged) for _ in range(3))


def day_s() -> float:
    """CPU seconds of a day with replicas that come and go."""
    scenario = question(gpus=8, router="least_loaded", autoscale={"most": 8, "by": "predicted"})
    del scenario["serve"]["requests"]["count"]
    return _cpu_s(lambda: predict_day(scenario, DAY))


def _cpu_s(call: Callable[[], object]) -> float:
    begin = process_time()
    call()
    return process_time() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=Path, help="a real trace instead of the generator")
    options = parser.parse_args()
    tight = {"kv_blocks": 2600}
    shared = {"kind": "reuse", "gpus": 16, "requests": {"rate_per_s": 17.0}, "router": {"kind": "prefix", "weight": 4}}
    tiers = [{"kind": "host", "bytes": 4e11}, {"kind": "disk", "bytes": 4e12}]
    lines: list[tuple[str, dict, int]] = [
        ("one replica, 10,000 requests", question(), 3),
        ("16 workers, blocks, prefix-aware router", question(count=12_031, **shared), 3),
        ("the same with host and disk behind", question(count=12_031, kv_tiers=tiers, kv_blocks=9000, **shared), 3),
        ("with preemption (2,600 blocks)", question(requests={"rate_per_s": 12.0}, **tight), 1),
        ("64 replicas, round robin", question(gpus=64, requests={"rate_per_s": 350.0}), 1),
        ("64 replicas, least loaded", question(gpus=64, requests={"rate_per_s": 350.0}, router="least_loaded"), 1),
        ("Mixtral 8x7B on 2 GPUs", question(model="mixtral-8x7b", gpus=2, tp=2), 1),
        ("one replica, 100,000 requests", question(count=100_000), 1),
        ("one replica, 1,000,000 requests", question(count=1_000_000), 1),
    ]
    table = Table(title="simulated requests per second")
    for name in ("run", "requests/s", "CPU s", "mean batch", "preempted", "peak memory, MiB"):
        table.add_column(name, justify="left" if name == "run" else "right")
    for title, scenario, repeats in lines:
        seconds, done = best_s(prepared(scenario, options.requests), repeats)
        steps = sum(sum(r.steps_at.values()) for r in done.replicas) or 1
        batch = sum(b * k for r in done.replicas for b, k in r.steps_at.items()) / steps
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
        table.add_row(
            title, f"{len(done.log) / seconds:,.0f}", f"{seconds:.3f}", f"{batch:.1f}", f"{done.log.preemptions:,}",
            f"{peak:,.0f}",
        )  # fmt: skip
    for title, rate in FIELD:
        table.add_row(title, f"{rate:,}", "", "", "", "")
    Console(width=120).print(table)
    planner = Table(title="one question among many")
    for name in ("what", "", "unit"):
        planner.add_column(name, justify="right" if not name else "left")
    for title, milliseconds in warm_answers():
        planner.add_row(f"one warm answer, {title}", f"{milliseconds:.1f}", "ms")
    planner.add_row("deployments judged by bounds", f"{judged_per_s():,.0f}", "per s")
    planner.add_row("a day of 865,000 requests, 1 to 8 replicas", f"{day_s():.0f}", "s")
    Console(width=110).print(planner)


if __name__ == "__main__":
    main()
