"""Model FLOPs of a training step: what the model asks for and the step executes, whatever the step repeats or pads."""

from __future__ import annotations

from moesim.sim.layers.steps import Linear
from moesim.sim.model.flops import kept_matmul_params, mixing_flops_per_token
from moesim.sim.train.prices import StepPrices


def model_flops_per_token(prices: StepPrices) -> float:
    """FLOPs per trained token, forward and backward.

    Two per weight and token forward, two for the gradient of the input, two for that of the weight; token mixing three
    times. Not counted: pairs of token and expert that a capacity limit drops, gradients of frozen weights (LoRA),
    masked pairs of attention, padding, and what is run again. Multi-token-prediction modules are no part of the model.
    """
    job = prices.job
    kept = [1.0 if load is None else 1.0 - load.dropped_share for load in prices.loads]
    weights = kept_matmul_params(job.arch, kept)
    passes = 2.0 if job.lora_rank else 3.0
    mixing = mixing_flops_per_token(job.arch, job.seq_len)
    return 2.0 * passes * weights + 3.0 * mixing + 6.0 * _adapter_params(prices)


def _adapter_params(prices: StepPrices) -> float:
    """LoRA weights that a token meets, over the GPUs of a tensor group."""
    if not prices.job.lora_rank:
        return 0.0
    steps = (
        step
        for chunk in prices.chunks
        for name, steps, _ in prices.factory.blocks(chunk)
        if not name.startswith("mtp")
        for step in steps
    )
    adapted = sum(step.adapter_rank * (step.n + step.k) for step in steps if isinstance(step, Linear))
    return float(adapted * prices.job.layout.tp)
