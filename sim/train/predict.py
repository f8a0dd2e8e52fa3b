"""predict_train: the verb that ties scenario, step, memory and money together."""

from __future__ import annotations

from dataclasses import replace

from moesim.hwmodels.money import Price, gpu_hours, usd, usd_per_million
from moesim.hwmodels.power import at_the_meter, busy_w, energy_note
from moesim.hwmodels.units import GIB
from moesim.sim.layout.layout import BadLayout, check_layout
from moesim.sim.model.params import flops_per_token
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import Asked, scenario_of
from moesim.sim.train.band import interval
from moesim.sim.train.bounds import lower_bounds_s
from moesim.sim.train.corrections import corrected, corrected_interval
from moesim.sim.train.job import TrainJob
from moesim.sim.train.memory import RankMemory, step_memory
from moesim.sim.train.prediction import CATEGORIES, Prediction
from moesim.sim.train.resolve import Resolved, resolve
from moesim.sim.train.result import StepResult
from moesim.sim.train.simulator import StepSimulator


def predict_train(
    scenario: Asked,
    *,
    check_memory: bool = True,
    exact: bool = False,
    events: bool = True,
) -> Prediction:
    """Predict one training step of a scenario (record, mapping or file).

    Raises ScenarioError, BadLayout, ArchError, FactError or NoFit for questions that cannot be answered and
    DoesNotFit when a stage needs more memory than its GPU has (unless `check_memory` is off). `exact` runs every
    op as an event of its own instead of replaying each distinct segment; without `events` the recursion runs in the
    engine's place. The answer is the same.
    """
    scenario = scenario_of(scenario)
    resolved = resolve(scenario)
    simulator = StepSimulator(resolved.job, resolved.kernels, resolved.tuning())
    memory = tuple(step_memory(simulator))
    if check_memory:
        _require_memory(simulator, memory)
    step = simulator.simulate_exact() if exact else simulator.simulate(events)
    if resolved.correction is not None:
        step = corrected(step, resolved.correction)
    return assemble(resolved, simulator, step, memory)


def assemble(
    resolved: Resolved,
    simulator: StepSimulator,
    step: StepResult,
    memory: tuple[RankMemory, ...],
) -> Prediction:
    """The answer from a simulated step."""
    job = resolved.job
    tokens = float(job.global_batch) * job.seq_len
    rate = tokens / step.step_time_s
    model_flops = 3.0 * flops_per_token(job.arch, job.seq_len)
    per_gpu = model_flops * rate / job.cluster.gpus
    peaks = job.cluster.gpu.peak_flops_per_s
    peak16 = peaks.get("bf16") or peaks.get("fp16") or peaks["fp32"]
    own = resolved.correction
    band = corrected_interval(step.step_time_s, own) if own else interval(job, step.step_time_s)
    usable = job.cluster.gpu.usable_bytes
    busy = sum(step.by_source.values()) or 1.0
    drops = [load.dropped_share for load in simulator.loads if load is not None]
    constants = [
        f"constant {c.key} = {c.value:g} (assumed)" for c in simulator.tuning.used.values() if c.kind == "assumed"
    ]
    assumptions = [*resolved.assumptions, *([band.note] if band.note else []), *sorted(constants)]
    return Prediction(
        step_time_s=step.step_time_s,
        low_s=band.low_s,
        high_s=band.high_s,
        band=band.band,
        tokens_per_step=tokens,
        tokens_per_s=rate,
        tokens_per_s_per_gpu=rate / job.cluster.gpus,
        model_flops_per_s_per_gpu=per_gpu,
        mfu=per_gpu / peak16,
        breakdown_s={k: step.breakdown_s[k] for k in CATEGORIES if step.breakdown_s.get(k, 0.0) != 0.0},
        memory=memory,
        memory_fits=max(m.total for m in memory) <= usable,
        usable_bytes=usable,
        cost=_cost(job, step.step_time_s, tokens, resolved.price),
        sources={k: v / busy for k, v in sorted(step.by_source.items(), key=lambda kv: -kv[1])},
        assumptions=tuple(assumptions),
        lower_bounds_s=lower_bounds_s(simulator),
        dropped_share=sum(drops) / len(drops) if drops else 0.0,
        resolved=resolved,
        step=step,
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


def _require_memory(simulator: StepSimulator, memory: tuple[RankMemory, ...]) -> None:
    worst = max(memory, key=lambda m: m.total)
    usable = simulator.job.cluster.gpu.usable_bytes
    if worst.total <= usable:
        return
    raise DoesNotFit(
        f"does not fit: needs {worst.total / GIB:.1f} GiB of {usable / GIB:.1f} GiB on stage {worst.rank}; "
        f"{_what_fits(simulator, usable)}"
    )


def _what_fits(simulator: StepSimulator, usable: float) -> str:
    """The nearest changes, one at a time, that make the job fit."""
    job = simulator.job
    lay = job.layout
    tries: list[tuple[str, TrainJob]] = []
    for name, modules in (("recompute=selective", {"core_attention"}), ("recompute=full", {"full"})):
        if not modules <= job.recompute:
            tries.append((name, replace(job, recompute=frozenset(modules))))
    changes: list[dict[str, int]] = [{"zero": z} for z in (1, 3) if z > lay.zero]
    for key in ("tp", "pp", "ep"):
        value = getattr(lay, key)
        changes += [{key: value * 2}, {key: value * 4}]
    for change in changes:
        try:
            other = replace(lay, **change)  # type: ignore[arg-type]  # keys are those of integer fields
            tries.append((_spell(change), replace(job, layout=check_layout(other, job.arch))))
        except BadLayout:
            continue
    fitting = [name for name, other in tries if _fits(other, simulator, usable)]
    if fitting:
        return "fits with " + " or ".join(fitting[:3])
    return "no single change of recompute, zero, tp, pp or ep is enough: use more GPUs, or a smaller model or batch"


def _spell(change: dict[str, int]) -> str:
    return ", ".join(f"{k}={v}" for k, v in change.items())


def _fits(job: TrainJob, simulator: StepSimulator, usable: float) -> bool:
    if job.global_batch % (job.micro_batch * job.layout.dp):
        return False
    other = StepSimulator(job, simulator.profile, simulator.tuning)
    return max(m.total for m in step_memory(other)) <= usable
