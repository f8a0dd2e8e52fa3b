"""Fleets: replicas by the hour, money that adds up, the base that is worth owning, tables that are broken."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.interval import Sureness, Width
from moesim.hwmodels.servers import ServerSpec, load_server
from moesim.reports.cli.app import run
from moesim.reports.tables.fleet import fleet_report, money
from moesim.sim.plan.fleet import plan as fleet_plan
from moesim.sim.plan.fleet.facts import fleet_facts, read_facts
from moesim.sim.plan.fleet.fleet import CHOICES, Fleet, Group, Grown, fleet_year, groups_needed, scaled_hours
from moesim.sim.plan.fleet.plan import FleetAsk, halves, plan_fleet
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.traces.day import Hour, load_day
from moesim.traces.routing import BadTrace

REQUESTS = {"kind": "poisson", "rate_per_s": 10, "count": 200, "input_tokens": 1000, "output_tokens": 150}
JOB: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "serve": {"engine": "vllm", "requests": REQUESTS},
}
SERVER = ServerSpec(name="s", gpus=8, power_w=10e3, rack_units=8, usd=2e5, usd_note="", source="")
GROUP = Group(
    deployment="1 x (tp4)",
    gpus=4,
    sustained_per_s=(10.0,) * 24,
    busy_w=490.0,
    idle_w=105.0,
    usd_per_gpu_hour=3.0,
    server=SERVER,
)
DAY = tuple(Hour(5.0 if h < 12 else 45.0) for h in range(24))
FACTS = fleet_facts({"start_s": 0.0})


def test_replicas_follow_the_rate_and_spares_come_on_top() -> None:
    assert [groups_needed(r, 10.0, 1) for r in (0.0, 10.0, 10.1, 45.0)] == [2, 2, 3, 6]
    assert groups_needed(45.0, 10.0, 0, utilisation=0.5) == 9
    year = fleet_year(GROUP, DAY, 2, Grown(0.5, 1), FACTS)
    assert year.peak_per_s == pytest.approx(45.0 * 1.5**2)
    assert set(year.replicas) == {groups_needed(5.0 * 2.25, 10.0, 1), groups_needed(45.0 * 2.25, 10.0, 1)}


def test_an_autoscaled_day_counts_its_hours_and_its_starts() -> None:
    assert scaled_hours([2] * 12 + [6] * 12, 0.0) == 96
    assert scaled_hours([2] * 12 + [6] * 12, 900.0) == 96 + 4 * 0.25
    assert scaled_hours([3] * 24, 900.0) == 72


def test_money_adds_up_and_every_choice_is_as_good_as_what_it_contains() -> None:
    year = fleet_year(GROUP, DAY, 0, Grown(0.0, 1), FACTS)
    assert year.fixed == 6 and year.gpus == 24 and year.servers == 3 and year.racks == 1
    assert year.power_w == pytest.approx(3 * 10e3 * 1.2)
    usd = {k: v or 0.0 for k, v in year.usd.items()}
    assert usd["rent, fixed"] == pytest.approx(24 * 8760 * 3.0)
    assert usd["rent, autoscaled"] == pytest.approx(96 * 4 * 365 * 3.0)
    capital = 3 * 2e5 * (1 + FACTS.network_share) / FACTS.years
    housing = year.power_w / 1e3 * 8760 * FACTS.housing_usd_per_kwh
    energy = year.facility_energy_mwh * 1e3 * FACTS.power_usd_per_kwh
    assert year.facility_energy_mwh == pytest.approx(year.energy_mwh * (1 + FACTS.host_power_share) * FACTS.pue)
    assert usd["own, fixed"] == pytest.approx(capital + 3 * 2e5 * FACTS.staff_share + housing + energy)
    mixed = usd["own the base, rent the peak"]
    assert mixed <= usd["rent, autoscaled"] * (1 + 1e-9) and mixed <= usd["own, fixed"] * 1.01
    peaky = tuple(Hour(45.0 if h in (10, 11) else 5.0) for h in range(24))  # four of six replicas work two hours a day
    year = fleet_year(GROUP, peaky, 0, Grown(0.0, 1), FACTS)
    assert year.owned_base == 2 and year.cheapest == "own the base, rent the peak"


def test_dear_servers_are_rented() -> None:
    dear = replace(GROUP, server=replace(SERVER, usd=5e6))
    year = fleet_year(dear, DAY, 0, Grown(0.0, 0), FACTS)
    assert year.owned_base == 0 and year.usd["own the base, rent the peak"] == year.usd["rent, autoscaled"]
    unknown = replace(GROUP, server=replace(SERVER, usd=None))
    assert fleet_year(unknown, DAY, 0, Grown(0.0, 0), FACTS).usd["own, fixed"] is None
    assert fleet_year(unknown, DAY, 0, Grown(0.0, 0), fleet_facts({"server_usd": 1e5})).usd["own, fixed"] is not None


def test_servers_fill_racks_by_power_and_by_height() -> None:
    h100 = load_server("dgx-h100", 8, load_gpu("h100-sxm"))
    assert h100.per_rack(45e3) == 4 and h100.per_rack(1e6) == 5 and h100.per_rack(1e3) == 1
    other = load_server("pcie-8x-l40s", 8, load_gpu("l40s"))
    assert other.usd is None and other.power_w == pytest.approx(8 * 350 * 1.8) and other.source.startswith("assumed")


def test_sizes_and_dollars_at_what_a_replica_may_sustain() -> None:
    """Twice as much at p90, half as much at p10: by hand, 45 requests/s of 10 sustained take 5, 3 and 9 replicas."""
    side = log(2.0) * 1.645 / 1.2816  # of a 90 % interval whose p10 and p90 are a factor of two off
    sure = Sureness("a class", Width(side, side), "", {"a class": 1.0}, "")
    own = replace(GROUP, sureness=sure)
    year = fleet_year(own, DAY, 0, Grown(0.0, 1), FACTS)
    assert year.intervals["replicas"] == {"p10": 4, "p50": 6, "p90": 10}
    assert year.intervals["gpus"] == {"p10": 16, "p50": year.gpus, "p90": 40}
    assert year.intervals["rent, fixed"]["p90"] == pytest.approx(40 * 8760 * 3.0)
    assert year.intervals["autoscaled_gpu_hours"]["p50"] == year.autoscaled_gpu_hours
    for choice in CHOICES:  # as predicted in the middle, and in order
        each = year.intervals[choice]
        assert each["p10"] <= each["p50"] == year.usd[choice] <= each["p90"]
    assert replace(year, intervals={}) == fleet_year(GROUP, DAY, 0, Grown(0.0, 1), FACTS)
    unpriced = fleet_year(replace(own, usd_per_gpu_hour=None), DAY, 0, Grown(0.0, 1), FACTS)
    assert "rent, fixed" not in unpriced.intervals and "replicas" in unpriced.intervals


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    day = tuple(Hour(30.0 + h, 1000 if h < 12 else 2000, 150) for h in range(24))
    ask = FleetAsk(growth=0.3, given={"pools": ("no",), "pp": (1,)}, facts={"years": 2})
    return plan_fleet(JOB, day, ask)


def test_longer_requests_need_more_replicas(fleet: Fleet) -> None:
    rates = fleet.group.sustained_per_s
    assert len(set(rates)) == 2 and rates[0] > 1.3 * rates[23]
    assert len(fleet.years) == 2 and fleet.years[1].gpus > fleet.years[0].gpus
    assert all(fleet.usd[c] == pytest.approx(sum(y.usd[c] or 0.0 for y in fleet.years)) for c in CHOICES)
    for choice, each in fleet.usd_intervals.items():
        assert each["p10"] <= each["p50"] == pytest.approx(fleet.usd[choice] or 0.0) and each["p50"] <= each["p90"]
    assert set(fleet.usd_intervals) == set(CHOICES) and "class moe,open,vllm" in fleet.sources["p10 to p90"]
    assert f"p10 {money(fleet.usd_intervals['rent, autoscaled']['p10'])}"[4:] in said(fleet)
    assert fleet.sources["years"] == "2, given" and "assumed" in fleet.sources["staff_share"]


def said(fleet: Fleet) -> str:
    """The tables as text."""
    console = Console(file=StringIO(), width=110)
    console.print(fleet_report(fleet, "a fleet"))
    return console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO, see above


HEAD = "hour,requests_per_s\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hour,rate\n0,1\n", "lacks column requests_per_s"),
        (HEAD + "0,1\n", "lacks hour 1, 2, 3, 4, 5, ..."),
        (HEAD + "".join(f"{h},0\n" for h in range(24)), "asks for nothing"),
        (HEAD + "0,1\n0,2\n", "line 3: hour 0 is not whole, or comes twice"),
        (HEAD + "24,1\n", "hour is 24; it must be a number from 0 to 23"),
        (HEAD + "0,many\n", "requests_per_s is no number"),
        (HEAD + "0,1,2\n", "3 cells under 2 columns"),
        ("hour,requests_per_s,input_tokens\n0,1,1\n", "give both of"),
        ("", "lacks column"),
    ],
)
def test_broken_tables_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadTrace) as refused:
        load_day(path)
    assert message in str(refused.value) and "day.csv" in str(refused.value)


def test_bad_questions_are_refused(tmp_path: Path) -> None:
    for ask, message in (
        (FleetAsk(growth=20.0), "growth=20 must be between"),
        (FleetAsk(spare=-1), "spare=-1 must be"),
        (FleetAsk(facts={"powr_usd_per_kwh": 0.1}), "did you mean 'power_usd_per_kwh'"),
        (FleetAsk(facts={"pue": 0.0}), "pue=0 must be a number"),
        (FleetAsk(slo="tpot=1ms"), "nothing on up to 2 GPUs meets"),
    ):
        with pytest.raises(ScenarioError, match=message):
            plan_fleet(JOB, DAY, ask)
    drawn = {**JOB, "serve": {"engine": "vllm", "requests": {"kind": "azure-code", "count": 50}}}
    with pytest.raises(ScenarioError, match="brings its own lengths"):
        plan_fleet(drawn, (Hour(1.0, 10, 10),) * 24)
    with pytest.raises(ScenarioError, match="is no fact"):
        read_facts(["pue"])
    with pytest.raises(BadTrace, match="cannot read traffic"):
        load_day(tmp_path / "missing.csv")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario, day = tmp_path / "job.yaml", tmp_path / "day.csv"
    scenario.write_text(json.dumps(JOB), encoding="utf-8")
    day.write_text(HEAD + "".join(f"{h},{20 + h}\n" for h in range(24)), encoding="utf-8")
    words = ["plan", str(scenario), "--traffic", str(day), "--growth", "0.2", "--set", "tp=2", "--set", "pools=no"]
    assert run(words) == 0
    said = capsys.readouterr().out
    assert "own the base" in said and "racks" in said and "power_usd_per_kwh" in said
    assert run([*words, "--json", "--fact", "pue=1.5"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sources"]["pue"] == "1.5, given" and len(answer["years"]) == 4


def test_a_group_is_as_small_as_it_may_be_however_large_the_cluster() -> None:
    """The whole cluster as one replica, and another of it to spare, would be four times what the traffic needs."""
    given, effort = {"pools": ("no",), "pp": (1,), "kv_dtype": ("asked",)}, ServeEffort(top=1, most=6)
    ask = FleetAsk(given=given, effort=effort, spare=1)
    quiet = (Hour(5.0),) * 24
    large = plan_fleet({**JOB, "cluster": {"node": "dgx-h100", "gpus": 32}}, quiet, ask)
    asked = plan_fleet(JOB, quiet, replace(ask, gpus=(2,)))
    assert large.group.gpus <= 4 and large.years[0].replicas[0] >= 2
    assert large.years[0].replicas[0] * large.group.gpus <= asked.years[0].replicas[0] * asked.group.gpus


def test_sizes_of_groups_are_the_cluster_and_its_halves() -> None:
    assert halves(64) == (64, 32, 16, 8, 4, 2, 1) and halves(12) == (12, 6, 3) and halves(1) == (1,)


@pytest.mark.parametrize(
    ("busiest_per_s", "spare", "gpus"),
    [
        (4.0, 1, 2),  # one of 2 and another to spare: 4 GPUs; of 4 at least 8
        (100.0, 1, 4),  # 21 of 2: 42 GPUs; 9 + 1 of 4: 40; of 8 at least 10 + 1: 88
        (100.0, 0, 4),  # 40, 36, 80
        (1000.0, 1, 4),  # 402, 340, 808
    ],
)
def test_of_all_sizes_the_one_of_which_fewest_gpus_carry_the_busiest_hour(
    busiest_per_s: float, spare: int, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups of 2, 4 and 8 GPUs that sustain 5, 12 and 10 requests/s; what cannot win is not planned."""
    rates, tried = {2: 5.0, 4: 12.0, 8: 10.0}, []

    def planned(scenario: Any, *, gpus: tuple[int, ...], **asked: Any) -> Any:
        tried.append(gpus[0])
        if gpus[0] not in rates:
            raise ScenarioError("does not fit")
        served = SimpleNamespace(candidate=SimpleNamespace(gpus=gpus[0]))
        return SimpleNamespace(options=[SimpleNamespace(sustained_per_s=rates[gpus[0]], served=served)])

    monkeypatch.setattr(fleet_plan, "plan_serve", planned)
    scenario = parse_scenario({**JOB, "cluster": {"node": "dgx-h100", "gpus": 8}})
    _, option = fleet_plan._best_group(scenario, FleetAsk(spare=spare), busiest_per_s, None)
    assert option.served.candidate.gpus == gpus
    assert tried == ([1, 2] if busiest_per_s == 4.0 else [1, 2, 4, 8])
