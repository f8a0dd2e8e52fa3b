"""Servers: facts where there are some, sizes by rule where there are none, and how many a rack takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hwmodels.facts import catalogue
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.hardware import SHIPPED
from moesim.hwmodels.servers import load_server

WITHOUT = next(name for name in SHIPPED.names("nodes") if name not in SHIPPED.names("servers"))


@pytest.mark.parametrize(("gpus", "units"), [(8, 8.0), (4, 4.0), (1, 1.0), (72, 72.0)])
def test_a_node_without_a_record_is_sized_by_its_gpus(gpus: int, units: float) -> None:
    gpu = load_gpu("h100-sxm")
    found = load_server(WITHOUT, gpus, gpu)
    assert found.power_w == pytest.approx(1.8 * 700.0 * gpus) and found.rack_units == units
    assert found.gpus == gpus and found.usd is None and found.usd_note == "no price is known"


def test_a_record_is_taken_as_it_is() -> None:
    record = catalogue("servers")["dgx-h100"]
    found = load_server("dgx-h100", 8, load_gpu("h100-sxm"))
    assert found.power_w == 1000.0 * record["kw"] and found.rack_units == record["rack_units"]
    assert found.usd == (record["usd"]["low"] + record["usd"]["high"]) / 2.0
    assert load_server("aws-p5", 8, load_gpu("h100-sxm")).gpus == 8


@pytest.mark.parametrize(
    ("power_w", "units", "rack_w", "count"),
    [
        (10e3, 8.0, 40e3, 4),  # power for four, room for five
        (10e3, 8.0, 100e3, 5),  # room for five of 8 in 42
        (10e3, 8.0, 39.9e3, 3),
        (120e3, 42.0, 40e3, 1),  # a rack of its own
        (1e3, 21.0, 40e3, 2),
    ],
)
def test_servers_in_a_rack(power_w: float, units: float, rack_w: float, count: int) -> None:
    server = replace(load_server("dgx-h100", 8, load_gpu("h100-sxm")), power_w=power_w, rack_units=units)
    assert server.per_rack(rack_w) == count
