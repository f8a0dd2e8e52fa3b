"""Prices of a step: seconds of every distinct segment, pipeline send and gather, each operation costed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collectives import FabricFit
from moesim.hwmodels.cost import CostModel, KernelCostModel, Sustained
from moesim.hwmodels.exchange_kernels import ExchangeFit
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.wires import LEAF_WIRES, Wire, slot_seconds, wire_seconds
from moesim.hwmodels.work import Comm, Transfer
from moesim.sim.clock.script import Script
from moesim.sim.layers.graph import Op, Segment
from moesim.sim.layout.layout import Layout, plan_chunks
from moesim.sim.layout.pipeline import Slot
from moesim.sim.layout.placement import ExpertLoad, expert_loads, load_at
from moesim.sim.layout.routed_rows import LayerRows, MicroBatches, RoutedRows, routed_rows
from moesim.sim.layout.slots import Placement
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.stack import Stack, Tuning
from moesim.sim.train.job import TrainJob
from moesim.sim.train.scripts import Rules, Wires, compile_script, wires_of
from moesim.sim.train.segment_time import SegmentTime, beside_slowdown, merge, price, sms_share
from moesim.sim.train.segments import PLAIN, SegmentFactory, Variant
from moesim.traces.routing import Routing

if TYPE_CHECKING:
    from moesim.sim.train.members import RowTables

_Key = tuple[object, ...]
Apart = Callable[[int], bool]


_MOST_LOADS = 20_000_000  # loads that are drawn for one step: some minutes, and less than a gibibyte
_SAMPLED = 16  # micro-batches that are drawn to see how much the busiest rank gets


def uneven(routing: Routing) -> bool:
    """True where ranks get different rows, in expectation or by the draw."""
    return routing.drawn or not routing.even


def peak_load(load: ExpertLoad, drawn: LayerRows) -> ExpertLoad:
    """A balanced load scaled to the busiest rank of all micro-batches."""
    busiest = float(drawn.rows.max() / drawn.rows.mean())
    rows = tuple(round(r * busiest) for r in load.rows)
    return replace(
        load, rows=rows, rank_rows=(sum(rows),), imbalance=drawn.imbalance, dropped_share=drawn.dropped_share
    )


def barrier_of(op: Op, layout: Layout) -> int:
    """How many neighbouring GPUs of a stage a transfer joins; -1: all of them."""
    if op.category == "ep_comm":
        return layout.ep * layout.etp
    if op.category == "cp_comm":
        return layout.tp * layout.cp
    if op.category == "tp_comm" and isinstance(op.work, Comm):
        return op.work.group.ranks  # of a tensor group, or of those that split an expert: neighbours both
    return -1  # parameters and gradients: every replica takes part


def sustained(tuning: Tuning, cluster: Cluster, stack: Stack, precision: str) -> Sustained:
    """The cost model's factors for this GPU family and stack."""
    gpu = cluster.gpu
    clock = tuning.get("clock_factor", gpu.family)
    dtypes = ("bf16", "fp16", precision, *(("mxfp8",) if precision == "nvfp4" else ()))
    return Sustained(
        gemm={d: clock * tuning.get("gemm_factor", d, gpu.generation) for d in dtypes},
        grouped={d: clock * tuning.get("grouped_factor", d, gpu.generation, stack.constants_of) for d in dtypes},
        attention=clock * tuning.get("attention_factor", stack.attention_kernel, gpu.family),
        stream_bandwidth={k: tuning.get("stream_bandwidth", k) for k in ("softmax", "permute", "cast", "loss", "*")},
        stream_launch_s=0.0,  # launches are counted per op, as kernel_gap_s
    )


@lru_cache(maxsize=4096)
def _expected_busiest(
    arch: ModelArch, layout: Layout, routing: Routing, placement: Placement, batch: MicroBatches
) -> float:
    rows = routed_rows(arch, layout, routing, placement, batch, 0)
    places = rows.layers[:: max(1, len(rows.layers) // 4)]
    return sum(rows.layer(place).imbalance for place in places) / len(places)


class StepPrices:
    """What the pieces of one job's step cost: the only place where its operations become seconds.

    The step's program, bounds, memory and plans all read from here; equal segments are built and priced once.
    """

    def __init__(
        self,
        job: TrainJob,
        profile: Profile,
        tuning: Tuning,
        fabric: FabricFit | None = None,
        exchange: ExchangeFit | None = None,
        model: CostModel | None = None,
        drawn: bool = True,
    ) -> None:
        """`drawn`: rows of every rank are drawn, where routing is uneven; off, one rank with the rows that the busiest
        is expected to have stands for all, which is faster and a few percent slow. `model`: one that jobs of the same
        cluster, stack and precision share, so that each kernel is priced once."""
        self.job, self.profile, self.tuning = job, profile, tuning
        self.model: CostModel = model or KernelCostModel(
            job.cluster, profile, sustained(tuning, job.cluster, job.stack, job.precision), fabric, exchange
        )
        self.chunks = plan_chunks(job.arch, job.layout, job.mtp)
        tokens = max(1, job.micro_batch * job.seq_len // job.layout.cp)
        self._tokens_each = max(1, tokens // job.layout.dispatch_split)  # that one GPU sends to experts
        even = job.arch.moe is None or job.arch.moe.router == "expert_choice" or not uneven(job.routing)
        apart = not even and job.layout.ep > 1  # ranks of a stage get rows of their own
        self.varies, self.coarse = apart and drawn, not drawn
        self.balanced = self._loads(Routing())
        if apart and not drawn:  # every layer of every micro-batch waits for its busiest rank
            share = max(1.0, self.expected_busiest(_SAMPLED))
            each = {
                load: load_at(load, share) for load in dict.fromkeys(self.balanced)
            }  # layers of one kind share theirs
            expected: Sequence[ExpertLoad | None] = [each[load] for load in self.balanced]
        else:
            expected = self.balanced if even or self.varies else self._loads(job.routing)
        self.factory = SegmentFactory(job, tuning, expected)
        self._expected = expected
        self._routed: dict[int, RoutedRows] = {}
        self.row_tables: RowTables | None = None
        self.gap_s = tuning.get("kernel_gap_s", job.stack.constants_of)  # between two kernels of one stream
        self.uplinks = job.uplinks
        self._signatures = [self.factory.signature(c) for c in self.chunks]
        self._segments: dict[_Key, Segment] = {}
        self._op_wires: dict[_Key, Sequence[Wires]] = {}
        self._compute: dict[_Key, float] = {}
        self.times: dict[_Key, SegmentTime] = {}  # by phase, contents and variant; grows as slots are asked for

    def _loads(self, routing: Routing) -> Sequence[ExpertLoad | None]:
        job = self.job
        return expert_loads(job.arch, job.layout, job.cluster, routing, self._tokens_each, job.capacity_factor)

    def of_batch(self, global_batch: int) -> StepPrices:
        """The same prices for a step of another length; what is priced already is shared."""
        other = copy(self)
        other.job = replace(self.job, global_batch=global_batch)
        other._routed = {}
        other.__dict__.pop("loads", None)  # the busiest of other micro-batches
        return other

    def routed(self, step: int = 0) -> RoutedRows:
        """Rows that routing sends to every rank of every micro-batch of a step. ScenarioError for too many to hold."""
        if step not in self._routed:
            job, lay = self.job, self.job.layout
            loads = job.micro_batches * lay.ep * lay.edp * job.arch.moe_layers
            if loads > _MOST_LOADS:
                raise ScenarioError(
                    f"routing draws {loads / 1e6:,.0f} million loads ({job.micro_batches:,} micro-batches x "
                    f"{lay.ep * lay.edp:,} ranks x {job.arch.moe_layers} layers), at most "
                    f"{_MOST_LOADS / 1e6:.0f} million: take routing: balanced, or a smaller global_batch"
                )
            self._routed = {step: self._draw(self.job.micro_batches, self.job.layout.edp, step)}
        return self._routed[step]

    def _batch(self, micro_batches: int, groups: int) -> MicroBatches:
        job = self.job
        return MicroBatches(
            tokens_per_rank=self._tokens_each,
            sequences_per_rank=job.micro_batch / (job.layout.cp * job.layout.dispatch_split),
            count=micro_batches,
            groups=groups,
            capacity_factor=job.capacity_factor,
        )

    def _draw(self, micro_batches: int, groups: int, step: int) -> RoutedRows:
        job = self.job
        batch = self._batch(micro_batches, groups)
        return routed_rows(job.arch, job.layout, job.routing, job.placement, batch, step)

    def expected_busiest(self, sampled: int) -> float:
        """Rows of the busiest rank over the mean, as so many drawn micro-batches of a few layers have them."""
        job = self.job
        # what rows do not depend on, so that layouts which differ in nothing else share them
        layout = replace(job.layout, vpp=1, zero=1, zero_group=None, schedule="1f1b", stage_layers=None)
        return _expected_busiest(job.arch, layout, job.routing, job.placement, self._batch(sampled, 1))

    @cached_property
    def loads(self) -> Sequence[ExpertLoad | None]:
        """What memory must hold: the rows of the busiest rank in any micro-batch of the first step, by layer."""
        if not self.varies:
            return self._expected
        rows = self.routed()
        return [
            load if load is None or place not in rows.layers else peak_load(load, rows.layer(place))
            for place, load in enumerate(self.balanced)
        ]

    def _key(self, slot: Slot, variant: Variant) -> _Key:
        key: _Key = (slot.phase, self._signatures[slot.stage], variant)
        return (*key, self._signatures[slot.stage_b]) if slot.phase == "FB" else key

    def segment(self, slot: Slot, variant: Variant = PLAIN) -> Segment:
        """The operations of one slot, without seconds."""
        key = self._key(slot, variant)
        segment = self._segments.get(key)
        if segment is None:
            chunk = self.chunks[slot.stage]
            if slot.phase == "FB":
                ahead = self.factory.segment("F", chunk, Variant(gather=variant.gather), own_comm=True)
                back = self.factory.segment("B", self.chunks[slot.stage_b], variant, own_comm=True)
                segment = merge(ahead, back, len(chunk.blocks(self.job.arch)))
            else:
                segment = self.factory.segment(slot.phase, chunk, variant)
            self._segments[key] = segment
        return segment

    def rules(self, phase: str, meet: Callable[[Op], bool] | None = None, by_layer: bool = False) -> Rules:
        """How operations of a slot of this phase become pieces; `meet`: where members of a stage
        that are told apart do; `by_layer`: pieces end where layers do, as they also do for such members."""
        job, tuning = self.job, self.tuning
        slowdown = {"comm": beside_slowdown(tuning, job.stack)} if phase == "FB" else {}
        return Rules(
            self.model,
            self.wires,
            self.gap_s,
            lambda op: sms_share(op, tuning, job.stack, job.cluster),
            (lambda op: barrier_of(op, job.layout) if meet(op) else 0) if meet else (lambda _: 0),
            slowdown,
            by_layer=by_layer or meet is not None,
        )

    def script(
        self,
        slot: Slot,
        variant: Variant,
        apart: Apart,
        meet: Callable[[Op], bool] | None = None,
        by_layer: bool = False,
    ) -> Script:
        """The pieces of one slot; `apart`: which operations of its compute stream may meet others, by number."""
        rules = self.rules(slot.phase, meet, by_layer)
        return compile_script(self.segment(slot, variant), rules, self.op_wires(slot, variant), apart)

    def op_wires(self, slot: Slot, variant: Variant) -> Sequence[Wires]:
        """Seconds at full rate on wires of every operation of a slot."""
        key = self._key(slot, variant)
        wires = self._op_wires.get(key)
        if wires is None:
            wires = self._op_wires[key] = [wires_of(op, self.wires) for op in self.segment(slot, variant).ops]
        return wires

    def wires(self, work: Transfer) -> dict[Wire, float]:
        """Seconds at full rate on the wires that a transfer uses; uplinks only where they can be full, links to the
        host's memory only where something is kept there."""
        found = wire_seconds(work, self.job.cluster)
        if self.job.offloads:
            found |= slot_seconds(found, self.job.cluster)
        if self.uplinks is None:
            found = {wire: s for wire, s in found.items() if wire not in LEAF_WIRES}
        return found

    def segment_time(self, slot: Slot, variant: Variant = PLAIN) -> SegmentTime:
        """A slot alone on its rank."""
        key = self._key(slot, variant)
        time = self.times.get(key)
        if time is None:
            segment = self.segment(slot, variant)
            script = compile_script(segment, self.rules(slot.phase), self.op_wires(slot, variant))
            time = self.times[key] = price(script, segment.host_s)
        return time

    def compute_s(self, slot: Slot) -> float:
        """Seconds that the compute stream of a slot cannot do without."""
        key = self._key(slot, PLAIN)
        seconds = self._compute.get(key)
        if seconds is None:
            ops = self.segment(slot).ops
            seconds = sum(self.model.cost(op.work).time_s * op.scale for op in ops if op.stream == "compute")
            self._compute[key] = seconds
        return seconds

    def key(self, slot: Slot, variant: Variant) -> _Key:
        """Equal for slots whose pieces are identical."""
        return self._key(slot, variant)

    def tail_wires(self, slot: Slot, variant: Variant) -> dict[Wire, float]:
        """Seconds at full rate on the wires that the slot's reductions use."""
        total: dict[Wire, float] = {}
        for op, wires in zip(self.segment(slot, variant).ops, self.op_wires(slot, variant), strict=True):
            if op.stream == "dp":
                for wire, seconds in wires.items():
                    total[wire] = total.get(wire, 0.0) + seconds
        return total

    def send(self, a: int, b: int) -> tuple[float, float, dict[Wire, float]]:
        """Handing one micro-batch's activations from pipeline rank `a` to `b`: the CPU's seconds before it, the
        transfer's alone, and the shares of the wires that it fills (of uplinks, that all GPUs of the job fill)."""
        job = self.job
        tokens = job.micro_batch * job.seq_len / job.layout.cp / (job.layout.tp if job.layout.sequence_parallel else 1)
        crosses = job.layout.hop_crosses(job.cluster, a, b) and job.cluster.nic_bytes_per_s > 0
        group = job.cluster.group(2, job.cluster.domain if crosses else 1)
        message = Comm("send", tokens * job.arch.hidden * job.width_bytes, group)
        host = self.tuning.get("host_pipeline_s", job.stack.constants_of) if job.stack.host_sync else 0.0
        seconds = self.model.cost(message).time_s
        wires = self.wires(message) if seconds > 0.0 else {}
        if self.uplinks is not None and "nic" in wires:
            wires.pop("uplink", None)  # a closed form does not know how far apart the two lie
            if self.uplinks.climbs(a, b):
                wires["uplink"] = wires["nic"] * job.cluster.oversubscription * job.cluster.leaf_share
                seconds = max(seconds, *(wires["uplink"] * p for s in (a, b) for _, p in self.uplinks.over[s]))
        return host, seconds, {wire: _filled(wire, wire_s / seconds) for wire, wire_s in wires.items()}

    def gathers(self, stage: int) -> list[Comm]:
        """What gathers the updated parameters of one virtual stage over its data-parallel group."""
        blocks = self.chunks[stage].blocks(self.job.arch)
        return [comm for name, kind in blocks for _, comm in self.factory.gathers(name, kind)]


def _filled(wire: Wire, share: float) -> float:
    """Of a wire, by a transfer alone; a stage may have only a part of the uplinks, and fills no more than that."""
    return share if wire == "uplink" else min(1.0, share)
