"""PassWait: what the busiest expert-parallel rank costs a pass, beside the same pass with balanced routing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from moesim.sim.serve.apart import experts_job
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.replica import Replica
from moesim.sim.serve.simulate import Machine, ServeRun
from moesim.sim.serve.step import StepCosts
from moesim.sim.serve.step_parts import StepParts
from moesim.sim.software.stack import Tuning
from moesim.traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class PassWait:
    """One kind of pass, as it is and as it would be with balanced routing."""

    ranks: int  # that share the experts
    tokens: int  # of the replica, in the pass
    busiest_rank_ratio: float  # its rows over the mean
    pass_s: float
    balanced_pass_s: float

    @property
    def waits_s(self) -> float:
        """What the busiest rank costs the pass; below zero where even experts are slower: more of them are read."""
        return self.pass_s - self.balanced_pass_s

    @property
    def share(self) -> float:
        """Of the pass."""
        return self.waits_s / self.pass_s

    def to_dict(self) -> dict[str, float]:
        """Ready for JSON."""
        return {
            "ranks": self.ranks, "tokens": self.tokens, "busiest_rank_over_mean": self.busiest_rank_ratio,
            "pass_s": self.pass_s, "balanced_pass_s": self.balanced_pass_s, "waits_s": self.waits_s,
            "share": self.share,
        }  # fmt: skip


class PromptPass(NamedTuple):
    """The mean pass that carries prompts: its pieces of (new, cached) tokens, and what decodes beside them."""

    chunks: list[tuple[int, int]]
    riders: int  # sequences that decode
    cached: float  # tokens that those hold

    def seconds(self, costs: StepCosts) -> float:
        """What it takes."""
        return costs.mixed(self.chunks, self.riders, self.cached)


def holder_of(job: ServeJob) -> ServeJob:
    """The GPUs that hold a job's experts as a job of their own; itself where they are with attention."""
    return experts_job(job) or job


def even_costs(machine: Machine, tuning: Tuning) -> StepCosts:
    """The prices of a machine with balanced routing."""
    parts = StepParts(replace(machine.job, routing=Routing()), tuning)
    return StepCosts(parts, tuning, machine.costs.contexts)


def decode_s(costs: StepCosts, batch: int, cached: float) -> float:
    """Seconds of one decode pass: all the tokens that it gives."""
    a, b = costs.decode(batch)
    return (a + b * cached) * costs.yields


def mean_pass(replicas: list[Replica]) -> PromptPass | None:
    """As many pieces and sequences, and as long, as there were in the mean; None where no pass carried prompts."""
    passes = sum(r.prompt_passes for r in replicas)
    if not passes:
        return None
    pieces = max(1, round(sum(r.prompt_chunks for r in replicas) / passes))
    each = max(1, round(sum(r.prefill_tokens for r in replicas) / passes / pieces))
    riders = round(sum(r.prompt_riders for r in replicas) / passes)
    held = sum(r.riders_cached for r in replicas) / passes if riders else 0.0
    return PromptPass([(each, 0)] * pieces, riders, held)


def waiting_gpu_s(run: ServeRun, tuning: Tuning) -> float:
    """GPU-seconds that all passes of a run spend on waiting for the busiest rank, by worker.

    Decode passes by their batches; of those that carry prompts the share of the mean one.
    """
    alike: list[tuple[Machine, list[Replica]]] = []
    for machine, replica in run.workers:
        mine = next((replicas for known, replicas in alike if known is machine), None)
        if mine is None:
            alike.append((machine, [replica]))
        else:
            mine.append(replica)
    waits_s = 0.0
    for machine, replicas in alike:
        if holder_of(machine.job).layout.ep > 1:  # else every rank has all experts: nobody waits
            waits_s += machine.job.gpus * _waiting_s(machine, replicas, even_costs(machine, tuning))
    return waits_s


def _waiting_s(machine: Machine, replicas: list[Replica], even: StepCosts) -> float:
    """Seconds, over all these replicas of one machine."""
    mean = mean_pass(replicas)
    of_prompts = 0.0 if mean is None else 1.0 - mean.seconds(even) / mean.seconds(machine.costs)
    as_is = balanced = 0.0
    for r in replicas:
        cached = r.cached_steps / max(1, sum(r.steps_at.values()))
        as_is += sum(steps * decode_s(machine.costs, batch, cached) for batch, steps in r.steps_at.items())
        balanced += sum(steps * decode_s(even, batch, cached) for batch, steps in r.steps_at.items())
    of_decode = 1.0 - balanced / as_is if as_is else 0.0
    prompts_s = sum(r.prefill_busy_s for r in replicas)
    return of_decode * (sum(r.busy_s for r in replicas) - prompts_s) + of_prompts * prompts_s
