"""plan_serve: the verb that searches deployments for a load, on one number of GPUs or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from moesim.files.words import counted
from moesim.hwmodels.power_and_money import Price, usd, usd_per_gpu_hour
from moesim.sim.plan.serve.front import FrontPoint, front
from moesim.sim.plan.serve.judge import Served, ServeJudge, only_begins
from moesim.sim.plan.serve.reasons import ServeVerdict, broken, compared, missed, serve_verdicts
from moesim.sim.plan.serve.search import (
    SERVE_OBJECTIVES,
    ServeEffort,
    ServeSearch,
    Wanted,
    headroom,
    score_of,
    search_serving,
)
from moesim.sim.plan.serve.space import Given, ServeCandidate
from moesim.sim.plan.serve.written import scenario_mapping
from moesim.sim.plan.train.search import Progress
from moesim.sim.question.lookup import for_serving
from moesim.sim.question.scenario import Asked, Scenario, ScenarioError, scenario_of
from moesim.sim.serve.accounts import BEGINNING
from moesim.sim.serve.slo import Slo, slo_of

_NEAR = 0.02  # below the rate that is asked for: a sustained rate is found within 1 %
_TRIED = 3  # of equal ones, whose sustained rate decides: the best, and those that idle most
_MOST_SHORT = 6  # deployments that are looked at once more because they leave GPUs out
_TIED = 0.01  # scores nearer than this are equal; the rate that is sustained then decides


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOption:
    """One deployment of the answer. Money is None where the GPU has no price."""

    served: Served
    sustained_per_s: float | None  # requests per second within the limits; None where it was not looked for
    usd_per_hour: float | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """One row of the answer."""
        s, c = self.served, self.served.candidate
        keys = (
            "ttft_s", "tpot_s", "ttft_p90_s", "tpot_p90_s", "attained_share", "goodput_per_s", "output_tokens_per_s",
            "usd_per_million_output_tokens", "label", "idle_share", "communication_share", "preemptions",
        )  # fmt: skip
        rate = self.sustained_per_s
        return {
            "gpus": c.gpus,
            "deployment": c.title,
            **{k: getattr(c.shape, k) for k in ("tp", "pp", "ep", "attention_dp")},
            "replicas": c.replicas,
            "features": c.features.asks(),
            "max_batch": c.max_batch,
            "prefill": None if c.prefill is None else {
                "workers": c.prefill_workers, **{k: getattr(c.prefill, k) for k in ("tp", "pp", "ep", "attention_dp")},
            },
            **{k: getattr(s, k) for k in keys},
            "goodput_per_s_per_gpu": s.goodput_per_s / c.gpus,
            "goodput_per_usd": None if not self.usd_per_hour else s.goodput_per_s * 3600.0 / self.usd_per_hour,
            "sustained_per_s": rate,
            "sustained_per_s_per_gpu": None if rate is None else rate / c.gpus,
            "bounds": {"ttft_s": s.bounds.ttft_s, "tpot_s": s.bounds.tpot_s, "span_s": s.bounds.span_s},
            "why": self.why,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServePlan:
    """The best deployments of a load, the front over loads, and how obvious choices fared.

    Every option was simulated under the scenario's load; what was not cannot beat its bound. Latencies in seconds,
    rates per second of all GPUs of the option.
    """

    objective: str  # one of SERVE_OBJECTIVES
    price: Price | None  # US dollars per GPU-hour and where they come from; None where none is known
    slo: Slo  # seconds to the first token, seconds per token, share of the requests that must be within both
    must: bool  # whether the limits had to be met
    options: tuple[ServeOption, ...]  # best first, at most ServeEffort.top
    front: tuple[FrontPoint, ...]  # tokens per second of a user against those of a GPU, with 1 to many clients
    verdicts: tuple[ServeVerdict, ...]  # the best candidate of every obvious choice, and why it lost
    searches: tuple[ServeSearch, ...]  # one per number of GPUs: candidates looked at, hopeless, simulated, left
    notes: tuple[str, ...]  # sizes that were refused, searches that stopped early

    def first(self, count: int) -> ServePlan:
        """The same with the best `count` deployments only."""
        return replace(self, options=self.options[:count])

    def scenario(self, number: int = 0) -> dict[str, Any]:
        """Option `number`, 0 the best, as a scenario that predict_serve takes: the question with that deployment.

        IndexError where there are fewer options.
        """
        option = self.options[number]
        return scenario_mapping(self.judge_of(option).scenario, option.served.candidate, self.slo)

    def judge_of(self, option: ServeOption) -> ServeJudge:
        """The judge of the search that found an option."""
        return next(s.judge for s in self.searches if any(option.served is one for one in s.served))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "objective": self.objective,
            "usd_per_gpu_hour": usd_per_gpu_hour(self.price),
            "price_source": self.price and self.price.source,
            "slo": {"ttft_s": self.slo.ttft_s, "tpot_s": self.slo.tpot_s, "share": self.slo.share, "must": self.must},
            "options": [o.to_dict() for o in self.options],
            "front": [p.to_dict() for p in self.front],
            "obvious": [
                {"choice": v.choice, "deployment": v.candidate, "meets": v.meets, "why": v.why} for v in self.verdicts
            ],
            "searched": [
                {"gpus": s.gpus, "deployments": s.looked_at, "layouts_too_large": len(s.too_large),
                 "layouts_not_loadable": len(s.cut),
                 "hopeless": len(s.hopeless), "simulated": len(s.served), "left": s.left, "open": s.open,
                 "stopped": s.stopped} for s in self.searches
            ],
            "notes": list(self.notes),
        }  # fmt: skip


def plan_serve(
    scenario: Asked,
    *,
    gpus: Sequence[int] = (),
    slo: str = "",
    objective: str = "",
    given: Given | None = None,
    effort: ServeEffort | None = None,
    progress: Progress | None = None,
) -> ServePlan:
    """Search deployments of a serving scenario at its own traffic; its layout and pools are ignored.

    `slo`: limits like "ttft=1s,tpot=50ms,share=0.9"; those of the scenario stand for what is not said. They bind when
    they are said, here or there, and for the objective goodput. ScenarioError for objectives, limits or axes that do
    not exist, for searches that nothing fits, and for limits that nothing meets, with the best that was found.
    """
    scenario = for_serving(scenario_of(scenario))
    if scenario.serve is None:
        raise ScenarioError("the scenario has no serve section; add serve: {engine: vllm, requests: {...}}")
    queued = scenario.serve.requests.kind == "offline"
    objective = objective or ("tokens_per_s_per_gpu" if queued and not slo else "goodput")
    if objective not in SERVE_OBJECTIVES:
        raise ScenarioError(f"objective={objective!r} is not one of serving; use {', '.join(SERVE_OBJECTIVES)}")
    limits = slo_of(slo, scenario.serve.slo)
    must = bool(slo) or objective == "goodput" or ("slo" in scenario.serve.model_fields_set and not queued)
    effort = effort or ServeEffort()
    searches, notes = [], []
    for count in gpus or (scenario.cluster.gpus,):
        try:
            wanted = Wanted(limits, must, objective, given or {})
            searches.append(search_serving(_on(scenario, count), wanted, effort, progress))
        except ScenarioError as refusal:
            if len(gpus) < 2:
                raise
            notes.append(f"{counted(count, 'GPU')}: {refusal}")
    if not searches:
        raise ScenarioError(notes[-1])
    if scenario.serve.requests.sure_of is not None:
        notes.append("requests.sure_of is not used by a search: every deployment serves the usual number of requests; "
                     "ask moesim serve about the one you choose")  # fmt: skip
    if scenario.serve.requests.kind == "sessions":
        notes.append("the front is of strangers with prompts as long as these: they find nothing in caches")
    if objective in ("cost", "tokens_per_dollar") and searches[0].judge.price is None:
        name = searches[0].judge.base.cluster.gpu.name
        raise ScenarioError(f"{name} has no price; give price_usd_per_gpu_hour, or use objective tokens_per_s_per_gpu")
    return _answer(objective, limits, must, searches, notes, effort)


def _on(scenario: Scenario, gpus: int) -> Scenario:
    return scenario.model_copy(update={"cluster": scenario.cluster.model_copy(update={"gpus": gpus})})


def _answer(
    objective: str, slo: Slo, must: bool, searches: list[ServeSearch], notes: list[str], effort: ServeEffort
) -> ServePlan:
    every = [(search, s) for search in searches for s in search.served]
    good = [pair for pair in every if pair[1].meets(slo) or not must]
    if not good:
        raise ScenarioError(_nothing_meets(searches, slo))
    score = score_of(objective)
    good.sort(key=lambda pair: (-score(pair[1]), -headroom(pair[1], slo), pair[1].candidate.title))
    alike, good = good, _distinct(good)
    sustained: dict[ServeCandidate, float] = {}
    short = _short(good, sustained) if must else set()
    lasting = [pair for pair in good if pair[1].candidate not in short] or good
    if must:
        _sustain(objective, lasting, effort.top, sustained)
    best_score = score(lasting[0][1])

    def place(pair: tuple[ServeSearch, Served]) -> tuple[bool, bool, float, float, float]:
        s = pair[1]
        rate = sustained.get(s.candidate, 0.0) / s.candidate.gpus
        tied = score(s) >= best_score - _TIED * abs(best_score)
        return s.candidate in short, not tied, -rate, -score(s), -headroom(s, slo)

    good.sort(key=place)
    best_search, best = good[0]
    others = [pair for pair in every if must and not pair[1].meets(slo)]
    others.sort(key=lambda pair: (-pair[1].attained_share, -headroom(pair[1], slo), pair[1].candidate.title))
    ordered = (good[0], *sorted(alike, key=place), *others)
    of_best_first = sorted(searches, key=lambda search: search is not best_search)
    options = [
        ServeOption(
            served=s, sustained_per_s=sustained.get(s.candidate),
            usd_per_hour=usd(search.judge.price, s.candidate.gpus),
            why=_why(s, best, slo, must),
        )
        for search, s in good[:effort.top]
    ]  # fmt: skip
    return ServePlan(
        objective=objective,
        price=best_search.judge.price,
        slo=slo,
        must=must,
        options=tuple(options),
        front=front(((search.judge, search.served) for search in searches), slo.ttft_s if must else inf),
        verdicts=tuple(serve_verdicts(of_best_first, ordered, slo, must)),
        searches=tuple(searches),
        notes=(*notes, *(line for f in searches for line in _unfinished(f)), *_assumed(options)),
    )  # fmt: skip


def _distinct(good: list[tuple[ServeSearch, Served]]) -> list[tuple[ServeSearch, Served]]:
    """Without smaller batch limits that change nothing because they are never reached."""
    kept: dict[tuple[str, int, float, float], tuple[ServeSearch, Served]] = {}
    for search, s in good:
        key = (s.candidate.layout, s.candidate.gpus, s.ttft_s, s.tpot_s)
        if key not in kept or kept[key][1].candidate.max_batch < s.candidate.max_batch:
            kept[key] = (search, s)
    return list(kept.values())


def _short(good: list[tuple[ServeSearch, Served]], sustained: dict[ServeCandidate, float]) -> set[ServeCandidate]:
    """Those at the head of the list that leave GPUs out and cannot keep up for good: they go behind the others."""
    short: set[ServeCandidate] = set()
    for search, s in good[:_MOST_SHORT]:
        load, c = search.judge.load, s.candidate
        if not search.judge.varied or c.gpus == search.gpus:
            break
        if search.judge.keeps_up(c):
            if c not in sustained:
                sustained[c] = search.judge.sustained_per_s(c)
            if sustained[c] >= (1.0 - _NEAR) * load.rate_per_s:
                break
        short.add(c)
    return short


def _sustain(
    objective: str, good: list[tuple[ServeSearch, Served]], top: int, rates: dict[ServeCandidate, float]
) -> None:
    """Add the rates that the most promising of those that tie with the best sustain, and the best itself."""
    score = score_of(objective)
    best = score(good[0][1])
    tied = [pair for pair in good if score(pair[1]) >= best - _TIED * abs(best)]
    most = min(top, _TRIED)
    idle = sorted(tied, key=lambda pair: (-pair[1].idle_share, pair[1].candidate.title))
    for search, s in (*tied[:most], *idle[:most]):
        if s.candidate not in rates and search.judge.varied:
            rates[s.candidate] = search.judge.sustained_per_s(s.candidate)


def _why(s: Served, best: Served, slo: Slo, must: bool) -> str:
    if s is not best:
        return compared(s, best, slo, must)
    kept = f"limits kept {headroom(s, slo):.1f} times over at p90" if must else ""
    spent = f"{s.communication_share:.0%} of the time in communication"
    return "best; " + ", ".join(part for part in (kept, spent) if part)


def _unfinished(f: ServeSearch) -> list[str]:
    """What a search left undone."""
    early = [f"{counted(f.gpus, 'GPU')}: {f.stopped}; the answer is the best until then"] if f.stopped else []
    if f.open:
        early.append(
            f"{counted(f.gpus, 'GPU')}: {f.open:,} of {f.left + len(f.served):,} deployments that bounds do not "
            "exclude were not simulated and may be as good; --most or --minutes let it look at more of them"
        )
    return early


def _assumed(options: list[ServeOption]) -> list[str]:
    """What a person should check before choosing an option for its features."""
    features = [o.served.candidate.features for o in options]
    said = []
    if any(f.kv_dtype == "fp8" for f in features):
        said.append(
            "fp8 cache: answers may differ from those of a 16-bit one; --set kv_dtype=asked leaves it as it was"
        )
    if any(f.speculative for f in features):
        said.append("drafts: how many are kept depends on the text (assumed as published; `moesim serve` says which); "
                    "--set speculative=asked searches without")  # fmt: skip
    if any(f.expert_slots for f in features):
        said.append("expert slots: placed by the load of every layer, as the engine's balancer would have learned it")
    return said


def _nothing_meets(searches: list[ServeSearch], slo: Slo) -> str:
    """One line with the best that was found, how it fails, and what was not looked at."""
    every = [s for search in searches for s in search.served]
    best = max(every, key=lambda s: (s.attained_share, headroom(s, slo), -s.candidate.gpus))
    if best.label == BEGINNING:  # of a load that is no answer's fault
        judge = searches[0].judge
        return only_begins(judge.ask.requests, judge.load)
    most, left = max(search.gpus for search in searches), sum(search.left for search in searches)
    hopeless = sum(len(search.hopeless) for search in searches)
    looked = f"{len(every):,} deployments were simulated"
    looked += f", {left:,} that bounds do not exclude were not" if left else ", none that bounds do not exclude is left"
    looked += f", {hopeless:,} cannot by their bounds" if hopeless else ""
    early = next((f" ({search.stopped})" for search in searches if search.stopped), "")
    wider = "let it look at more with --most or --minutes, " if left else ""
    return (
        f"nothing on up to {counted(most, 'GPU')} meets {slo.text} among what was looked at: {looked}{early}; "
        f"the best found, {best.candidate.title} on {counted(best.candidate.gpus, 'GPU')}, has {broken(best, slo)}: "
        f"{missed(best, slo)}; {wider}"
        "loosen the limits, ask for less traffic or give more GPUs"
    )
