"""Fits that a GPU borrows from another: how much slower by watts, what that changes, which formats and kernels come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hwmodels.facts import catalogue
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.hardware import hardware_of
from moesim.hwmodels.profile import _slower, _sustained_share, load_profile


def test_a_part_with_half_the_watts_per_peak_sustains_half_to_the_power() -> None:
    h100 = load_gpu("h100-sxm")
    exponent = float(catalogue("power")["clock_per_watt_exponent"]["value"])
    assert 0.0 < exponent < 1.0
    half = replace(h100, tdp_w=h100.tdp_w / 2.0)
    assert _sustained_share(half, h100) == pytest.approx(0.5**exponent)
    fewer = replace(half, peak_flops_per_s={**h100.peak_flops_per_s, "bf16": h100.peak_flops_per_s["bf16"] / 2.0})
    assert _sustained_share(fewer, h100) == pytest.approx(1.0)
    assert _sustained_share(replace(h100, tdp_w=2.0 * h100.tdp_w), h100) == 1.0  # more power makes nothing faster


def test_a_slower_clock_slows_arithmetic_and_nothing_else() -> None:
    fits = load_profile("h100-sxm")
    gemm = fits.gemms["bf16"]
    assert _slower(gemm, 0.5) == replace(gemm, flops_efficiency=gemm.flops_efficiency * 0.5)
    assert _slower(gemm, 1.0) is gemm
    latent = replace(fits.attentions["bf16"], decode_latent_flops_efficiency=0.8)
    assert _slower(latent, 0.5) == replace(
        latent, flops_efficiency=latent.flops_efficiency * 0.5, decode_latent_flops_efficiency=0.4,
        decode_flops_efficiency=latent.decode_flops_efficiency * 0.5,
    )  # fmt: skip
    without = replace(latent, decode_latent_flops_efficiency=None)
    assert _slower(without, 0.5).decode_latent_flops_efficiency is None


def test_a_gpu_whose_multiprocessors_are_not_known_has_none() -> None:
    """Then no kernel is priced by waves of them."""
    record = {
        key: value for key, value in catalogue("gpus")["h100-sxm"].items() if key not in ("aliases", "alias_notes")
    }
    own = hardware_of({"gpus": {"unknown-1": {**record, "sm_count": None}}})
    assert load_gpu("unknown-1", own).sm_count == 0 and load_gpu("h100-sxm").sm_count == 132
