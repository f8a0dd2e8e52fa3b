"""Where the stages of a serving pipeline lie: layers of each, hops that leave a scale-up domain, and their seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from moesim.hwmodels.cluster import Cluster
from moesim.sim.serve.job import ServeJob


def layers_of_stages(layers: int, stages: int) -> tuple[int, ...]:
    """Layers of each stage: as even as can be. What is left over goes to stages before the last, which has the head."""
    each, more = divmod(layers, stages)
    return tuple(each + (stages - 1 - more <= n < stages - 1) for n in range(stages))


def crossing_hops(cluster: Cluster, stage_gpus: int, stages: int, first_gpu: int = 0) -> tuple[bool, ...]:
    """Of each hop, whether any GPU of a stage sends to another scale-up domain; stages follow each other in rank order.

    `first_gpu`: the replica's first GPU of the cluster; it may lie inside a domain.
    """
    begins = [first_gpu + n * stage_gpus for n in range(stages)]
    return tuple(
        any(gpu // cluster.domain != (gpu + stage_gpus) // cluster.domain for gpu in range(begin, begin + stage_gpus))
        for begin in begins[:-1]
    )


def hops_of(job: ServeJob) -> tuple[bool, ...]:
    """Whether each hop of a job's pipeline crosses domains."""
    lay = job.layout
    return crossing_hops(job.cluster, lay.gpus // lay.pp, lay.pp, job.first_gpu)


def batches_of(sequences: int, stages: int) -> dict[int, int]:
    """How many of the batches in flight have how many sequences, the larger ones first: as even as can be."""
    each, more = divmod(sequences, stages)
    return {size: count for size, count in ((each + 1, more), (each, stages - more)) if size and count}


class PassSeconds(NamedTuple):
    """One pass of one batch: what the host adds, all layers, the head, and each hop between stages."""

    host_s: float
    layers_s: float
    head_s: float
    hops_s: tuple[float, ...] = ()

    def aged(self, factor: float, added_s: float, yields: float = 1.0) -> PassSeconds:
        """Everything times a factor and seconds for the layers on top, per token that the pass yields."""
        if factor == 1.0 and added_s == 0.0 and yields == 1.0:
            return self
        hops = tuple(factor * seconds / yields for seconds in self.hops_s)
        layers_s = (factor * self.layers_s + added_s) / yields
        return PassSeconds(factor * self.host_s / yields, layers_s, factor * self.head_s / yields, hops)

    @property
    def total_s(self) -> float:
        """When nothing is in its way."""
        return self.host_s + self.layers_s + self.head_s + (sum(self.hops_s) if self.hops_s else 0.0)

    def resources(self, layers: Sequence[int]) -> list[float]:
        """Seconds at each resource that passes go through one after the other: scheduler, stage, wire, stage, ..."""
        whole = sum(layers)
        resources = [self.host_s]
        for n, count in enumerate(layers):
            resources.append(self.layers_s * count / whole)
            if n < len(self.hops_s):
                resources.append(self.hops_s[n])
        resources[-1] += self.head_s
        return resources


def cycle_s(passes: Sequence[tuple[int, Sequence[float]]]) -> tuple[float, int]:
    """(seconds in which every batch comes round once, the resource that sets them; -1: a batch's own trip).

    `passes`: (how many batches, their seconds at each resource). A batch comes back when its trip is over, and no
    sooner than the busiest resource has served all others.
    """
    trip = max(sum(resources) for _, resources in passes)
    work = [sum(count * resources[n] for count, resources in passes) for n in range(len(passes[0][1]))]
    busiest = max(range(len(work)), key=work.__getitem__)
    return (work[busiest], busiest) if work[busiest] > trip else (trip, -1)
