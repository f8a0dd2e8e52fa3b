"""A serving fleet for a day of traffic that grows: replicas by the hour, racks, power, and dollars, rented or owned.

A replica group is the deployment of which fewest GPUs carry the busiest hour (sim/plan/fleet/plan.py); what it
sustains is found by simulation, for the lengths of every hour. An hour needs as many groups as its rate asks for, and
`spare` more (N+1). A fixed fleet holds the busiest hour's all day; an autoscaled one follows the hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import Any

from moesim.hwmodels.interval import Sureness
from moesim.hwmodels.power_and_money import at_the_meter
from moesim.hwmodels.servers import ServerSpec
from moesim.sim.plan.fleet.facts import FleetFacts
from moesim.sim.plan.serve.plan import ServePlan
from moesim.sim.question.scenario import ScenarioError
from moesim.traces.day import Day

_DAYS, _HOURS = 365.0, 8760.0
CHOICES = ("rent, fixed", "rent, autoscaled", "own, fixed", "own the base, rent the peak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What is replicated, and the rate that it sustains in every hour."""

    deployment: str
    gpus: int
    sustained_per_s: tuple[float, ...]  # requests per second within the limits, by hour
    busy_w: float  # of one GPU
    idle_w: float
    usd_per_gpu_hour: float | None
    server: ServerSpec
    sureness: Sureness | None = None  # of what it sustains; None: not known, and nothing has an interval

    def quantiles(self) -> dict[str, Group]:
        """Itself, and as it is where it sustains more (p10 of what a fleet takes) and less (p90) than predicted."""
        if self.sureness is None:
            return {}
        off = self.sureness.p10_to_p90(1.0)
        return {name: self.faster(off[other]) for name, other in (("p10", "p90"), ("p50", "p50"), ("p90", "p10"))}

    def faster(self, factor: float) -> Group:
        """The same, sustaining `factor` times as many requests."""
        return replace(self, sustained_per_s=tuple(rate * factor for rate in self.sustained_per_s))

    def usd_own_a_year(self, servers: float, power_w: float, facts: FleetFacts) -> float | None:
        """Dollars a year of owning `servers` servers, their energy not counted; None where no price is known."""
        price = facts.server_usd or self.server.usd
        if price is None:
            return None
        capital = servers * price * (1.0 + facts.network_share)
        return (
            capital / facts.years
            + servers * price * facts.staff_share
            + power_w / 1e3 * _HOURS * facts.housing_usd_per_kwh
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetYear:
    """One year of a growing fleet. Money is None where no price is known."""

    year: int  # from 0
    peak_per_s: float  # requests per second of the busiest hour
    replicas: tuple[int, ...]  # needed in every hour, spares included
    gpus: int  # of the fixed fleet
    servers: int
    racks: int
    power_w: float  # largest draw with cooling
    energy_mwh: float  # of the fixed fleet's GPUs alone
    facility_energy_mwh: float  # with their hosts and the building's cooling: what is paid for
    autoscaled_gpu_hours: float
    owned_base: int  # replicas that are cheaper owned than rented
    usd: dict[str, float | None]  # by CHOICES
    # p10, p50 and p90 of replicas and GPUs of the fixed fleet, GPU-hours of the autoscaled one, and dollars by CHOICES;
    # from how sure what one replica sustains is
    intervals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def fixed(self) -> int:
        """Replicas of the fixed fleet."""
        return max(self.replicas)

    @property
    def cheapest(self) -> str | None:
        """The cheapest choice that has a price."""
        known = {k: v for k, v in self.usd.items() if v is not None}
        return min(known, key=lambda k: (known[k], k)) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            **asdict(self),
            "replicas": list(self.replicas),
            "fixed_replicas": self.fixed,
            "cheapest": self.cheapest,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A serving fleet for a day of traffic that grows: what is replicated, every year, what it rests on."""

    group: Group  # the deployment that is replicated, its GPUs, and the requests per second it sustains by hour
    day: Day  # 24 hours: mean requests per second, and tokens where the table says them
    growth: float  # of the traffic a year: 0.2 is 20 %
    spare: int  # replicas on top of those needed
    years: tuple[FleetYear, ...]  # from year 0; replicas by hour, GPUs, servers, racks, watts, MWh and US dollars
    usd: dict[str, float | None]  # US dollars of all years by CHOICES; None where no price is known
    sources: dict[str, str]  # where prices, servers and facts come from
    plan: ServePlan  # the search that chose the deployment
    usd_intervals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # p10 to p90 of `usd`

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "deployment": self.group.deployment,
            "gpus_per_replica": self.group.gpus,
            "usd_per_gpu_hour": self.group.usd_per_gpu_hour,
            "sustained_per_s": list(self.group.sustained_per_s),
            "requests_per_s": [h.requests_per_s for h in self.day],
            "server": asdict(self.group.server),
            "growth": self.growth,
            "spare": self.spare,
            "years": [y.to_dict() for y in self.years],
            "usd": self.usd,
            "usd_intervals": {name: dict(each) for name, each in self.usd_intervals.items()},
            "sureness": None if self.group.sureness is None else self.group.sureness.to_dict(),
            "sources": self.sources,
            "slo": self.plan.to_dict()["slo"],
        }


def groups_needed(rate_per_s: float, sustained_per_s: float, spare: int, utilisation: float = 1.0) -> int:
    """Replicas that carry a rate, and the spares on top; at least one works."""
    return max(1, ceil(rate_per_s / (sustained_per_s * utilisation) - 1e-9)) + spare


def fleet_year(group: Group, day: Day, year: int, grown: Grown, facts: FleetFacts) -> FleetYear:
    """Size and price one year, and at the quantiles of what a replica sustains."""
    ends = {name: _year(other, day, year, grown, facts) for name, other in group.quantiles().items()}
    return replace(_year(group, day, year, grown, facts), intervals=_intervals(ends))


def _intervals(ends: Mapping[str, FleetYear]) -> dict[str, dict[str, float]]:
    """Of sizes and dollars, by quantile; what has no price is left out."""
    sizes = {"replicas": "fixed", "gpus": "gpus", "autoscaled_gpu_hours": "autoscaled_gpu_hours"}
    found = {title: {name: getattr(year, key) for name, year in ends.items()} for title, key in sizes.items()}
    for choice in CHOICES:
        each = {name: usd for name, year in ends.items() if (usd := year.usd[choice]) is not None}
        if len(each) == len(ends):
            found[choice] = each
    return found if ends else {}


def _year(group: Group, day: Day, year: int, grown: Grown, facts: FleetFacts) -> FleetYear:
    rates = [h.requests_per_s * (1.0 + grown.growth) ** year for h in day]
    pairs = list(zip(rates, group.sustained_per_s, strict=True))
    replicas = tuple(groups_needed(rate, own, grown.spare, facts.used_share) for rate, own in pairs)
    fixed = max(replicas)
    gpus = fixed * group.gpus
    servers = ceil(gpus / group.server.gpus)
    power_w = servers * group.server.power_w * facts.pue
    busy = [min(1.0, rate / (n * own)) for (rate, own), n in zip(pairs, replicas, strict=True)]
    hours = scaled_hours(replicas, facts.start_s)
    energy_kwh = sum(_kwh(group, fixed, rate / (fixed * own)) for rate, own in pairs) * _DAYS
    metered_kwh = at_the_meter(energy_kwh, facts.host_power_share, facts.pue)
    rent = group.usd_per_gpu_hour
    power = facts.power_usd_per_kwh
    own_usd = group.usd_own_a_year(servers, power_w, facts)
    base, mixed = _base(group, replicas, busy, facts)
    return FleetYear(
        year=year,
        peak_per_s=max(rates),
        replicas=replicas,
        gpus=gpus,
        servers=servers,
        racks=ceil(servers / group.server.per_rack(facts.rack_w)),
        power_w=power_w,
        energy_mwh=energy_kwh / 1e3,
        facility_energy_mwh=metered_kwh / 1e3,
        autoscaled_gpu_hours=hours * group.gpus * _DAYS,
        owned_base=base,
        usd={
            CHOICES[0]: None if rent is None else gpus * _HOURS * rent,
            CHOICES[1]: None if rent is None else hours * group.gpus * _DAYS * rent,
            CHOICES[2]: None if own_usd is None else own_usd + metered_kwh * power,
            CHOICES[3]: mixed,
        },
    )


def scaled_hours(replicas: Sequence[int], start_s: float) -> float:
    """Replica-hours of a day that follows its hours; a replica that is added is paid while it starts."""
    added = sum(max(0, now - before) for before, now in zip((replicas[-1], *replicas[:-1]), replicas, strict=True))
    return sum(replicas) + added * start_s / 3600.0


def _kwh(group: Group, replicas: int, busy: float) -> float:
    """Energy of the GPUs in one hour of `replicas` replicas that are busy for a share `busy` of the time."""
    watts = group.idle_w + (group.busy_w - group.idle_w) * min(1.0, busy)
    return replicas * group.gpus * watts / 1e3


def _base(group: Group, replicas: Sequence[int], busy: Sequence[float], facts: FleetFacts) -> tuple[int, float | None]:
    """How many replicas are cheaper owned, and dollars a year when the others are rented by the hour."""
    servers = group.gpus / group.server.gpus
    own = group.usd_own_a_year(servers, servers * group.server.power_w * facts.pue, facts)
    if own is None or group.usd_per_gpu_hour is None:
        return 0, None
    hour = group.gpus * group.usd_per_gpu_hour
    mean = sum(busy) / len(busy)
    metered_kwh = at_the_meter(_kwh(group, 1, mean) * _HOURS, facts.host_power_share, facts.pue)
    energy = metered_kwh * facts.power_usd_per_kwh
    total, base = 0.0, 0
    for number in range(1, max(replicas) + 1):
        used = scaled_hours([1 if n >= number else 0 for n in replicas], facts.start_s) * _DAYS
        rented = used * hour
        base += own + energy < rented
        total += min(rented, own + energy)
    return base, total


@dataclass(frozen=True, slots=True)
class Grown:
    """Growth of the traffic a year, and replicas on top of those needed."""

    growth: float
    spare: int


def check_growth(growth: float, spare: int) -> None:
    """ScenarioError for growth or spares that make no sense."""
    if not -0.9 <= growth <= 10.0:
        raise ScenarioError(f"growth={growth:g} must be between -0.9 and 10, for example 0.2 for 20 % a year")
    if not 0 <= spare <= 1000:
        raise ScenarioError(f"spare={spare} must be between 0 and 1000, for example 1 for N+1")


def sized(plan: ServePlan, group: Group, day: Day, grown: Grown, facts: FleetFacts, sources: dict[str, str]) -> Fleet:
    """All years of a fleet."""
    years = tuple(fleet_year(group, day, y, grown, facts) for y in range(max(1, ceil(facts.years))))
    usd: dict[str, float | None] = {}
    for choice in CHOICES:
        each = [v for y in years if (v := y.usd[choice]) is not None]
        usd[choice] = sum(each) if len(each) == len(years) else None
    sure = {
        choice: {name: sum(y.intervals[choice][name] for y in years) for name in group.quantiles()}
        for choice in CHOICES
        if all(choice in y.intervals for y in years)
    }
    return Fleet(
        group=group,
        day=day,
        growth=grown.growth,
        spare=grown.spare,
        years=years,
        usd=usd,
        sources=sources,
        plan=plan,
        usd_intervals=sure,
    )
