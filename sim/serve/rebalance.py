"""What a new placement of experts costs while a service runs: weights that move, and a plan on the host.

Passes wait meanwhile (SGLang's and vLLM's synchronous rebalancing). A plan that is made every N steps is N / 2 steps
old in the mean, beside what its loads were old.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.units import GIB
from moesim.sim.layout.routed_rows import router_groups
from moesim.sim.layout.slots import Placement, plan_placements, slots_of
from moesim.sim.model.arch import MoeArch
from moesim.sim.model.params import expert_params, experts_in
from moesim.sim.serve.expert_rows import busiest_by_layer
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.stack import Tuning
from moesim.traces.draws import inclusion
from moesim.traces.routing import Routing

_LAYERS = 8  # of the model stand for all
_INTERVALS = tuple(2**n for n in range(6, 21))  # passes between two plans that are compared


def rebalance_s(job: ServeJob, tuning: Tuning) -> float:
    """Seconds per pass; 0 where the plan stays as it is."""
    every = job.placement.rebalance_steps
    return once_s(job, tuning) / every if every else 0.0


def once_s(job: ServeJob, tuning: Tuning) -> float:
    """Seconds of one new placement: the plan, and every rank's new experts over its link, all layers in turn."""
    engine = job.engine.name
    inside = job.layout.group("ep", job.cluster).domains == 1
    link = link_bytes_per_s(job.cluster) if inside else job.cluster.nic_bytes_per_s
    rate = link * tuning.get("rebalance_efficiency", engine)
    return tuning.get("rebalance_plan_s", engine) + moved_bytes(job) / rate


def moved_bytes(job: ServeJob) -> float:
    """Bytes of experts that come to one rank with a new plan, all layers."""
    moe = job.arch.moe
    if moe is None or job.layout.ep == 1:
        return 0.0
    experts = max(experts_in(job.arch, kind) for kind in job.arch.layers)
    slots = slots_of(job.placement, experts, job.layout.ep)
    share = moved_share(moe, experts, job.routing, job.placement, job.layout.ep)
    each = expert_params(job.arch) * bytes_per_element(job.formats.experts) / job.layout.etp
    return share * slots / job.layout.ep * each * job.arch.moe_layers / job.layout.pp


@lru_cache(maxsize=64)
def moved_share(moe: MoeArch, experts: int, routing: Routing, placement: Placement, ranks: int) -> float:
    """Share of slots whose rank did not hold their expert under the plan before, from the loads of either time."""
    every = placement.rebalance_steps
    slots, groups = slots_of(placement, experts, ranks), router_groups(moe, experts)
    old, new = (
        plan_placements(inclusion(routing.load_popularity(_LAYERS, experts, groups, step), moe.top_k), ranks, slots)
        for step in (-every, 0)
    )
    came = 0
    for before, after in zip(old, new, strict=True):
        held = before.slot_expert.reshape(ranks, -1)
        now = after.slot_expert.reshape(ranks, -1)
        came += sum(len(np.setdiff1d(now[rank], held[rank])) for rank in range(ranks))
    return came / (_LAYERS * slots)


def rebalance_said(job: ServeJob, tuning: Tuning, tokens: int, experts_s: float) -> list[str]:
    """What rebalancing costs and how often it would pay best, in words; nothing where it is not asked for.

    `tokens`: of a pass of the replica; `experts_s`: seconds of its experts as it is placed now. Between two plans the
    busiest rank's rows grow, and with them the seconds of experts.
    """
    every = job.placement.rebalance_steps
    if not every:
        return []
    once = once_s(job, tuning)
    said = f"rebalancing: {once:.2g} s and {moved_bytes(job) / GIB:.2g} GiB of experts a rank, every {every:,} passes"
    if job.routing.drift == 1.0:
        return [f"{said}; popularity stands still (routing.drift), so that one plan for good costs least"]
    now = _busiest(job, tokens, every)
    costs = {n: once_s(_every(job, n), tuning) / n + experts_s * _busiest(job, tokens, n) / now for n in _INTERVALS}
    best = min(_INTERVALS, key=costs.__getitem__)
    return [f"{said}; of powers of two, every {best:,} passes would cost least"]


def _every(job: ServeJob, steps: int) -> ServeJob:
    return replace(job, placement=replace(job.placement, rebalance_steps=steps))


def _busiest(job: ServeJob, tokens: int, steps: int) -> float:
    """Rows of the busiest rank over the mean, in the mean of the layers that stand for all."""
    rows = busiest_by_layer(_every(job, steps), tokens)
    return sum(rows.values()) / len(rows)
