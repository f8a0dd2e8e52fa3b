"""plan_fleet: the verb that sizes a serving fleet for a day of traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

from moesim.hwmodels.hardware import hardware_of
from moesim.hwmodels.power_and_money import busy_w, idle_w, usd_per_gpu_hour
from moesim.hwmodels.servers import load_server
from moesim.sim.plan.fleet.facts import fact_sources, fleet_facts
from moesim.sim.plan.fleet.fleet import Fleet, Group, Grown, check_growth, groups_needed, sized
from moesim.sim.plan.plan import checked_sizes, fixed_axes
from moesim.sim.plan.serve.judge import ServeJudge
from moesim.sim.plan.serve.plan import ServeOption, ServePlan, plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.serve.space import Given, serve_axes
from moesim.sim.plan.train.search import Progress
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, scenario_of
from moesim.sim.serve.band import serve_sureness
from moesim.traces.day import Day, Hour, load_day
from moesim.traces.generators import GENERATORS

_RATE = 0.2  # requests per second of the search: the limits alone decide, the rate that is sustained comes after
_COUNT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAsk:
    """What is asked of a fleet beside scenario and traffic."""

    growth: float = 0.0  # of the traffic a year, from -0.9 to 10: 0.2 is 20 %
    spare: int = 1  # replicas on top of those needed
    gpus: tuple[int, ...] = ()  # sizes of a replica group to try; none: the scenario's cluster, and halves of it
    slo: str = ""  # limits like "ttft=1s,tpot=50ms,share=0.9"; the scenario's stand for what is not said
    given: Given = field(default_factory=dict)  # axes that are fixed: {"tp": (4, 8), "pools": ("no",)}
    facts: Mapping[str, float] = field(default_factory=dict)  # in place of those in fleet.yaml: {"years": 5}
    effort: ServeEffort | None = None


def plan_fleet(
    scenario: Asked,
    traffic: str | Path | Day,
    ask: FleetAsk | None = None,
    progress: Progress | None = None,
) -> Fleet:
    """Size a serving fleet for a day of traffic: replicas by hour, racks, power and dollars, rented or owned, by year.

    scenario: a file's path, a mapping or a Scenario with a serve section; its cluster is the largest replica group.
    traffic: a CSV of hour,requests_per_s[,input_tokens,output_tokens], or 24 hours.
    ask: growth, spares, limits, what is fixed and facts of one's own.
    progress: called with what is being done, how much of it, of how much.

    A group is the deployment of which fewest GPUs carry the busiest hour within the limits, spares included, found by
    simulation for the lengths of every hour. Money in US dollars a year; facts with sources are in fleet.yaml and
    hwmodels/specs.

    Raises ScenarioError for facts, growth or limits that cannot be and where nothing meets the limits, BadTrace for an
    unreadable table, other kinds of Refusal as predict_serve does.
    """
    ask = ask or FleetAsk()
    ask = replace(ask, given=serve_axes(fixed_axes(ask.given)), gpus=checked_sizes(ask.gpus))
    if ask.effort is not None and not isinstance(ask.effort, ServeEffort):
        raise ScenarioError("effort: a fleet is planned with ServeEffort(top, most)")
    scenario = scenario_of(scenario)
    facts = fleet_facts(ask.facts)
    check_growth(ask.growth, ask.spare)
    day = load_day(traffic) if isinstance(traffic, (str, Path)) else traffic
    busiest = max(day, key=lambda h: h.requests_per_s)
    asked = with_lengths(scenario, busiest)
    plan, option = _best_group(asked, ask, busiest.requests_per_s, progress)
    judge, s = plan.searches[0].judge, option.served
    cluster = judge.base.cluster
    hardware = hardware_of(scenario.cluster.hardware)
    # a machine of one's own that was calibrated as a whole stands in no list of nodes: it is its own
    node = scenario.cluster.node or hardware.node_of(cluster.gpu.name) or cluster.gpu.name
    sure = serve_sureness(judge.resolved(s.candidate).deployment, judge.load)["output_tokens_per_s"]
    group = Group(
        deployment=s.candidate.title,
        gpus=s.candidate.gpus,
        sustained_per_s=_sustained(scenario, day, plan, option),
        busy_w=busy_w(cluster.gpu, "serving"),
        idle_w=idle_w(cluster.gpu),
        usd_per_gpu_hour=usd_per_gpu_hour(judge.price),
        server=load_server(node, cluster.gpus_per_host, cluster.gpu, hardware),
        sureness=sure,
    )
    server = group.server
    sources = {
        "usd_per_gpu_hour": judge.price.text if judge.price else "no price is known",
        "server": f"{server.power_w / 1e3:g} kW, {server.gpus} GPUs; {server.usd_note}; {server.source}",
        "p10 to p90": f"how far off output tokens/s of unseen sources were, class {sure.band}; taken to hold for the "
        "rate within the limits, and for all replicas alike; traffic, prices and facts as stated",
        **fact_sources(ask.facts),
    }
    return sized(plan, group, day, Grown(ask.growth, ask.spare), facts, sources)


def with_lengths(scenario: Scenario, hour: Hour) -> Scenario:
    """The scenario with requests that come slowly and are as long as those of an hour."""
    serve = scenario.serve
    if serve is None:
        raise ScenarioError("the scenario has no serve section; add serve: {engine: vllm, requests: {...}}")
    said = serve.requests
    if hour.input_tokens is not None and hour.output_tokens is not None:
        lengths = {"input_tokens": hour.input_tokens, "output_tokens": hour.output_tokens}
    else:
        lengths = {}
    if said.kind == "sessions":
        raise ScenarioError("a fleet is planned for requests that wait for no answers; take kind poisson, not sessions")
    like_a_trace = said.kind in GENERATORS or said.kind == "reuse"
    drawn = like_a_trace or said.kind == "gamma"
    if lengths and like_a_trace:
        raise ScenarioError(f"kind {said.kind} brings its own lengths; leave them out of the traffic table")
    kind = said.kind if drawn else "poisson"
    slow = {
        "kind": kind,
        "rate_per_s": _RATE,
        "concurrency": None,
        "sessions": None,
        "count": said.count or _COUNT,
        "file": None,
    }
    requests = said.model_copy(update={**slow, **lengths})
    return scenario.model_copy(update={"serve": serve.model_copy(update={"requests": requests})})


def _best_group(
    scenario: Scenario, ask: FleetAsk, busiest_per_s: float, progress: Progress | None
) -> tuple[ServePlan, ServeOption]:
    """The deployment of which fewest GPUs carry the busiest hour, spares included; no size is tried that cannot win."""
    plans: list[tuple[ServePlan, ServeOption]] = []
    fewest, refused = inf, ""
    for count in sorted(ask.gpus or halves(scenario.cluster.gpus)):
        if count * (1 + ask.spare) >= fewest:
            break
        try:
            given: Given = {"idle": ("no",), **ask.given}  # a group is what is replicated: all of it
            plan = plan_serve(
                scenario, gpus=(count,), slo=ask.slo, objective="goodput", given=given, effort=ask.effort,
                progress=progress,
            )  # fmt: skip
        except ScenarioError as refusal:
            refused = str(refusal)
            continue
        plans.append((plan, max(plan.options, key=lambda o: o.sustained_per_s or 0.0)))
        fewest = min(fewest, _gpus_and_rate(plans[-1][1], busiest_per_s, ask.spare)[0])
    if not plans:
        raise ScenarioError(refused)
    return min(plans, key=lambda pair: _gpus_and_rate(pair[1], busiest_per_s, ask.spare))


def halves(gpus: int) -> tuple[int, ...]:
    """Sizes of groups where none is asked for: the whole cluster, and half of it as long as that is a whole number."""
    sizes = [gpus]
    while sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    return tuple(sizes)


def _gpus_and_rate(option: ServeOption, busiest_per_s: float, spare: int) -> tuple[float, float]:
    """GPUs that carry the busiest hour; of equals, less what one GPU sustains."""
    rate, gpus = option.sustained_per_s or 0.0, option.served.candidate.gpus
    return (groups_needed(busiest_per_s, rate, spare) * gpus if rate > 0.0 else inf), -rate / gpus


def _sustained(scenario: Scenario, day: Day, plan: ServePlan, option: ServeOption) -> tuple[float, ...]:
    """The rate that one group sustains in every hour, simulated once per pair of lengths."""
    candidate = option.served.candidate
    cluster = scenario.cluster.model_copy(update={"gpus": candidate.gpus})
    known: dict[tuple[int | None, int | None], float] = {}
    for hour in day:
        key = (hour.input_tokens, hour.output_tokens)
        if key not in known:
            asked = with_lengths(scenario, replace(hour, requests_per_s=1.0)).model_copy(update={"cluster": cluster})
            known[key] = ServeJudge(asked, plan.slo).sustained_per_s(candidate)
        if known[key] <= 0.0:
            lengths = f"{hour.input_tokens} input and {hour.output_tokens} output tokens"
            raise ScenarioError(f"{candidate.title} never serves {lengths} within {plan.slo.text}; loosen the limits")
    return tuple(known[hour.input_tokens, hour.output_tokens] for hour in day)
