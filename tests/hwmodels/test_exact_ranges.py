"""What numbers of a profile may be: the least and the most of every kind, and a little beyond either."""

from __future__ import annotations

import json
from copy import deepcopy
from importlib.resources import files
from typing import Any

import pytest

from moesim.hwmodels.checked_fit import BadNumber
from moesim.hwmodels.profile import profile_from_dict

RAW: dict[str, Any] = json.loads(
    files("moesim.hwmodels").joinpath("profiles", "h100-sxm.json").read_text(encoding="utf-8")
)
PLAIN = {**RAW["gemm"]["bf16"], "surface": None}


def read(part: str, name: str, value: float) -> None:
    raw = deepcopy(RAW)
    if part in ("gemm", "grouped_gemm", "attention"):
        raw[part]["bf16"][name] = value
    else:
        raw[part][name] = value
    profile_from_dict(raw)


@pytest.mark.parametrize(
    ("part", "name", "least", "most"),
    [
        ("gemm", "flops_efficiency", 1e-6, 1000.0),
        ("gemm", "bandwidth_efficiency", 1e-6, 1000.0),
        ("attention", "decode_bandwidth_efficiency", 1e-6, 1000.0),
        ("attention", "backward_efficiency_ratio", 1e-3, 10.0),
        ("gemm", "overlap_power", 1.0, 1000.0),
        ("gemm", "partial_wave_exponent", 0.0, 2.0),
        ("gemm", "decline", 0.0, 1.0),
        ("gemm", "decline_scale_s", 1e-12, 1e6),
        ("gemm", "launch_s", 0.0, 100.0),
        ("gemm", "serial_s_per_k", 0.0, 1.0),
        ("gemm", "tile_m", 1, 1_000_000),
        ("gemm", "tile_n", 1, 1_000_000),
        ("attention", "decode_group_rows", 1e-9, 1e9),
        ("collectives", "link_efficiency", 1e-6, 1000.0),
        ("collectives", "hop_s", 0.0, 100.0),
    ],
)
def test_bounds(part: str, name: str, least: float, most: float) -> None:
    for value in (least, most):
        read(part, name, value)
    step = 1 if isinstance(least, int) else 0.1
    for value in (least - step * max(1, abs(least) if least else 1), most + step * most):
        with pytest.raises(BadNumber, match=name):
            read(part, name, value)
    if isinstance(least, float) and least > 0.0:
        with pytest.raises(BadNumber, match=name):
            read(part, name, 0.9 * least)


@pytest.mark.parametrize(("node", "ok"), [(1e6, True), (1.1e6, False), (-1e6, True), (-1.1e6, False)])
def test_nodes_of_a_surface(node: float, ok: bool) -> None:
    raw = deepcopy(RAW)
    raw["gemm"]["bf16"]["surface"]["nodes"][0][-1 if node > 0.0 else 0] = node
    if ok:
        profile_from_dict(raw)
    else:
        with pytest.raises(BadNumber, match="nodes"):
            profile_from_dict(raw)
