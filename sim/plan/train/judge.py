"""Judge: what each candidate of one cluster cannot beat, and what it takes when it is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from moesim.hwmodels.cost import CostModel, KernelCostModel
from moesim.sim.clock.walker import LEAST_SPEED
from moesim.sim.layout.layout import Layout
from moesim.sim.layout.pipeline import PAIRABLE
from moesim.sim.plan.train.bound import Bounds, Cell, Pipes
from moesim.sim.plan.train.space import Candidate
from moesim.sim.question.lookup import look_up, training_of
from moesim.sim.question.scenario import Scenario
from moesim.sim.software.stack import Stack, Tuning, release_age, stack_asked
from moesim.sim.train.band import interval_s, of_own_runs, sureness
from moesim.sim.train.fitting import fits
from moesim.sim.train.job import (
    TrainJob,
    capacity_of,
    check_precision,
    decided,
    own_runs_of,
    own_runs_said,
    recompute_modules,
    train_job,
)
from moesim.sim.train.long_step import long_step
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices, sustained
from moesim.sim.train.segment_time import beside_slowdown, held_share
from moesim.sim.train.step import corrected, lower_bounds_s, no_collection, simulate_step
from moesim.sim.train.unlike import ALIKE


@dataclass(frozen=True, slots=True)
class Finalist:
    """A simulated candidate."""

    candidate: Candidate
    bound_s: float  # below which no schedule goes
    step_time_s: float
    memory_bytes: float  # of the fullest GPU
    fits: bool
    dispatcher: str  # what "auto" means for it
    breakdown_s: Mapping[str, float]
    drawn: bool = True  # run as it is; else as if all ranks were alike, or continued from shorter steps
    low_s: float = 0.0  # 90 % interval, of those that were run as they are
    high_s: float = 0.0


class Judge:
    """Turns candidates into jobs of one cluster and prices them; cells and kernels are shared by all.

    The scenario's own layout is only a stand-in: nothing about it needs to fit.
    """

    def __init__(self, scenario: Scenario) -> None:
        self._train = train = training_of(scenario)
        seen = look_up(scenario)
        arch, cluster, self.price = seen.arch, seen.cluster, seen.price
        self.open_stack: Stack = stack_asked(scenario.stack, cluster)[0]
        ask = scenario.layout
        layout = Layout(
            gpus=cluster.gpus, sequence_parallel=ask.sequence_parallel, duplicates=ask.duplicates, schedule="1f1b"
        )
        self.base = train_job(scenario, train, arch, cluster, layout, self.open_stack)
        self._own = own_runs_of(scenario, self.base)
        self.from_runs = own_runs_said(scenario, self.base, self._own)
        self._factors: dict[Candidate, float] = {}
        self.profile = seen.kernels
        check_precision(train, cluster, self.profile)
        self.tuning = Tuning(dict(self.profile.constants))
        name = self.open_stack.constants_of
        constant, straggler = (self.tuning.get(k, name) for k in ("step_constant_s", "straggler_per_doubling"))
        self._rates = (constant, straggler)
        self._pipes = Pipes(arch, train.mtp)
        self._stacks: dict[tuple[object, ...], Stack] = {}
        self._cells: dict[tuple[object, ...], Cell] = {}
        self._models: dict[Stack, CostModel] = {}

    def stack(self, candidate: Candidate) -> Stack:
        """The software with everything decided that depends on the layout."""
        base, layout = self.base, candidate.layout
        key = (candidate.dispatcher, layout.schedule == "interleaved", layout.ep, layout.etp)
        stack = self._stacks.get(key)
        if stack is None:
            bare = replace(self.open_stack, dispatcher=candidate.dispatcher)
            age = release_age(base.release)
            stack = self._stacks[key] = decided(bare, base.arch, layout, base.cluster, base.precision, age)[0]
        return stack

    def job(self, candidate: Candidate) -> TrainJob:
        """The training job of a candidate."""
        stack = self.stack(candidate)
        modules = recompute_modules((candidate.recompute,), self.base.arch, stack)
        return replace(
            self.base, layout=candidate.layout, stack=stack, micro_batch=candidate.micro_batch, recompute=modules,
            capacity_factor=capacity_of(self._train, candidate.micro_batch, self.base.arch, candidate.layout, stack),
        )  # fmt: skip

    def model(self, job: TrainJob) -> CostModel:
        """The cost model of a stack on this cluster."""
        model = self._models.get(job.stack)
        if model is None:
            factors = sustained(self.tuning, job.cluster, job.stack, job.precision)
            model = self._models[job.stack] = KernelCostModel(job.cluster, self.profile, factors)
        return model

    def _cell(self, candidate: Candidate) -> Cell:
        """What all candidates share that have this one's widths, micro-batch, recompute and software."""
        lay = candidate.layout
        # what decides whether exchanges hide, and what the software sets by itself
        stack = (candidate.dispatcher, lay.schedule in PAIRABLE, lay.schedule in ("interleaved", "dualpipe"))
        key = (lay.tp, lay.cp, lay.ep, lay.etp, candidate.micro_batch, candidate.recompute, stack)
        cell = self._cells.get(key)
        if cell is None:
            job = self.job(candidate)
            cell = self._cells[key] = Cell(job, self.profile, self.tuning, self.model(job))
        return cell

    def _bounds(self, candidate: Candidate) -> Bounds:
        stack = self.stack(candidate)
        held = held_share("exchange_sms", stack.dispatcher, self.tuning, self.base.cluster)
        return Bounds(self.base, *self._rates, beside_slowdown(self.tuning, stack), min(held, 1.0 - LEAST_SPEED))

    def _micro_batches(self, candidate: Candidate) -> int:
        return self.base.global_batch // (candidate.micro_batch * candidate.layout.dp)

    def memory_bytes(self, candidate: Candidate) -> float:
        """Bytes that the fullest rank needs at least."""
        pipe = self._pipes.of(candidate.layout, self._micro_batches(candidate))
        sizes, stack = self._cell(candidate).sizes, self.stack(candidate)
        return self._bounds(candidate).memory_bytes(candidate.layout, stack, sizes, pipe)

    def _factor(self, candidate: Candidate) -> float:
        """What own runs say of a step laid out like this."""
        if self._own is None:
            return 1.0
        factor = self._factors.get(candidate)
        if factor is None:
            factor = self._factors[candidate] = self._own.at(self.job(candidate)).factor
        return factor

    def bound_s(self, candidate: Candidate) -> float:
        """Seconds that the step takes at least."""
        count, cell = self._micro_batches(candidate), self._cell(candidate)
        pipe = self._pipes.of(candidate.layout, count)
        return self._factor(candidate) * self._bounds(candidate).step_s(
            candidate.layout, cell.hides, count, cell.sizes, cell.prices, pipe
        )

    def simulate(self, candidate: Candidate, bound_s: float, drawn: bool = True) -> Finalist:
        """The step of a candidate, and whether it fits; not drawn: an estimate by one rank for all."""
        with no_collection():  # until the step is gone: what dies at once need not be looked through
            return self._simulate(candidate, bound_s, drawn)

    def _simulate(self, candidate: Candidate, bound_s: float, drawn: bool) -> Finalist:
        job = self.job(candidate)
        if not drawn:
            job = replace(job, unlike=ALIKE)
        prices = StepPrices(job, self.profile, self.tuning, model=self.model(job), drawn=drawn)
        held = step_memory(prices)
        memory = max(m.total for m in held)
        step = simulate_step(prices, events=False) if drawn else long_step(prices, partial(simulate_step, events=False))
        if self._own is not None:
            step = corrected(step, self._factor(candidate))
        room = fits(prices, held)
        seconds, carrier = step.step_time_s, job.stack.dispatcher
        low_s, high_s = self._interval_s(job, prices, seconds) if drawn else (0.0, 0.0)
        return Finalist(candidate, bound_s, seconds, memory, room, carrier, step.breakdown_s, drawn, low_s, high_s)

    def _interval_s(self, job: TrainJob, prices: StepPrices, step_time_s: float) -> tuple[float, float]:
        """The interval that predict_train gives the same job."""
        if self._own is not None:
            return interval_s(of_own_runs(self._own.at(job)), step_time_s, 0.0)
        return interval_s(sureness(job), step_time_s, max(lower_bounds_s(prices).values()))
