"""Numbers of a profile are believed only when they can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from importlib.resources import files
from typing import Any

import pytest

from moesim.hwmodels.checked_fit import BadNumber, number, whole
from moesim.hwmodels.profile import measured_gpus, profile_from_dict

RAW: dict[str, Any] = json.loads(
    files("moesim.hwmodels").joinpath("profiles", "h100-sxm.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("gpu", measured_gpus())
def test_every_profile_that_ships_passes(gpu: str) -> None:
    text = files("moesim.hwmodels").joinpath("profiles", f"{gpu}.json").read_text(encoding="utf-8")
    assert profile_from_dict(json.loads(text)).gpu == gpu


def _set(*keys: str) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def value_of(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(raw: dict[str, Any]) -> None:
            here = raw
            for key in keys[:-1]:
                here = here[key]
            here[keys[-1]] = value

        return change

    return value_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("gemm", "bf16", "launch_s")(-1.0), r"gemm\.bf16\.launch_s is -1; it must be a number from 0 to 100"),
        (_set("gemm", "bf16", "flops_efficiency")(0.0), "flops_efficiency is 0"),
        (_set("gemm", "bf16", "flops_efficiency")(float("nan")), "flops_efficiency is nan"),
        (_set("gemm", "bf16", "flops_efficiency")("0.5"), "flops_efficiency is text"),
        (_set("gemm", "bf16", "flops_efficiency")(True), "true or false"),
        (_set("gemm", "bf16", "tile_m")(64.5), "tile_m is float; it must be a whole number"),
        (_set("gemm", "bf16", "tile_m")(0), "tile_m is out of range"),
        (_set("gemm", "bf16", "overlap_power")(0.5), "overlap_power is 0.5"),
        (_set("gemm", "bf16", "decline")(1.5), "decline is 1.5"),
        (_set("gemm", "bf16", "tile")(1), r"gemm\.bf16\.tile is not known"),
        (_set("gemm", "bf16")([1]), "gemm.bf16 is a list"),
        (_set("gemm", "bf16", "surface")({"axes": ["x"], "nodes": [[1]], "per_mille": [1]}), "axes are none"),
        (_set("gemm", "bf16", "surface", "per_mille")([1]), "does not fit"),
        (_set("gemm", "bf16", "surface", "nodes")([[1, 1], [1], [1], [1]]), "do not ascend"),
        (_set("gemm", "bf16", "surface", "per_mille")([99999]), "per_mille is out of range"),
        (_set("collectives", "hop_s")(1e9), "hop_s"),
        (_set("constants")({"clock_factor[x]": float("inf")}), r"constants\.clock_factor\[x\] is inf"),
        (_set("constants")({"clock_factor[x]": -5}), r"constants\.clock_factor\[x\] is out of range"),
        (_set("transfers")({"all_reduce inside": {"floor_factor": -5.0}}), "is missing"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_place(change: Callable[[dict[str, Any]], None], message: str) -> None:
    raw = deepcopy(RAW)
    change(raw)
    with pytest.raises(BadNumber, match=message):
        profile_from_dict(raw)


def test_bounds_belong_to_what_can_be() -> None:
    assert number(1, "x", 1.0, 2.0) == 1.0 and number(2, "x", 1.0, 2.0) == 2.0
    assert whole(1, "x", 1, 2) == 1 and whole(2, "x", 1, 2) == 2
    for value in (0.999, 2.001, float("inf")):
        with pytest.raises(BadNumber):
            number(value, "x", 1.0, 2.0)
    with pytest.raises(BadNumber):
        whole(3, "x", 1, 2)
