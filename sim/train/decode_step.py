"""One decode step of a resolved job: every sequence of the micro-batch gets one token, against a KV cache."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.layers.steps import Core, SegmentBuilder, Step, forward
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.scripts import compile_script
from moesim.sim.train.segment_time import SegmentTime, price


def decode_step(prices: StepPrices, kv_len: int) -> SegmentTime:
    """Seconds of one token for each of the job's `micro_batch` sequences of `kv_len` keys; the job's seq_len is 1.

    Forward only: embedding, layers with attention against the cache, final norm and logits; no loss. One pipeline rank.
    """
    job = prices.job
    if job.seq_len != 1 or job.layout.pp != 1:
        raise ValueError(f"a decode step has seq_len 1 and pp 1, not {job.seq_len} and {job.layout.pp}")
    builder = SegmentBuilder("decode")
    for name, steps, _ in prices.factory.blocks(prices.chunks[0]):
        # prediction modules are run as training runs them, their loss included
        kept = [step for step in steps if step.part != "loss"] if name == "head" else steps
        forward(builder, [_against_cache(step, kv_len) for step in kept])
    return price(compile_script(builder.build(), prices.rules("F")))


def _against_cache(step: Step, kv_len: int) -> Step:
    """The same step, attention with one query against `kv_len` keys."""
    if not isinstance(step, Core):
        return step
    return replace(step, work=replace(step.work, q_len=1, kv_len=kv_len, causal=True, phase="decode"))
