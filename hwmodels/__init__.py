"""What the hardware is, and how long one piece of work or one transfer takes on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwmodels.cluster import Cluster, build_cluster, fabric_names, node_names
    from hwmodels.cost import Cost, CostModel, KernelCostModel, Sustained
    from hwmodels.facts import FactError
    from hwmodels.gpu import GpuSpec, gpu_names, load_gpu
    from hwmodels.profile import NoFit, Profile, load_profile, measured_gpus
    from hwmodels.units import UnitError, parse_quantity
    from hwmodels.work import Attention, Comm, ExpertExchange, Gemm, Group, GroupedGemm, Stream, Work

# where each public name lives; loaded when first asked for, so that importing the room stays cheap
_HOME = {
    "Cluster": "hwmodels.cluster",
    "build_cluster": "hwmodels.cluster",
    "fabric_names": "hwmodels.cluster",
    "node_names": "hwmodels.cluster",
    "Cost": "hwmodels.cost",
    "CostModel": "hwmodels.cost",
    "KernelCostModel": "hwmodels.cost",
    "Sustained": "hwmodels.cost",
    "FactError": "hwmodels.facts",
    "GpuSpec": "hwmodels.gpu",
    "gpu_names": "hwmodels.gpu",
    "load_gpu": "hwmodels.gpu",
    "NoFit": "hwmodels.profile",
    "Profile": "hwmodels.profile",
    "load_profile": "hwmodels.profile",
    "measured_gpus": "hwmodels.profile",
    "UnitError": "hwmodels.units",
    "parse_quantity": "hwmodels.units",
    "Attention": "hwmodels.work",
    "Comm": "hwmodels.work",
    "ExpertExchange": "hwmodels.work",
    "Gemm": "hwmodels.work",
    "Group": "hwmodels.work",
    "GroupedGemm": "hwmodels.work",
    "Stream": "hwmodels.work",
    "Work": "hwmodels.work",
}

__all__ = [
    "Attention",
    "Cluster",
    "Comm",
    "Cost",
    "CostModel",
    "ExpertExchange",
    "FactError",
    "Gemm",
    "GpuSpec",
    "Group",
    "GroupedGemm",
    "KernelCostModel",
    "NoFit",
    "Profile",
    "Stream",
    "Sustained",
    "UnitError",
    "Work",
    "build_cluster",
    "fabric_names",
    "gpu_names",
    "load_gpu",
    "load_profile",
    "measured_gpus",
    "node_names",
    "parse_quantity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
