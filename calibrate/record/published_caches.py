"""Published gains of caches and of the routers that know them, predicted: prompts that share, hosts that keep."""

from __future__ import annotations

from typing import Any

import numpy as np

from moesim.calibrate.record.headlines_serving import Seed
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.accounts import latencies_of, span_s
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import ServeRun, simulate
from moesim.sim.serve.workload import Workload
from moesim.traces.requests import Chains, Requests
from moesim.traces.rng import stream


def served(scenario: dict[str, Any], requests: Requests) -> ServeRun:
    """These requests on the deployment of a scenario."""
    resolved = resolve_serve(parse_scenario(scenario))
    return simulate(resolved.deployment, Workload(requests), resolved.tuning())


def customers(groups: int, shared: int, own: int, answer: int, arrivals: tuple[float, ...], seed: int = 0) -> Requests:
    """Requests of customers drawn at random: a context that all of one customer's share, and a question of its own."""
    count = len(arrivals)
    which = stream(seed, "published.customers").integers(0, groups, count).tolist()
    keys = tuple((int(g), groups + i) for i, g in enumerate(which))
    ends = ((shared, shared + own),) * count
    return Requests(
        arrivals, (shared + own,) * count, (answer,) * count, (0,) * count, Chains(keys, ends)
    )  # fmt: skip


def _qwen(router: str) -> dict[str, Any]:
    """Eight pods of two H100, as llm-d compares schedulers."""
    return {
        "model": "qwen3-32b", "cluster": {"node": "dgx-h100", "gpus": 16}, "layout": {"tp": 2},
        "serve": {"engine": "vllm", "precision": "bf16", "router": router,
                  "requests": {"kind": "poisson", "rate_per_s": 1.0, "count": 2}},
    }  # fmt: skip


def _ramp(low: float, high: float, span: float) -> tuple[float, ...]:
    """Arrivals whose rate rises evenly."""
    expected = np.cumsum(stream(0, "published.ramp").standard_exponential(int((low + high) / 2 * span)))
    slope = (high - low) / span
    return tuple(((-low + np.sqrt(low * low + 2.0 * slope * expected)) / slope).tolist())


def _routed(router: str) -> ServeRun:
    return served(_qwen(router), customers(150, 6000, 1200, 250, _ramp(3.0, 60.0, 300.0)))


def _more_tokens_by_router() -> float:
    knowing, blind = _routed("prefix"), _routed("power_of_two")
    return float(span_s(blind) / span_s(knowing))


def _from_host(tokens: int) -> float:
    """Time to the first token of a prompt that a host keeps, against that of computing it, Llama 3.1 8B on one H100."""
    scenario = {
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 1},
        "serve": {"engine": "vllm", "precision": "bf16", "kv_tiers": [{"kind": "host", "bytes": 1e12}],
                  "requests": {"kind": "poisson", "rate_per_s": 1.0, "count": 2}},
    }  # fmt: skip
    others = 5  # long prompts in between, which take all the room on the GPU
    lengths = (tokens, *(100_000,) * others, tokens)
    keys = (0, *range(1, others + 1), 0)
    chains = Chains(tuple((k,) for k in keys), tuple((n,) for n in lengths))
    times = tuple(200.0 * i for i in range(len(lengths)))
    run = served(scenario, Requests(times, lengths, (2,) * len(lengths), (0,) * len(lengths), chains))
    first = latencies_of(run).ttft_s
    return float(first[0] / first[-1])


_LLMD = "llm-d.ai, KV-cache wins you can see, 2025"
_VLLM = "blog.vllm.ai 2026-01-08, KV offloading connector"

ROUTED: tuple[Seed, ...] = (
    Seed(
        "Qwen3-32B, 8 x 2 H100, 150 contexts of 6,000 tokens: throughput", 2.0, 2.0, "x", _more_tokens_by_router,
        "rate from 3 to 60 a second in 5 minutes, answers of 250 tokens; blind: power of two", _LLMD,
    ),
)  # fmt: skip
HOSTS: tuple[Seed, ...] = tuple(
    Seed(
        f"Llama 3.1 8B, H100, prompt of {tokens:,} tokens", 2.0, 22.0, "x",
        lambda tokens=tokens: _from_host(tokens),  # type: ignore[misc]  # bound now
        "the range is over lengths of prompts, which are not printed with it", _VLLM,
    )
    for tokens in (2_000, 16_000, 100_000)
)  # fmt: skip

CACHES: dict[str, tuple[Seed, ...]] = {
    "Routers: throughput with one that knows caches over one that does not": ROUTED,
    "Hosts: time to the first token of computing a prompt over fetching it": HOSTS,
}
