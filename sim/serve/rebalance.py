"""What a new placement of experts costs while a service runs: weights that move, and a plan on the host.

Passes wait meanwhile (SGLang's and vLLM's synchronous rebalancing). A plan that is made every N steps is N / 2 steps
old in the mean, beside what its loads were old.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import numpy as np

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.hwmodels.gpu import bytes_per_element
from moesim.sim.layout.routed_rows import router_groups
from moesim.sim.layout.slots import Placement, plan_placements, slots_of
from moesim.sim.model.arch import MoeArch
from moesim.sim.model.params import expert_params, experts_in
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.stack import Tuning
from moesim.traces.draws import inclusion
from moesim.traces.routing import Routing

_LAYERS = 8  # of the model stand for all


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


def best_interval(once: float, loss_s_per_step: float) -> int:
    """Steps between placements where cost and growing loss together are least: sqrt(2 C / g), with g the seconds by
    which a pass gets slower per step of age."""
    return max(1, round(sqrt(2.0 * once / loss_s_per_step))) if loss_s_per_step > 0.0 else 0
