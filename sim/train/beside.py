"""Training jobs beside each other on one fabric: what each loses because others fill uplinks that it uses too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from moesim.hwmodels.cluster import Cluster, check_uplinks
from moesim.hwmodels.wires import LEAF_WIRES, WIRES, link_of
from moesim.refusal import Refusal
from moesim.sim.clock.together import Party, Round, Tail, run_together
from moesim.sim.layout.uplinks import SPREADS, Seat, Spread, fullest, seats, uplinks_of
from moesim.sim.question.lookup import training_of
from moesim.sim.question.scenario import Asked, ScenarioError, scenario_of
from moesim.sim.train.fitting import require_memory
from moesim.sim.train.job import Resolved, resolve
from moesim.sim.train.members import StageMembers, stage_members
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.program import step_program
from moesim.sim.train.shared_fabric import JobBeside, SharedFabric, UplinkUse
from moesim.sim.train.step import (
    common_links,
    end_of_step_s,
    no_collection,
    simulate_step,
    step_walker,
)
from moesim.sim.train.updates import serial_gradients

_ROUNDS = 3  # steps of every job at least, so that they meet in several phases of theirs
_MOST_STEPS = 200  # of the shortest job during one of the longest: all of them are run, three times over
_ROUNDING = 1e-9


def train_beside(
    scenarios: Sequence[Asked], *, spread: Spread = "contiguous", check_memory: bool = True
) -> SharedFabric:
    """What training jobs lose that run at the same time on GPUs of their own of one fabric.

    scenarios: files' paths, mappings or Scenarios with a train section, all with the same hosts and the same fabric,
    which is as large as the jobs together.
    spread: contiguous: one job after the other, so that they meet in the leaf where one ends and the next begins;
    interleaved: hosts of all jobs take turns, so that every leaf is shared.
    check_memory: refuse what does not fit.

    All jobs run on one clock and one network; each begins its next step while another is still in its first.

    Raises ScenarioError for jobs that cannot share a fabric, FactError for uplinks that do not exist, and what
    `predict_train` raises; the text begins with the number of the job that it is about.
    """
    if spread not in SPREADS:
        raise ScenarioError(f"spread={spread!r} is not known; use {' or '.join(SPREADS)}")
    if not scenarios:
        raise ScenarioError("no job was given; give one scenario or more")
    asked = [_asked(number, scenario) for number, scenario in enumerate(scenarios, 1)]
    _check_alike([each.job.cluster for each in asked])
    placed, notes = _placed(asked, spread)
    prices = [StepPrices(each.job, each.kernels, each.tuning()) for each in placed]
    if check_memory:
        for number, price in enumerate(prices, 1):
            _check_memory(number, price)
    alone = [simulate_step(price, events=False).step_time_s for price in prices]
    _check_lengths(prices, alone)
    rounds = _rounds(prices)
    use = _uplink_use(prices, rounds)
    jobs = []
    for number, (own, each, alone_s) in enumerate(zip(asked, placed, alone, strict=True)):
        factor = each.correction.factor if each.correction is not None else 1.0
        ran = rounds.get(number)
        moved = own.job.cluster != each.job.cluster or each.job.beside is not None
        jobs.append(
            JobBeside(
                resolved=each,
                by_itself_s=factor * (_step_s(own) if moved else alone_s),
                alone_s=factor * alone_s,
                beside_s=factor * _beside_s(alone_s, ran),
                steps=1 if ran is None else len(ran),
                busiest=None if ran is None else _busiest(prices[number], use),
            )
        )
    return SharedFabric(jobs=tuple(jobs), spread=spread, assumptions=tuple(notes))


def _asked(number: int, scenario: Asked) -> Resolved:
    """A job on a fabric of its own. Its uplinks are those of the fabric of all jobs: alone it may have none."""
    try:
        given = scenario_of(scenario)
        training_of(given)
        ratio = given.cluster.oversubscription
        bare = given.model_copy(update={"cluster": given.cluster.model_copy(update={"oversubscription": None})})
        resolved = resolve(bare)
    except Refusal as refusal:
        raise type(refusal)(f"job {number}: {refusal}") from None
    if ratio is None:
        return resolved
    return replace(resolved, job=replace(resolved.job, cluster=replace(resolved.job.cluster, oversubscription=ratio)))


def _check_memory(number: int, prices: StepPrices) -> None:
    try:
        require_memory(prices, tuple(step_memory(prices)))
    except Refusal as refusal:
        raise type(refusal)(f"job {number}: {refusal}") from None


def _check_alike(clusters: Sequence[Cluster]) -> None:
    """ScenarioError for jobs whose hosts or fabric differ, with what does."""
    first = _traits(clusters[0])
    for number, cluster in enumerate(clusters[1:], 2):
        other = _traits(cluster)
        said = [f"{name} is {first[name]} in job 1 and {other[name]} in job {number}" for name in first
                if first[name] != other[name]]  # fmt: skip
        if said:
            raise ScenarioError(
                f"jobs 1 and {number} cannot share a fabric: {'; '.join(said)}; write the same cluster.node, "
                "cluster.fabric, cluster.nic_bytes_per_s and cluster.oversubscription in all of them"
            )


def _check_lengths(prices: Sequence[StepPrices], alone_s: Sequence[float]) -> None:
    """ScenarioError for jobs that may meet and whose steps are too unlike to run them all."""
    numbers = [number for number, price in enumerate(prices) if price.job.beside is not None]
    if not numbers:
        return
    short, long = (pick(numbers, key=lambda number: alone_s[number]) for pick in (min, max))
    if alone_s[long] > _MOST_STEPS * alone_s[short]:
        raise ScenarioError(
            f"a step of job {long + 1} takes {alone_s[long]:.3g} s and one of job {short + 1} {alone_s[short]:.3g} s: "
            f"more than {_MOST_STEPS} steps would have to run beside one; leave one of the two out, or bring them "
            "closer (train.global_batch, cluster.nic_bytes_per_s)"
        )


def _traits(cluster: Cluster) -> dict[str, str]:
    return {
        "the GPU": cluster.gpu.name,
        "the host": f"{cluster.host_cpu} with {cluster.gpus_per_host} GPUs",
        "the fabric": cluster.fabric,
        "the NIC of a GPU": f"{cluster.nic_bytes_per_s / 1e9:g} GB/s",
        "oversubscription": f"{cluster.oversubscription:g}",
    }


# -- where jobs lie ---------------------------------------------------------------------------------------------------


def _placed(asked: Sequence[Resolved], spread: Spread) -> tuple[list[Resolved], list[str]]:
    """The jobs in their places of one fabric; and how they are run, or why they meet nowhere."""
    clusters, layouts = [each.job.cluster for each in asked], [each.job.layout for each in asked]
    first = clusters[0]
    hashing = "flows spread evenly over the uplinks of a leaf: collisions of hashed paths (ECMP) are left out"
    if first.oversubscription <= 1.0:
        why = f"nothing is lost: uplinks of {first.fabric} carry all that NICs send (oversubscription 1), and hosts"
        return list(asked), [f"{why} are not shared", hashing]
    places = seats(clusters, spread)
    if len(asked) > 1:
        check_uplinks(_whole(clusters, places))
    found = uplinks_of(layouts, first, places)
    placed = []
    for each, uplinks in zip(asked, found, strict=True):
        cluster = replace(each.job.cluster, leaf_share=uplinks.leaf_share, leaf_gpus=uplinks.leaf_gpus)
        placed.append(replace(each, job=replace(each.job, cluster=cluster)))
    full = fullest([(each.job.layout, each.job.cluster, u) for each, u in zip(placed, found, strict=True)])
    if not any(uplinks.met_jobs for uplinks in found):
        return placed, ["nothing is lost: no leaf holds hosts of two jobs", hashing]
    if full <= 1.0:
        return placed, [f"nothing is lost: all jobs together fill at most {full:.0%} of any leaf's uplinks", hashing]
    meeting = [
        replace(each, job=replace(each.job, beside=uplinks)) if uplinks.met_jobs else each
        for each, uplinks in zip(placed, found, strict=True)
    ]
    return meeting, [
        "all jobs begin a step at the same moment, and the next one as soon as it is over, with the same draws",
        hashing,
        "spines and cores carry whatever uplinks bring them",
    ]


def _whole(clusters: Sequence[Cluster], places: Sequence[Sequence[Seat]]) -> Cluster:
    """The fabric of all jobs."""
    first, gpus = clusters[0], sum(c.gpus for c in clusters)
    end = max(place + count for row in places for place, count in row)
    return replace(first, gpus=end, name=f"{gpus} x {first.gpu.name} ({first.fabric})")


# -- how they run -----------------------------------------------------------------------------------------------------


def _step_s(resolved: Resolved) -> float:
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning())
    return simulate_step(prices, events=False).step_time_s


def _rounds(prices: Sequence[StepPrices]) -> dict[int, list[Round]]:
    """Steps, by number, of the jobs that may meet others on uplinks, all at the same time."""
    numbers = [number for number, each in enumerate(prices) if each.job.beside is not None]
    parties, first = [], 0
    for number in numbers:
        each = prices[number]
        program = step_program(each, members=stage_members(each))
        parties.append(
            Party(partial(step_walker, each, program), partial(_tail, each, program.members), common_links(each), first)
        )
        first += each.job.layout.pp * len(WIRES)
    with no_collection():
        return dict(zip(numbers, run_together(parties, _ROUNDS), strict=True))


def _tail(prices: StepPrices, members: StageMembers | None, body_s: float) -> Tail:
    """What follows the pipeline; gradients that nothing overlapped go over uplinks, of all pipeline ranks at once."""
    tail = end_of_step_s(prices, body_s, members)
    flying_s, loads = tail["dp_comm"], []
    for rank in range(prices.job.layout.pp if flying_s > 0.0 else 0):
        used = [prices.wires(comm) for comm in serial_gradients(prices, rank)]
        for wire in LEAF_WIRES:
            busy_s = sum(each.get(wire, 0.0) for each in used)
            if busy_s > 0.0:
                loads.append((link_of(rank, wire), min(1.0, busy_s / flying_s)))
    return Tail(sum(tail.values()), flying_s, tuple(loads))


# -- what came of it --------------------------------------------------------------------------------------------------


def _beside_s(alone_s: float, rounds: Sequence[Round] | None) -> float:
    """Mean of the rounds; later ones are reckoned from later seconds, and what that rounds off is no loss."""
    if rounds is None:
        return alone_s
    mean_s = sum(each.seconds for each in rounds) / len(rounds)
    return alone_s if abs(mean_s - alone_s) < _ROUNDING * alone_s else mean_s


def _uplink_use(prices: Sequence[StepPrices], rounds: dict[int, list[Round]]) -> dict[int, list[float]]:
    """Share of the rate of uplinks, by their number and by job, over the steps of each job."""
    use: dict[int, list[float]] = {}
    for number, ran in rounds.items():
        seconds = sum(each.seconds for each in ran)
        for link in {link for each in ran for link in each.carried_s if link < 0}:
            carried_s = sum(each.carried_s.get(link, 0.0) for each in ran)
            use.setdefault(link, [0.0] * len(prices))[number] = carried_s / seconds
    return use


def _busiest(prices: StepPrices, use: dict[int, list[float]]) -> UplinkUse | None:
    """Of the uplinks that the job uses."""
    uplinks = prices.job.beside
    assert uplinks is not None
    mine = {link for row in uplinks.over for link, _ in row if link in use}
    if not mine:
        return None
    link = max(mine, key=lambda number: (sum(use[number]), number))
    return UplinkUse(*uplinks.leaves[-1 - link], tuple(use[link]))
