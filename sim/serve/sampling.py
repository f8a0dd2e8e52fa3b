"""Sampling: what picking a token costs beyond the greedy one that every pass pays for.

The nucleus is found by sorting the vocabulary or by scanning it a few times; log-probabilities are packed by the host;
a grammar's mask is made by the host for every position, and disables nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.layers.steps import Pointwise, Step
from moesim.sim.question.feature_sections import SamplingAsk
from moesim.sim.software.stack import Tuning

_SCAN = 8.0  # bytes per logit of one pass that reads and writes it in 32 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are picked, beside the greedy choice."""

    top_p: bool = False
    logprobs: int = 0  # returned per token
    structured: bool = False


def sampling_of(ask: SamplingAsk | None) -> tuple[Sampling | None, list[str]]:
    """What a scenario asks for, and what goes without saying; None where tokens are picked greedily."""
    if ask is None:
        return None, []
    sampling = Sampling(top_p=ask.kind == "top_p", logprobs=ask.logprobs, structured=ask.structured != "none")
    if sampling == Sampling():
        return None, []
    masked = "structured output: a mask per position by the host; drafts, graphs and batching go on as without it"
    return sampling, [masked] if sampling.structured else []


def sampling_steps(sampling: Sampling | None, tokens: int, vocab: int, engine: str, tuning: Tuning) -> list[Step]:
    """Work on the logits of `tokens` tokens beyond the greedy choice. Constant: top_p_bytes per logit."""
    if sampling is None:
        return []
    each, kernels = 0.0, 0
    if sampling.top_p:
        each, kernels = tuning.get("top_p_bytes", engine), 4
    if sampling.logprobs:  # the logarithm of the softmax, then the largest of them
        each, kernels = each + 2.0 * _SCAN, kernels + 2
    if sampling.structured:  # the mask sets what may not follow to minus infinity
        each, kernels = each + _SCAN, kernels + 1
    bytes_ = each * tokens * vocab
    return [Pointwise(name="head.pick", forward_bytes=bytes_, backward_bytes=0.0, category="head", kernels=kernels)]


def host_s(sampling: Sampling | None, width: int, engine: str, tuning: Tuning) -> float:
    """Seconds of the host per sequence and pass of `width` positions. Constants: mask_s, logprob_s, logprob_each_s."""
    if sampling is None:
        return 0.0
    seconds = tuning.get("mask_s", engine) if sampling.structured else 0.0
    if sampling.logprobs:
        seconds += tuning.get("logprob_s", engine) + sampling.logprobs * tuning.get("logprob_each_s", engine)
    return width * seconds
