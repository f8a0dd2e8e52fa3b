"""Segments: what one pipeline rank runs for one micro-batch of one virtual stage, forward or backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from moesim.hwmodels.exchange_kernels import posted_s
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Comm, CommKind, ExpertExchange
from moesim.sim.layers.blocks import block_steps
from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.graph import Op, Segment
from moesim.sim.layers.recompute import recomputed
from moesim.sim.layers.steps import (
    GroupedLinear,
    Linear,
    SegmentBuilder,
    Step,
    backward,
    backward_input,
    backward_weight,
    forward,
)
from moesim.sim.layout.layout import Chunk, held_params
from moesim.sim.layout.placement import ExpertLoad
from moesim.sim.model.arch import LayerKind
from moesim.sim.model.params import EXPERT_FFN
from moesim.sim.software.stack import Tuning, release_age
from moesim.sim.train.job import TrainJob


@dataclass(frozen=True, slots=True)
class Variant:
    """Which extras ride along: parameter gathers before layers, gradient reductions after them."""

    gather: bool = False
    reduce: bool = False


PLAIN = Variant()


@dataclass(frozen=True, slots=True)
class _Part:
    """One direction of a micro-batch: its letter, and what it does with a block's steps."""

    letter: str
    append: Callable[[SegmentBuilder, Sequence[Step]], None]
    backward: bool
    recomputes: bool = False
    gathers: bool = True  # parameters before they are used
    reduces: bool = False  # gradients once they are there
    share: float = 1.0  # of an expert layer's bookkeeping on the CPU


_PARTS = {
    "F": _Part("F", forward, backward=False),
    "B": _Part("B", backward, backward=True, recomputes=True, reduces=True),
    "I": _Part("I", backward_input, backward=True, recomputes=True, share=0.5),
    "W": _Part("W", backward_weight, backward=True, gathers=False, reduces=True, share=0.5),
}


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Ops from number `first` to before `end`, and how often the CPU keeps the books of an expert layer there."""

    first: int
    end: int
    backward: bool
    bookkeeping_passes: float


class SegmentFactory:
    """Builds segments of one scenario; layers of the same kind and load share their steps."""

    def __init__(self, job: TrainJob, tuning: Tuning, loads: Sequence[ExpertLoad | None]) -> None:
        self._ctx = _context(job, tuning)
        self._loads = loads
        self._recompute = job.recompute
        self._steps: dict[tuple[object, ...], tuple[Step, ...]] = {}

    def signature(self, chunk: Chunk) -> tuple[object, ...]:
        """Equal for chunks whose segments are identical."""
        layers = tuple((self._ctx.arch.layers[i], self._loads[i]) for i in chunk.layers)
        return (layers, chunk.embedding, chunk.head, chunk.mtp)

    def blocks(self, chunk: Chunk) -> list[tuple[str, tuple[Step, ...], LayerKind | None]]:
        """The chunk's blocks in forward order: (name, steps, layer kind or None)."""
        blocks = []
        loads = iter([self._loads[i] for i in chunk.layers])
        for name, kind in chunk.blocks(self._ctx.arch):
            load = next(loads) if name.startswith("L") else self._loads[-1] if name.startswith("mtp") else None
            key = (name.rstrip("0123456789"), kind, load)
            if key not in self._steps:
                self._steps[key] = block_steps(replace(self._ctx, load=load), name, kind)
            blocks.append((name, self._steps[key], kind))
        return blocks

    def segment(self, phase: str, chunk: Chunk, variant: Variant = PLAIN, own_comm: bool = False) -> Segment:
        """One micro-batch of a chunk: "F" forward, "B" backward, or its halves "I" (inputs) and "W" (weights).

        The segment depends on nothing but the job; `own_comm` puts transfers on a stream of their own, so that another
        micro-batch can compute beside them.
        """
        part = _PARTS[phase]
        builder = SegmentBuilder(f"{part.letter}{chunk.index}", own_comm=own_comm)
        blocks = self.blocks(chunk)[:: -1 if part.backward else 1]
        gathers = self._gathers(builder, blocks) if variant.gather and part.gathers else {}
        stretches: list[_Stretch] = []
        for i, (name, steps, kind) in enumerate(blocks):
            builder.block = len(blocks) - 1 - i if part.backward else i
            if i in gathers:
                builder.wait(gathers[i])
            first = len(builder.ops)
            if part.recomputes and name not in ("head", "embedding"):
                again = recomputed(steps, self._recompute)
                forward(builder, again, ".again")
                counted = any(isinstance(step, GroupedLinear) for step in again)  # tokens of experts, once more
                stretches.append(_Stretch(first, len(builder.ops), False, 1.0 if counted else 0.0))
                first = len(builder.ops)
            part.append(builder, steps)
            experts = kind is not None and kind.ffn in EXPERT_FFN
            stretches.append(_Stretch(first, len(builder.ops), part.backward, part.share if experts else 0.0))
            if variant.reduce and part.reduces:
                self._reduce(builder, name, kind)
        self._host(builder, stretches)
        return builder.build()

    # -- the host ---------------------------------------------------------------------------------------------

    def _host(self, builder: SegmentBuilder, stretches: Sequence[_Stretch]) -> None:
        """CPU seconds: per stretch on stacks that synchronise inside layers, else of the whole segment; launches, MoE
        bookkeeping, messages of exchanges, pipeline transfers."""
        ctx = self._ctx
        pipeline = ctx.tuning.get("host_pipeline_s", ctx.stack.constants_of) if ctx.layout.pp > 1 else 0.0
        if not self._synchronises():
            builder.host_s = sum(self._stretch_s(builder.ops, s) for s in stretches) + pipeline
            return
        for s in stretches:
            builder.close_block(s.first, s.end - 1, self._stretch_s(builder.ops, s))
        if not ctx.stack.host_sync:  # those stacks wait in the transfer itself, see StepPrices.send_s
            builder.delay_host(pipeline)

    def _stretch_s(self, ops: Sequence[Op], stretch: _Stretch) -> float:
        """CPU seconds of a stretch. Whoever posts messages for the GPU delays what is launched after them."""
        own = ops[stretch.first : stretch.end]
        posted = sum(posted_s(op.work) * op.scale for op in own if isinstance(op.work, ExpertExchange))
        return (
            self._launch_s(own, stretch.backward)
            + stretch.bookkeeping_passes * self._expert_s(stretch.backward)
            + posted
        )

    def _launch_s(self, ops: Sequence[Op], backward: bool) -> float:
        """CPU seconds to issue the kernels of `ops`; autograd replays a backward without Python in between."""
        ctx = self._ctx
        each = ctx.tuning.get("host_launch_s", ctx.stack.constants_of)
        beside = ctx.tuning.get("host_side_launch_s", ctx.stack.constants_of)
        total = sum(op.kernels * each + op.side_launches * beside for op in ops)
        share = ctx.tuning.get("host_backward_share", ctx.stack.constants_of) if backward else 1.0
        sockets = ctx.tuning.get("host_two_socket_factor", ctx.stack.constants_of) if ctx.layout.tp > 4 else 1.0
        return total * share * sockets * self._graph_share()

    def _synchronises(self) -> bool:
        """The CPU waits for the GPU inside every layer: old stacks do, and dropless experts outside CUDA graphs, whose
        row counts the CPU must read before it can launch their kernels."""
        ctx = self._ctx
        return ctx.stack.host_sync or (ctx.arch.is_moe and ctx.dropless and ctx.stack.cuda_graphs != "full")

    def _graph_share(self) -> float:
        """What CUDA graphs leave of the host's work."""
        return self._ctx.tuning.get("host_graph_share", self._ctx.stack.cuda_graphs, self._ctx.cluster.host_cpu)

    def _expert_s(self, backward: bool) -> float:
        """CPU seconds of one MoE layer's bookkeeping, forward or backward."""
        ctx = self._ctx
        both = ctx.tuning.get("host_moe_layer_s", ctx.stack.name, "dropless" if ctx.dropless else "drop")
        forward = ctx.tuning.get("host_moe_forward_share", ctx.stack.constants_of)
        return both * (1.0 - forward if backward else forward) * self._graph_share()

    # -- parameters and what is sent for them -----------------------------------------------------------------

    def dense_and_expert_params(self, name: str, kind: LayerKind | None) -> tuple[float, float]:
        """Trainable parameters of one block on one GPU before data-parallel sharding: (dense, expert)."""
        ctx = self._ctx
        arch, lay = ctx.arch, ctx.layout
        if kind is None:
            return (0.0 if ctx.lora_rank else arch.vocab * arch.hidden / lay.tp), 0.0
        return (self._adapter_params(kind), 0.0) if ctx.lora_rank else held_params(ctx.arch, ctx.layout, name, kind)

    def _adapter_params(self, kind: LayerKind) -> float:
        """LoRA parameters of one layer on one GPU: rank x (inputs + outputs) of every adapted linear layer."""
        load = next((ld for k, ld in zip(self._ctx.arch.layers, self._loads, strict=True) if k == kind), None)
        linears = [s for s in block_steps(replace(self._ctx, load=load), "L", kind) if isinstance(s, Linear)]
        return float(sum(s.adapter_rank * (s.n + s.k) for s in linears))

    def _gathers(
        self, builder: SegmentBuilder, blocks: Sequence[tuple[str, tuple[Step, ...], LayerKind | None]]
    ) -> dict[int, int]:
        """Parameter all-gathers on their own stream, in the order the blocks need them."""
        waits: dict[int, int] = {}
        for i, (name, _, kind) in enumerate(blocks):
            for label, comm in self.gathers(name, kind):
                waits[i] = builder.gather(f"{name}.{label}", comm, "dp_comm", self._slower(comm))
        return waits

    def _reduce(self, builder: SegmentBuilder, name: str, kind: LayerKind | None) -> None:
        for label, comm in self.reductions(name, kind):
            builder.reduce(f"{name}.{label}", comm, "dp_comm", self._slower(comm))

    def _slower(self, comm: Comm) -> float:
        """How many times as long a transfer of sharded parameters takes: over a network it reaches a share of the rate
        that the library alone does."""
        ctx = self._ctx
        if ctx.layout.zero < 3 or comm.group.domains == 1:
            return 1.0
        return 1.0 / ctx.tuning.get("sharded_nic_share", ctx.stack.constants_of)

    def gathers(self, name: str, kind: LayerKind | None) -> list[tuple[str, Comm]]:
        """All-gathers of a block's parameters: what was trained; under ZeRO-3 also what is frozen but sharded."""
        ctx = self._ctx
        dense, expert = (ctx.width_bytes * p for p in self._own_params(name, kind))
        if ctx.lora_rank and ctx.layout.zero >= 3:
            held = held_params(ctx.arch, ctx.layout, name, kind)
            dense, expert = dense + ctx.frozen_bytes * held[0], expert + ctx.frozen_bytes * held[1]
        sizes = (("dense", dense, ctx.group("dp")), ("expert", expert, ctx.group("edp")))
        return [(f"all_gather.{label}", Comm("all_gather", s, g)) for label, s, g in sizes if s > 0 and g.ranks > 1]

    def reductions(self, name: str, kind: LayerKind | None) -> list[tuple[str, Comm]]:
        """Collectives that sum a block's gradients over the data-parallel ranks."""
        ctx = self._ctx
        op: CommKind = "all_reduce" if ctx.layout.zero == 0 else "reduce_scatter"
        width = bytes_per_element(ctx.stack.grad_dtype)
        dense, expert = (width * p for p in self._own_params(name, kind))
        collectives = []
        for label, size, part, shards in (
            ("dense", dense, "dp", ctx.layout.dense_shards),
            ("expert", expert, "edp", ctx.layout.expert_shards),
        ):
            group, replicas = ctx.group(part), ctx.group(f"{part}_replicas")
            if size > 0 and group.ranks > 1:
                collectives.append((f"{op}.{label}", Comm(op, size, group)))
            if size > 0 and replicas.ranks > 1:  # HSDP: shards summed over their replicas
                collectives.append((f"all_reduce.{label}.replicas", Comm("all_reduce", size / shards, replicas)))
        return collectives

    def _own_params(self, name: str, kind: LayerKind | None) -> tuple[float, float]:
        if name == "head" and self._ctx.arch.tied_embeddings and self._ctx.layout.one_table:
            return 0.0, 0.0  # one table, gathered and reduced once, with the embedding
        return self.dense_and_expert_params(name, kind)


def _context(job: TrainJob, tuning: Tuning) -> LayerContext:
    """What the builders of layers need to know of the job."""
    return LayerContext(
        job.arch,
        job.layout,
        job.cluster,
        job.stack,
        tuning,
        job.micro_batch,
        job.seq_len,
        job.precision,
        dropless=job.capacity_factor is None,
        lora_rank=job.lora_rank,
        lora_attention_only=job.lora_attention_only,
        frozen_bytes=job.base_bytes,
        age=release_age(job.release),
    )
