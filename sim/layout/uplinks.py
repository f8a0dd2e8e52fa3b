"""Which leaf every GPU of a job hangs on, and which uplinks the GPUs of a pipeline rank send over, with whom.

GPUs of a job are numbered along its stages, and a leaf takes `gpus_below_leaf` of them (of all rails, which are alike).
Leaves that the same stages share in the same way are one link here: what one of them does the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from moesim.hwmodels.cluster import Cluster, Crossing, gpus_below_leaf, oversubscription_note, uplink_ratio
from moesim.sim.layout.layout import Layout

Spread = Literal["contiguous", "interleaved"]
SPREADS: tuple[Spread, ...] = ("contiguous", "interleaved")
Seat = tuple[int, int]  # the first place of a row of neighbours in the fabric, and how many GPUs
Run = tuple[int, int]  # a leaf, and how many neighbours of a stage hang on it


@dataclass(frozen=True, slots=True)
class Uplinks:
    """Uplinks of one job. `over` by stage: (number of the uplinks, the part of the load of all GPUs of the job behind
    one of its fullest leaves that the stage's GPUs there are); `rings`: the part that a ring through the stage is.
    `runs` by stage: its leaves in order of its GPUs. `leaf_share` and `leaf_gpus` as in Cluster.

    Numbers are below zero, and common to the jobs of a fabric. `leaves` from number -1 down: the first leaf, and how
    many are alike.
    `met`: stages whose uplinks another stage of this or another job uses too.
    """

    over: tuple[tuple[tuple[int, float], ...], ...]
    rings: tuple[tuple[tuple[int, float], ...], ...]
    runs: tuple[tuple[Run, ...], ...]
    leaves: tuple[Run, ...]
    leaf_share: float
    leaf_gpus: int
    met: frozenset[int]
    met_jobs: bool  # another job uses uplinks of this one

    def climbs(self, a: int, b: int) -> bool:
        """True when some GPU of stage `a` hangs on another leaf than its counterpart in stage `b`."""
        mine, other = list(self.runs[a]), list(self.runs[b])
        i = j = 0
        left, right = mine[0][1], other[0][1]
        while i < len(mine) and j < len(other):
            if mine[i][0] != other[j][0]:
                return True
            step = min(left, right)
            left, right = left - step, right - step
            if left == 0:
                i += 1
                left = mine[i][1] if i < len(mine) else 0
            if right == 0:
                j += 1
                right = other[j][1] if j < len(other) else 0
        return False


def seats(clusters: Sequence[Cluster], spread: Spread) -> list[list[Seat]]:
    """Where the GPUs of several jobs lie in one fabric. No two share a host or a scale-up domain.

    contiguous: one job after the other; interleaved: their hosts take turns, until a job has no more.
    """
    units = [max(c.domain, c.gpus_per_host) for c in clusters]
    place, found = 0, [list[Seat]() for _ in clusters]
    left = [c.gpus for c in clusters]
    while any(left):
        for job, unit in enumerate(units):
            count = left[job] if spread == "contiguous" else min(unit, left[job])
            if count:
                found[job].append((place, count))
                left[job] -= count
                place += -(-count // unit) * unit
    return found


def uplinks_of(layouts: Sequence[Layout], cluster: Cluster, placed: Sequence[Sequence[Seat]]) -> list[Uplinks]:
    """The uplinks of jobs whose GPUs lie at these seats of one fabric, a record each; `cluster` of any of them.

    A leaf's uplinks carry what its NICs in use send, over the oversubscription, as in hwmodels/topology.py.
    """
    size = gpus_below_leaf(cluster)
    runs = [_stage_runs(layout, spots, size) for layout, spots in zip(layouts, placed, strict=True)]
    users: dict[int, dict[tuple[int, int], int]] = {}  # by leaf: GPUs by (job, stage)
    for job, stages in enumerate(runs):
        for stage, of_stage in enumerate(stages):
            for leaf, count in of_stage:
                held = users.setdefault(leaf, {})
                held[(job, stage)] = held.get((job, stage), 0) + count
    numbers: dict[tuple[object, ...], int] = {}
    leaves: list[Run] = []
    for leaf in sorted(users):
        number = numbers.setdefault(tuple(sorted(users[leaf].items())), len(numbers))
        if number == len(leaves):
            leaves.append((leaf, 0))
        leaves[number] = (leaves[number][0], leaves[number][1] + 1)
    return [_of_job(job, stages, users, tuple(leaves), size) for job, stages in enumerate(runs)]


def _stage_runs(layout: Layout, spots: Sequence[Seat], size: int) -> tuple[tuple[Run, ...], ...]:
    """Leaves of every stage, in the order of its GPUs."""
    each = layout.gpus // layout.pp
    stages: list[list[Run]] = [[] for _ in range(layout.pp)]
    gpu = 0
    for place, count in spots:
        while count:
            leaf, stage = place // size, gpu // each
            step = min(count, (leaf + 1) * size - place, (stage + 1) * each - gpu)
            row = stages[stage]
            if row and row[-1][0] == leaf:
                row[-1] = (leaf, row[-1][1] + step)
            else:
                row.append((leaf, step))
            gpu, place, count = gpu + step, place + step, count - step
    return tuple(tuple(row) for row in stages)


def _of_job(
    job: int,
    stages: tuple[tuple[Run, ...], ...],
    users: dict[int, dict[tuple[int, int], int]],
    leaves: tuple[Run, ...],
    size: int,
) -> Uplinks:
    mine = {leaf: sum(n for (who, _), n in held.items() if who == job) for leaf, held in users.items()}
    share = max(mine[leaf] / sum(users[leaf].values()) for leaf in users if mine[leaf])
    most, spanned = max(mine.values()), sum(1 for count in mine.values() if count)
    over, rings, met = [], [], set()
    for stage in range(len(stages)):
        mine_there = [(-1 - n, leaf, users[leaf].get((job, stage), 0)) for n, (leaf, _) in enumerate(leaves)]
        used = [(number, sum(users[leaf].values()) * share, held) for number, leaf, held in mine_there if held]
        over.append(tuple((number, held / whole) for number, whole, held in used))
        # one domain sends beyond the leaf however few lie there; a leaf that is not filled has uplinks to spare
        rings.append(tuple((number, min(1.0, most / whole)) for number, whole, _ in used))
        if any(held and len(users[leaf]) > 1 for _, leaf, held in mine_there):
            met.add(stage)
    others = any(mine[leaf] and any(who != job for who, _ in users[leaf]) for leaf in users)
    held_gpus = most if spanned > 1 and most < size else 0
    return Uplinks(tuple(over), tuple(rings), stages, leaves, share, held_gpus, frozenset(met), others)


def crossings(layout: Layout, cluster: Cluster, uplinks: Uplinks) -> list[Crossing]:
    """How all transfers of a step that leave a scale-up domain cross the fabric."""
    rings = ("tp", "cp", "dp", "edp", "dp_replicas", "edp_replicas")
    found = [Crossing(layout.group(kind, cluster), "neighbours") for kind in rings]
    found += [Crossing(layout.group(kind, cluster)) for kind in ("ep", "cp")]
    hops = range(layout.pp if layout.vpp > 1 else layout.pp - 1)
    if any(uplinks.climbs(a, (a + 1) % layout.pp) for a in hops):
        found.append(Crossing(cluster.group(2, gpus_below_leaf(cluster) * cluster.domain)))  # all of it climbs
    elif layout.pp > 1:
        found.append(Crossing(cluster.group(2, cluster.domain), "neighbours"))
    return [crossing for crossing in found if crossing.group.domains > 1]


def alone_on(layout: Layout, cluster: Cluster) -> Uplinks:
    """The uplinks of a job that has its fabric to itself."""
    return uplinks_of([layout], cluster, seats([cluster], "contiguous"))[0]


def binding_uplinks(layout: Layout, cluster: Cluster) -> Uplinks | None:
    """Those of a job that has its fabric to itself; None where all its transfers together cannot fill one."""
    if cluster.oversubscription <= 1.0 or cluster.domains == 1:
        return None
    uplinks = alone_on(layout, cluster)
    return uplinks if fullest([(layout, cluster, uplinks)]) > 1.0 else None


def fullest(jobs: Sequence[tuple[Layout, Cluster, Uplinks]]) -> float:
    """How full the fullest uplinks of these jobs of one fabric can get, of their rate, with all NICs at full rate."""
    full: dict[int, float] = {}
    for layout, cluster, uplinks in jobs:
        asked = crossings(layout, cluster, uplinks)
        ring, other = (
            max((uplink_ratio(cluster, *c) for c in asked if (c.pattern == "neighbours") == rings), default=0.0)
            for rings in (True, False)
        )
        for over, rings in zip(uplinks.over, uplinks.rings, strict=True):
            for (number, part), (_, of_ring) in zip(over, rings, strict=True):  # a NIC sends one or the other
                full[number] = full.get(number, 0.0) + max(part * other, of_ring * ring)
    return max(full.values(), default=0.0)


def uplink_note(layout: Layout, cluster: Cluster) -> str:
    """For an answer's assumptions: why oversubscribed uplinks change nothing; empty where they do, or are not."""
    if cluster.oversubscription <= 1.0 or cluster.domains == 1 or binding_uplinks(layout, cluster) is not None:
        return ""
    return oversubscription_note(cluster, crossings(layout, cluster, alone_on(layout, cluster)))
