"""Steps: one layer's forward as a list of differentiable steps, from which forward and backward ops follow.

A linear layer has an input-gradient and a weight-gradient GEMM, an all-gather turns into a reduce-scatter, a dispatch
into a combine: writing the forward once keeps the two halves of a training step consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from moesim.hwmodels.work import Attention, Comm, ExpertExchange, Gemm, GroupedGemm, Stream, Work
from moesim.sim.layers.graph import HostBlock, Op, Segment

# What a step is to its block. Whoever runs a block otherwise than training does leaves steps out by this, not by name:
# decoding has no loss; serving prices cores by each sequence's cache and fuses the residual add into the next norm.
Part = Literal["body", "core", "residual", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y[m, n] = x[m, k] W[k, n]; `cast_bytes` per element of x (forward) and dy (backward) for quantised GEMMs."""

    name: str
    m: int
    n: int
    k: int
    dtype: str = "bf16"
    category: str = "gemm"
    module: str = ""
    cast_bytes: float = 0.0
    trainable: bool = True
    accumulate_bytes: float = 0.0  # per weight and micro-batch, for the fp32 gradient buffer
    adapter_rank: int = 0  # LoRA: y += (x A) B with A[k, rank], B[rank, n]
    dequantise_bytes: float = 0.0  # per weight and pass, for bases stored below 16 bits (QLoRA)
    weight_cast_bytes: float = 0.0  # per weight and micro-batch, to quantise and transpose it
    part: Part = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedLinear:
    """One linear layer per local expert; rows of each expert given."""

    name: str
    rows: tuple[int, ...]
    n: int
    k: int
    dtype: str = "bf16"
    category: str = "grouped_gemm"
    module: str = "moe"
    cast_bytes: float = 0.0
    trainable: bool = True
    accumulate_bytes: float = 0.0
    scale: float = 1.0  # of the kernel's time, where neighbours are fused into it
    weight_cast_bytes: float = 0.0  # per weight and micro-batch, to quantise and transpose it
    one_launch: bool = False  # one kernel serves all experts; otherwise each has its own, on parallel streams
    part: Part = "body"

    @property
    def side_launches(self) -> int:
        """Launches per GEMM or cast beyond the first."""
        return 0 if self.one_launch else sum(1 for r in self.rows if r) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Softmax attention. Fused: one kernel. Unfused: two batched GEMMs and passes over the score matrix."""

    name: str
    work: Attention
    unfused_bytes: float = 0.0  # per score element, forward; 0 for a fused kernel
    unfused_backward_bytes: float = 0.0
    scale: float = 1.0  # of the fused kernel's time
    backward_work: Attention | None = None  # where that is on other pairs than the forward's; forward phase, too
    category: str = "attention"
    module: str = "core_attention"
    part: Part = "core"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise:
    """Memory-bound work with its own traffic forward and backward."""

    name: str
    forward_bytes: float
    backward_bytes: float
    kind: str = "elementwise"
    category: str = "elementwise"
    module: str = ""
    kernels: int = 1
    part: Part = "body"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Communication inside a layer: what is sent forward and backward (either may be nothing)."""

    name: str
    forward: Comm | ExpertExchange | None
    backward: Comm | ExpertExchange | None
    category: str = "tp_comm"
    module: str = ""
    exposed: float = 1.0
    part: Part = "body"


Step = Linear | GroupedLinear | Core | Pointwise | Exchange


@dataclass
class SegmentBuilder:
    """Collects ops; compute waits for the last blocking transfer, transfers wait for the last compute."""

    name: str
    ops: list[Op] = field(default_factory=list)
    host_s: float = 0.0
    blocks: list[HostBlock] = field(default_factory=list)
    own_comm: bool = False  # exchanges run on the comm stream, so that another micro-batch can compute beside them
    block: int = -1  # of the stage, in forward order: what is appended now belongs to it
    _last_compute: int | None = None
    _pending: tuple[int, ...] = ()

    def compute(
        self, name: str, work: Work, category: str, kernels: int = 1, scale: float = 1.0, side_launches: int = 0
    ) -> int:
        """Append work on the compute stream, after every transfer that blocks it."""
        self.ops.append(Op(name, work, category, "compute", self._pending, scale, kernels, side_launches, self.block))
        self._pending = ()
        self._last_compute = len(self.ops) - 1
        return self._last_compute

    def transfer(self, name: str, work: Work, category: str, exposed: float = 1.0) -> None:
        """Append a transfer whose `exposed` share blocks the next compute; the rest runs beside compute."""
        after = () if self._last_compute is None else (self._last_compute,)
        if self.own_comm and category == "ep_comm":
            self.ops.append(Op(name, work, category, "comm", after, 1.0, 1, block=self.block))
            self._pending = (*self._pending, len(self.ops) - 1)
            return
        if exposed > 0.0:
            # the blocking share rides on the compute stream: it must not queue behind the hidden one of another
            self.ops.append(Op(name, work, category, "compute", self._pending, exposed, 1, block=self.block))
            self._pending = ()
            self._last_compute = len(self.ops) - 1
            after = (self._last_compute,)
        if exposed < 1.0:  # the rest of the same bytes: one transfer never uses its wire twice at once
            self.ops.append(Op(name + ".hidden", work, category, "comm", after, 1.0 - exposed, 0, block=self.block))

    def gather(self, name: str, work: Work, category: str, scale: float = 1.0) -> int:
        """Append a prefetch on the gather stream, as soon as that is free; returns its number for `wait`.

        `scale`: how many times as long it takes as by itself.
        """
        self.ops.append(Op(name, work, category, "gather", (), scale, 0, block=self.block))
        return len(self.ops) - 1

    def reduce(self, name: str, work: Work, category: str, scale: float = 1.0) -> None:
        """Append a reduction on the dp stream, after the last compute op; nothing in the segment waits for it.

        `scale`: how many times as long it takes as by itself.
        """
        after = () if self._last_compute is None else (self._last_compute,)
        self.ops.append(Op(name, work, category, "dp", after, scale, 0, block=self.block))

    def wait(self, index: int) -> None:
        """Make the next compute op wait for op `index`."""
        self._pending = (*self._pending, index)

    def build(self) -> Segment:
        """The finished segment."""
        return Segment(self.name, tuple(self.ops), self.host_s, tuple(self.blocks))

    def delay_host(self, host_s: float) -> None:
        """Add CPU time to the last stretch: what must be issued before the next segment can be."""
        if self.blocks:
            last = self.blocks.pop()
            self.blocks.append(HostBlock(last.first, last.last, last.host_s + host_s))

    def close_block(self, first: int, last: int, host_s: float) -> None:
        """A stretch of ops from number `first` to `last`: the CPU needs `host_s` for it and then synchronises."""
        if last >= first:
            self.blocks.append(HostBlock(first, last, host_s))


def _cast(builder: SegmentBuilder, name: str, elements: float, bytes_each: float, side_launches: int = 0) -> None:
    if bytes_each > 0 and elements > 0:
        traffic = Stream(elements * bytes_each, "cast")
        builder.compute(f"{name}.cast", traffic, "cast", side_launches=side_launches)


def _cast_weights(builder: SegmentBuilder, name: str, step: Linear | GroupedLinear) -> None:
    if step.weight_cast_bytes > 0:
        matrices = 1 if isinstance(step, Linear) else len(step.rows)
        traffic = Stream(float(matrices) * step.n * step.k * step.weight_cast_bytes, "cast")
        builder.compute(f"{name}.cast_weights", traffic, "cast", kernels=0)


def _dequantise(builder: SegmentBuilder, name: str, step: Linear) -> None:
    if step.dequantise_bytes > 0:
        builder.compute(f"{name}.dequantise", Stream(float(step.n) * step.k * step.dequantise_bytes, "cast"), "cast")


def _grouped(builder: SegmentBuilder, name: str, work: GroupedGemm, step: GroupedLinear) -> None:
    builder.compute(name, work, step.category, scale=step.scale, side_launches=step.side_launches)


def _core_forward(builder: SegmentBuilder, step: Core) -> None:
    w = step.work
    if step.unfused_bytes <= 0:
        builder.compute(step.name, w, step.category, scale=step.scale)
        return
    rows = w.batch * w.heads * w.q_len  # a batched GEMM fills the GPU like one with all its rows
    builder.compute(f"{step.name}.qk", Gemm(rows, w.kv_len, w.qk_dim, w.dtype), step.category)
    softmax = Stream(float(rows) * w.kv_len * step.unfused_bytes, "softmax")
    builder.compute(f"{step.name}.softmax", softmax, step.category, kernels=3)
    builder.compute(f"{step.name}.av", Gemm(rows, w.v_dim, w.kv_len, w.dtype), step.category)


def _core_backward(builder: SegmentBuilder, step: Core) -> None:
    w = step.work
    if step.unfused_bytes <= 0:
        back = replace(step.backward_work or w, phase="backward")
        builder.compute(f"{step.name}.bwd", back, step.category, scale=step.scale)
        return
    rows = w.batch * w.heads * w.q_len
    inner = Gemm(rows, w.kv_len, w.qk_dim, w.dtype, count=2)
    outer = Gemm(rows, w.v_dim, w.kv_len, w.dtype, count=2)
    builder.compute(f"{step.name}.av.bwd", outer, step.category, kernels=2)
    softmax = Stream(float(rows) * w.kv_len * step.unfused_backward_bytes, "softmax")
    builder.compute(f"{step.name}.softmax.bwd", softmax, step.category, kernels=3)
    builder.compute(f"{step.name}.qk.bwd", inner, step.category, kernels=2)


def forward(builder: SegmentBuilder, steps: Iterable[Step], suffix: str = "") -> None:
    """Append the forward ops of `steps`."""
    for step in steps:
        name = step.name + suffix
        if isinstance(step, Linear):
            _cast(builder, name, float(step.m) * step.k, step.cast_bytes)
            _dequantise(builder, name, step)
            _cast_weights(builder, name, step)
            builder.compute(name, Gemm(step.m, step.n, step.k, step.dtype), step.category)
            if step.adapter_rank:
                builder.compute(f"{name}.lora_a", Gemm(step.m, step.adapter_rank, step.k), "lora")
                builder.compute(f"{name}.lora_b", Gemm(step.m, step.n, step.adapter_rank), "lora")
        elif isinstance(step, GroupedLinear):
            _cast(builder, name, float(sum(step.rows)) * step.k, step.cast_bytes, step.side_launches)
            _cast_weights(builder, name, step)
            _grouped(builder, name, GroupedGemm(step.rows, step.n, step.k, step.dtype), step)
        elif isinstance(step, Core):
            _core_forward(builder, step)
        elif isinstance(step, Pointwise):
            if step.forward_bytes > 0:
                work = Stream(step.forward_bytes, step.kind, step.kernels)
                builder.compute(name, work, step.category, kernels=step.kernels)
        elif step.forward is not None:
            builder.transfer(name, step.forward, step.category, step.exposed)


def _linear_backward_input(builder: SegmentBuilder, step: Linear | GroupedLinear) -> None:
    if isinstance(step, Linear):
        _cast(builder, f"{step.name}.bwd", float(step.m) * step.n, step.cast_bytes)
        _dequantise(builder, f"{step.name}.bwd", step)
        builder.compute(f"{step.name}.dgrad", Gemm(step.m, step.k, step.n, step.dtype), step.category)
        if step.adapter_rank:
            builder.compute(f"{step.name}.lora_b.dgrad", Gemm(step.m, step.adapter_rank, step.n), "lora")
            builder.compute(f"{step.name}.lora_a.dgrad", Gemm(step.m, step.k, step.adapter_rank), "lora")
        return
    _cast(builder, f"{step.name}.bwd", float(sum(step.rows)) * step.n, step.cast_bytes, step.side_launches)
    _grouped(builder, f"{step.name}.dgrad", GroupedGemm(step.rows, step.k, step.n, step.dtype), step)


def _linear_backward_weight(builder: SegmentBuilder, step: Linear | GroupedLinear) -> None:
    if isinstance(step, Linear) and step.adapter_rank:
        builder.compute(f"{step.name}.lora_a.wgrad", Gemm(step.k, step.adapter_rank, step.m), "lora")
        builder.compute(f"{step.name}.lora_b.wgrad", Gemm(step.adapter_rank, step.n, step.m), "lora")
    if not step.trainable:
        return
    weights = float(step.n) * step.k
    if isinstance(step, Linear):
        builder.compute(f"{step.name}.wgrad", Gemm(step.n, step.k, step.m, step.dtype), step.category)
    else:
        weights *= len(step.rows)
        grouped = GroupedGemm(step.rows, step.n, step.k, step.dtype, weight_gradient=True)
        _grouped(builder, f"{step.name}.wgrad", grouped, step)
    if step.accumulate_bytes > 0:
        traffic = Stream(weights * step.accumulate_bytes, "accumulate")
        builder.compute(f"{step.name}.accumulate", traffic, "grad_accumulate", kernels=0)


def backward_input(builder: SegmentBuilder, steps: Sequence[Step]) -> None:
    """Append the ops that carry the gradient back to the layer's input (ZB's "B")."""
    for step in reversed(steps):
        if isinstance(step, Linear | GroupedLinear):
            _linear_backward_input(builder, step)
        elif isinstance(step, Core):
            _core_backward(builder, step)
        elif isinstance(step, Pointwise):
            if step.backward_bytes > 0:
                work = Stream(step.backward_bytes, step.kind, step.kernels, backward=True)
                builder.compute(f"{step.name}.bwd", work, step.category, kernels=step.kernels)
        elif step.backward is not None:
            builder.transfer(f"{step.name}.bwd", step.backward, step.category, step.exposed)


def backward_weight(builder: SegmentBuilder, steps: Sequence[Step]) -> None:
    """Append the weight-gradient ops (ZB's "W")."""
    for step in reversed(steps):
        if isinstance(step, Linear | GroupedLinear):
            _linear_backward_weight(builder, step)


def backward(builder: SegmentBuilder, steps: Sequence[Step]) -> None:
    """Append the whole backward: input and weight gradients of each linear layer together."""
    for step in reversed(steps):
        backward_input(builder, (step,))
        backward_weight(builder, (step,))
