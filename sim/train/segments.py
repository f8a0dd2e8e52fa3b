"""Segments: what one pipeline rank runs for one micro-batch of one virtual stage, forward or backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from moesim.hwmodels.dtypes import bytes_per_element
from moesim.hwmodels.work import Comm, CommKind
from moesim.sim.layers.blocks import embedding_steps, head_steps, layer_steps, mtp_steps
from moesim.sim.layers.context import ExpertLoad, LayerContext
from moesim.sim.layers.graph import Op, Segment, SegmentBuilder
from moesim.sim.layers.steps import (
    Linear,
    Step,
    backward,
    backward_input,
    backward_weight,
    forward,
    recomputed,
)
from moesim.sim.layout.stages import Chunk
from moesim.sim.model.arch import LayerKind
from moesim.sim.model.params import layer_params, mtp_params


@dataclass(frozen=True, slots=True)
class Variant:
    """Which extras ride along: parameter gathers before layers, gradient reductions after them."""

    gather: bool = False
    reduce: bool = False


_PLAIN = Variant()


class SegmentFactory:
    """Builds segments of one scenario; layers of the same kind and load share their steps."""

    def __init__(self, ctx: LayerContext, loads: Sequence[ExpertLoad | None], recompute: frozenset[str]) -> None:
        self._ctx = ctx
        self._loads = loads
        self._recompute = recompute
        self._steps = lru_cache(maxsize=None)(self._build_steps)

    def signature(self, chunk: Chunk) -> tuple[object, ...]:
        """Equal for chunks whose segments are identical."""
        layers = tuple((self._ctx.arch.layers[i], self._loads[i]) for i in chunk.layers)
        return (layers, chunk.embedding, chunk.head, chunk.mtp)

    def _build_steps(self, kind: LayerKind, load: ExpertLoad | None) -> tuple[Step, ...]:
        return layer_steps(replace(self._ctx, load=load), kind)

    def blocks(self, chunk: Chunk) -> list[tuple[str, tuple[Step, ...], LayerKind | None]]:
        """The chunk's blocks in forward order: (name, steps, layer kind or None)."""
        loads = iter([self._loads[i] for i in chunk.layers])
        return [(name, self._steps_of(name, kind, loads), kind) for name, kind in chunk.blocks(self._ctx.arch)]

    def _steps_of(self, name: str, kind: LayerKind | None, loads: Iterator[ExpertLoad | None]) -> tuple[Step, ...]:
        if name == "embedding":
            return embedding_steps(self._ctx)
        if name == "head":
            return head_steps(self._ctx)
        if name.startswith("mtp"):
            return mtp_steps(replace(self._ctx, load=self._loads[-1]))
        assert kind is not None
        return self._steps(kind, next(loads))

    def _launch_s(self, ops: Sequence[Op], backward: bool) -> float:
        """CPU seconds to issue the kernels of `ops`; autograd replays a backward without Python in between."""
        ctx = self._ctx
        each = ctx.tuning.get("host_launch_s", ctx.stack.constants_of)
        beside = ctx.tuning.get("host_side_launch_s", ctx.stack.constants_of)
        total = sum(op.kernels * each + op.side_launches * beside for op in ops)
        share = ctx.tuning.get("host_backward_share", ctx.stack.constants_of) if backward else 1.0
        sockets = ctx.tuning.get("host_two_socket_factor", ctx.stack.constants_of) if ctx.layout.tp > 4 else 1.0
        return total * share * sockets * self._graph_share

    def _close(
        self, builder: SegmentBuilder, first: int, backward: bool, kind: LayerKind | None = None, share: float = 1.0
    ) -> None:
        """On stacks whose CPU synchronises, end the stretch of ops that began at `first`.

        `kind` adds `share` of the bookkeeping of an expert layer.
        """
        if self._synchronises:
            experts = self._expert_s(backward) * share if _has_experts(kind) else 0.0
            builder.close_block(first, self._launch_s(builder.ops[first:], backward) + experts)

    @property
    def _synchronises(self) -> bool:
        """The CPU waits for the GPU inside every layer: old stacks do, and dropless experts outside CUDA graphs, whose
        row counts the CPU must read before it can launch their kernels."""
        ctx = self._ctx
        return ctx.stack.host_sync or (ctx.arch.is_moe and ctx.dropless and ctx.stack.cuda_graphs != "full")

    @property
    def _graph_share(self) -> float:
        """What CUDA graphs leave of the host's work."""
        return self._ctx.tuning.get("host_graph_share", self._ctx.stack.cuda_graphs, self._ctx.cluster.host_cpu)

    def _expert_s(self, backward: bool) -> float:
        """CPU seconds of one MoE layer's bookkeeping, forward or backward."""
        ctx = self._ctx
        both = ctx.tuning.get("host_moe_layer_s", ctx.stack.constants_of, "dropless" if ctx.dropless else "drop")
        forward = ctx.tuning.get("host_moe_forward_share", ctx.stack.constants_of)
        return both * (1.0 - forward if backward else forward) * self._graph_share

    def _host_s(
        self,
        builder: SegmentBuilder,
        blocks: Sequence[tuple[str, tuple[Step, ...], LayerKind | None]],
        share: float,
        backward: bool,
    ) -> float:
        """CPU seconds of a segment on stacks that let it run ahead: launches, MoE bookkeeping, pipeline transfers."""
        ctx = self._ctx
        pipeline = ctx.tuning.get("host_pipeline_s", ctx.stack.constants_of) if ctx.layout.pp > 1 else 0.0
        if self._synchronises:
            if not ctx.stack.host_sync:  # those stacks wait in the transfer itself, see StepPrices.send_s
                builder.delay_host(pipeline)
            return 0.0
        moe = sum(1 for _, _, kind in blocks if _has_experts(kind))
        return self._launch_s(builder.ops, backward) + moe * self._expert_s(backward) * share + pipeline

    def forward(self, chunk: Chunk, variant: Variant = _PLAIN, own_comm: bool = False) -> Segment:
        """Forward of one micro-batch."""
        builder = SegmentBuilder(f"F{chunk.index}", own_comm=own_comm)
        blocks = self.blocks(chunk)
        gathers = self._gathers(builder, blocks) if variant.gather else {}
        for i, (_, steps, kind) in enumerate(blocks):
            if i in gathers:
                builder.wait(gathers[i])
            first = len(builder.ops)
            forward(builder, steps)
            self._close(builder, first, backward=False, kind=kind)
        builder.host_s = self._host_s(builder, blocks, 1.0, backward=False)
        return builder.build()

    def backward(self, chunk: Chunk, variant: Variant = _PLAIN, own_comm: bool = False) -> Segment:
        """Recompute, input and weight gradients of one micro-batch."""
        builder = SegmentBuilder(f"B{chunk.index}", own_comm=own_comm)
        blocks = list(reversed(self.blocks(chunk)))
        gathers = self._gathers(builder, blocks) if variant.gather else {}
        for i, (name, steps, kind) in enumerate(blocks):
            if i in gathers:
                builder.wait(gathers[i])
            self._recompute_block(builder, name, steps)
            first = len(builder.ops)
            backward(builder, steps)
            self._close(builder, first, backward=True, kind=kind)
            if variant.reduce:
                self._reduce(builder, name, kind)
        builder.host_s = self._host_s(builder, blocks, 1.0, backward=True)
        return builder.build()

    def _recompute_block(self, builder: SegmentBuilder, name: str, steps: tuple[Step, ...]) -> None:
        """Run the steps again that were not kept."""
        if name in ("head", "embedding"):
            return
        first = len(builder.ops)
        forward(builder, recomputed(steps, self._recompute), ".again")
        self._close(builder, first, backward=False)

    def backward_input(self, chunk: Chunk, variant: Variant = _PLAIN) -> Segment:
        """Recompute and input gradients only ("B" of zero-bubble schedules)."""
        builder = SegmentBuilder(f"I{chunk.index}")
        blocks = list(reversed(self.blocks(chunk)))
        gathers = self._gathers(builder, blocks) if variant.gather else {}
        for i, (name, steps, kind) in enumerate(blocks):
            if i in gathers:
                builder.wait(gathers[i])
            self._recompute_block(builder, name, steps)
            first = len(builder.ops)
            backward_input(builder, steps)
            self._close(builder, first, backward=True, kind=kind, share=0.5)
        builder.host_s = self._host_s(builder, blocks, 0.5, backward=True)
        return builder.build()

    def backward_weight(self, chunk: Chunk, variant: Variant = _PLAIN) -> Segment:
        """Weight gradients only ("W")."""
        builder = SegmentBuilder(f"W{chunk.index}")
        blocks = list(reversed(self.blocks(chunk)))
        for name, steps, kind in blocks:
            first = len(builder.ops)
            backward_weight(builder, steps)
            self._close(builder, first, backward=True, kind=kind, share=0.5)
            if variant.reduce:
                self._reduce(builder, name, kind)
        builder.host_s = self._host_s(builder, blocks, 0.5, backward=True)
        return builder.build()

    def dense_and_expert_params(self, name: str, kind: LayerKind | None) -> tuple[float, float]:
        """Trainable parameters of one block on one GPU before data-parallel sharding: (dense, expert)."""
        ctx = self._ctx
        arch, lay = ctx.arch, ctx.layout
        if kind is None:
            return (0.0 if ctx.lora_rank else arch.vocab * arch.hidden / lay.tp), 0.0
        return (self._adapter_params(kind), 0.0) if ctx.lora_rank else self.held_params(name, kind)

    def _adapter_params(self, kind: LayerKind) -> float:
        """LoRA parameters of one layer on one GPU: rank x (inputs + outputs) of every adapted linear layer."""
        load = next((ld for k, ld in zip(self._ctx.arch.layers, self._loads, strict=True) if k == kind), None)
        linears = [s for s in self._steps(kind, load) if isinstance(s, Linear)]
        return float(sum(s.adapter_rank * (s.n + s.k) for s in linears))

    def held_params(self, name: str, kind: LayerKind | None) -> tuple[float, float]:
        """All parameters of one block on one GPU, frozen ones included: (dense, expert)."""
        arch, lay = self._ctx.arch, self._ctx.layout
        if kind is None:
            return arch.vocab * arch.hidden / lay.tp, 0.0
        counted = layer_params(arch, kind)
        total = mtp_params(arch) / arch.mtp_layers if name.startswith("mtp") else float(sum(counted))
        return (total - counted.experts) / lay.tp, counted.experts / (lay.ep * lay.etp)

    def _gathers(
        self, builder: SegmentBuilder, blocks: Sequence[tuple[str, tuple[Step, ...], LayerKind | None]]
    ) -> dict[int, int]:
        """Parameter all-gathers on their own stream, in the order the blocks need them."""
        waits: dict[int, int] = {}
        exposed = self._ctx.tuning.get("dp_interference", self._ctx.stack.constants_of)
        for i, (name, _, kind) in enumerate(blocks):
            for label, comm in self.gathers(name, kind):
                waits[i] = builder.gather(f"{name}.{label}", comm, "dp_comm")
                if i > 0 and exposed > 0:
                    builder.compute(f"{name}.{label}.interference", comm, "dp_comm", kernels=0, scale=exposed)
        return waits

    def _reduce(self, builder: SegmentBuilder, name: str, kind: LayerKind | None) -> None:
        exposed = self._ctx.tuning.get("dp_interference", self._ctx.stack.constants_of)
        for label, comm in self.reductions(name, kind):
            builder.reduce(f"{name}.{label}", comm, "dp_comm")
            if exposed > 0:
                builder.compute(f"{name}.{label}.interference", comm, "dp_comm", kernels=0, scale=exposed)

    def gathers(self, name: str, kind: LayerKind | None) -> list[tuple[str, Comm]]:
        """All-gathers of a block's parameters: what was trained; under ZeRO-3 also what is frozen but sharded."""
        ctx = self._ctx
        dense, expert = (ctx.width * p for p in self._own_params(name, kind))
        if ctx.lora_rank and ctx.layout.zero >= 3:
            held = self.held_params(name, kind)
            dense, expert = dense + ctx.frozen_bytes * held[0], expert + ctx.frozen_bytes * held[1]
        sizes = (("dense", dense, ctx.group("dp")), ("expert", expert, ctx.group("edp")))
        return [(f"all_gather.{label}", Comm("all_gather", s, g)) for label, s, g in sizes if s > 0 and g.ranks > 1]

    def reductions(self, name: str, kind: LayerKind | None) -> list[tuple[str, Comm]]:
        """Collectives that sum a block's gradients over the data-parallel ranks."""
        ctx = self._ctx
        op: CommKind = "all_reduce" if ctx.layout.zero == 0 else "reduce_scatter"
        width = bytes_per_element(ctx.stack.grad_dtype)
        dense, expert = (width * p for p in self._own_params(name, kind))
        found = []
        for label, size, part, shards in (
            ("dense", dense, "dp", ctx.layout.dense_shards),
            ("expert", expert, "edp", ctx.layout.expert_shards),
        ):
            group, replicas = ctx.group(part), ctx.group(f"{part}_replicas")
            if size > 0 and group.ranks > 1:
                found.append((f"{op}.{label}", Comm(op, size, group)))
            if size > 0 and replicas.ranks > 1:  # HSDP: shards summed over their replicas
                found.append((f"all_reduce.{label}.replicas", Comm("all_reduce", size / shards, replicas)))
        return found

    def _own_params(self, name: str, kind: LayerKind | None) -> tuple[float, float]:
        if name == "head" and self._ctx.arch.tied_embeddings and self._ctx.layout.pp == 1:
            return 0.0, 0.0  # one table, gathered and reduced once, with the embedding
        return self.dense_and_expert_params(name, kind)


def _has_experts(kind: LayerKind | None) -> bool:
    return kind is not None and kind.ffn in ("moe", "moe_residual")
