"""Why a deployment won and the obvious ones lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moesim.hwmodels.units import GIB
from moesim.sim.plan.serve.judge import Served
from moesim.sim.plan.serve.search import ServeSearch
from moesim.sim.plan.serve.space import ServeCandidate, Shape
from moesim.sim.serve.accounts import QUEUED
from moesim.sim.serve.slo import Slo


@dataclass(frozen=True, slots=True)
class ServeVerdict:
    """How the best candidate of an obvious choice fares."""

    choice: str
    candidate: str
    meets: bool | None  # None where it was not simulated
    why: str


Test = Callable[[ServeCandidate], bool]


def _choices(gpus: int, domain: int, experts: bool) -> list[tuple[str, Test]]:
    """What people would try first."""
    wide = min(gpus, domain)
    obvious: list[tuple[str, Test]] = [
        ("one replica over all GPUs", lambda c: c.prefill is None and c.replicas == 1),
        ("a replica per GPU", lambda c: c.prefill is None and c.shape.gpus == 1),
        ("tensor parallel over a node", lambda c: c.prefill is None and c.shape.tp == wide),
        ("a pipeline", lambda c: c.shape.pp > 1),
        ("small batches", lambda c: c.prefill is None and c.max_batch == 64),
        ("prefill and decode apart", lambda c: c.prefill is not None),
    ]
    if experts:
        obvious += [
            ("attention data parallel, experts spread", lambda c: c.prefill is None and c.shape.attention_dp > 1),
            ("experts spread (ep)", lambda c: c.prefill is None and c.shape.ep > 1),
            ("experts split (no ep)", lambda c: c.prefill is None and c.shape.ep == 1),
        ]
    return obvious


def serve_verdicts(
    searches: Sequence[ServeSearch], ordered: Sequence[tuple[ServeSearch, Served]], slo: Slo, must: bool
) -> list[ServeVerdict]:
    """One line per obvious choice that some candidate makes, of all sizes of the cluster together.

    searches: that of the best deployment first; ordered: all that were simulated, best first.
    """
    best = ordered[0][1]
    tests = {search.gpus: _choices_of(search) for search in searches}
    lines = []
    for title in tests[searches[0].gpus]:
        own = next((s for search, s in ordered if tests[search.gpus][title](s.candidate)), None)
        if own is not None:
            why = "the best of all" if own is best else compared(own, best, slo, must)
            lines.append(ServeVerdict(title, own.candidate.title, own.meets(slo), why))
            continue
        lost = next((found for f in searches if (found := _not_simulated(f, tests[f.gpus][title], slo))), None)
        if lost is not None:
            lines.append(ServeVerdict(title, lost[0], None, lost[1]))
    return lines


def _choices_of(search: ServeSearch) -> dict[str, Test]:
    job = search.judge.base
    return dict(_choices(search.gpus, job.cluster.domain, job.arch.is_moe))


def _not_simulated(search: ServeSearch, made_by: Test, slo: Slo) -> tuple[str, str] | None:
    judge = search.judge
    hopeless = [c for c in search.hopeless if made_by(c)]
    if hopeless:
        c = min(hopeless, key=lambda c: (judge.bounds(c).tpot_s, c.title))
        b = judge.bounds(c)
        at_least = f"takes at least {b.ttft_s:.3g} s to the first token and {b.tpot_s * 1e3:.3g} ms a token"
        return c.title, f"{at_least}: at most {b.attainable_share:.0%} of the requests within the limits"
    own = judge.base.engine.max_batch
    large = [s for s in search.too_large if made_by(ServeCandidate(s, search.gpus // s.gpus, own))]
    if large:
        shape: Shape = min(large, key=lambda s: (judge.weight_bytes(s), s.title))
        needs, usable = judge.weight_bytes(shape) / GIB, judge.base.cluster.gpu.usable_bytes / GIB
        return shape.title, f"does not fit: {needs:.0f} of {usable:.0f} GiB before any request"
    cut = [s for s in search.cut if made_by(ServeCandidate(s, search.gpus // s.gpus, own))]
    if cut:
        shape = min(cut, key=lambda s: s.title)
        return shape.title, search.cut[shape]
    return None


def compared(own: Served, best: Served, slo: Slo, must: bool) -> str:
    """What a deployment lacks beside the best, largest difference first."""
    said = []
    if must and not own.meets(slo):
        said.append(broken(own, slo))
    rate = own.output_tokens_per_s / own.candidate.gpus / (best.output_tokens_per_s / best.candidate.gpus) - 1.0
    if abs(rate) > 0.01:
        said.append(f"{rate:+.0%} tokens/s per GPU")
    for name, a, b in (("first token", own.ttft_p90_s, best.ttft_p90_s), ("pace", own.tpot_p90_s, best.tpot_p90_s)):
        if b > 0 and abs(a / b - 1.0) > 0.05:
            said.append(f"p90 {name} {a / b - 1.0:+.0%}")
    if own.communication_share - best.communication_share > 0.05:
        said.append(f"{own.communication_share:.0%} of the time in communication")
    if own.preemptions > best.preemptions:
        said.append(f"{own.preemptions:,} preemptions: little room for KV")
    return "; ".join(said) or "as good within 1 %"


def broken(s: Served, slo: Slo) -> str:
    """'52 % within the limits (p90: first token 2.1 s, 48 ms a token)'."""
    queue = f", {s.label}" if s.label in QUEUED else "" if s.lasts else ", too few GPUs for a longer load"
    worst = f"first token {s.ttft_p90_s:.3g} s, {s.tpot_p90_s * 1e3:.3g} ms a token"
    return f"{s.attained_share:.0%} within the limits (p90: {worst}{queue})"


def missed(s: Served, slo: Slo) -> str:
    """Which limit is missed by how much at p90; or what else is wrong."""
    named = (("first token", s.ttft_p90_s / slo.ttft_s), ("time per token", s.tpot_p90_s / slo.tpot_s))
    name, times = max(named, key=lambda pair: pair[1])
    if times > 1.0:
        return f"its {name} is {times:.2f} times the limit"
    if not s.lasts:
        return "its GPUs are too few for a longer load of the same rate"
    return (
        f"it is {s.label}" if s.label != "stable" else f"{slo.share - s.attained_share:.0%} too few are served in time"
    )
