"""Memory as drivers report it: vendors print GB and count about in GiB, so that no part has less than its number."""

from __future__ import annotations

import pytest

from moesim.hwmodels.gpu import gpu_names, load_gpu

MIB = 2**20


@pytest.mark.parametrize("name", gpu_names())
def test_every_part_says_what_its_driver_reports(name: str) -> None:
    gpu = load_gpu(name)
    assert 1.0 < gpu.usable_bytes / gpu.hbm_bytes < 2**30 / 1e9 * 1.003


@pytest.mark.parametrize(
    ("name", "mib"),
    [("h20-96gb", 97871), ("mi300x", 196592), ("mi355x", 294896), ("gb200", 189471), ("gh200-96gb", 97871)],
)
def test_reported_totals(name: str, mib: int) -> None:
    assert load_gpu(name).usable_bytes == mib * MIB
