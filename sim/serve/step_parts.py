"""Kernel seconds of an inference pass by part, on a grid of token counts; an engine's constants come later (step.py).

Three tables, because three different numbers decide: tokens of one tensor group (projections, norms, dense blocks,
tensor-parallel transfers), tokens of the whole replica (experts and their exchange), sequences (head).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.kernels import Legs
from moesim.hwmodels.work import Attention, Comm, Gemm, Group, GroupedGemm, Stream, Work, floor_s
from moesim.sim.layers.sparse import chooses
from moesim.sim.layers.steps import SegmentBuilder, Step, forward
from moesim.sim.model.arch import KEYED, AttentionArch, LayerKind
from moesim.sim.model.params import EXPERT_FFN, SOFTMAX
from moesim.sim.serve.adapters import adapter_work
from moesim.sim.serve.apart import experts_job
from moesim.sim.serve.drafter import drafter_of
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.layers import (
    context,
    dense_steps,
    head_steps,
    join_steps,
    mixer_steps,
    offload_bytes,
    routed_steps,
    router_steps,
    scan_steps,
)
from moesim.sim.serve.sampling import sampling_steps
from moesim.sim.serve.tiles import NarrowTiles
from moesim.sim.software.stack import Tuning

_INDEX_DTYPE = "fp8"  # assumed: sparse attention keeps its index keys in 8 bits (DeepSeek-V3.2, GLM-5)


def _window(a: AttentionArch, kind: LayerKind) -> int | None:
    return a.window if kind.mixer == "window_attention" else None


def decode_work(job: ServeJob, kind: LayerKind, batch: int, kv_len: int) -> list[Work]:
    """Kernels of one layer for one new token of `batch` sequences that hold `kv_len` tokens each."""
    if kind.mixer not in SOFTMAX:
        return _state_work(job, kind, batch)
    a = job.arch.at(kind).attention
    assert a is not None
    heads, dtype = a.heads // job.layout.tp, job.formats.kv
    drafted = 1 + (job.speculation.tokens if job.speculation else 0)
    window = _window(a, kind)
    extra: list[Work] = []
    if kind.mixer == "attention" and a.index_top_k and chooses(a, kv_len):
        keys = float(batch) * kv_len * a.own_index_dim / (a.compress or 1)
        extra = [Stream(keys * (1.0 if _INDEX_DTYPE == "fp8" else 2.0), "index", 3)] if keys else []
        kv_len = kv_len if a.compress else a.index_top_k
    if a.compress:
        kv_len = a.seen(kv_len)
    if a.is_mla:  # queries are taken into the latent space: all heads share one cached vector
        assert a.kv_lora_rank and a.qk_rope_head_dim is not None
        width = a.kv_lora_rank + a.qk_rope_head_dim
        work = Attention(
            batch, drafted, kv_len, heads, 1, width, a.kv_lora_rank, False, None, dtype, "decode", shared_values=True
        )
        return [work, *extra]
    kv_heads = max(1, a.kv_heads // job.layout.tp)
    work = Attention(
        batch, drafted, kv_len, heads, kv_heads, a.head_dim, a.v_head_dim, False, window, dtype, "decode",
        shared_values=a.shared_values,
    )  # fmt: skip
    return [work, *extra]


def _state_work(job: ServeJob, kind: LayerKind, batch: int) -> list[Work]:
    """A recurrent layer reads and writes its state, fp32, once per sequence and pass."""
    s = job.arch.ssm
    if kind.mixer == "none" or s is None:
        return []
    return [Stream(2.0 * batch * state_bytes(job, kind), "ssm", 2)]


def state_bytes(job: ServeJob, kind: LayerKind) -> float:
    """Bytes of one sequence's state in one recurrent layer on one rank, convolution window included."""
    s = job.arch.ssm
    assert s is not None
    tp = job.layout.tp
    if kind.mixer == "short_conv":
        return 2.0 * s.d_inner * s.d_conv / tp
    per_channel = s.key_dim if kind.mixer in KEYED else s.d_state
    return 4.0 * s.d_inner * per_channel / tp + 2.0 * s.d_inner * s.d_conv / tp


def prefill_work(job: ServeJob, kind: LayerKind, chunk: int, cached: int) -> list[Work]:
    """Kernels of one layer for `chunk` prompt tokens behind `cached` ones; recurrent layers are priced by layers.py."""
    a = job.arch.at(kind).attention
    if kind.mixer not in SOFTMAX or a is None:
        return []
    heads, kv_heads = a.heads // job.layout.tp, max(1, a.kv_heads // job.layout.tp)
    if a.is_mla:
        kv_heads = heads
    length = cached + chunk
    window = a.index_top_k if kind.mixer == "attention" and a.index_top_k else _window(a, kind)
    window = a.seen(length) if a.compress else window
    if window is not None and window >= length:
        window = None
    causal = not kind.encoder
    half = "bf16" if job.cluster.gpu.supports("bf16") else "fp16"
    return [
        Attention(
            1, chunk, length, heads, kv_heads, a.head_dim, a.v_head_dim, causal, window if causal else None, half,
            cache_write=True,
        )
    ]  # fmt: skip


Parts = dict[str, float]  # seconds by part

# parts by category of the layer builders; what is not listed is elementwise work
_PART_OF = {
    "gemm": "gemm", "grouped_gemm": "experts", "tp_comm": "tp_comm", "ep_comm": "ep_comm", "head": "head",
    "ssm": "ssm", "router": "router",
}  # fmt: skip
_FINE = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


def token_grid(most: int) -> tuple[int, ...]:
    """Token counts to price, up to at least `most`: about two per doubling."""
    grid = [t for t in _FINE if t < most]
    top = _FINE[-1]
    while top < most:
        grid += [n for n in (top * 3 // 2, top * 2) if n not in grid]
        top *= 2
    return (*grid, most) if not grid or grid[-1] < most else tuple(grid)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A matrix kernel that runs `times` over: its legs, and the roofline below which no factor takes it."""

    part: str
    times: float
    legs: Legs
    floor_s: float


@dataclass(slots=True)
class Priced:
    """What one point of a grid costs: seconds by part, and the matrix kernels on top, taken apart."""

    parts: Parts = field(default_factory=dict)
    kernels: list[Kernel] = field(default_factory=list)

    def add(self, part: str, seconds: float) -> None:
        """Add seconds to a part."""
        self.parts[part] = self.parts.get(part, 0.0) + seconds

    def extend(self, more: Priced) -> None:
        """Add everything of another."""
        for name, seconds in more.parts.items():
            self.add(name, seconds)
        self.kernels += more.kernels


@dataclass(frozen=True, slots=True)
class Table:
    """Costs at every point of a grid."""

    grid: tuple[int, ...]
    points: tuple[Priced, ...]


class StepParts:
    """Prices the kernels of one job; tables are made when first asked for."""

    def __init__(self, job: ServeJob, tuning: Tuning) -> None:
        self.job = job
        self.sources: Counter[str] = Counter()
        self._tuning = tuning
        engine = job.engine.name
        self._model = KernelCostModel(
            job.cluster,
            job.kernels,
            Sustained(
                stream_bandwidth={"*": tuning.get("stream_bandwidth", engine)},
                stream_launch_s=tuning.get("stream_launch_s", engine),
            ),
        )
        self._tiles = NarrowTiles(job)
        drafted = job.drafts_checked if job.speculation is None else job.speculation.tokens
        self._running = job.engine.max_batch * (1 + drafted)  # tokens of running sequences in the largest pass
        self.kinds = Counter(kind for kind in job.arch.layers)
        self._prefill: dict[tuple[int, int], float] = {}
        self._hops: dict[bool, Table] = {}

    def seconds(self, work: Work) -> float:
        """One kernel or transfer alone."""
        if isinstance(work, Comm) and work.kind == "all_reduce" and work.group.domains == 1:
            work = replace(work, algorithm="custom")
        cost = self._model.cost(work)
        self.sources[cost.source] += 1
        return cost.time_s

    def price(self, steps: Sequence[Step], times: int = 1) -> Priced:
        """A list of steps, `times` over."""
        builder = SegmentBuilder("step")
        forward(builder, steps)
        priced = Priced()
        for op in builder.ops:
            part = _PART_OF.get(op.category, "elementwise")
            if isinstance(op.work, Gemm | GroupedGemm):
                floor = floor_s(op.work, self.job.cluster.gpu)
                priced.kernels.append(
                    Kernel(part, times * op.scale, self._tiles.legs(op.work, self._model.legs(op.work)), floor)
                )
                self.sources[self._model.cost(op.work).source] += 1
            else:
                priced.add(part, times * self.seconds(op.work) * op.scale)
        return priced

    @cached_property
    def rank(self) -> Table:
        """Projections, norms, dense blocks and routers by tokens of one tensor group."""
        grid = token_grid(self.job.engine.token_budget + self._running)
        return Table(grid, tuple(self._rank_point(t) for t in grid))

    def _rank_point(self, tokens: int) -> Priced:
        ctx = context(self.job, self._tuning, tokens)
        point = self.price(join_steps(ctx, self.job.joins))
        for kind, count in self.kinds.items():
            point.extend(self.price(mixer_steps(ctx, kind), count))
            if kind.ffn == "dense":
                point.extend(self.price(dense_steps(ctx, self.job, kind), count))
            elif kind.ffn in EXPERT_FFN:
                point.extend(self.price(router_steps(ctx, self.job, kind), count))
        if self.job.adapters is not None:
            moved, kernels_s = adapter_work(self.job, tokens, self._tuning)
            point.add("adapters", self.seconds(moved) + kernels_s)
        return point

    def hop(self, crosses: bool) -> Table:
        """One hop between pipeline stages by tokens of one tensor group, into another scale-up domain or inside one."""
        table = self._hops.get(crosses)
        if table is None:
            wire = Group(2, 1 if crosses else 2)
            sends = [Comm("send", 2.0 * tokens * self.job.arch.hidden, wire) for tokens in self.rank.grid]
            table = Table(self.rank.grid, tuple(Priced({"pp_comm": self.seconds(send)}) for send in sends))
            self._hops[crosses] = table
        return table

    def experts(self, prefill: bool) -> Table:
        """Experts and their exchange by tokens of the whole replica; exchanges of prefill may run other kernels."""
        return self._prefill_experts if prefill else self._decode_experts

    @cached_property
    def _decode_experts(self) -> Table:
        return self._expert_table(False)

    @cached_property
    def _prefill_experts(self) -> Table:
        return self._expert_table(True)

    def _expert_table(self, prefill: bool) -> Table:
        each = self.job.engine.token_budget + self._running if prefill else self._running
        grid = token_grid(each * self.job.attention_dp)
        return Table(grid, tuple(self._expert_point(t, prefill) for t in grid))

    def _expert_point(self, tokens: int, prefill: bool) -> Priced:
        ctx = context(self.job, self._tuning, max(1, tokens // self.job.attention_dp))
        point = Priced()
        for kind, count in self.kinds.items():
            if kind.ffn in EXPERT_FFN:
                point.extend(self.price(routed_steps(ctx, self.job, kind, tokens, prefill), count))
        missing = offload_bytes(self.job, tokens)
        if missing:
            point.add("offload", missing / self._offload_bytes_per_s())
        return point

    def _offload_bytes_per_s(self) -> float:
        """Rate at which experts reach the GPU, or at which the host reads those that it computes itself."""
        get, engine, offload = self._tuning.get, self.job.engine.name, self.job.offload
        if offload is not None and offload.host_memory_bytes_per_s is not None:
            return offload.host_memory_bytes_per_s * get("host_memory_efficiency", engine)
        return self.job.cluster.gpu.host_link_bytes_per_s * get("host_link_efficiency", engine)

    @cached_property
    def head(self) -> Table:
        """Head by sequences of one rank."""
        grid = token_grid(self._running)
        return Table(grid, tuple(self._head_point(t) for t in grid))

    def _head_point(self, tokens: int) -> Priced:
        picks = sampling_steps(
            self.job.sampling, tokens, self.job.arch.vocab, self.job.engine.name, self._tuning
        )  # every rank has gathered all logits
        return self.price([*head_steps(context(self.job, self._tuning, tokens)), *picks])

    @cached_property
    def apart(self) -> StepParts | None:
        """Prices of the GPUs that hold the experts; None where they are with attention."""
        experts = experts_job(self.job)
        return None if experts is None else StepParts(experts, self._tuning)

    @cached_property
    def draft(self) -> StepParts | None:
        """Prices of the job that drafts for this one; None where drafts are free."""
        drafter = drafter_of(self.job)
        return None if drafter is None else StepParts(drafter, self._tuning)

    def decode_attention(self, batch: int, kv_len: int) -> Parts:
        """Cores of all layers for one token of `batch` sequences of one rank, each with `kv_len` tokens cached."""
        cores = Priced()
        for kind, count in self.kinds.items():
            for work in decode_work(self.job, kind, batch, kv_len):
                part = "ssm" if isinstance(work, Stream) and work.kind == "ssm" else "attention"
                cores.add(part, count * self.seconds(work))
        return cores.parts

    def prefill_attention(self, chunk: int, cached: int) -> float:
        """Cores of all layers for a chunk of a prompt behind `cached` tokens, seconds; both rounded to 32 tokens."""
        key = (max(1, round(chunk / 32)), round(cached / 32)) if chunk >= 32 else (0, round(cached / 32))
        seconds = self._prefill.get(key)
        if seconds is None:
            seconds = self._prefill_seconds(key[0] * 32 if key[0] else chunk, key[1] * 32)
            self._prefill[key] = seconds
        return seconds

    def _prefill_seconds(self, chunk: int, cached: int) -> float:
        total = 0.0
        for kind, count in self.kinds.items():
            total += count * sum(self.seconds(w) for w in prefill_work(self.job, kind, chunk, cached))
            if kind.mixer not in (*SOFTMAX, "none"):
                scan = scan_steps(context(self.job, self._tuning, chunk), kind)
                priced = self.price(scan, count)
                total += sum(priced.parts.values()) + sum(k.times * k.legs.seconds() for k in priced.kernels)
        return total


def layer_count(kinds: Counter[LayerKind], what: str) -> int:
    """Layers with a mixer or feed-forward block of this class: "moe" or "ssm"."""
    if what == "moe":
        return sum(n for kind, n in kinds.items() if kind.ffn in EXPERT_FFN)
    return sum(n for kind, n in kinds.items() if kind.mixer not in (*SOFTMAX, "none"))
