"""What people write about service levels: 'ttft=1s,tpot=50ms,share=0.9'."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.hwmodels.facts import did_you_mean
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import ServeAsk, SloAsk
from moesim.sim.serve.accounts import Latencies

_UNITS = {"ms": 1e-3, "s": 1.0, "us": 1e-6, "min": 60.0}
_NO_UNIT_S = 10.0  # from there on a number without a unit is taken for a slip: milliseconds were meant
_SHARE = 0.9  # assumed: of the requests that must be served well, as in DistServe (arXiv:2401.09670)


@dataclass(frozen=True, slots=True)
class Slo:
    """Served well is a request whose first token comes within ttft_s and every further one within tpot_s on average."""

    ttft_s: float
    tpot_s: float
    share: float = _SHARE  # of the requests that must be

    def attained(self, latencies: Latencies) -> float:
        """Share of the requests that were served well; who was turned away was not."""
        if not len(latencies.e2e_s):
            return 0.0
        each = (latencies.e2e_s - latencies.ttft_s) / np.maximum(1.0, latencies.tokens - 1.0)
        good = int(((latencies.ttft_s <= self.ttft_s) & (each <= self.tpot_s)).sum())
        return good / (len(latencies.e2e_s) + latencies.turned_away)

    def missed(self, ask: ServeAsk, latencies: Latencies) -> bool:
        """Whether too few were served well, for a scenario that says its limits; else, whether too few were served."""
        served = len(latencies.e2e_s)
        answered = served / max(1, served + latencies.turned_away)
        return (self.attained(latencies) if "slo" in ask.model_fields_set else answered) < self.share

    @property
    def text(self) -> str:
        """'first token within 1 s and 50 ms a token for 90 % of the requests'."""
        limits = f"first token within {self.ttft_s:g} s and {self.tpot_s * 1e3:g} ms a token"
        return f"{limits} for {self.share:.0%} of the requests"


def slo_asked(ask: ServeAsk) -> Slo:
    """The scenario's limits."""
    return Slo(ask.slo.ttft_s, ask.slo.tpot_s)


def slo_of(text: str, ask: SloAsk) -> Slo:
    """The scenario's limits with those of `text` in their place. ScenarioError for anything else."""
    slo = Slo(ask.ttft_s, ask.tpot_s)
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, value = (w.strip() for w in part.partition("="))
        if not equals:
            raise ScenarioError(f"slo={part!r} sets nothing; write for example ttft=1s,tpot=50ms")
        if name == "ttft":
            slo = replace(slo, ttft_s=_seconds(name, value))
        elif name == "tpot":
            slo = replace(slo, tpot_s=_seconds(name, value))
        elif name == "share":
            slo = replace(slo, share=_share(value))
        else:
            raise ScenarioError(f"slo: {name!r} is no limit; {did_you_mean(name, ['ttft', 'tpot', 'share'])}")
    return slo


def _seconds(name: str, text: str) -> float:
    unit = next((u for u in ("ms", "us", "min", "s") if text.endswith(u)), "")
    try:
        value = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        value = float("nan")
    if not unit and value >= _NO_UNIT_S:
        raise ScenarioError(f"slo: {name}={text!r} has no unit and would be seconds; write {name}={text}ms or {text}s")
    if not 0.0 < value < float("inf"):
        raise ScenarioError(f"slo: {name}={text!r} is no time; write for example {name}=50ms or {name}=1.5s")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0.0 < value <= 1.0:
        raise ScenarioError(f"slo: share={text!r} must be above 0 and at most 1, for example share=0.95")
    return value
