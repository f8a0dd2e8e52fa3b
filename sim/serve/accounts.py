"""Accounts of a run: which part of the time went where, dollars and joules per token."""

from __future__ import annotations

from moesim.hwmodels.money import Price, gpu_hours, usd_per_million, usd_per_million_output_tokens
from moesim.hwmodels.power import at_the_meter, busy_w, energy_note, idle_w
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.resolve import Deployment
from moesim.sim.serve.simulate import Machine, ServeRun


def span_s(run: ServeRun) -> float:
    """Seconds from the first arrival to the last token."""
    return max(run.log.finish_s) - min(run.log.arrival_s)


def decode_shares(machine: Machine, replica: Replica) -> dict[str, float]:
    """Seconds of the decode steps of a replica by part."""
    total: dict[str, float] = {}
    for batch, steps in replica.steps_at.items():
        cached = replica.cached_steps / max(1, sum(replica.steps_at.values()))
        for part, seconds in machine.costs.decode_parts(batch, cached).items():
            total[part] = total.get(part, 0.0) + steps * seconds
    return total


def utilisation(run: ServeRun) -> dict[str, float]:
    """Share of the wall time of all replicas by part; what carries prompts is one part, idle the rest."""
    span = span_s(run)
    pools = [(run.machine, r) for r in run.replicas]
    if run.prefill_machine is not None and run.prefill_replicas is not None:
        pools += [(run.prefill_machine, r) for r in run.prefill_replicas]
    whole = span * len(pools)
    found: dict[str, float] = {}
    for machine, replica in pools:
        parts = decode_shares(machine, replica)
        scale = (replica.busy_s - replica.prefill_busy_s) / (sum(parts.values()) or 1.0)
        parts = {name: seconds * scale for name, seconds in parts.items()} | {"prefill": replica.prefill_busy_s}
        for name, seconds in parts.items():
            found[name] = found.get(name, 0.0) + seconds / whole
    found = dict(sorted(found.items(), key=lambda item: -item[1]))
    return found | {"idle": max(0.0, 1.0 - sum(found.values()))}


def costs_of(run: ServeRun, deployment: Deployment, price: Price | None) -> dict[str, float | str]:
    """Dollars and joules of a run. Workers of pools weigh as much as they have GPUs; GPUs beside the pools idle.

    Of the split by steps, prompts pay for those that carry them, outputs for the rest; all other figures are of all.
    """
    gpu, span = run.machine.job.cluster.gpu, span_s(run)
    hours = gpu_hours(deployment.paid_gpus, span)
    prompts, outputs = float(sum(run.log.prompt)), float(sum(run.log.output))
    joules = _joules(run, deployment, span)
    cost: dict[str, float | str] = {
        "gpu_hours": hours,
        "energy_joules": joules,
        "facility_energy_joules": at_the_meter(joules),
        "joules_per_output_token": joules / outputs,
        "facility_joules_per_output_token": at_the_meter(joules) / outputs,
        "energy_note": energy_note(gpu, "serving"),
    }
    if price is not None:
        with_prompts = _prompt_share(run)
        each = {
            "usd_per_million_tokens": usd_per_million(price, hours, prompts + outputs),
            "usd_per_million_output_tokens": usd_per_million_output_tokens(price, hours, outputs),
            "prompt_steps_usd_per_million_input_tokens": usd_per_million(price, hours * with_prompts, prompts),
            "other_steps_usd_per_million_output_tokens": usd_per_million(price, hours * (1.0 - with_prompts), outputs),
        }
        cost |= {"usd_per_gpu_hour": price.usd_per_gpu_hour, "price_source": price.source}
        cost |= {name: value for name, value in each.items() if value is not None}
    return cost


def _busy_gpu_s(run: ServeRun) -> tuple[float, float]:
    """GPU-seconds of all steps, and of those that carry prompts, of workers by their GPUs."""
    pools = [(run.machine, run.replicas)]
    if run.prefill_machine is not None and run.prefill_replicas is not None:
        pools.append((run.prefill_machine, run.prefill_replicas))
    busy = sum(machine.job.layout.gpus * r.busy_s for machine, every in pools for r in every)
    return busy, sum(machine.job.layout.gpus * r.prefill_busy_s for machine, every in pools for r in every)


def _prompt_share(run: ServeRun) -> float:
    """Share of the busy GPUs' time in steps that carry prompts."""
    busy, with_prompts = _busy_gpu_s(run)
    return with_prompts / (busy or 1.0)


def _joules(run: ServeRun, deployment: Deployment, span: float) -> float:
    """Of the GPUs alone: busy ones and waiting ones draw different power."""
    gpu = run.machine.job.cluster.gpu
    whole = deployment.paid_gpus * span
    busy = min(whole, _busy_gpu_s(run)[0])
    return busy_w(gpu, "serving") * busy + idle_w(gpu) * (whole - busy)
