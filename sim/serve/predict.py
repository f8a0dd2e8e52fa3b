"""predict_serve: the verb that ties scenario, memory, passes, queue and money together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from moesim.hwmodels.interval import Sureness
from moesim.sim.question.request_sections import RequestsAsk
from moesim.sim.question.scenario import Asked, ScenarioError, scenario_of
from moesim.sim.serve.accounts import (
    MISSES,
    costs_of,
    goodput_per_s,
    label_of,
    latencies_of,
    span_s,
    spread,
    steady_tokens_per_s,
    utilisation,
)
from moesim.sim.serve.band import serve_sureness
from moesim.sim.serve.cache_account import admission_account, cache_account
from moesim.sim.serve.capacity import of_strangers
from moesim.sim.serve.cost_interval import cost_intervals
from moesim.sim.serve.expert_view import served_experts
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.kept import Kept, Prices
from moesim.sim.serve.kv_tiers import caching_said, slow_said
from moesim.sim.serve.memory import memory_said
from moesim.sim.serve.prediction import Range, ServePrediction
from moesim.sim.serve.rebalance import rebalance_said
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.router import PrefixAware
from moesim.sim.serve.simulate import PricedJobs, ServeRun, simulate
from moesim.sim.serve.slo import slo_asked
from moesim.sim.serve.sure import percentiles_of, sure_run
from moesim.sim.serve.sustained import limits_of
from moesim.sim.serve.warmup import WarmUp, warm_up_of
from moesim.sim.serve.workload import STEADY, Workload, enough_of
from moesim.sim.software.stack import Tuning

SHORT = "the run is short"
_COMMUNICATION = ("tp_comm", "ep_comm", "pp_comm")


def predict_serve(
    scenario: Asked, *, requests: str | Path | None = None, meets: bool = True, kept: Kept | None = None
) -> ServePrediction:
    """Predict how a deployment serves a load: latencies, throughput, goodput, memory per GPU, energy and money.

    scenario: a file's path, a mapping or a Scenario, with a serve section.
    requests: a trace in place of the scenario's load: a CSV of arrival_s,input_tokens,output_tokens[,prefix], or one of
        Azure, BurstGPT, Mooncake, Bailian or ShareGPT as published (docs/requests.md).
    meets: whether to look for what would meet limits that the scenario states and this load misses.
    kept: prices of questions asked before, for many about the same deployments (sim/serve/kept.py); without, none.

    Every request is simulated: continuous batching with paged caches as the named engine does it, kernels priced by
    fits of measured ones, the engine's own time by constants that are fitted on published runs or assumed
    (software/engines/constants.yaml says which).

    Raises ScenarioError for a wrong or missing key, BadLayout for degrees or GPUs that cannot be, BadTrace for an
    unreadable trace, ArchError, FactError and StackError for a model, machine or engine that does not exist, NoFit for
    kernels nobody measured, DoesNotFit when weights or the longest request have no room.
    """
    scenario = scenario_of(scenario)
    resolved = resolve_serve(scenario, requests)
    prices = (Kept() if kept is None else kept).of(resolved)
    tuning, priced = prices.tuning, prices.priced
    resolved, run = _run(resolved, tuning, priced, requests is not None)
    check_answered(run)
    answer = assemble(resolved, run, tuning, capacity_per_s(resolved.workload, run, prices))
    if not meets or answer.label != MISSES:
        return answer

    def serve(load: Workload) -> ServeRun:
        return simulate(resolved.deployment, load, tuning, priced)

    limits = limits_of(serve, resolved.workload, slo_asked(resolved.ask), answer.attained_share)
    return replace(answer, limits=limits)


def _run(resolved: ResolvedServe, tuning: Tuning, priced: PricedJobs, of_trace: bool) -> tuple[ResolvedServe, ServeRun]:
    """The load served, drawn longer where a percentile has to be sure; a trace has the requests that it has."""
    if resolved.ask.requests.sure_of is None:
        return resolved, simulate(resolved.deployment, resolved.workload, tuning, priced)
    if not of_trace:
        return sure_run(resolved, tuning, priced)
    said = "requests.sure_of: draws no more requests, a trace has those that it has"
    resolved = replace(resolved, assumptions=(*resolved.assumptions, said))
    return resolved, simulate(resolved.deployment, resolved.workload, tuning, priced)


def check_answered(run: ServeRun) -> None:
    """ScenarioError where no request was answered: then there is nothing to say."""
    if run.log.served:
        return
    turned = admission_account(run)
    raise ScenarioError(
        f"none of {len(run.log):,} requests was answered: {turned['rejected']:,} were rejected, "
        f"{turned['timed_out']:,} gave up; raise serve.admission.queue_limit or timeout_s, or use more GPUs"
    )


def capacity_per_s(load: Workload, run: ServeRun, prices: Prices) -> float:
    """Requests per second when the queue is never empty: the load's own lengths, all at once, and what it found.

    At least what this run served: it may share blocks, or change pools, as a queue of strangers does not.
    """
    served = run.log.served / max(span_s(run), 1e-12)
    if load.clients or (load.rate_per_s == 0.0 and not load.requests.after):
        return served
    return max(served, prices.drained_per_s(of_strangers(load, run)))


def shortness(ask: RequestsAsk, load: Workload, run: ServeRun) -> list[str]:
    """Conversations send later turns after a while: a run may end before there are as many as there will be."""
    if not load.mean_turns or ask.rate_per_s is None:
        return []
    served, come = run.log.served / span_s(run), ask.rate_per_s * load.mean_turns
    if served > STEADY * come:
        return []
    most = max(2 * len(run.log), enough_of(ask, load.mean_turns))
    return [
        f"{SHORT}, or the service behind: {served:.3g} of the {come:.3g} requests/s that these conversations send in "
        f"the long run; give a larger requests.count, for example {most:,}"
    ]


def _warmth(warm: WarmUp) -> list[str]:
    return [warm.said] if warm.said else []


def assemble(resolved: ResolvedServe, run: ServeRun, tuning: Tuning, capacity: float) -> ServePrediction:
    """The answer from a finished run."""
    deployment, load, slo = resolved.deployment, resolved.workload, slo_asked(resolved.ask)
    warm = warm_up_of(run, load)
    seen, span = latencies_of(run, warm.requests), span_s(run)
    ttft, tpot, e2e = spread(seen.ttft_s), spread(seen.tpot_s), spread(seen.e2e_s)
    attained = slo.attained(seen)
    misses, short = slo.missed(resolved.ask, seen), shortness(resolved.ask.requests, load, run)
    undecided = bool(short) or (load.beginning and not load.rate_per_s)  # at a rate the run says it
    label = label_of(seen, load.rate_per_s, capacity, bool(load.clients), misses, undecided)
    shares, gpus, cost = utilisation(run), deployment.gpus, costs_of(run, deployment, resolved.price)
    sure = serve_sureness(deployment, load)
    sure_of = resolved.ask.requests.sure_of
    means = {"ttft_s": ttft.mean, "tpot_s": tpot.mean}
    means["output_tokens_per_s"] = run.log.output_total / span
    blocks = run.machine.cache
    sources = run.machine.costs.parts.sources
    counted = sum(sources.values()) or 1
    steps = sum(sum(r.steps_at.values()) for r in run.replicas) or 1
    mean_batch = sum(b * k for r in run.replicas for b, k in r.steps_at.items()) / steps
    return ServePrediction(
        ttft_s=ttft,
        tpot_s=tpot,
        e2e_s=e2e,
        intervals={name: Range(*sure[name].around(value)) for name, value in means.items()},
        sureness=sure,
        requests=len(run.log),
        warmup_requests=warm.requests,
        steady_output_tokens_per_s=None if warm.steady is False else steady_tokens_per_s(run, warm.requests),
        percentiles=percentiles_of(run, warm.requests, sure_of) if sure_of is not None else {},
        requests_per_s=run.log.served / span,
        input_tokens_per_s=run.log.prompt_total / span,
        output_tokens_per_s=means["output_tokens_per_s"],
        output_tokens_per_s_per_gpu=means["output_tokens_per_s"] / gpus,
        goodput_per_s=goodput_per_s(run, attained),
        attained_share=attained,
        label=label,
        capacity_requests_per_s=capacity,
        kv_blocks=blocks.blocks,
        kv_tokens=blocks.blocks * blocks.block_tokens,
        kv_use=min(1.0, max(r.peak_cached for r in run.replicas) / max(1, blocks.blocks * blocks.block_tokens)),
        preemptions=run.log.preemptions,
        mean_batch=mean_batch,
        utilisation=shares,
        exposed_communication=sum(shares.get(name, 0.0) for name in _COMMUNICATION),
        cache=cache_account(run),
        admission=admission_account(run),
        handover=run.wires.account(span) if run.wires is not None else {},
        memory=run.machine.memory.by_kind(),
        cost=cost,
        cost_intervals=cost_intervals(
            cost, load, label, sure["output_tokens_per_s"], capacity * span / max(1, run.log.served)
        ),
        sources={name: count / counted for name, count in sources.most_common()},
        assumptions=(*short, *_assumed(resolved, run, tuning, warm, sure)),
        resolved=replace(resolved),
        run=run,
        experts=served_experts(resolved, run, mean_batch),
    )


def _assumed(
    resolved: ResolvedServe, run: ServeRun, tuning: Tuning, warm: WarmUp, sure: Mapping[str, Sureness]
) -> tuple[str, ...]:
    """What the scenario did not say, what was seen that a reader should know, and constants that were not measured."""
    deployment = resolved.deployment
    memory = dict.fromkeys(line for group in deployment.groups for line in memory_said(group.job))
    kept = [*caching_said(deployment, resolved.workload), *_slow_tiers(run)]
    if isinstance(run.router, PrefixAware) and deployment.router.weight is None:
        kept.append(f"router.weight = {run.router.weight:.3g} (seconds of a prompt token over those of a running one)")
    notes = dict.fromkeys(of.note for of in sure.values() if of.note)
    constants = [f"constant {c.key} = {c.value:g} (assumed)" for c in tuning.used.values() if c.kind == "assumed"]
    return (
        *resolved.assumptions, *_warmth(warm), *memory, *kept,
        *_rebalanced(run, tuning), *notes, *sorted(constants),
    )  # fmt: skip


def _slow_tiers(run: ServeRun) -> list[str]:
    """What is said of tiers that cost more than they save, by the first worker that computes prompts."""
    machine = (run.prefill_machines or run.machines)[0]
    replica = (run.prefill_replicas or run.replicas)[0]
    if replica.prefix is None or not replica.prefix.tiers:
        return []
    budget = machine.job.engine.token_budget
    return slow_said(replica.prefix, machine.costs.mixed([(budget, 0)], 0, 0.0) / budget)


def _rebalanced(run: ServeRun, tuning: Tuning) -> list[str]:
    """What new placements of experts cost at the mean batch of the first replica or decode worker."""
    job, steps = run.machine.job, run.replicas[0].steps_at
    if not job.placement.rebalance_steps or not steps:
        return []
    batch = max(1, round(sum(b * n for b, n in steps.items()) / sum(steps.values())))
    parts = run.machine.costs.decode_parts(batch, float(batch))
    return rebalance_said(job, tuning, batch, parts.get("experts", 0.0) * run.machine.costs.yields)
