"""Memory of serving: weights of one GPU by format and layout, work space, and what is left for keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.layout.layout import BadLayout, check_layout
from moesim.sim.model.params import embedding_params, expert_params, experts_in, head_params, layer_params
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.serve.adapters import adapter_bytes
from moesim.sim.serve.apart import check_apart, experts_job
from moesim.sim.serve.drafter import drafter_of
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.kv_cache import KvCache, kv_cache
from moesim.sim.serve.work_space import FOUR_BITS, share_of, work_bytes, work_said

_PADS = {"int4": (128, 256)}  # of the two sides of a matrix where 4 bits are widened; elsewhere both are _PAD
_PAD = 256
_MOST_SHARE = (
    0.95  # assumed: what operators state where weights fill a GPU, as DeepSeek-R1 on 8 H20 (lmsys.org 2025-09-26)
)
_LEAST_CACHE_SHARE = 0.02  # assumed: of a GPU's memory, below which nobody leaves an engine's own share as it is
_DRIVER_BYTES = 1e9  # assumed: what TensorRT-LLM leaves to the driver beside its share


@dataclass(frozen=True, slots=True)
class ServeMemory:
    """Bytes of the fullest GPU by kind; `cache_bytes` is what the engine gives to keys and values."""

    weights: float
    experts: float  # of the weights
    adapters: float
    work: float
    cache_bytes: float
    usable: float

    def by_kind(self) -> dict[str, float]:
        """Bytes by kind, without what is already inside another kind."""
        names = ("weights", "adapters", "work", "cache_bytes")
        return {name: getattr(self, name) for name in names}


def padded_share(job: ServeJob) -> float:
    """What 4-bit experts take over what they hold: kernels want both sides of a matrix in multiples of 256.

    gpt-oss: 2,880 become 3,072. vllm/model_executor/layers/quantization/mxfp4.py; assumed of other engines. Where
    kernels widen 4 bits (Hopper, Ampere) logs show 10 to 13 % where 14 % would follow: one side in multiples of 128.
    """
    moe = job.arch.moe
    if moe is None or job.formats.experts not in FOUR_BITS:
        return 1.0
    sides = (moe.latent or job.arch.hidden, moe.expert_intermediate)
    padded = held = 1
    for side, multiple in zip(sides, _PADS.get(job.formats.experts, (_PAD, _PAD)), strict=True):
        padded, held = padded * -(-side // multiple) * multiple, held * side
    return padded / held


def expert_bytes(job: ServeJob) -> float:
    """Bytes of routed experts that one GPU serves, wherever they lie."""
    arch, lay, experts = job.arch, job.layout, 0.0
    each = expert_params(arch) * bytes_per_element(job.formats.experts) * padded_share(job) if arch.is_moe else 0.0
    for kind in arch.layers:
        if layer_params(arch, kind).experts:
            copies = experts_in(arch, kind) / lay.ep + (job.expert_slots / lay.ep if job.expert_slots else 0.0)
            experts += copies * each / lay.etp
    return experts / lay.pp


def weight_bytes(job: ServeJob) -> tuple[float, float]:
    """(all, routed experts) bytes of weights on the fullest GPU; embedding and head stay in 16 bits."""
    arch, lay, formats = job.arch, job.layout, job.formats
    dense, experts = 0.0, expert_bytes(job) * (job.offload.resident if job.offload is not None else 1.0)
    if job.apart is not None:  # they lie elsewhere
        experts = 0.0
    for kind in arch.layers:
        layer = layer_params(arch, kind)
        blocks = layer.dense_ffn + layer.shared if formats.blocks else 0
        dense += (layer.total - layer.experts - blocks) * bytes_per_element(formats.attention) / lay.tp
        dense += blocks * bytes_per_element(formats.dense) / lay.tp
    ends = (embedding_params(arch) + head_params(arch)) * bytes_per_element(formats.head) / lay.tp
    return dense / lay.pp + experts + ends + draft_bytes(job), experts


def draft_bytes(job: ServeJob) -> float:
    """Bytes of what drafts, on the GPU that holds it; modules and EAGLE layers use the model's own tables of words.

    EAGLE-3 has a head of its own.
    """
    drafter, speculation = drafter_of(job), job.speculation
    if drafter is None or speculation is None:
        return 0.0
    whole = weight_bytes(drafter)[0]
    if speculation.method == "draft_model":
        return whole
    arch, size = drafter.arch, bytes_per_element(drafter.formats.head)
    ends = (embedding_params(arch) + head_params(arch)) * size / drafter.layout.tp
    own = head_params(arch) * size / drafter.layout.tp if speculation.method == "eagle3" else 0.0
    return speculation.modules * (whole - ends + speculation.joins * arch.hidden**2 * size) + own


def _cache_bytes(job: ServeJob, share: float, held: float) -> float:
    usable = job.cluster.gpu.usable_bytes
    if job.engine.kv_of == "free":
        return share * (usable - _DRIVER_BYTES - held)
    return share * usable - held


def _is_tight(job: ServeJob, cache_bytes: float) -> bool:
    """Whether the engine's own share of the memory leaves next to nothing for a cache, and nobody stated another."""
    engine = job.engine
    if (
        "kv_fraction" in engine.given or engine.kv_of == "free"
    ):  # a share of what is free cannot be too small for weights
        return False
    return cache_bytes < _LEAST_CACHE_SHARE * job.cluster.gpu.usable_bytes


def memory_said(job: ServeJob) -> list[str]:
    """What was taken of work space and share where a scenario does not state them, in words."""
    held = weight_bytes(job)[0] + adapter_bytes(job) + work_bytes(job)
    tight = _is_tight(job, _cache_bytes(job, share_of(job), held))
    raised = f"{job.engine.name} takes {_MOST_SHARE:g} of a GPU: its own share leaves no cache (assumed)"
    return [*work_said(job), *([raised] if tight else [])]


def serve_memory(job: ServeJob) -> ServeMemory:
    """What one GPU holds. `cache_bytes` may be negative: then the model does not fit."""
    weights, experts = weight_bytes(job)
    adapters = adapter_bytes(job)
    usable, work = job.cluster.gpu.usable_bytes, work_bytes(job)
    cache = _cache_bytes(job, share_of(job), weights + adapters + work)
    if _is_tight(job, cache):
        cache = max(cache, _cache_bytes(job, _MOST_SHARE, weights + adapters + work))
    return ServeMemory(weights, experts, adapters, work, cache, usable)


def fitted_cache(
    job: ServeJob, longest_tokens: int, typical_tokens: int, blocks: int | None = None
) -> tuple[ServeMemory, KvCache]:
    """Memory and paged cache, of `blocks` blocks where they are given.

    DoesNotFit when the longest request has no room, with the smallest layout that has.
    """
    elsewhere = experts_job(job)
    if elsewhere is not None:
        check_apart(job, expert_bytes(elsewhere))
    memory = serve_memory(job)
    cache = kv_cache(job, memory.cache_bytes, typical_tokens)
    if blocks is not None:
        room = kv_cache(job, memory.usable - memory.weights - memory.adapters, typical_tokens).blocks
        if blocks > room:
            raise DoesNotFit(
                f"serve.kv_blocks={blocks:,} of {cache.block_tokens} tokens are more than {job.layout.gpus} x "
                f"{job.cluster.gpu.name} hold beside the weights, {max(0, room):,} blocks without any work space; give "
                f"at most what engines have, {max(0, cache.blocks):,}, or more GPUs"
            )
        cache = replace(cache, blocks=blocks)
    needed = cache.blocks_of(longest_tokens)
    each = cache.blocks // job.attention_dp  # a request's blocks lie on one rank
    if needed <= each:
        return memory, cache
    if blocks is not None:
        raise DoesNotFit(
            f"serve.kv_blocks={blocks:,} of {cache.block_tokens} tokens are too few: a request of {longest_tokens:,} "
            f"tokens needs {needed:,} on its rank, and each has {each:,}; give {needed * job.attention_dp:,} or more, "
            "or leave kv_blocks out"
        )
    if memory.adapters > max(0.0, memory.usable - memory.weights) and memory.weights < memory.usable:
        raise DoesNotFit(
            f"serve.adapters take {memory.adapters / GIB:,.1f} GiB of a GPU, which has {memory.usable / GIB:.1f} GiB "
            f"and {memory.weights / GIB:.1f} GiB of weights on it; give a smaller count or rank"
        )
    spare = memory.cache_bytes / GIB
    what = f"{memory.weights / GIB:.1f} GiB of weights leave {spare:.1f} GiB of {memory.usable / GIB:.1f} GiB for KV"
    raise DoesNotFit(
        f"{job.arch.name} does not fit on {job.layout.gpus} x {job.cluster.gpu.name}: {what}, and a request of "
        f"{longest_tokens:,} tokens needs {needed * cache.block_tokens * cache.bytes_per_token / GIB:.1f} GiB; "
        f"{_what_fits(job, longest_tokens, typical_tokens)}"
    )


def _what_fits(job: ServeJob, longest: int, typical: int) -> str:
    """The smallest layout of the same kind that has room."""
    lay = job.layout
    for ways in (2, 4, 8, 16, 32, 64):
        experts = lay.etp * ways if lay.ep == 1 and job.arch.is_moe else lay.etp
        wide = lay.ep * ways if lay.ep > 1 else lay.ep
        for name, other in (
            (f"tp={lay.tp * ways}", replace(lay, gpus=lay.gpus * ways, tp=lay.tp * ways, etp=experts, ep=wide)),
            (f"pp={lay.pp * ways}", replace(lay, gpus=lay.gpus * ways, pp=lay.pp * ways)),
        ):
            try:
                trial = replace(job, layout=check_layout(other, job.arch))
            except BadLayout:
                continue
            cache = kv_cache(trial, serve_memory(trial).cache_bytes, typical)
            if cache.blocks_of(longest) <= cache.blocks // trial.attention_dp:
                return f"fits with {name} on {other.gpus} GPUs"
    return "no layout of up to 64 times as many GPUs is enough: use a smaller format, shorter requests or another GPU"
