"""Accounts of a run: which part of the time went where, dollars and joules per token."""

from __future__ import annotations

from moesim.sim.serve.replica import Replica
from moesim.sim.serve.simulate import Machine, ServeRun

BUSY_POWER_SHARE = 0.7  # assumed: decode draws 435 of 1,000 W, prefill 710 (measured on B200); hosts not counted
IDLE_POWER_SHARE = 0.15  # assumed


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


def costs_of(run: ServeRun, gpus: int, price: float | None, idle_share: float) -> dict[str, float | str]:
    """Dollars per million tokens and joules per token. Prompts pay for steps that carry them, outputs for the rest."""
    gpu = run.machine.job.cluster.gpu
    span = span_s(run)
    prompts, outputs = float(sum(run.log.prompt)), float(sum(run.log.output))
    every = [*run.replicas, *(run.prefill_replicas or ())]
    busy = sum(r.busy_s for r in every) or 1.0
    prefill = sum(r.prefill_busy_s for r in every) / busy
    power = gpu.tdp_w * (BUSY_POWER_SHARE * (1.0 - idle_share) + IDLE_POWER_SHARE * idle_share)
    energy = gpus * power * span
    found: dict[str, float | str] = {
        "gpu_hours": gpus * span / 3600.0,
        "energy_joules": energy,
        "joules_per_output_token": energy / outputs,
        "energy_note": f"assumed: {BUSY_POWER_SHARE:.0%} of {gpu.tdp_w:g} W when busy, {IDLE_POWER_SHARE:.0%} idle",
    }
    rate = price or gpu.price_usd_per_hour
    if rate is not None:
        dollars = gpus * span / 3600.0 * rate
        found |= {
            "usd_per_gpu_hour": rate,
            "usd_per_million_input_tokens": dollars * prefill / prompts * 1e6,
            "usd_per_million_output_tokens": dollars * (1.0 - prefill) / outputs * 1e6,
            "usd_per_million_tokens": dollars / (prompts + outputs) * 1e6,
            "price_source": "given in the scenario" if price else f"middle of {gpu.price_note}",
        }
    return found
