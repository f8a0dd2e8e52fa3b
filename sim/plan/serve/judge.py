"""ServeJudge: what each candidate deployment of one cluster cannot beat, and how it serves when it is simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import inf

from moesim.hwmodels.power_and_money import gpu_hours, usd_per_million_output_tokens
from moesim.hwmodels.units import GIB
from moesim.sim.plan.serve.bound import Floors, LoadBounds, Pools, columns_of, floors_of, load_bounds
from moesim.sim.plan.serve.space import ServeCandidate, Shape
from moesim.sim.question.lookup import check_used
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Scenario
from moesim.sim.question.sections import LayoutAsk
from moesim.sim.serve.accounts import QUEUED, goodput_per_s, label_of, latencies_of, span_s, spread, utilisation
from moesim.sim.serve.capacity import drained_per_s
from moesim.sim.serve.job import Deployment, ResolvedServe, ServeJob, replica_layout
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import Machine, PricedJobs, ServeRun, first_together, front_of, machine_of, simulate
from moesim.sim.serve.slo import Slo, slo_asked
from moesim.sim.serve.sustained import sustained_per_s
from moesim.sim.serve.warmup import warm_up_of
from moesim.sim.serve.workload import Workload


@dataclass(frozen=True, slots=True)
class Served:
    """A simulated candidate under the asked load; rates are those of all its GPUs."""

    candidate: ServeCandidate
    bounds: LoadBounds
    ttft_s: float  # means
    tpot_s: float
    ttft_p90_s: float
    tpot_p90_s: float
    attained_share: float  # share of the requests within the limits
    goodput_per_s: float
    output_tokens_per_s: float
    usd_per_million_output_tokens: float | None
    label: str
    idle_share: float  # share of the GPUs' time
    communication_share: float
    preemptions: int

    def meets(self, slo: Slo) -> bool:
        """Whether enough requests are served well, and the queue does not grow."""
        return self.attained_share >= slo.share and self.label not in QUEUED


class ServeJudge:
    """Turns candidates into deployments of one cluster and prices them; what a shape costs is priced once."""

    def __init__(self, scenario: Scenario, slo: Slo) -> None:
        self._slo = slo
        self._resolved = resolve_serve(open_scenario(scenario))
        self.base: ServeJob = self._resolved.deployment.job
        self.load: Workload = self._resolved.workload
        self._columns = columns_of(self.load)
        self.assumptions = self._resolved.assumptions
        self._tuning, self._priced = self._resolved.tuning(), PricedJobs()
        self.front = front_of(self.base, self._tuning)
        self.price = self._resolved.price
        self._machines: dict[tuple[Shape, int], Machine | DoesNotFit] = {}
        self._floors: dict[tuple[Shape, int], Floors] = {}

    def job(self, shape: Shape, max_batch: int) -> ServeJob:
        """The job of one replica or worker."""
        engine = replace(self.base.engine, max_batch=max_batch)
        return replace(self.base, layout=replica_layout(self.base.arch, shape.ask), engine=engine)

    def fits(self, shape: Shape) -> DoesNotFit | None:
        """None when weights and the longest request have room; else why not."""
        machine = self._machine(shape, self.base.engine.max_batch)
        return machine if isinstance(machine, DoesNotFit) else None

    def weight_bytes(self, shape: Shape) -> float:
        """Weights, adapters and work space of the fullest GPU."""
        memory = serve_memory(self.job(shape, self.base.engine.max_batch))
        return memory.weights + memory.adapters + memory.work

    def _machine(self, shape: Shape, max_batch: int) -> Machine | DoesNotFit:
        key = (shape, max_batch)
        machine = self._machines.get(key)
        if machine is None:
            try:
                machine = machine_of(self.job(shape, max_batch), self.load, self._tuning, priced=self._priced)
            except DoesNotFit as refusal:
                machine = refusal
            self._machines[key] = machine
        return machine

    def _floor(self, shape: Shape, max_batch: int) -> Floors:
        key = (shape, max_batch)
        floors = self._floors.get(key)
        if floors is None:
            machine = self._machine(shape, max_batch)
            assert isinstance(machine, Machine)  # only shapes that fit are judged
            floors = self._floors[key] = floors_of(machine.costs)
        return floors

    def bounds(self, c: ServeCandidate) -> LoadBounds:
        """What the load takes at least on a candidate."""
        own, engine = self._floor(c.shape, c.max_batch), self.base.engine
        streamed_tokens = float(engine.stream_tokens)
        if c.prefill is None:
            streamed_tokens = first_together(self.job(c.shape, c.max_batch), self._tuning)
            pools = Pools(own, c.replicas, own, c.replicas, True, streamed_tokens)
        else:
            late = self._tuning.get("handover_tokens", engine.name, self.base.cluster.gpu.family)
            prompts = self._floor(c.prefill, c.max_batch)
            pools = Pools(prompts, c.prefill_workers, own, c.replicas, False, max(streamed_tokens, late))
        return load_bounds(self._columns, self._slo, self.front, pools)

    def deployment(self, c: ServeCandidate) -> Deployment:
        """The candidate as the simulator runs it."""
        job, ask = self.job(c.shape, c.max_batch), self._resolved.ask
        prefill = self.job(c.prefill, c.max_batch) if c.prefill else None
        return Deployment(
            job, c.replicas, prefill, c.prefill_workers, router=ask.router, tiers=ask.kv_tiers, admission=ask.admission
        )

    def resolved(self, c: ServeCandidate) -> ResolvedServe:
        """The candidate as the answer of a scenario that had asked for it."""
        return replace(self._resolved, deployment=self.deployment(c))

    def run(self, c: ServeCandidate, load: Workload) -> ServeRun:
        """Any load on a candidate."""
        return simulate(self.deployment(c), load, self._tuning, self._priced)

    def simulate(self, c: ServeCandidate, bounds: LoadBounds | None = None) -> Served:
        """The asked load on a candidate. DoesNotFit where it has no room."""
        load, run = self.load, self.run(c, self.load)
        latencies, span, shares = latencies_of(run, warm_up_of(run, load).requests), span_s(run), utilisation(run)
        attained, ask = self._slo.attained(latencies), self._resolved.ask
        misses = slo_asked(ask).missed(ask, slo_asked(ask).attained(latencies))  # as `serve` says it, of its own limits
        outputs = float(run.log.output_total)
        ttft, tpot = spread(latencies.ttft_s), spread(latencies.tpot_s)
        usd = usd_per_million_output_tokens(self.price, gpu_hours(c.gpus, span), outputs)
        return Served(
            candidate=c,
            bounds=bounds or self.bounds(c),
            ttft_s=ttft.mean,
            tpot_s=tpot.mean,
            ttft_p90_s=ttft.p90,
            tpot_p90_s=tpot.p90,
            attained_share=attained,
            goodput_per_s=goodput_per_s(run, attained),
            output_tokens_per_s=outputs / span,
            usd_per_million_output_tokens=usd,
            label=label_of(latencies, load.rate_per_s, inf, bool(load.clients), misses),
            idle_share=shares["idle"],
            communication_share=sum(shares.get(name, 0.0) for name in ("tp_comm", "ep_comm", "pp_comm")),
            preemptions=run.log.preemptions,
        )

    def sustained_per_s(self, c: ServeCandidate) -> float:
        """The largest rate of the asked requests at which the limits still hold, within 1 %; 0 where there is none.

        Never more than what drains a full queue: a short load could be served as one burst.
        """
        if not self.load.rate_per_s or self.load.clients:
            return 0.0
        most = drained_per_s(self.deployment(c), self.load, self._tuning, self._priced)
        return sustained_per_s(partial(self.run, c), self.load, self._slo, most)


def open_scenario(scenario: Scenario) -> Scenario:
    """The scenario with its deployment left open: one GPU stands in for it."""
    check_used(scenario)  # its layout is not asked about any more after this
    assert scenario.serve is not None  # asked before
    serve = scenario.serve.model_copy(update={"pools": None, "attention_dp": 1, "kv_blocks": None})
    return scenario.model_copy(update={"layout": LayoutAsk(), "serve": serve})


def too_large(judge: ServeJudge, refused: dict[Shape, DoesNotFit]) -> str:
    """One line on the shape that is nearest to fitting."""
    nearest = min(refused, key=lambda s: (judge.weight_bytes(s), s.title))
    usable = judge.base.cluster.gpu.usable_bytes / GIB
    return (
        f"none of {len(refused)} layouts of {judge.base.arch.name} fits {judge.base.cluster.gpus} x "
        f"{judge.base.cluster.gpu.name}: the smallest, {nearest.title}, needs {judge.weight_bytes(nearest) / GIB:.1f} "
        f"of {usable:.1f} GiB before any request; use more GPUs, a larger GPU or a smaller format"
    )
