"""Power and money of machines: every share has a source, prices are chosen once, definitions scale as they must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.power_and_money import (
    Price,
    at_the_meter,
    busy_w,
    energy_note,
    gpu_hours,
    idle_w,
    power_records,
    power_share,
    price_of,
    usd_per_gpu_hour,
    usd_per_million,
    usd_per_million_output_tokens,
)

H100 = load_gpu("h100-sxm")


def test_every_share_has_a_kind_and_a_source() -> None:
    for name, record in power_records().items():
        assert record["kind"] in ("fact", "assumed") and len(record["source"]) > 10, name
        assert 0.0 < power_share(name) < 2.0, name


def test_a_busy_gpu_draws_more_than_an_idle_one_and_no_more_than_it_may() -> None:
    assert idle_w(H100) < busy_w(H100, "serving") < busy_w(H100, "training") <= H100.tdp_w
    assert "85%" in energy_note(H100, "training") and "PUE 1.2" in energy_note(H100, "serving")


def test_the_meter_sees_hosts_and_cooling() -> None:
    assert at_the_meter(100.0) == pytest.approx(150.0)
    assert at_the_meter(100.0, 0.0, 1.0) == 100.0


def test_a_price_is_given_or_the_middle_of_the_catalogues_range() -> None:
    assert price_of(H100, 3.0) == Price(3.0, "given in the scenario")
    known = price_of(H100)
    assert known is not None and known.usd_per_gpu_hour == H100.price_usd_per_hour and "middle of" in known.text
    assert price_of(replace(H100, price_usd_per_hour=None)) is None
    assert usd_per_gpu_hour(None) is None and usd_per_million(None, 1.0, 1.0) is None


def test_dollars_per_million_tokens() -> None:
    hours = gpu_hours(8, 1800.0)
    assert hours == 4.0
    assert usd_per_million(Price(2.0, ""), hours, 4e6) == pytest.approx(2.0)
    assert usd_per_million_output_tokens(Price(2.0, ""), hours, 1e6) == pytest.approx(8.0)
