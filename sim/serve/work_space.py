"""What a serving engine holds beside weights and cache: context, transfers' buffers, activations of its largest pass.

vLLM runs one pass of all the tokens that a step may have, and samples for all the sequences that may run, before it
sizes its cache: what that took comes out of its share of the memory. SGLang leaves it outside of its static share,
which it makes smaller by what it expects to need.
"""

from __future__ import annotations

from moesim.sim.serve.job import ServeJob

_WIDTH = 2.0  # bytes of an activation
FOUR_BITS = ("int4", "nvfp4", "mxfp4")  # formats of experts whose kernels keep no space of their own between passes
_STREAMS = 3.0  # vectors of every token alive at once beside a block's own: the stream, its norm, a block's answer


def work_bytes(job: ServeJob) -> float:
    """Bytes of one GPU that its share of the memory holds beside weights, adapters and cache; as stated where it is."""
    engine = job.engine
    if "work_bytes" in engine.given:
        return engine.work_bytes
    held = engine.work_bytes + (engine.group_bytes if job.layout.tp > 1 else 0.0)
    if not engine.counts_passes:
        return held
    sampled, rows = engine.sampler_bytes * engine.max_batch * job.arch.vocab, _expert_rows(job) * _row_bytes(job)
    if job.formats.experts in FOUR_BITS:
        return held + max(sampled, _block_bytes(job) + rows)
    return held + rows + max(sampled, _block_bytes(job))


def _expert_rows(job: ServeJob) -> float:
    """Rows that experts of one rank get in the largest pass."""
    moe, lay = job.arch.moe, job.layout
    return job.engine.token_budget * job.attention_dp * moe.top_k / lay.ep if moe is not None else 0.0


def _row_bytes(job: ServeJob) -> float:
    """Bytes of one row in the space that engines keep for experts: what goes through the first matrix, the answer."""
    moe = job.arch.moe
    if moe is None:
        return 0.0
    inner = (2.0 if moe.gated else 1.0) * moe.expert_intermediate / job.layout.etp
    return _WIDTH * ((moe.latent or job.arch.hidden) + inner)


def _block_bytes(job: ServeJob) -> float:
    """Bytes of the largest pass through its widest block, logits and what experts keep left out."""
    arch, tp = job.arch, job.layout.tp
    attention, dense = arch.attention, arch.ffn
    widest = (2.0 * attention.heads + 2.0 * attention.kv_heads) * attention.head_dim / tp if attention else 0.0
    if dense is not None:
        widest = max(widest, (3.0 if dense.gated else 2.0) * dense.intermediate / tp)
    rows = _expert_rows(job) * arch.moe.expert_intermediate / job.layout.etp if arch.moe is not None else 0.0
    return _WIDTH * (job.engine.token_budget * (_STREAMS * arch.hidden + widest) + rows)


def share_of(job: ServeJob) -> float:
    """The share of a GPU's memory that the engine takes: as stated, its default, or what it does not reserve.

    Where its default reserve leaves too little to start with (attention data parallel over many GPUs), operators state
    a share: theirs is taken.
    """
    engine = job.engine
    if "kv_fraction" in engine.given or not engine.reserve:
        return engine.kv_fraction
    share = _not_reserved(job)
    return share if share >= engine.reserve["least_share"] else engine.reserve["operators_share"]


def _not_reserved(job: ServeJob) -> float:
    """What the engine's rule of reserving leaves of a GPU; below zero where it leaves nothing."""
    engine, gpu, lay = job.engine, job.cluster.gpu, job.layout
    facts = engine.reserve
    large = gpu.usable_bytes >= facts["large_gpu_bytes"]
    tokens = engine.token_budget if "token_budget" in engine.given else facts["large_tokens" if large else "tokens"]
    graphs = facts["many_graphs" if large or lay.tp >= facts["many_graphs_tp"] else "graphs"]
    held = facts["bytes"] + facts["token_bytes"] * max(tokens, facts["least_tokens"]) + facts["graph_bytes"] * graphs
    held += facts["rank_bytes"] * lay.gpus
    if job.attention_dp > 1:
        held += facts["dp_graph_bytes"] * graphs * job.attention_dp
    if gpu.usable_bytes > facts["least_from_bytes"]:
        held = max(held, facts["least_bytes"])
    held += facts["draft_bytes"] if job.speculation is not None else 0.0
    return 1.0 - held / gpu.usable_bytes


def work_said(job: ServeJob) -> list[str]:
    """What was taken of these where a scenario does not state it, in words."""
    engine, said = job.engine, []
    if "work_bytes" not in engine.given:
        said.append(f"work_bytes = {work_bytes(job):.3g} (beside weights and cache: rule of {engine.name})")
    if "kv_fraction" not in engine.given and engine.reserve:
        own = _not_reserved(job) >= engine.reserve["least_share"]
        why = "what is left of its default reserve" if own else "as operators state it: its default reserve leaves none"
        said.append(f"{engine.name} takes {share_of(job):.3f} of a GPU: {why}")
    return said
