"""Power of machines: watts of GPUs that train, serve or idle, and what the building's meter sees of them.

`energy` is always that of the GPUs alone; `facility energy` has their hosts and the cooling of both on top. Shares,
with their sources, stand side by side in specs/power.yaml.
"""

from __future__ import annotations

from typing import Any, Literal

from moesim.hwmodels.facts import catalogue
from moesim.hwmodels.gpu import GpuSpec

Work = Literal["training", "serving"]
JOULES_PER_KWH = 3.6e6


def power_records() -> dict[str, dict[str, Any]]:
    """Every share by name: value, kind and source."""
    return catalogue("power")


def power_share(name: str) -> float:
    """The value of one of them."""
    return float(power_records()[name]["value"])


def busy_w(gpu: GpuSpec, work: Work) -> float:
    """Watts of a GPU at this work, its host not counted."""
    return gpu.tdp_w * power_share(f"{work}_busy_share")


def idle_w(gpu: GpuSpec) -> float:
    """Watts of a GPU that waits."""
    return gpu.tdp_w * power_share("idle_share")


def at_the_meter(of_gpus: float, host_power_share: float | None = None, pue: float | None = None) -> float:
    """What the meter sees of watts or joules of GPUs: hosts beside them, then cooling and losses of the building."""
    hosts = power_share("host_power_share") if host_power_share is None else host_power_share
    return of_gpus * (1.0 + hosts) * (power_share("pue") if pue is None else pue)


def energy_note(gpu: GpuSpec, work: Work) -> str:
    """How the joules of an answer were counted."""
    idle = f", {power_share('idle_share'):.0%} idle" if work == "serving" else ""
    return (
        f"assumed: {power_share(f'{work}_busy_share'):.0%} of {gpu.tdp_w:g} W per GPU when busy{idle}; facility: "
        f"hosts {power_share('host_power_share'):.0%} on top, PUE {power_share('pue'):g}"
    )
