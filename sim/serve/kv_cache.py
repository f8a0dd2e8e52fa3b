"""The KV cache: bytes one token leaves on each rank, bytes one sequence keeps whatever its length, and paged blocks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from operator import mul

from moesim.hwmodels.gpu import bytes_per_element
from moesim.sim.model.arch import LayerKind
from moesim.sim.model.params import SOFTMAX
from moesim.sim.serve.drafter import drafter_of
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.step_parts import state_bytes

_FEW = 64  # tokens of a block, up to which padding is looked up
_HOST_LINK_SHARE = 0.8  # assumed: of its rate that copies of blocks reach


def _layer_token_bytes(job: ServeJob, kind: LayerKind) -> float:
    """Bytes of one token in one softmax layer on one rank; kv heads beyond the tensor group are copied."""
    a = job.arch.at(kind).attention
    if a is None:
        return 0.0
    size = bytes_per_element(job.formats.kv)
    held = a.cached_width if a.is_mla else max(1.0, a.kv_heads / job.layout.tp) * (a.cached_width // a.kv_heads)
    return (held * size + a.own_index_dim) / (a.compress or 1)


def _windowed(kind: LayerKind) -> bool:
    return kind.mixer == "window_attention"


def token_bytes(job: ServeJob) -> float:
    """Bytes that one more token takes on one rank, in layers that keep all of them."""
    held = sum(
        count * _layer_token_bytes(job, kind)
        for kind, count in Counter(job.arch.layers).items()
        if kind.mixer in SOFTMAX and not kind.encoder and not _windowed(kind)
    )
    return held / job.layout.pp


def sequence_bytes(job: ServeJob, tokens: int) -> float:
    """Bytes that a sequence of `tokens` tokens takes on one rank beside `token_bytes`: windows and states."""
    held = 0.0
    for kind in job.arch.layers:
        a = job.arch.at(kind).attention
        if a is not None and a.window and (_windowed(kind) or a.compress):  # recent tokens are never compressed
            held += min(tokens, a.window) * _layer_token_bytes(job, kind) * (a.compress or 1)
        elif kind.mixer not in (*SOFTMAX, "none"):
            held += state_bytes(job, kind)
    return held / job.layout.pp


@dataclass(frozen=True, slots=True)
class KvCache:
    """Paged cache of one replica: `blocks` of `block_tokens` tokens, over all ranks that hold requests of their own."""

    blocks: int
    block_tokens: int
    bytes_per_token: float  # on one rank, windows and states of a typical sequence shared out over its tokens
    swap_token_s: float = 0.0  # to write one token to host memory and fetch it again

    def blocks_of(self, tokens: int) -> int:
        """Blocks that a sequence of that many tokens fills, the last one partly."""
        return -(-tokens // self.block_tokens)


def kv_cache(job: ServeJob, free_bytes: float, typical_tokens: int) -> KvCache:
    """Blocks that fit into `free_bytes` of every rank. A model without any cache counts one byte per token."""
    holds = [job, drafter_of(job)]  # what drafts keeps keys and values of its own
    per_token = sum(token_bytes(j) + sequence_bytes(j, typical_tokens) / max(1, typical_tokens) for j in holds if j)
    per_token = max(per_token, 1.0)
    block, link = job.engine.block_tokens, job.cluster.gpu.host_link_bytes_per_s * _HOST_LINK_SHARE
    swap_s = 2.0 * per_token / link if link > 0.0 else float("inf")  # refused where a deployment would do it
    return KvCache(int(max(0.0, free_bytes) // (per_token * block)) * job.attention_dp, block, per_token, swap_s)


class Blocks:
    """Blocks of one replica. `held` are those of prompts in work, and of everything where blocks are reserved."""

    __slots__ = ("_padding", "_phase", "held", "size", "total")

    def __init__(self, total: int, size: int) -> None:
        self.total, self.size = total, size
        self.held = 0
        self._phase = [0] * size
        self._padding: list[tuple[int, ...]] = []  # at each step, of a sequence of each phase; made when first needed

    def of(self, tokens: int) -> int:
        """Blocks that `tokens` tokens of one sequence fill."""
        return -(-tokens // self.size)

    def grow(self, tokens: int, step: int, count: int = 1) -> None:
        """A sequence of `tokens` cached tokens starts growing at `step`; with count = -1 one stops."""
        self._phase[(tokens - step) % self.size] += count

    def used(self, cached: int, step: int) -> int:
        """Blocks in use, exactly, when growing sequences hold `cached` tokens together at `step`."""
        size = self.size
        if not self._padding:
            self._padding = [tuple(-(r + s) % size for r in range(size)) for s in range(min(size, _FEW))]
        if size <= _FEW:
            padding: int = sum(map(mul, self._phase, self._padding[step % size]))
        else:
            padding = sum(n * (-(r + step) % size) for r, n in enumerate(self._phase) if n)
        return (cached + padding) // size + self.held

    def may_exceed(self, cached: int, batch: int) -> bool:
        """False when `batch` sequences of `cached` tokens together fit however they are cut into blocks."""
        return (cached + batch * (self.size - 1)) // self.size + self.held > self.total

    def steps_that_fit(self, k: int, cached: int, batch: int, step: int) -> int:
        """The most of k passes for which there are blocks."""
        low, high = 0, k
        while low < high:
            middle = (low + high + 1) // 2
            if self.used(cached + batch * middle, step + middle) <= self.total:
                low = middle
            else:
                high = middle - 1
        return low
