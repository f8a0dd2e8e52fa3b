"""What a served load cannot beat on a priced job: seconds to the first token, per further token, and of all work.

Pass costs are sums of lines over token counts (sim/serve/step.py). The lowest point of a line, and the lowest ratio of
its seconds to its tokens, are below every pass that a replica may ever compose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.sim.serve.front import Front
from moesim.sim.serve.slo import Slo
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.workload import Workload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Floors:
    """Of one replica or worker; seconds."""

    prompt_s: float  # of a pass that carries any prompt, whatever else it holds
    prompt_token_s: float  # per prompt token of one request
    prompt_share_s: float  # per prompt token, all ranks working side by side
    token_s: float  # between two tokens of a sequence
    token_share_s: float  # per output token, all ranks working side by side


def floors_of(costs: StepCosts) -> Floors:
    """Floors of a priced job."""
    job = costs.parts.job
    dp, pp = job.attention_dp, job.layout.pp
    halves = job.two_batch and job.arch.is_moe

    def layers(dense: float, experts: float) -> float:
        """Of dense parts, and of experts with their exchange, which halves of a batch may hide behind each other."""
        return max(dense, 0.5 * (dense + experts)) if halves else dense + experts

    base, head = costs.fixed_s + costs.lowest("rank"), costs.lowest("head")
    decode = layers(base, costs.lowest("experts")) + head + costs.host_s + costs.sequence_s
    mixed = layers(base, costs.lowest("prefill experts")) + head
    mixed = max(mixed, costs.floor_s) + costs.host_s + costs.prefill_s
    rank, experts, wide = costs.leanest("rank"), costs.leanest("experts"), costs.leanest("prefill experts")
    shared, pace = min(wide, experts), costs.pace
    return Floors(
        prompt_s=pace * mixed,
        prompt_token_s=pace * layers(rank, wide) / pp,
        prompt_share_s=pace * layers(rank / dp, wide) / pp,
        token_s=pace * min(decode, mixed) / costs.yields,
        token_share_s=pace * layers(rank / dp, shared) / pp,
    )


@dataclass(frozen=True, slots=True)
class LoadBounds:
    """Of a load on a deployment: means of warm requests, and what all GPUs of a kind need at least for all of them."""

    ttft_s: float
    tpot_s: float
    span_s: float  # seconds of the whole load at least
    attainable_share: float  # share of the requests that may come within the limits
    prompt_s: float  # seconds of one worker for all prompts, and of one replica for all further tokens
    token_s: float
    together: bool

    def of(self, workers: int, replicas: int) -> LoadBounds:
        """The same on so many workers and replicas."""
        if self.together:
            span = (self.prompt_s + self.token_s) / replicas
        else:
            span = max(self.prompt_s / workers, self.token_s / replicas)
        return replace(self, span_s=span)


@dataclass(frozen=True, slots=True)
class Pools:
    """Floors of what computes prompts and of what decodes, and how many there are; replicas do both."""

    prompts: Floors
    workers: int
    tokens: Floors
    replicas: int
    together: bool  # replicas: the same GPUs do both
    streamed_tokens: float  # tokens that reach a client together; they shorten the pace that it sees


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Tokens of a load's requests, once for all deployments: of prompts, of what is new in them, of answers."""

    inputs: Floats
    new: Floats
    out: Floats
    warmup: float | None  # of the load


def columns_of(load: Workload) -> Columns:
    """A load as columns."""
    r = load.requests
    inputs, prefix, out = (np.array(c, dtype=np.float64) for c in (r.input_tokens, r.prefix, r.output_tokens))
    return Columns(inputs, np.maximum(1.0, inputs - prefix), out, load.warmup)


def load_bounds(load: Columns, slo: Slo, front: Front, pools: Pools) -> LoadBounds:
    """Bounds of a load on replicas or pools."""
    prompts, tokens = pools.prompts, pools.tokens
    inputs, new, out = load.inputs, load.new, load.out
    first = np.maximum(prompts.prompt_s, prompts.prompt_token_s * new)
    first = first + front.request_s + front.server_s + front.token_s * inputs
    left = np.maximum(1.0, out - 1.0)
    pace = np.where(out > 1, tokens.token_s * (1.0 - (np.minimum(pools.streamed_tokens, out) - 1.0) / left), 0.0)
    prompt_s, token_s = prompts.prompt_share_s * float(new.sum()), tokens.token_share_s * float((out - 1.0).sum())
    every, several = np.ones(len(first)), (out > 1).astype(np.float64)
    good = ((first <= slo.ttft_s) & (pace <= slo.tpot_s)).astype(np.float64)
    one = LoadBounds(
        ttft_s=float(_means(first, every, load.warmup).min()),
        tpot_s=float(_means(pace, several, load.warmup).min()),
        span_s=0.0,
        attainable_share=float(_means(good, every, load.warmup).max()),
        prompt_s=prompt_s,
        token_s=token_s,
        together=pools.together,
    )
    return one.of(pools.workers, pools.replicas)


def _means(values: Floats, counted: Floats, warmup: float | None) -> Floats:
    """Means of the counted values without any start that may be left out: of a share, or of up to half by the rule.

    Which start it is, the run decides; none of these means is passed over. 0 where none is counted.
    """
    cuts = slice(0, len(values) // 2 + 1) if warmup is None else slice(int(len(values) * warmup), None)
    sums, counts = (np.cumsum(column[::-1])[::-1][cuts] for column in (values * counted, counted))
    means = sums / np.maximum(1.0, counts)
    return means if warmup is None else means[:1]
