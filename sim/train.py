"""One training step: price every distinct segment, lay the segments out in schedule order, run the clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwmodels.cluster import Cluster
from hwmodels.collectives import FabricFit, collective_s
from hwmodels.cost import KernelCostModel, Sustained
from hwmodels.dtypes import bytes_per_element
from hwmodels.profile import Profile
from hwmodels.work import Comm
from sim.arch import ModelArch
from sim.context import ExpertLoad, LayerContext
from sim.engine import recursion, run
from sim.exact import expand
from sim.graph import Segment
from sim.layout import Layout
from sim.pipeline import Slot, orders
from sim.placement import expert_loads
from sim.program import Dep, Lane, Program
from sim.segment_time import SegmentTime, merge, price
from sim.segments import SegmentFactory, Variant
from sim.stack import Stack, Tuning, generation, gpu_class, release_age
from sim.stages import Chunk, plan_chunks
from sim.timeline import Timeline
from traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything that decides one training step, resolved (no None left to guess)."""

    arch: ModelArch
    cluster: Cluster
    layout: Layout
    stack: Stack
    global_batch: int  # sequences per step
    micro_batch: int
    seq_len: int
    precision: str
    recompute: frozenset[str] = frozenset()
    routing: Routing = field(default_factory=Routing)
    capacity_factor: float | None = None
    mtp: bool = True
    release: str = ""  # software release "YY.MM", empty when unknown

    @property
    def micro_batches(self) -> int:
        """Micro-batches per data-parallel replica and step."""
        return self.global_batch // (self.micro_batch * self.layout.dp)


@dataclass(frozen=True, slots=True)
class StepResult:
    """A simulated step: seconds, where they went (sums to step_time_s), and the timeline of all pipeline ranks."""

    step_time_s: float
    breakdown_s: dict[str, float]
    by_source: dict[str, float]
    variance_s2: float
    timeline: Timeline
    slots: dict[int, Slot]
    segment_times: dict[str, SegmentTime]


def sustained(tuning: Tuning, cluster: Cluster, stack: Stack, precision: str) -> Sustained:
    """The cost model's factors for this GPU family and stack."""
    family = generation(cluster)
    clock = tuning.get("clock_factor", gpu_class(cluster))
    dtypes = ("bf16", "fp16", precision, *(("mxfp8",) if precision == "nvfp4" else ()))
    return Sustained(
        gemm={d: clock * tuning.get("gemm_factor", d, family) for d in dtypes},
        grouped={d: clock * tuning.get("grouped_factor", d, family, stack.name) for d in dtypes},
        attention=clock * tuning.get("attention_factor", stack.attention_kernel, family),
        stream_bandwidth={k: tuning.get("stream_bandwidth", k) for k in ("softmax", "permute", "cast", "loss", "*")},
        stream_launch_s=0.0,  # launches are counted per op, as kernel_gap_s
    )


class StepSimulator:
    """Simulates one job; holds the priced segments so that schedules can be compared cheaply."""

    def __init__(self, job: TrainJob, profile: Profile, tuning: Tuning, fabric: FabricFit | None = None) -> None:
        self.job, self.tuning = job, tuning
        self.fabric = fabric or FabricFit()
        self.profile = profile
        self.model = KernelCostModel(job.cluster, profile, sustained(tuning, job.cluster, job.stack, job.precision), self.fabric)
        self.chunks = plan_chunks(job.arch, job.layout, job.mtp)
        self.loads = self._expert_loads()
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
            age=release_age(job.release),
        )
        self.factory = SegmentFactory(ctx, self.loads, job.recompute)
        self._gap_s = tuning.get("kernel_gap_s", job.stack.name)
        self._times: dict[tuple[object, ...], SegmentTime] = {}
        self._signatures = [self.factory.signature(c) for c in self.chunks]

    def _expert_loads(self) -> list[ExpertLoad | None]:
        job = self.job
        tokens = max(1, job.micro_batch * job.seq_len // job.layout.cp)
        split = job.layout.tp if job.layout.sequence_parallel else 1
        return expert_loads(
            job.arch, job.layout, job.cluster, job.routing, max(1, tokens // split), job.capacity_factor
        )

    # -- segments ---------------------------------------------------------------------------------------------

    def segment_time(self, slot: Slot, variant: Variant) -> SegmentTime:
        """Priced segment of one slot; equal segments are priced once."""
        key = (slot.phase, self._signatures[slot.stage], variant)
        if slot.phase == "FB":
            key = (*key, self._signatures[slot.stage_b])
        found = self._times.get(key)
        if found is None:
            found = self._price(slot, variant)
            self._times[key] = found
        return found

    def _price(self, slot: Slot, variant: Variant) -> SegmentTime:
        slow = None
        if slot.phase == "FB":
            name = self.job.stack.name
            slow = {
                "compute": self.tuning.get("overlap_compute_slowdown", name),
                "comm": self.tuning.get("overlap_comm_slowdown", name),
            }
        return price(self.segment(slot, variant), self.model, self._gap_s, slow)

    def segment(self, slot: Slot, variant: Variant) -> Segment:
        """The ops of one slot."""
        chunk = self.chunks[slot.stage]
        if slot.phase == "FB":
            backward = self.factory.backward(self.chunks[slot.stage_b], variant, own_comm=True)
            return merge(self.factory.forward(chunk, own_comm=True), backward)
        if slot.phase == "F":
            return self.factory.forward(chunk, variant)
        if slot.phase == "B":
            return self.factory.backward(chunk, variant)
        if slot.phase == "I":
            return self.factory.backward_input(chunk)
        return self.factory.backward_weight(chunk)

    # -- program ----------------------------------------------------------------------------------------------

    def send_s(self) -> float:
        """Seconds to hand one micro-batch's activations to the next pipeline rank."""
        job = self.job
        if job.layout.pp == 1:
            return 0.0
        tokens = job.micro_batch * job.seq_len / job.layout.cp / (job.layout.tp if job.layout.sequence_parallel else 1)
        crosses = job.layout.pipeline_crosses(job.cluster) and job.cluster.nic_bytes_per_s > 0
        group = job.cluster.group(2, job.cluster.domain if crosses else 1)
        message = Comm("send", tokens * job.arch.hidden * 2.0, group)
        return collective_s(message, job.cluster, self.profile.collectives, self.fabric)

    def build(self) -> tuple[Program, dict[int, Slot], dict[int, SegmentTime]]:
        """The step as a program: one item per slot on every rank's compute lane, plus host and dp lanes."""
        builder = _ProgramBuilder(self)
        return builder.build()

    def simulate(self, events: bool = True) -> StepResult:
        """Run the step; `events` uses the SimPy engine, otherwise the recursion that gives the same bits."""
        program, slots, times = self.build()
        timeline = run(program) if events else recursion(program)
        return _account(self, timeline, slots, times)

    def simulate_exact(self) -> StepResult:
        """The step with every op as an event of its own; per-slot times are read back from that run."""
        builder = _ProgramBuilder(self)
        program, slots, times = builder.build()
        segments = {item: self.segment(slot, builder.variants[item]) for item, slot in slots.items()}
        big, first, done = expand(program, segments, times)
        ran = run(big)
        start = [ran.start_s[first[i]] for i in range(len(program))]
        end = [ran.end_s[done[i]] for i in range(len(program))]
        return _account(self, Timeline(program, start, end), slots, times)

    # -- end of the step --------------------------------------------------------------------------------------

    def rank_params(self, rank: int) -> tuple[float, float]:
        """(dense, expert) parameters that one GPU of pipeline rank `rank` holds."""
        dense = expert = 0.0
        stages = {rank, self.job.layout.pp - 1 - rank} if self.job.layout.schedule == "dualpipe" else {rank}
        for chunk in self.chunks:
            if chunk.index % self.job.layout.pp in stages:
                for name, _, kind in self.factory.blocks(chunk):
                    if name == "head" and self.job.arch.tied_embeddings and self.job.layout.pp == 1:
                        continue
                    d, e = self.factory.dense_and_expert_params(name, kind)
                    dense, expert = dense + d, expert + e
        return dense, expert

    def gather_s(self, stage: int) -> float:
        """Seconds to gather the updated parameters of one virtual stage over its data-parallel group."""
        chunk = self.chunks[stage]
        comms = [
            comm
            for name, _, kind in self.factory.blocks(chunk)
            for _, comm in self.factory.parameter_comms("all_gather", name, kind, 2.0)
        ]
        return sum(self.model.cost(comm).time_s for comm in comms)

    def optimizer_s(self, rank: int) -> float:
        """Optimizer step: every GPU updates the parameters it owns, bound by HBM."""
        job = self.job
        dense, expert = self.rank_params(rank)
        if job.layout.zero >= 1:
            dense, expert = dense / max(1, job.layout.dp * job.layout.cp), expert / max(1, job.layout.edp)
        per_param = self.tuning.get("optimizer_bytes_per_param", job.stack.name)
        rate = job.cluster.gpu.hbm_bytes_per_s * self.tuning.get("optimizer_bandwidth", job.stack.name)
        return (dense + expert) * per_param / rate

    def serial_gradients_s(self, rank: int) -> float:
        """Gradient reduction and parameter gather when nothing overlaps them."""
        job = self.job
        if job.stack.dp_overlap or job.layout.zero >= 3:
            return 0.0
        width = bytes_per_element(job.stack.grad_dtype)
        total = 0.0
        for params, group in zip(
            self.rank_params(rank),
            (job.layout.group("dp", job.cluster), job.layout.group("edp", job.cluster)),
            strict=True,
        ):
            kinds = (("all_reduce", width),) if job.layout.zero == 0 else (("reduce_scatter", width), ("all_gather", 2.0))
            for kind, size in kinds:
                comm = Comm(kind, params * size, group)  # type: ignore[arg-type]  # literals above
                total += collective_s(comm, job.cluster, self.profile.collectives, self.fabric)
        return total


class _ProgramBuilder:
    """Turns slot orders into a Program: dependencies along the pipeline, variants for gathers and reductions."""

    def __init__(self, simulator: StepSimulator) -> None:
        self.sim = simulator
        job = simulator.job
        self.job = job
        self.program = Program()
        self.slots: dict[int, Slot] = {}
        self.times: dict[int, SegmentTime] = {}
        self.variants: dict[int, Variant] = {}
        self.gathered: dict[tuple[int, int], int] = {}  # (rank, stage) -> dp item its first forward waits for
        self.done: dict[tuple[str, int, int], tuple[int, ...]] = {}  # items that end a phase: compute, host
        self.send_s = simulator.send_s()
        self.orders = orders(job.layout.schedule, job.layout.pp, job.layout.vpp, job.micro_batches)

    def _variant(self, slot: Slot, first: set[Slot], last: set[Slot]) -> Variant:
        lay, stack = self.job.layout, self.job.stack
        if lay.zero >= 3:
            return Variant(gather=slot.phase in ("F", "B"), reduce=slot.phase in ("B", "FB"))
        if not stack.dp_overlap:
            return Variant()
        return Variant(gather=slot in first and lay.zero >= 1 and lay.pp == 1, reduce=slot in last)

    def _prefetch(self) -> None:
        """Parameter gathers of every virtual stage, in order, from the start of the step (pipelines only).

        Without a pipeline the gathers ride inside the first forward, layer by layer.
        """
        lay, stack = self.job.layout, self.job.stack
        if lay.pp == 1 or not stack.dp_overlap or lay.zero not in (1, 2):
            return
        for rank, order in enumerate(self.orders):
            seen: list[int] = []
            for slot in order:
                if slot.phase in ("F", "FB") and slot.stage not in seen:
                    seen.append(slot.stage)
            for stage in seen:
                seconds = self.sim.gather_s(stage)
                if seconds > 0.0:
                    self.gathered[(rank, stage)] = self.program.add(Lane(rank, "dp"), f"gather {stage}", seconds)

    def build(self) -> tuple[Program, dict[int, Slot], dict[int, SegmentTime]]:
        self._prefetch()
        placed: list[tuple[int, Slot, Variant, SegmentTime]] = []
        for rank, order in enumerate(self.orders):
            first, last = _edges(order)
            for slot in order:
                variant = self._variant(slot, first, last)
                placed.append((rank, slot, variant, self.sim.segment_time(slot, variant)))
        host = any(p[3].host_s > p[3].duration_s for p in placed)
        previous_host: dict[int, int] = {}
        for rank, slot, variant, time in placed:
            item = self.program.add(Lane(rank, "compute"), _label(slot), time.duration_s)
            self.slots[item], self.times[item] = slot, time
            self.variants[item] = variant
            ends: tuple[int, ...] = (item,)
            if host:
                issue = self.program.add(Lane(rank, "host"), "issue " + _label(slot), time.host_s)
                ends = (item, issue)
                if rank in previous_host:
                    self.program.set_deps(item, (Dep(previous_host[rank]),))
                previous_host[rank] = issue
            gather = self.gathered.pop((rank, slot.stage), None) if slot.phase in ("F", "FB") else None
            if gather is not None:
                self.program.set_deps(item, (*self.program.deps[item], Dep(gather)))
            self._finish(slot, ends)
            for op in time.background:
                self.program.add(Lane(rank, "dp"), op.name, op.duration_s, (Dep(item, op.ready_s, True),))
        for item, slot in self.slots.items():
            self._link(item, slot, host)
        return self.program, self.slots, self.times

    def _finish(self, slot: Slot, ends: tuple[int, ...]) -> None:
        if slot.phase in ("F", "FB"):
            self.done[("F", slot.micro_batch, slot.stage)] = ends
        if slot.phase in ("B", "I"):
            self.done[("B", slot.micro_batch, slot.stage)] = ends
        elif slot.phase == "FB":
            self.done[("B", slot.micro_batch_b, slot.stage_b)] = ends

    def _inputs(self, slot: Slot) -> list[Dep]:
        """What the slot's data comes from: the stage before (forward) or after (backward), and its own forward."""
        deps: list[Dep] = []
        last = len(self.sim.chunks) - 1
        if slot.phase in ("F", "FB") and slot.stage > 0:
            deps += self._deps("F", slot.micro_batch, slot.stage - 1, self._lag(slot.stage - 1, slot.stage))
        back = None
        if slot.phase in ("B", "I"):
            back = (slot.micro_batch, slot.stage)
        elif slot.phase == "FB":
            back = (slot.micro_batch_b, slot.stage_b)
        if back is not None:
            if back[1] < last:
                deps += self._deps("B", back[0], back[1] + 1, self._lag(back[1] + 1, back[1]))
            else:
                deps += self._deps("F", back[0], back[1], 0.0)
        return deps

    def _lag(self, source: int, target: int) -> float:
        pp = self.job.layout.pp
        return self.send_s if source % pp != target % pp else 0.0

    def _deps(self, phase: str, micro_batch: int, stage: int, lag: float) -> list[Dep]:
        return [Dep(item, lag) for item in self.done[(phase, micro_batch, stage)]]

    def _link(self, item: int, slot: Slot, host: bool) -> None:
        inputs = tuple(d for d in self._inputs(slot) if d.item != item)
        self.program.set_deps(item, (*self.program.deps[item], *inputs))
        if host and self.job.stack.host_sync and self.job.layout.pp > 1:
            issue = item + 1
            self.program.set_deps(issue, inputs)


def _label(slot: Slot) -> str:
    if slot.phase == "FB":
        return f"F{slot.micro_batch}.{slot.stage}+B{slot.micro_batch_b}.{slot.stage_b}"
    return f"{slot.phase}{slot.micro_batch}.{slot.stage}"


def _edges(order: list[Slot]) -> tuple[set[Slot], set[Slot]]:
    """First forward and last backward of each stage in a rank's order."""
    first: dict[int, Slot] = {}
    last: dict[int, Slot] = {}
    for slot in order:
        if slot.phase in ("F", "FB"):
            first.setdefault(slot.stage, slot)
        if slot.phase == "B":
            last[slot.stage] = slot
        elif slot.phase == "FB":
            last[slot.stage_b] = slot
    return set(first.values()), set(last.values())


def _account(
    sim: StepSimulator, timeline: Timeline, slots: dict[int, Slot], times: dict[int, SegmentTime]
) -> StepResult:
    """Book every second of every rank, average over ranks, add the end of the step."""
    job = sim.job
    ranks = range(job.layout.pp)
    body = timeline.makespan_s
    spent: dict[str, float] = {}
    sources: dict[str, float] = {}
    variance = 0.0
    share = 1.0 / job.layout.pp
    for rank in ranks:
        _account_rank(timeline, rank, times, spent, share)
        for item in timeline.program.lanes[Lane(rank, "compute")]:
            for source, seconds in times[item].by_source.items():
                sources[source] = sources.get(source, 0.0) + seconds * share
            variance += times[item].variance_s2 * share
    tail = {
        "dp_comm": max(sim.serial_gradients_s(r) for r in ranks),
        "optimizer": max(sim.optimizer_s(r) for r in ranks),
        "step_constant": sim.tuning.get("step_constant_s", job.stack.name),
    }
    total = body + sum(tail.values())
    doublings = max(0.0, _log2(job.cluster.gpus / 8.0))
    tail["straggler"] = total * sim.tuning.get("straggler_per_doubling", job.stack.name) * doublings
    for key, seconds in tail.items():
        spent[key] = spent.get(key, 0.0) + seconds
        sources["assumed: step overheads"] = sources.get("assumed: step overheads", 0.0) + seconds
    step = body + sum(tail.values())
    named = {f"{k[0]}{i}": v for i, (k, v) in enumerate(sim._times.items())}
    return StepResult(step, spent, sources, variance, timeline, slots, named)


def _account_rank(
    timeline: Timeline, rank: int, times: dict[int, SegmentTime], spent: dict[str, float], share: float
) -> None:
    clock = 0.0
    program = timeline.program
    for item in program.lanes[Lane(rank, "compute")]:
        gap = timeline.start_s[item] - clock
        if gap > 0.0:
            waits = [
                (timeline.start_s if d.from_start else timeline.end_s)[d.item] + d.lag_s
                for d in program.deps[item]
                if program.lane_of[d.item].stream != "host"
            ]
            bubble = max(0.0, min(gap, max(waits, default=clock) - clock))
            spent["bubble"] = spent.get("bubble", 0.0) + bubble * share
            if gap > bubble:
                spent["host"] = spent.get("host", 0.0) + (gap - bubble) * share
        for category, seconds in times[item].by_category.items():
            spent[category] = spent.get(category, 0.0) + seconds * share
        clock = timeline.end_s[item]
    host_end = max(clock, timeline.lane_end_s(Lane(rank, "host")))
    dp_end = max(host_end, timeline.lane_end_s(Lane(rank, "dp")))
    for category, seconds in (
        ("host", host_end - clock),
        ("dp_comm", dp_end - host_end),
        ("bubble", timeline.makespan_s - dp_end),
    ):
        spent[category] = spent.get(category, 0.0) + seconds * share


def _log2(x: float) -> float:
    from math import log2

    return log2(x) if x > 0 else 0.0


def chunk_of(chunks: tuple[Chunk, ...], stage: int) -> Chunk:
    """The chunk at virtual stage `stage`."""
    return chunks[stage]
