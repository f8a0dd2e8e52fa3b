"""Write docs/caches.md: `python docs/write_caches.py [conversation_trace.jsonl]`. Routers and tiers, side by side.

Without a file the load is the shipped generator `reuse`; with Mooncake's public conversation trace
(github.com/kvcache-ai/Mooncake, FAST25-release/traces) the page shows that, five times as fast as it was recorded.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies_of, spread
from moesim.sim.serve.cache_account import cache_account
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import simulate
from moesim.sim.serve.workload import Workload
from moesim.traces.request_files import load_requests
from moesim.traces.requests import Requests
from moesim.traces.reuse import reuse

PAGE = Path(__file__).parent / "caches.md"
MARK = "<!-- table -->"
SPEED = 5.0
HOST, DISK = {"kind": "host", "bytes": 1.2e12}, {"kind": "disk", "bytes": 6e12}
ROWS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("round robin", {"router": "round_robin"}),
    ("least loaded", {"router": "least_loaded"}),
    ("power of two", {"router": "power_of_two"}),
    ("sticky", {"router": "sticky"}),
    ("prefix-aware, news 0.05 s old", {"router": "prefix"}),
    ("prefix-aware, news 10 s old", {"router": {"kind": "prefix", "lag_s": 10}}),
    ("prefix-aware, weight 1 (Dynamo's default)", {"router": {"kind": "prefix", "weight": 1}}),
    ("prefix-aware, host behind", {"router": "prefix", "kv_tiers": [HOST]}),
    ("prefix-aware, host and disk behind", {"router": "prefix", "kv_tiers": [HOST, DISK]}),
    ("least loaded, host behind", {"router": "least_loaded", "kv_tiers": [HOST]}),
    ("least loaded, no prefix cache", {"router": "least_loaded", "engine": {"name": "vllm", "prefix_cache": False}}),
)


def line(title: str, serve: dict[str, Any], requests: Requests) -> str:
    """One deployment of the table: 16 replicas of Llama 3.1 8B on H100."""
    load = {"kind": "poisson", "rate_per_s": 1.0, "count": 2}
    scenario = {
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 16},
        "serve": {"engine": "vllm", "precision": "fp8", "requests": load, **serve},
    }  # fmt: skip
    resolved = resolve_serve(parse_scenario(scenario))
    run = simulate(resolved.deployment, Workload(requests), resolved.tuning())
    seen, kept = latencies_of(run), cache_account(run)
    ttft, tpot = spread(seen.ttft_s), spread(seen.tpot_s)
    hit = f"{kept['hit_share']:.1%}" if kept else "0"
    outside = sum(tier["hit_share"] for tier in kept["tiers"].values()) if kept else 0.0
    return (
        f"| {title} | {hit} | {outside:.1%} | {ttft.mean:.3f} | {ttft.p50:.3f} | {ttft.p99:.2f} | "
        f"{tpot.mean * 1e3:.1f} |\n"
    )


def main() -> None:
    """Run every row and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trace", nargs="?", type=Path)
    options = parser.parse_args()
    if options.trace is None:
        requests, what = reuse(12_031, 0, 17.0), "generator `reuse`, 17 requests/s"
    else:
        loaded = load_requests(options.trace).requests
        requests = replace(loaded, arrival_s=tuple(t / SPEED for t in loaded.arrival_s))
        what = f"Mooncake's conversation trace, {len(requests):,} requests, {SPEED:g} times as fast"
    table = f"{MARK}\nLoad: {what}.\n\n"
    table += "| router and tiers | found | outside the GPU | TTFT mean, s | p50 | p99 | TPOT, ms |\n"
    table += "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    table += "".join(line(title, serve, requests) for title, serve in ROWS)
    before, _, after = PAGE.read_text(encoding="utf-8").partition(MARK)
    after = after.partition(MARK)[2]
    PAGE.write_text(before + table + MARK + after, encoding="utf-8")


if __name__ == "__main__":
    main()
