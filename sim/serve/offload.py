"""Experts in host memory: how many uses can find theirs on the GPU, and what a scenario may therefore ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.sim.layout.routed_rows import router_groups
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.params import experts_in
from moesim.sim.question.feature_sections import OffloadAsk
from moesim.sim.question.scenario import ScenarioError
from moesim.traces.draws import inclusion
from moesim.traces.routing import Routing

_LAYERS = 8  # assumed: of the model, enough for the popularity of its experts
# assumed: of the uses that the best standing set of experts would miss, those that a cache of what was used last finds:
# tokens that follow each other pick experts alike (Mixtral with 4 of 8 experts cached: 0.6 to 0.7 of all uses hit,
# arXiv:2312.17238, figure 2)
_LOCALITY = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Experts that live in host memory: `resident` of them stay on the GPU, and `hit_rate` of the uses find theirs.

    The others travel to the GPU, or the host computes them as fast as it reads them from its memory.
    """

    resident: float  # share of all experts that the GPU holds
    hit_rate: float
    host_memory_bytes_per_s: float | None  # None: they travel


def reachable(resident: float, arch: ModelArch, routing: Routing) -> float:
    """The most of the uses that can find their expert among that share of all experts.

    The most popular experts first, and what a cache finds beyond them. Nothing where not even the experts of one
    token in one layer have room.
    """
    moe = arch.moe
    assert moe is not None
    experts = max(experts_in(arch, kind) for kind in arch.layers)
    if resident * experts * arch.moe_layers < moe.top_k:
        return 0.0
    popularity = routing.load_popularity(min(_LAYERS, arch.moe_layers), experts, router_groups(moe, experts))
    shares = np.sort(inclusion(popularity, moe.top_k) / moe.top_k, axis=1)[:, ::-1].mean(axis=0)
    held = np.concatenate([[0.0], np.cumsum(shares)])
    places = resident * experts  # of a layer; a cache of fewer than a token uses forgets before it could help
    standing = float(np.interp(places, np.arange(experts + 1), held))
    return min(1.0, standing + min(1.0, places / moe.top_k) * _LOCALITY * (1.0 - standing))


def experts_in_host(ask: OffloadAsk | None, arch: ModelArch, routing: Routing) -> tuple[Offload | None, list[str]]:
    """What a scenario asks for, and what had to be assumed. ScenarioError for hits that no cache can reach."""
    if ask is None:
        return None, []
    if not arch.is_moe:
        raise ScenarioError(f"serve.offload moves experts to host memory; {arch.name} has none")
    rate, said = ask.hit_rate, []
    if rate is None:
        rate = ask.resident
        said.append(f"offload.hit_rate = {ask.resident:g} (the resident share: no locality)")
    most = max(ask.resident, reachable(ask.resident, arch, routing)) if ask.resident else 0.0
    if rate > most:
        raise ScenarioError(
            f"serve.offload.hit_rate={rate:g} with resident={ask.resident:g}: experts that are nowhere on the GPU "
            f"cannot be found there; of {arch.name} that share is found by {most:.2f} of the uses at most (the most "
            f"popular ones, and what a cache finds beyond them); use hit_rate of at most {int(100 * most) / 100:g}, or "
            f"resident of at least {_enough(rate, arch, routing):.2f}"
        )
    found = Offload(resident=ask.resident, hit_rate=rate, host_memory_bytes_per_s=ask.host_memory_bytes_per_s)
    return found, said


def _enough(rate: float, arch: ModelArch, routing: Routing) -> float:
    """The smallest share of resident experts, in hundredths, with which so many uses can hit."""
    return next((n / 100 for n in range(1, 100) if reachable(n / 100, arch, routing) >= rate), 1.0)
