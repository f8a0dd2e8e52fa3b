"""How uneven ranks get under a routing process, and how long it takes to draw a step: python benchmarks/routing.py

DeepSeek-V3 (58 layers with 256 experts in 8 router groups, top 8), 4,096 tokens a rank. Prints the table of
docs/routing.md (busiest rank over the mean, averaged over layers, micro-batches and seeds), then seconds.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np

from moesim.sim.layout.layout import Layout
from moesim.sim.layout.routed_rows import MicroBatches, RoutedRows, routed_rows
from moesim.sim.layout.slots import BLOCKS, Placement
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.lookup import usual_routing
from moesim.traces.routing import Routing

MODEL = load_model("deepseek-v3")
RANKS = (8, 16, 32, 64)
SEEDS = range(3)
RECORDED = {"kind": "lognormal", "sigma": 0.65, "group_sigma": 0.36}


def step(routing: Routing, placement: Placement = BLOCKS, ep: int = 64, count: int = 4, groups: int = 1) -> RoutedRows:
    """One step of a training job."""
    batch = MicroBatches(tokens_per_rank=4096, sequences_per_rank=1.0, count=count, groups=groups)
    return routed_rows(MODEL, Layout(gpus=2048, pp=16, ep=ep), routing, placement, batch)


def busiest(placement: Placement, ep: int, **process: object) -> float:
    """Busiest rank over the mean."""
    steps = (step(Routing(**process, seed=seed), placement, ep) for seed in SEEDS)  # type: ignore[arg-type]  # words of a process
    return float(np.mean([list(each.imbalance.values()) for each in steps]))


def by_ranks() -> None:
    """Processes against expert-parallel ranks, experts in contiguous blocks; then slots that a plan fills."""
    usual = usual_routing()
    topics = {"kind": "lognormal", "topic": usual.topic, "group_topic": usual.group_topic}
    plan = {n: Placement(planned=True, spare_slots=n) for n in (0, 64)}
    lines = {
        "a uniform router: sampling alone": (BLOCKS, {"kind": "lognormal"}),
        "the usual process in training: topics, a sequence a rank": (BLOCKS, topics),
        "lognormal 0.2": (BLOCKS, {"kind": "lognormal", "sigma": 0.2}),
        "lognormal 0.65": (BLOCKS, {"kind": "lognormal", "sigma": 0.65}),
        "0.65 in router groups of 0.36 (recorded loads)": (BLOCKS, RECORDED),
        "the same, 256 slots by a fresh plan": (plan[0], RECORDED),
        "the same, 320 slots by a fresh plan": (plan[64], RECORDED),
    }
    print("| busiest rank over the mean | " + " | ".join(f"EP{ep}" for ep in RANKS) + " |")
    print("| --- |" + " --- |" * len(RANKS))
    for name, (placement, process) in lines.items():
        print(f"| {name} | " + " | ".join(f"{busiest(placement, ep, **process):.2f}" for ep in RANKS) + " |")


def by_age() -> None:
    """320 slots on 64 ranks by plans of several ages."""
    ages = (0, 10, 100, 1000)
    print("\n| 320 slots at EP64, age of the plan in steps | " + " | ".join(f"{age}" for age in ages) + " |")
    print("| --- |" + " --- |" * len(ages))
    for drift in (0.9999, 0.9995, 0.999):
        placements = [Placement(planned=True, spare_slots=64, plan_age_steps=age) for age in ages]
        row = (busiest(placement, 64, **RECORDED, drift=drift) for placement in placements)
        print(f"| drift {drift:g} | " + " | ".join(f"{value:.2f}" for value in row) + " |")


def seconds() -> None:
    """Wall time of one step's draws, best of three."""
    for name, groups in (("2 groups of 64 ranks, 120 micro-batches", 2), ("32 groups", 32)):
        best = float("inf")
        for _ in range(3 if groups == 2 else 1):
            start = perf_counter()
            drawn = step(Routing(**RECORDED), count=120, groups=groups)  # type: ignore[arg-type]  # the same
            assert drawn.expert_rows
            best = min(best, perf_counter() - start)
        print(f"{name}: {best:.2f} s")


if __name__ == "__main__":
    by_ranks()
    by_age()
    seconds()
