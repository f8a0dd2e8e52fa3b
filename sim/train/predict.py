"""predict_train: the verb that ties scenario, step, memory and money together."""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.power_and_money import (
    Price,
    at_the_meter,
    busy_w,
    energy_note,
    gpu_hours,
    usd,
    usd_per_million,
)
from moesim.sim.question.scenario import Asked, scenario_of
from moesim.sim.train.band import interval_s, of_own_runs, sureness
from moesim.sim.train.expert_view import expert_view
from moesim.sim.train.fitting import fits, headroom_note, require_memory
from moesim.sim.train.host_memory import host_use
from moesim.sim.train.job import Resolved, TrainJob, resolve
from moesim.sim.train.lost import Which, lost_s
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.model_flops import model_flops_per_token
from moesim.sim.train.prediction import CATEGORIES, Prediction
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import StepResult, corrected, lower_bounds_s, simulate_step
from moesim.sim.train.wire_load import WireView


def predict_train(
    scenario: Asked,
    *,
    check_memory: bool = True,
    exact: bool = False,
    events: bool = True,
    lost: Which = "none",
    record: bool = False,
) -> Prediction:
    """Predict one training step: seconds with an interval, where they go, memory per GPU, energy and money.

    scenario: a file's path, a mapping or a Scenario, with a train section.
    check_memory: refuse what does not fit; if off, the answer says `memory_fits`.
    exact: every operation is an event of its own, instead of replaying each distinct segment; slower, same answer, but
        for jitter, which has a draw for every piece.
    events: the event engine runs the step; if off, a bare heap that gives the same bits.
    record: keep when every piece inside the slots began and ended, for traces.
    lost: also run the step without each thing that sets its ranks apart, for `lost_s`: "all", or only what is "cheap".

    Kernels are priced by fits of measured ones (hwmodels), collectives and exchanges by fits of nccl-tests and DeepEP;
    the interval comes from the errors on published runs of the same class.

    Raises ScenarioError for a wrong or missing key, BadLayout for degrees that cannot be, ArchError, FactError and
    StackError for a model, machine or stack that does not exist, BadTrace for unreadable expert counts, NoFit for
    kernels nobody measured, DoesNotFit when a stage needs more memory than its GPU has.
    """
    scenario = scenario_of(scenario)
    resolved = resolve(scenario)
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    memory = tuple(step_memory(prices))
    if check_memory:
        require_memory(prices, memory)
    step = simulate_step(prices, events, exact, record=record)
    if resolved.correction is not None:
        step = corrected(step, resolved.correction.factor)
    return replace(assemble(resolved, prices, step, memory), lost_s=lost_s(resolved, prices, step.step_time_s, lost))


def assemble(
    resolved: Resolved,
    prices: StepPrices,
    step: StepResult,
    memory: tuple[RankMemory, ...],
) -> Prediction:
    """The answer from a simulated step."""
    job = resolved.job
    tokens = float(job.global_batch) * job.seq_len
    rate = tokens / step.step_time_s
    per_gpu = model_flops_per_token(prices) * rate / job.cluster.gpus
    own, bounds = resolved.correction, lower_bounds_s(prices)
    sure = of_own_runs(own) if own else sureness(job)
    low_s, high_s = interval_s(sure, step.step_time_s, 0.0 if own else max(bounds.values()))
    usable = job.cluster.gpu.usable_bytes
    busy = sum(step.by_source.values()) or 1.0
    drops = [load.dropped_share for load in prices.loads if load is not None]
    constants = [
        f"constant {c.key} = {c.value:g} (assumed)" for c in prices.tuning.used.values() if c.kind == "assumed"
    ]
    notes = [note for note in (sure.note, headroom_note(prices, memory)) if note]
    assumptions = [*resolved.assumptions, *notes, *sorted(constants)]
    return Prediction(
        step_time_s=step.step_time_s,
        low_s=low_s,
        high_s=high_s,
        sureness=sure,
        tokens_per_step=tokens,
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / job.cluster.gpus,
        model_flops_per_s_per_gpu=per_gpu,
        mfu=per_gpu / job.cluster.gpu.peak(job.precision),
        breakdown_s={k: step.breakdown_s[k] for k in CATEGORIES if step.breakdown_s.get(k, 0.0) != 0.0},
        memory=memory,
        memory_fits=fits(prices, memory),
        host_memory=host_use(prices, memory),
        usable_bytes=usable,
        cost=_cost(job, step.step_time_s, tokens, resolved.price),
        sources={k: v / busy for k, v in sorted(step.by_source.items(), key=lambda kv: -kv[1])},
        assumptions=tuple(assumptions),
        lower_bounds_s=bounds,
        dropped_share=sum(drops) / len(drops) if drops else 0.0,
        resolved=resolved,
        step=step,
        wires=WireView(prices, step),
        experts=expert_view(prices),
    )


def _cost(job: TrainJob, step_s: float, tokens: float, price: Price | None) -> dict[str, float | str]:
    gpu, gpus = job.cluster.gpu, job.cluster.gpus
    hours, joules = gpu_hours(gpus, step_s), gpus * busy_w(gpu, "training") * step_s
    cost: dict[str, float | str] = {
        "gpu_hours_per_step": hours,
        "gpu_hours_per_million_tokens": hours / tokens * 1e6,
        "energy_joules_per_step": joules,
        "facility_energy_joules_per_step": at_the_meter(joules),
        "energy_note": energy_note(gpu, "training"),
    }
    dollars, each = usd(price, hours), usd_per_million(price, hours, tokens)
    if price is not None and dollars is not None and each is not None:
        cost |= {
            "usd_per_gpu_hour": price.usd_per_gpu_hour, "usd_per_step": dollars, "usd_per_million_tokens": each,
            "price_source": price.source,
        }  # fmt: skip
    return cost
