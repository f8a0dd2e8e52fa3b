"""Which layouts an engine can load where weights share scales by blocks: no rank may get a part of a block.

vLLM (`validate_fp8_block_shape`, `Fp8MoEMethod.create_weights`) and SGLang refuse a rank's matrix whose split side is
no multiple of the block: "The output_size of gate's and up's weight = 192 is not divisible by weight quantization
block_n = 128".
"""

from __future__ import annotations

from collections.abc import Iterator

from moesim.sim.layout.layout import BadLayout
from moesim.sim.model.arch import AttentionArch
from moesim.sim.question.serving_sections import ServeAsk
from moesim.sim.serve.apart import experts_job
from moesim.sim.serve.job import ServeJob

_IN_BLOCKS = ("fp8", "fp8_block")  # words of serve.precision that mean the checkpoint that has blocks


def of_blocks(ask: ServeAsk) -> bool:
    """Whether a scenario serves the published 8-bit checkpoint: it says nothing else."""
    return "precision" not in ask.model_fields_set or ask.precision in _IN_BLOCKS


def split_blocks(job: ServeJob) -> str | None:
    """Why an engine cannot load a replica or worker: what is cut, and what would do; None where it can."""
    published = job.arch.checkpoint
    if not job.published or not job.engine.whole_blocks or published is None or published.block is None:
        return None
    experts = experts_job(job) or job
    block = max(published.block)
    for part, name, side, ways, key in _sides(job, experts, block):
        if getattr(published, part) == "fp8_block" and ways > 1 and side % (ways * block):
            each = f"{side // ways:,}" if side % ways == 0 else f"{side / ways:,.1f}"
            fits = [n for n in range(1, ways) if side % (n * block) == 0]
            rows, columns = published.block
            return (
                f"{job.engine.title} cannot load FP8 blocks of {rows} x {columns} that are cut: {key}={ways} leaves "
                f"each rank {each} of {name} {side:,}, no multiple of {block}; {_way_out(key, fits)}"
            )
    return None


def check_blocks(job: ServeJob) -> None:
    """BadLayout where an engine could not load this replica or worker."""
    why = split_blocks(job)
    if why is not None:
        raise BadLayout(why)


def _sides(job: ServeJob, experts: ServeJob, block: int) -> Iterator[tuple[str, str, int, int, str]]:
    """(part of the checkpoint, name, length, ranks that share it, key) of every side of a matrix that is split."""
    arch, tp = job.arch, job.layout.tp
    if arch.moe is not None and arch.is_moe:
        yield "experts", "expert width", arch.moe.expert_intermediate, experts.layout.etp, "etp"
        if arch.moe.shared_intermediate:
            yield "shared", "shared experts' width", arch.moe.shared_intermediate, tp, "tp"
        if arch.moe.residual_intermediate:
            yield "dense", "dense width", arch.moe.residual_intermediate, tp, "tp"
    for at in {arch.at(kind) for kind in arch.layers}:
        if at.ffn is not None:
            yield "dense", "dense width", at.ffn.intermediate, tp, "tp"
        if at.attention is not None:
            yield from _heads(at.attention, tp, block)


def _heads(a: AttentionArch, tp: int, block: int) -> Iterator[tuple[str, str, int, int, str]]:
    yield "attention", "queries' width", a.heads * a.head_dim, tp, "tp"
    yield "attention", "heads' output width", a.heads * a.v_head_dim, tp, "tp"
    # keys are not cut below a head, and heads of one and a half blocks (MiMo-V2) are loaded by code of their own
    if not a.is_mla and a.head_dim < block and a.kv_heads % tp == 0:
        yield "attention", "keys' width", a.kv_heads * a.head_dim, tp, "tp"


def _way_out(key: str, fits: list[int]) -> str:
    some = f"{key} of {', '.join(map(str, fits[:8]))}" if fits else f"no split by {key} at all"
    if key == "etp":
        return f"spread whole experts with ep (ep = tp x attention_dp), or use {some} (etp is tp x attention_dp / ep)"
    return f"use {some}, with more replicas or attention_dp"
