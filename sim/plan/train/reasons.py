"""Why a layout won and the obvious ones lost: the best of every obvious choice, beside the best of all."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.units import GIB
from moesim.sim.plan.train.choices import Choice, choices
from moesim.sim.plan.train.judge import Finalist
from moesim.sim.plan.train.search import Search
from moesim.sim.plan.train.space import Candidate

_WORTH = 0.01  # of a step: smaller differences in a category are not named


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the best candidate of an obvious choice fares; seconds are None where it was not simulated."""

    choice: str
    candidate: str
    step_time_s: float | None
    why: str
    estimated: bool = False  # by one rank that stands for all

    @property
    def about(self) -> str:
        """What stands before its seconds."""
        return "about " if self.estimated else ""


def verdicts(search: Search, cluster: Cluster, experts: bool, usable_bytes: float) -> list[Verdict]:
    """One line per obvious choice that some candidate makes."""
    best = search.finalists[0]
    lines = []
    for choice in choices(cluster, experts):
        members = [c for c in search.judged if choice.made_by(c)]
        if members:
            lines.append(_verdict(choice, members, search, best, usable_bytes))
    return lines


def _verdict(choice: Choice, members: list[Candidate], search: Search, best: Finalist, usable_bytes: float) -> Verdict:
    own = next((f for f in search.finalists if choice.made_by(f.candidate)), None)
    if own is best:
        return Verdict(choice.title, own.candidate.title, own.step_time_s, "the best of all")
    nearest = min(members, key=lambda c: (search.judged[c], c.title))
    bound, size = search.judged[nearest]
    if bound == float("inf"):
        why = f"does not fit: at least {size / GIB:.0f} of {usable_bytes / GIB:.0f} GiB"
        return Verdict(choice.title, nearest.title, None, why)
    if own is None:
        large = next((f for f in search.too_large if choice.made_by(f.candidate)), None)
        if large is not None and large.bound_s <= bound:
            why = f"does not fit: {large.memory_bytes / GIB:.0f} of {usable_bytes / GIB:.0f} GiB"
            return Verdict(choice.title, large.candidate.title, None, why)
        return Verdict(choice.title, nearest.title, None, f"takes at least {bound:.3g} s by its compute alone")
    return Verdict(choice.title, own.candidate.title, own.step_time_s, costs_more(own, best), not own.drawn)


def costs_more(other: Finalist, best: Finalist) -> str:
    """'+12 %: +1.3 s ep_comm, +0.4 s bubble': where the slower of two steps loses its time."""
    gap = {
        k: other.breakdown_s.get(k, 0.0) - best.breakdown_s.get(k, 0.0) for k in {*other.breakdown_s, *best.breakdown_s}
    }
    worst = sorted(((v, k) for k, v in gap.items() if v > _WORTH * best.step_time_s), key=lambda vk: (-vk[0], vk[1]))
    named = ", ".join(f"+{seconds:.2g} s {category}" for seconds, category in worst[:3])
    return f"+{other.step_time_s / best.step_time_s - 1.0:.1%}" + (f": {named}" if named else "")
