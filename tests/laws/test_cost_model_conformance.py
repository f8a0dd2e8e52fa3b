"""Every shipped profile, on its own GPU and as lent to others, makes a cost model that passes the conformance check."""

from __future__ import annotations

import pytest
from conformance import check_cost_model, without_surfaces

from moesim.hwmodels.cluster import build_cluster, node_names
from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.profile import NoFit, load_profile
from moesim.hwmodels.work import Gemm

_SPANS_HOSTS = [name for name in node_names() if build_cluster(name, 64).nic_bytes_per_s > 0.0]


# how much faster a measured kernel gets with more rows where they fill its tiles better; seen: 31 % (fp8, H100)
_DIP = 0.3


def _model(node: str, surfaces: bool = True) -> KernelCostModel:
    cluster = build_cluster(node, 256)
    profile = load_profile(cluster.gpu.name)
    return KernelCostModel(cluster, profile if surfaces else without_surfaces(profile), Sustained())


def _check(node: str, dtype: str) -> None:
    """With the measured surfaces, and the formulas alone, which never dip."""
    gpu = build_cluster(node, 256).gpu
    check_cost_model(_model(node), _model(node), gpu, dtype, dip=_DIP)
    check_cost_model(_model(node, surfaces=False), _model(node, surfaces=False), gpu, dtype)


@pytest.mark.parametrize("node", _SPANS_HOSTS)
def test_sixteen_bit(node: str) -> None:
    gpu = build_cluster(node, 256).gpu
    dtype = "bf16" if gpu.supports("bf16") else "fp16"
    _check(node, dtype)


@pytest.mark.parametrize("node", _SPANS_HOSTS)
@pytest.mark.parametrize("dtype", ["fp8", "fp8_block", "mxfp8", "nvfp4"])
def test_low_precision(node: str, dtype: str) -> None:
    gpu = build_cluster(node, 256).gpu
    if not gpu.supports(dtype):
        pytest.skip(f"{gpu.name} has no {dtype} tensor path")
    try:
        _model(node).cost(Gemm(128, 128, 128, dtype))
    except NoFit as refusal:  # an honest answer: nothing was measured, and the message says what was
        assert "fitted: " in str(refusal)
        pytest.skip(str(refusal))  # says which tensor path the GPU lacks
    _check(node, dtype)
