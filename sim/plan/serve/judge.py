"""ServeJudge: what each candidate deployment of one cluster cannot beat, and how it serves when it is simulated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import inf

from moesim.hwmodels.power_and_money import gpu_hours, usd_per_million_output_tokens
from moesim.hwmodels.units import GIB
from moesim.sim.plan.serve.bound import Floors, LoadBounds, Pools, columns_of, floors_of, load_bounds
from moesim.sim.plan.serve.features import AS_ASKED, Features
from moesim.sim.plan.serve.space import ServeCandidate, Shape
from moesim.sim.question.lookup import check_used
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.request_sections import RequestsAsk
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.sections import LayoutAsk
from moesim.sim.serve.accounts import (
    BEGINNING,
    QUEUED,
    decode_shares,
    goodput_per_s,
    label_of,
    latencies_of,
    span_s,
    spread,
)
from moesim.sim.serve.capacity import drained_per_s, of_strangers
from moesim.sim.serve.job import Deployment, ResolvedServe, ServeJob, replica_layout
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.predict import shortness
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import Machine, PricedJobs, ServeRun, first_together, front_of, machine_of, simulate
from moesim.sim.serve.slo import Slo, slo_asked
from moesim.sim.serve.sustained import lasts, sustained_per_s
from moesim.sim.serve.warmup import warm_up_of
from moesim.sim.serve.workload import Workload, enough_of

_Key = tuple[Shape, int, Features]


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
    lasts: bool = True  # False: its load is short; the same rate for longer would be too much

    def meets(self, slo: Slo) -> bool:
        """Whether enough requests are served well, the queue does not grow, and it is more than a beginning."""
        return self.attained_share >= slo.share and self.label not in (*QUEUED, BEGINNING) and self.lasts


class ServeJudge:
    """Turns candidates into deployments of one cluster and prices them; what a shape costs is priced once."""

    def __init__(self, scenario: Scenario, slo: Slo) -> None:
        self.slo = slo
        self.scenario = open_scenario(scenario)
        self._on: dict[Features, ResolvedServe] = {}
        self._resolved = self.on(AS_ASKED)
        self.base: ServeJob = self._resolved.deployment.job
        self.load: Workload = self._resolved.workload
        self.ask = self._resolved.ask
        if self.load.beginning:
            raise ScenarioError(only_begins(self.ask.requests, self.load))
        self._columns = columns_of(self.load)
        self.assumptions = self._resolved.assumptions
        self._tuning, self._priced = self._resolved.tuning(), PricedJobs()
        self.front = front_of(self.base, self._tuning)
        self.price = self._resolved.price
        self._jobs: dict[_Key, ServeJob] = {}
        self._machines: dict[_Key, Machine | DoesNotFit] = {}
        self._floors: dict[_Key, Floors] = {}
        self._bounds: dict[tuple[_Key, _Key | None], LoadBounds] = {}

    def on(self, features: Features) -> ResolvedServe:
        """The question with these features, its deployment left open."""
        found = self._on.get(features)
        if found is None:
            found = self._on[features] = resolve_serve(features.on(self.scenario))
        return found

    def job(self, shape: Shape, max_batch: int, features: Features = AS_ASKED) -> ServeJob:
        """The job of one replica or worker."""
        key = (shape, max_batch, features)
        if key not in self._jobs:
            base = self.on(features).deployment.job
            engine = replace(base.engine, max_batch=max_batch)
            self._jobs[key] = replace(base, layout=replica_layout(base.arch, shape.ask), engine=engine)
        return self._jobs[key]

    def fits(self, shape: Shape) -> DoesNotFit | None:
        """None when weights and the longest request have room; else why not."""
        machine = self.machine(shape, self.base.engine.max_batch)
        return machine if isinstance(machine, DoesNotFit) else None

    def weight_bytes(self, shape: Shape) -> float:
        """Weights, adapters and work space of the fullest GPU."""
        memory = serve_memory(self.job(shape, self.base.engine.max_batch))
        return memory.weights + memory.adapters + memory.work

    def machine(self, shape: Shape, max_batch: int, features: Features = AS_ASKED) -> Machine | DoesNotFit:
        """A priced replica or worker, or why it has no room."""
        key = (shape, max_batch, features)
        machine = self._machines.get(key)
        if machine is None:
            try:
                machine = machine_of(self.job(*key), self.load, self._tuning, priced=self._priced)
            except DoesNotFit as refusal:
                machine = refusal
            self._machines[key] = machine
        return machine

    def _floor(self, key: _Key) -> Floors:
        floors = self._floors.get(key)
        if floors is None:
            machine = self.machine(*key)
            if isinstance(machine, DoesNotFit):
                raise machine
            floors = self._floors[key] = floors_of(machine.costs)
        return floors

    def bounds(self, c: ServeCandidate) -> LoadBounds:
        """What the load takes at least on a candidate; counts of workers only change the span of one pair of shapes.

        DoesNotFit where it has no room.
        """
        own = (c.shape, c.max_batch, c.features)
        prompts = (c.prefill, c.max_batch, c.features) if c.prefill else None
        pair = self._bounds.get((own, prompts))
        if pair is None:
            pair = self._bounds[own, prompts] = self._pair_bounds(own, prompts)
        return pair.of(c.prefill_workers, c.replicas)

    def _pair_bounds(self, own: _Key, prompts: _Key | None) -> LoadBounds:
        engine, floors = self.job(*own).engine, self._floor(own)
        streamed = float(engine.stream_tokens)
        if prompts is None:
            streamed = first_together(self.job(*own), self._tuning)
            return load_bounds(self._columns, self.slo, self.front, Pools(floors, 1, floors, 1, True, streamed))
        late = self._tuning.get("handover_tokens", engine.name, self.base.cluster.gpu.family)
        pools = Pools(self._floor(prompts), 1, floors, 1, False, max(streamed, late))
        return load_bounds(self._columns, self.slo, self.front, pools)

    def deployment(self, c: ServeCandidate) -> Deployment:
        """The candidate as the simulator runs it."""
        job, ask = self.job(c.shape, c.max_batch, c.features), self.ask
        prefill = self.job(c.prefill, c.max_batch, c.features) if c.prefill else None
        return Deployment(
            job, c.replicas, prefill, c.prefill_workers, router=ask.router, tiers=ask.kv_tiers, admission=ask.admission
        )

    def resolved(self, c: ServeCandidate) -> ResolvedServe:
        """The candidate as the answer of a scenario that had asked for it."""
        return replace(self.on(c.features), deployment=self.deployment(c))

    def run(self, c: ServeCandidate, load: Workload) -> ServeRun:
        """Any load on a candidate."""
        return simulate(self.deployment(c), load, self._tuning, self._priced)

    def simulate(self, c: ServeCandidate, bounds: LoadBounds | None = None) -> Served:
        """The asked load on a candidate. DoesNotFit where it has no room."""
        load, run = self.load, self.run(c, self.load)
        latencies, span = latencies_of(run, warm_up_of(run, load).requests), span_s(run)
        attained, ask = self.slo.attained(latencies), self.ask
        misses = slo_asked(ask).missed(ask, latencies)  # as `serve` says it, of its own limits
        short = bool(shortness(ask.requests, load, run))
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
            label=label_of(latencies, load.rate_per_s, inf, bool(load.clients), misses, short),
            idle_share=max(0.0, 1.0 - sum(r.busy_s for _, r in run.workers) / (span * len(run.workers))),
            communication_share=_communication(run, span),
            preemptions=run.log.preemptions,
        )

    @property
    def varied(self) -> bool:
        """Whether the load may come at other rates: it has one, and nobody waits for answers."""
        return bool(self.load.rate_per_s) and not self.load.clients and not self.load.requests.after

    def keeps_up(self, c: ServeCandidate) -> bool:
        """Whether a full queue of an open load's requests drains as fast as they come: what `moesim serve` asks too."""
        load = self.load
        if not load.rate_per_s or load.clients:
            return True
        if load.runs is not None:
            load = of_strangers(load, self.run(c, load))
        return drained_per_s(self.deployment(c), load, self._tuning, self._priced) >= self.load.rate_per_s

    def steady(self, s: Served) -> bool:
        """Whether an open load would still be served within the limits if it went on; others end with their requests.

        A load that is shorter than a few of its answers may fit into fewer GPUs than its rate takes.
        """
        if not self.varied:
            return self.keeps_up(s.candidate)
        mean_out = sum(self.load.requests.output_tokens) / len(self.load.requests)
        return lasts(partial(self.run, s.candidate), self.load, self.slo, s.ttft_s + s.tpot_s * mean_out)

    def sustained_per_s(self, c: ServeCandidate) -> float:
        """The largest rate of the asked requests at which the limits still hold, within 1 %; 0 where there is none.

        Never more than what drains a full queue: a short load could be served as one burst.
        """
        if not self.varied:
            return 0.0
        most = drained_per_s(self.deployment(c), self.load, self._tuning, self._priced)
        return sustained_per_s(partial(self.run, c), self.load, self.slo, most)


def _communication(run: ServeRun, span: float) -> float:
    """Share of all workers' time in exchanges of decode passes; one of those that are priced alike stands for all."""
    alike: dict[int, list[Replica]] = {}
    machines = [machine for machine, _ in run.workers]
    for machine, replica in run.workers:
        alike.setdefault(next(i for i, m in enumerate(machines) if m is machine), []).append(replica)
    total = 0.0
    for number, replicas in alike.items():
        parts = decode_shares(machines[number], replicas[0])
        moved = sum(parts.get(name, 0.0) for name in ("tp_comm", "ep_comm", "pp_comm"))
        total += moved / (sum(parts.values()) or 1.0) * sum(r.busy_s - r.prefill_busy_s for r in replicas)
    return total / (span * len(machines))


def only_begins(ask: RequestsAsk, load: Workload) -> str:
    """What is said of conversations that are too few: what serves how they begin need not serve them."""
    enough = 2 * max(enough_of(ask, load.mean_turns), 0 if load.beginning else len(load.requests))
    return (
        f"requests.count = {len(load.requests):,} shows only how these conversations begin, which is not what a plan "
        f"should serve; give requests.count: {enough} or more"
    )


def open_scenario(scenario: Scenario) -> Scenario:
    """The scenario with its deployment left open: one GPU stands in for it."""
    check_used(scenario)  # its layout is not asked about any more after this
    assert scenario.serve is not None  # asked before
    if scenario.serve.experts_apart is not None:
        raise ScenarioError(
            "serve.experts_apart is not searched by plan: leave it out here, and ask `moesim serve` about such layouts"
        )
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
