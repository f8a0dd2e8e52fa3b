"""Power and money of machines: watts of GPUs that train, serve or idle, dollars of GPU-hours and per million tokens.

`energy` is always that of the GPUs alone; `facility energy` has their hosts and the cooling of both on top. Shares,
with their sources, stand side by side in specs/power.yaml; each definition is written once, for all verbs.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per GPU-hour, and who says so."""

    usd_per_gpu_hour: float
    source: str

    @property
    def text(self) -> str:
        """'2.25, middle of 2026-05 ...'."""
        return f"{self.usd_per_gpu_hour:g}, {self.source}"


def price_of(gpu: GpuSpec, given: float | None = None) -> Price | None:
    """The price that was given, else the middle of the catalogue's range; None where neither is known."""
    if given is not None:
        return Price(given, "given in the scenario")
    if gpu.price_usd_per_hour is None:
        return None
    return Price(gpu.price_usd_per_hour, f"middle of {gpu.price_note}")


def usd_per_gpu_hour(price: Price | None) -> float | None:
    """The price as a number; None where it is not known."""
    return None if price is None else price.usd_per_gpu_hour


def gpu_hours(gpus: float, seconds: float) -> float:
    """GPUs that are paid for, whether they work or wait, times hours."""
    return gpus * seconds / 3600.0


def usd(price: Price | None, hours: float) -> float | None:
    """Dollars of a number of GPU-hours."""
    return None if price is None else hours * price.usd_per_gpu_hour


def usd_per_million(price: Price | None, hours: float, tokens: float) -> float | None:
    """Dollars per million tokens: all that the GPUs cost over all tokens, be they trained on or read and written."""
    dollars = usd(price, hours)
    return None if dollars is None else dollars / tokens * 1e6


def usd_per_million_output_tokens(price: Price | None, hours: float, output_tokens: float) -> float | None:
    """Dollars per million output tokens: all that the GPUs cost over the tokens that were written.

    Prompts, idle time and GPUs beside the pools are in it: what a deployment costs does not depend on whose part of a
    step is whose.
    """
    return usd_per_million(price, hours, output_tokens)
