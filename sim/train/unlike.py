"""GPUs of a job that are not like the others: slow ones, jitter, links that are degraded or fail; read and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.wires import OWN_WIRES, Wire
from moesim.sim.question.scenario import Scenario, ScenarioError
from moesim.sim.question.sections import LinksAsk, SlowAsk
from moesim.traces.rng import stream

_LINK = re.compile(rf"({'|'.join(OWN_WIRES)})(0|[1-9][0-9]{{0,8}})")
SHARED_SHARE = 0.5  # of its rate, that a link has left when it carries a dead neighbour's traffic as well as its own


@dataclass(frozen=True, slots=True)
class BadLink:
    """One wire of one GPU: the share of its rate that is left from `from_s` of the step on."""

    wire: Wire
    gpu: int
    left_share: float
    from_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlike:
    """`slow_gpus` compute at `speed_factor`; `jitter_share`: sd of a stretch of compute over its mean; `links`."""

    slow_gpus: tuple[int, ...] = ()
    speed_factor: float = 1.0
    jitter_share: float = 0.0
    links: tuple[BadLink, ...] = ()
    seed: int = 0

    @property
    def any(self) -> bool:
        """True when some GPU is unlike another."""
        return bool(self.slow_gpus and self.speed_factor != 1.0) or self.jitter_share > 0.0 or bool(self.links)


ALIKE = Unlike()


def unlike_of(scenario: Scenario, cluster: Cluster) -> Unlike:
    """What the scenario says of GPUs that are not alike. ScenarioError for GPUs, links or wires that do not exist."""
    slow, links = scenario.slow, scenario.links
    seed = scenario.routing.seed if scenario.routing is not None and not isinstance(scenario.routing, str) else 0
    return Unlike(
        slow_gpus=_slow_gpus(slow, cluster) if slow else (),
        speed_factor=slow.factor if slow else 1.0,
        jitter_share=scenario.jitter or 0.0,
        links=_bad_links(links, cluster) if links else (),
        seed=slow.seed if slow else seed,
    )


def _slow_gpus(ask: SlowAsk, cluster: Cluster) -> tuple[int, ...]:
    if ask.ids is not None:
        for gpu in ask.ids:
            if not 0 <= gpu < cluster.gpus:
                raise ScenarioError(f"slow.ids: there is no GPU {gpu}; the cluster has 0 to {cluster.gpus - 1}")
        return tuple(sorted(set(ask.ids)))
    count = max(1, round((ask.share or 0.0) * cluster.gpus))
    drawn = stream(ask.seed, "slow gpus").choice(cluster.gpus, size=count, replace=False)
    return tuple(sorted(int(gpu) for gpu in drawn))


def _bad_links(ask: LinksAsk, cluster: Cluster) -> tuple[BadLink, ...]:
    degraded = {_link(name, "degraded", cluster): share for name, share in ask.degraded.items()}
    found = [BadLink(*link, share) for link, share in degraded.items() if share < 1.0]
    failed = {_link(name, "failed", cluster): second for name, second in ask.failed.items()}
    for (wire, gpu), second in failed.items():
        beside = _neighbour(f"{wire}{gpu}", wire, gpu, cluster)
        if (wire, beside) in failed:
            raise ScenarioError(
                f"links.failed: {wire}{gpu} and {wire}{beside} each carry for the other: without both no path is left "
                f"to GPU {gpu}; name one of them in links.degraded with the share of its rate that is left"
            )
        found += [BadLink(wire, each, SHARED_SHARE, second) for each in (gpu, beside)]
    return tuple(found)


def _link(name: str, key: str, cluster: Cluster) -> tuple[Wire, int]:
    """The wire and the GPU that a link's name means."""
    match = _LINK.fullmatch(name)
    if match is None:
        raise ScenarioError(
            f"links.{key}: {name[:40]!r} is no link; write nic17 or link17 for the NIC or NVLink of GPU 17"
        )
    gpu = int(match.group(2))
    if gpu >= cluster.gpus:
        raise ScenarioError(f"links.{key}: {name} does not exist; GPUs are numbered 0 to {cluster.gpus - 1}")
    wire = next(w for w in OWN_WIRES if w == match.group(1))
    if wire == "nic" and cluster.domains == 1:
        raise ScenarioError(f"links.{key}: {name} carries nothing: all {cluster.gpus} GPUs are in one scale-up domain")
    return wire, gpu


def _neighbour(name: str, wire: Wire, gpu: int, cluster: Cluster) -> int:
    """The GPU whose link carries a dead one's traffic: the next of the same host."""
    first = gpu // cluster.gpus_per_host * cluster.gpus_per_host
    beside = first + ((gpu - first) ^ 1) if cluster.gpus_per_host > 1 else gpu
    if wire == "link" or beside == gpu or beside >= min(first + cluster.gpus_per_host, cluster.gpus):
        raise ScenarioError(
            f"links.failed: without {name} no path is left to GPU {gpu}: the job cannot go on; name it in "
            "links.degraded with the share of its rate that is left"
        )
    return beside
