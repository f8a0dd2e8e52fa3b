"""ServedExperts: who gets the tokens of a deployment's passes, what its ranks send each other, what the busiest costs.

Nothing here is a model of its own: rows are those that passes are priced with (expert_rows.py), and what waiting costs
is the same pass priced again with balanced routing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from moesim.hwmodels.power_and_money import usd, usd_per_million_output_tokens
from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.layers.exchange import exchange_matrix
from moesim.sim.layers.steps import Exchange
from moesim.sim.layout.routed_rows import moe_layers
from moesim.sim.model.arch import LayerKind
from moesim.sim.model.params import experts_in
from moesim.sim.serve.accounts import price_of_all, span_s
from moesim.sim.serve.expert_rows import busiest_by_layer, rank_loads
from moesim.sim.serve.job import ResolvedServe, ServeJob
from moesim.sim.serve.layers import context, exchange_of, exchange_steps
from moesim.sim.serve.pass_waits import (
    PassWait,
    decode_s,
    even_costs,
    holder_of,
    mean_pass,
    waiting_gpu_s,
)
from moesim.sim.serve.simulate import ServeRun
from moesim.sim.serve.step import StepCosts
from moesim.sim.software.stack import Tuning
from moesim.traces.routing import Floats


@dataclass(frozen=True, slots=True, eq=False)
class ServedLayer:
    """One of the layers that stand for all. Ratios are over the mean of the layer.

    `over_mean` [experts] tokens that are expected to pick each expert; `busiest_rank_ratio` rows that the busiest rank
    of a mean decode pass is expected to get, what varies from pass to pass included.
    """

    place: int  # of the layer in the model, from 0
    over_mean: Floats
    busiest_rank_ratio: float

    @property
    def worst_rank_ratio(self) -> float:
        """Passes are priced by what is expected: there is no worse one."""
        return self.busiest_rank_ratio

    @property
    def busiest_expert(self) -> int:
        """Number of the expert that most tokens pick; of several the first."""
        return int(self.over_mean.argmax())


@dataclass(frozen=True, eq=False)
class ServedExperts:
    """Experts of a deployment under its load. Priced when first looked at: an answer that nobody opens pays nothing.

    Layers, ranks and the exchange are those of a decode pass of the mean batch.
    """

    resolved: ResolvedServe = field(repr=False)
    run: ServeRun = field(repr=False)
    mean_batch: float
    tuning: Tuning = field(repr=False)  # its own: what is looked up here is no assumption of the answer

    per = "pass"  # what rows and bytes are of, for figures

    @cached_property
    def job(self) -> ServeJob:
        """Of the GPUs that hold the experts of a decode pass."""
        return holder_of(self.resolved.deployment.job)

    @property
    def ranks(self) -> int:
        """That share the experts."""
        return self.job.layout.ep

    @property
    def drawn(self) -> bool:
        """True where ranks do not all get as many rows."""
        return rank_loads(self.job).uneven or rank_loads(self._prefill_job).uneven

    @property
    def _prefill_job(self) -> ServeJob:
        return holder_of((self.run.prefill_machines or self.run.machines)[0].job)

    @cached_property
    def layers(self) -> tuple[ServedLayer, ...]:
        """Those that stand for all, in model order."""
        loads, moe = rank_loads(self.job), self.job.arch.moe
        assert moe is not None
        ratios = busiest_by_layer(self.job, round(self._decode_tokens))
        even = moe.top_k / loads.picked.shape[1]
        return tuple(
            ServedLayer(place, row / even, ratio)
            for (place, ratio), row in zip(ratios.items(), loads.picked, strict=True)
        )

    @property
    def over_mean(self) -> Floats:
        """[layers, experts] of each expert over the mean of its layer."""
        return np.stack([layer.over_mean for layer in self.layers])

    @property
    def busiest_expert_ratio(self) -> float:
        """Of the busiest expert over the mean, averaged over layers."""
        return float(np.mean([layer.over_mean.max() for layer in self.layers]))

    @property
    def busiest_rank_ratio(self) -> float:
        """Of the busiest rank over the mean, averaged over layers."""
        return float(np.mean([layer.busiest_rank_ratio for layer in self.layers]))

    # ---- passes

    @property
    def _costs(self) -> StepCosts:
        return self.run.machine.costs

    @property
    def _batch(self) -> int:
        return max(1, round(self.mean_batch))

    @property
    def _pass_tokens(self) -> int:
        """Of a replica, in one decode pass of the mean batch."""
        return self._costs.per_batch(self._batch) * self._costs.width

    @property
    def _decode_tokens(self) -> float:
        """Of those, what goes through the experts together: a half, where two batches overlap."""
        return self._pass_tokens / self._costs.halves_of(self._costs.per_rank(self._batch))

    @cached_property
    def decode(self) -> PassWait | None:
        """The decode pass of the mean batch (of a pipeline: a round of all batches); None where nobody waits."""
        if not self.mean_batch or self.ranks == 1:
            return None
        machine = self.run.machine
        steps = sum(sum(r.steps_at.values()) for r in self.run.replicas)
        cached = sum(r.cached_steps for r in self.run.replicas) / max(1, steps)
        as_is, even = (
            decode_s(costs, self._batch, cached) for costs in (machine.costs, even_costs(machine, self.tuning))
        )
        return PassWait(
            ranks=self.ranks, tokens=self._pass_tokens, busiest_rank_ratio=self.busiest_rank_ratio, pass_s=as_is,
            balanced_pass_s=even,
        )  # fmt: skip

    @cached_property
    def prefill(self) -> PassWait | None:
        """The mean pass that carries prompts, with what decodes beside them; None where nobody waits."""
        machine = (self.run.prefill_machines or self.run.machines)[0]
        mean = mean_pass([r for m, r in self.run.workers if m is machine])
        job = holder_of(machine.job)
        if mean is None or job.layout.ep == 1:
            return None
        tokens = sum(new for new, _ in mean.chunks) + mean.riders * machine.costs.width
        rows = busiest_by_layer(job, round(tokens / machine.costs.halves_of(tokens)))
        return PassWait(
            ranks=job.layout.ep, tokens=tokens, busiest_rank_ratio=float(np.mean(list(rows.values()))),
            pass_s=mean.seconds(machine.costs), balanced_pass_s=mean.seconds(even_costs(machine, self.tuning)),
        )  # fmt: skip

    # ---- money

    @cached_property
    def waiting_share(self) -> float:
        """Of the time of all GPUs that are paid, what passes spend on waiting for the busiest rank."""
        paid_s = self.resolved.deployment.paid_gpus * span_s(self.run)
        return waiting_gpu_s(self.run, self.tuning) / paid_s

    @cached_property
    def usd(self) -> dict[str, float]:
        """US dollars of that time: per_million_output_tokens and per_day; empty without a price."""
        deployment = self.resolved.deployment
        price = price_of_all(deployment, self.resolved.price)
        hours = self.waiting_share * deployment.paid_gpus * span_s(self.run) / 3600.0
        each = usd_per_million_output_tokens(price, hours, float(self.run.log.output_total))
        day = usd(price, self.waiting_share * deployment.paid_gpus * 24.0)
        return {} if each is None or day is None else {"per_million_output_tokens": each, "per_day": day}

    # ---- the exchange

    @cached_property
    def rank_rows(self) -> Floats:
        """Rows that each rank is expected to compute in a decode pass, all layers together [ranks]."""
        return np.asarray(sum(self._rows_of(kind) * count for kind, count in self._kinds.items()), dtype=np.float64)

    @property
    def _kinds(self) -> dict[LayerKind, int]:
        layers = self.job.arch.layers
        places = moe_layers(self.job.arch)
        return {kind: sum(layers[p] == kind for p in places) for kind in dict.fromkeys(layers[p] for p in places)}

    def _rows_of(self, kind: LayerKind) -> Floats:
        """Of one layer of this kind, the mean over those that stand for all [ranks]."""
        moe = self.job.arch.moe
        assert moe is not None
        share = rank_loads(self.job, experts_in(self.job.arch, kind)).share.mean(axis=0)
        return np.asarray(share * self._pass_tokens * moe.top_k)

    @cached_property
    def exchange_bytes(self) -> Floats:
        """Bytes of all dispatches of a decode pass of the mean batch, from each rank (row) to each other (column).

        [ranks, ranks] or [domains, domains] as `exchange_matrix`; where every rank gathers all tokens, between the
        tensor groups that hold sequences of their own. Zeros where all ranks hold the same tokens.
        """
        found = [self._dispatched(kind) * count for kind, count in self._kinds.items()]
        return np.asarray(sum(found), dtype=np.float64)

    def _dispatched(self, kind: LayerKind) -> Floats:
        job, total = self.job, self._pass_tokens
        ctx = context(job, self.tuning, max(1, total // job.attention_dp))
        before, _ = exchange_steps(ctx, job, kind, total, self.busiest_rank_ratio, False)
        work = before[0].forward if before and isinstance(before[0], Exchange) else None
        if isinstance(work, ExpertExchange):
            return exchange_matrix(work, self._rows_of(kind))
        if isinstance(work, Comm):  # every group sends its tokens to all others
            groups = job.layout.dp
            return np.full((groups, groups), work.bytes / groups)
        return np.zeros((1, 1))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON: totals, both kinds of passes, money, the exchange, and each layer."""
        return {
            "drawn": self.drawn,
            "ranks": self.ranks,
            "busiest_expert_over_mean": self.busiest_expert_ratio,
            "busiest_rank_over_mean": self.busiest_rank_ratio,
            "decode": None if self.decode is None else self.decode.to_dict(),
            "prefill": None if self.prefill is None else self.prefill.to_dict(),
            "waiting_share_of_paid_time": self.waiting_share,
            "waiting_usd": self.usd,
            "dispatched_bytes": {"between": self.between, "matrix": self.exchange_bytes.tolist()},
            "layers": [
                {
                    "layer": layer.place,
                    "busiest_expert": layer.busiest_expert,
                    "busiest_expert_over_mean": float(layer.over_mean.max()),
                    "busiest_rank_over_mean": layer.busiest_rank_ratio,
                }
                for layer in self.layers
            ],
        }

    @property
    def between(self) -> str | None:
        """What rows and columns of the exchange are: ranks, domains or (tensor) groups; None where nothing is sent."""
        if not self.exchange_bytes.any():
            return None
        if self.ranks == 1 or exchange_of(self.job, False) == "gather":
            return "groups"
        return "ranks" if len(self.exchange_bytes) == self.ranks else "domains"


def served_experts(resolved: ResolvedServe, run: ServeRun, mean_batch: float) -> ServedExperts | None:
    """The view of a run; None for a dense model, and where no rank waits for another's experts."""
    groups = [holder_of(group.job) for group in resolved.deployment.groups]
    if not moe_layers(resolved.deployment.job.arch) or all(job.layout.ep == 1 for job in groups):
        return None
    return ServedExperts(resolved, run, mean_batch, resolved.tuning())
