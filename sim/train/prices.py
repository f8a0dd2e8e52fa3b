"""Prices of a step: seconds of every distinct segment, pipeline send and gather, each operation costed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collectives import FabricFit
from moesim.hwmodels.cost import CostModel, KernelCostModel, Sustained
from moesim.hwmodels.exchange_kernels import ExchangeFit
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.work import Comm
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.layout import plan_chunks
from moesim.sim.layout.pipeline import Slot
from moesim.sim.layout.placement import ExpertLoad, expert_loads
from moesim.sim.software.stack import Stack, Tuning
from moesim.sim.train.job import TrainJob
from moesim.sim.train.segment_time import SegmentTime, beside_slowdown, merge, price
from moesim.sim.train.segments import PLAIN, SegmentFactory, Variant

_Key = tuple[object, ...]


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
    ) -> None:
        """`model`: one that jobs of the same cluster, stack and precision share, so that each kernel is priced once."""
        self.job, self.profile, self.tuning = job, profile, tuning
        self.model: CostModel = model or KernelCostModel(
            job.cluster, profile, sustained(tuning, job.cluster, job.stack, job.precision), fabric, exchange
        )
        self.chunks = plan_chunks(job.arch, job.layout, job.mtp)
        tokens = max(1, job.micro_batch * job.seq_len // job.layout.cp)
        each = max(1, tokens // job.layout.dispatch_split)  # that one GPU sends to experts
        self.loads: Sequence[ExpertLoad | None] = expert_loads(
            job.arch, job.layout, job.cluster, job.routing, each, job.capacity_factor
        )
        self.factory = SegmentFactory(job, tuning, self.loads)
        self.gap_s = tuning.get("kernel_gap_s", job.stack.constants_of)  # between two kernels of one stream
        self._signatures = [self.factory.signature(c) for c in self.chunks]
        self._segments: dict[_Key, Segment] = {}
        self.times: dict[_Key, SegmentTime] = {}  # by phase, contents and variant; grows as slots are asked for

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
                segment = merge(ahead, self.factory.segment("B", self.chunks[slot.stage_b], variant, own_comm=True))
            else:
                segment = self.factory.segment(slot.phase, chunk, variant)
            self._segments[key] = segment
        return segment

    def segment_times(self, slots: Iterable[tuple[Slot, Variant]]) -> list[SegmentTime]:
        """Priced segments of these slots, in their order."""
        keys: list[_Key] = []
        for slot, variant in slots:
            self.segment(slot, variant)
            keys.append(self._key(slot, variant))
        for key in keys:
            if key not in self.times:
                beside = beside_slowdown(self.tuning, self.job.stack, self.job.cluster) if key[0] == "FB" else None
                slow = beside and {"compute": beside["compute_factor"], "comm": beside["transfers_factor"]}
                self.times[key] = price(self._segments[key], self.model, self.gap_s, slow)
        return [self.times[key] for key in keys]

    def send_s(self) -> float:
        """Seconds to hand one micro-batch's activations to the next pipeline rank."""
        job = self.job
        if job.layout.pp == 1:
            return 0.0
        tokens = job.micro_batch * job.seq_len / job.layout.cp / (job.layout.tp if job.layout.sequence_parallel else 1)
        crosses = job.layout.pipeline_crosses(job.cluster) and job.cluster.nic_bytes_per_s > 0
        group = job.cluster.group(2, job.cluster.domain if crosses else 1)
        message = Comm("send", tokens * job.arch.hidden * job.width_bytes, group)
        host = self.tuning.get("host_pipeline_s", job.stack.constants_of) if job.stack.host_sync else 0.0
        return host + self.model.cost(message).time_s

    def gather_s(self, stage: int) -> float:
        """Seconds to gather the updated parameters of one virtual stage over its data-parallel group."""
        blocks = self.chunks[stage].blocks(self.job.arch)
        comms = [comm for name, kind in blocks for _, comm in self.factory.gathers(name, kind)]
        return sum(self.model.cost(comm).time_s for comm in comms)
