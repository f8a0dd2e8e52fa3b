"""Money: the price of a GPU-hour and dollars per million tokens, each with one definition for all verbs."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.gpu import GpuSpec


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
    """Dollars of so many GPU-hours."""
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
