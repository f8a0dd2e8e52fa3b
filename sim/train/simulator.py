"""One training step: price every distinct segment, lay the segments out in schedule order, run the clock."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.collectives import FabricFit
from moesim.hwmodels.cost import CostModel, KernelCostModel, Sustained
from moesim.hwmodels.exchange_kernels import ExchangeFit
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.work import Comm
from moesim.sim.clock.engine import recursion, run
from moesim.sim.clock.program import Program
from moesim.sim.clock.timeline import Timeline
from moesim.sim.layers.context import ExpertLoad, LayerContext
from moesim.sim.layers.graph import Segment
from moesim.sim.layout.pipeline import Slot
from moesim.sim.layout.placement import expert_loads
from moesim.sim.layout.stages import plan_chunks
from moesim.sim.software.release import release_age
from moesim.sim.software.stack import Stack, Tuning
from moesim.sim.train.breakdown import account
from moesim.sim.train.end_of_step import end_of_step_s
from moesim.sim.train.exact import expand
from moesim.sim.train.job import TrainJob
from moesim.sim.train.program import StepProgram
from moesim.sim.train.result import StepResult
from moesim.sim.train.segment_time import SegmentTime, merge, price
from moesim.sim.train.segments import SegmentFactory, Variant


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


def beside_slowdown(tuning: Tuning, stack: Stack, cluster: Cluster) -> dict[str, float]:
    """How many times as long compute and transfers take beside each other: kernels of the exchange hold some
    multiprocessors, and reach a share of their speed alone."""
    sms, held = cluster.gpu.sm_count, tuning.get("exchange_sms", stack.dispatcher)
    compute = sms / (sms - held) if sms > held else 1.0
    return {"compute_factor": compute, "transfers_factor": tuning.get("overlap_comm_slowdown", stack.constants_of)}


class StepSimulator:
    """Simulates one job; holds the priced segments so that schedules can be compared cheaply."""

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
        self.job, self.tuning, self.profile = job, tuning, profile
        # every second of compute and every byte on a link is priced here and nowhere else
        self.model: CostModel = model or KernelCostModel(
            job.cluster, profile, sustained(tuning, job.cluster, job.stack, job.precision), fabric, exchange
        )
        self.chunks = plan_chunks(job.arch, job.layout, job.mtp)
        self.loads: Sequence[ExpertLoad | None] = self._expert_loads()
        ctx = LayerContext(
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
        self.factory = SegmentFactory(ctx, self.loads, job.recompute)
        self._gap_s = tuning.get("kernel_gap_s", job.stack.constants_of)
        self.segment_times: dict[tuple[object, ...], SegmentTime] = {}
        self._signatures = [self.factory.signature(c) for c in self.chunks]

    def _expert_loads(self) -> list[ExpertLoad | None]:
        job = self.job
        tokens = max(1, job.micro_batch * job.seq_len // job.layout.cp)
        each = max(1, tokens // job.layout.dispatch_split)
        return expert_loads(job.arch, job.layout, job.cluster, job.routing, each, job.capacity_factor)

    # -- segments ---------------------------------------------------------------------------------------------

    def segment_time(self, slot: Slot, variant: Variant) -> SegmentTime:
        """Priced segment of one slot; equal segments are priced once."""
        key: tuple[object, ...] = (slot.phase, self._signatures[slot.stage], variant)
        if slot.phase == "FB":
            key = (*key, self._signatures[slot.stage_b])
        found = self.segment_times.get(key)
        if found is None:
            found = self._price(slot, variant)
            self.segment_times[key] = found
        return found

    def _price(self, slot: Slot, variant: Variant) -> SegmentTime:
        slow = None
        if slot.phase == "FB":
            factors = beside_slowdown(self.tuning, self.job.stack, self.job.cluster)
            slow = {"compute": factors["compute_factor"], "comm": factors["transfers_factor"]}
        return price(self.segment(slot, variant), self.model, self._gap_s, slow)

    def segment(self, slot: Slot, variant: Variant) -> Segment:
        """The ops of one slot."""
        chunk = self.chunks[slot.stage]
        if slot.phase == "FB":
            backward = self.factory.backward(self.chunks[slot.stage_b], variant, own_comm=True)
            return merge(self.factory.forward(chunk, Variant(gather=variant.gather), own_comm=True), backward)
        if slot.phase == "F":
            return self.factory.forward(chunk, variant)
        if slot.phase == "B":
            return self.factory.backward(chunk, variant)
        if slot.phase == "I":
            return self.factory.backward_input(chunk, variant)
        return self.factory.backward_weight(chunk, variant)

    # -- program ----------------------------------------------------------------------------------------------

    def send_s(self) -> float:
        """Seconds to hand one micro-batch's activations to the next pipeline rank."""
        job = self.job
        if job.layout.pp == 1:
            return 0.0
        tokens = job.micro_batch * job.seq_len / job.layout.cp / (job.layout.tp if job.layout.sequence_parallel else 1)
        crosses = job.layout.pipeline_crosses(job.cluster) and job.cluster.nic_bytes_per_s > 0
        group = job.cluster.group(2, job.cluster.domain if crosses else 1)
        message = Comm("send", tokens * job.arch.hidden * job.width, group)
        host = self.tuning.get("host_pipeline_s", job.stack.constants_of) if job.stack.host_sync else 0.0
        return host + self.model.cost(message).time_s

    def build(self) -> tuple[Program, dict[int, Slot], dict[int, SegmentTime]]:
        """The step as a program: one item per slot on every rank's compute lane, plus host and dp lanes."""
        builder = StepProgram(self)
        return builder.build()

    def simulate(self, events: bool = True) -> StepResult:
        """Run the step; `events` uses the SimPy engine, otherwise the recursion that gives the same bits."""
        program, slots, times = self.build()
        timeline = run(program) if events else recursion(program)
        return self._book(timeline, slots, times)

    def simulate_exact(self) -> StepResult:
        """The step with every op as an event of its own; per-slot times are read back from that run."""
        builder = StepProgram(self)
        program, slots, times = builder.build()
        segments = {item: self.segment(slot, builder.variants[item]) for item, slot in slots.items()}
        big, first, done = expand(program, segments, times)
        ran = run(big)
        start = [ran.start_s[first[i]] for i in range(len(program))]
        end = [ran.end_s[done[i]] for i in range(len(program))]
        return self._book(Timeline(program, start, end), slots, times)

    def _book(self, timeline: Timeline, slots: dict[int, Slot], times: dict[int, SegmentTime]) -> StepResult:
        tail = end_of_step_s(self, timeline.makespan_s)
        named = {f"{key[0]}{i}": time for i, (key, time) in enumerate(self.segment_times.items())}
        return account(timeline, slots, times, tail, named)

    # -- what a rank holds ------------------------------------------------------------------------------------

    def rank_params(self, rank: int, trainable: bool = True) -> tuple[float, float]:
        """(dense, expert) parameters that one GPU of pipeline rank `rank` trains, or holds."""
        count = self.factory.dense_and_expert_params if trainable else self.factory.held_params
        dense = expert = 0.0
        for number in self.job.layout.chunks_of(rank):
            for name, _, kind in self.factory.blocks(self.chunks[number]):
                if name == "head" and self.job.arch.tied_embeddings and self.job.layout.pp == 1:
                    continue
                d, e = count(name, kind)
                dense, expert = dense + d, expert + e
        return dense, expert

    def gather_s(self, stage: int) -> float:
        """Seconds to gather the updated parameters of one virtual stage over its data-parallel group."""
        chunk = self.chunks[stage]
        comms = [comm for name, _, kind in self.factory.blocks(chunk) for _, comm in self.factory.gathers(name, kind)]
        return sum(self.model.cost(comm).time_s for comm in comms)
