"""Profile: fitted coefficients of one GPU (or of the nearest one measured) and their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from math import log
from typing import Any, TypeVar

from moesim.hwmodels.checked_fit import checked_fit, mapping, number
from moesim.hwmodels.domain_collectives import CollectiveFit
from moesim.hwmodels.facts import GpuRecord, catalogue, checked
from moesim.hwmodels.gpu import PEAK_OF, GpuSpec, gpu_names, load_gpu, spec_from_record
from moesim.hwmodels.kernel_fits import AttentionFit, GemmFit, GroupedGemmFit, StreamFit
from moesim.hwmodels.measured_transfers import MeasuredTransfer
from moesim.refusal import Refusal

OWN_TRACE = "own trace"  # package of coefficients that a user's own traces moved
F = TypeVar("F")
M = TypeVar("M", GemmFit, GroupedGemmFit, AttentionFit)


class NoFit(Refusal):
    """Nothing was measured for this GPU, operation and dtype; the message says what was."""


def is_profile_file(name: str) -> bool:
    """True for the path of a profile file, false for the name of a shipped one."""
    return name.endswith(".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where one set of coefficients comes from and how wrong it was on shapes it never saw (fractions)."""

    package: str
    package_version: str
    licence: str
    tables: tuple[str, ...]  # paths inside the package's data folder: <gpu>/<op>/<engine>/<version>/<file>
    fit_date: str
    left_out_rule: str
    samples_fit: int
    samples_left_out: int
    median_error: float
    p90_error: float
    long_median_error: float  # only kernels longer than 20 us
    long_p90_error: float
    long_bias: float  # median of predicted/measured - 1 over the same
    shape_range: Mapping[str, tuple[float, float]]  # smallest and largest of each size in the tables
    assumed: tuple[str, ...]  # coefficients that were set, not fitted, and why
    notes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Fits of one GPU. `derived_from`: the measured GPU whose efficiencies go with this one's own peaks.

    What only a machine that was measured as a whole knows stands at the end, and is empty otherwise.
    """

    gpu: str
    derived_from: str | None
    derived_note: str
    gemms: Mapping[str, GemmFit]
    grouped_gemms: Mapping[str, GroupedGemmFit]
    attentions: Mapping[str, AttentionFit]
    collective_fit: CollectiveFit | None
    provenance: Mapping[str, Provenance]  # by "gemm/bf16", "grouped_gemm/bf16", "attention_forward/bf16",
    # "attention_decode/bf16", "collectives"
    streams: Mapping[str, StreamFit] = field(default_factory=dict)  # by kind of work, "<kind>.bwd" backward
    constants: Mapping[str, float] = field(default_factory=dict)  # of training steps, in place of the stacks' own
    device: GpuSpec | None = None  # what one rank of the machine is
    transfers: Mapping[str, MeasuredTransfer] = field(default_factory=dict)  # own logs, by kind and reach

    @property
    def own_kernels(self) -> tuple[str, ...]:
        """Kernels whose coefficients a user's own traces moved, as in `provenance`."""
        return tuple(key for key, each in self.provenance.items() if each.package == OWN_TRACE)

    @property
    def collectives(self) -> CollectiveFit:
        """Collectives inside a scale-up domain. NoFit when none was measured."""
        if self.collective_fit is None:
            raise NoFit(f"{self.gpu}: no collective was measured; calibrate with --ranks 2 or more")
        return self.collective_fit

    def fit_of(self, fits: Mapping[str, F], op: str, dtype: str) -> F:
        """Coefficients of one dtype out of `gemms`, `grouped_gemms` or `attentions`. NoFit when it was not measured."""
        name = "bf16" if dtype == "fp16" else dtype  # same tensor path, same bytes
        fit = fits.get(name)
        if fit is None:
            have = ", ".join(sorted(fits)) or "nothing"
            raise NoFit(f"{self.gpu}: no {op} fit for {dtype!r}; fitted: {have}")
        return fit


_SAME = "same efficiencies and launch times on this part's own peaks, bandwidth and link rate"
_SM120 = "tensor cores of sm120 are programmed like Ampere's (mma.sync), not like those of sm100"
# GPU -> (measured GPU that lends its coefficients, why)
_DERIVED: dict[str, tuple[str, str]] = {
    "h800-sxm": ("h100-sxm", f"H100 silicon with NVLink cut to 200 GB/s: {_SAME}"),
    "h20-96gb": ("h100-sxm", f"Hopper with fewer SMs: {_SAME}"),
    "h100-sxm-96gb-500w": ("h100-sxm", f"H100 with other memory and a lower power limit: {_SAME}"),
    "h100-pcie": ("h100-sxm", f"H100 with fewer SMs and a lower power limit: {_SAME}"),
    "h100-nvl": ("h100-sxm", f"H100 with a lower power limit: {_SAME}"),
    "gh200-96gb": ("h100-sxm", f"Hopper with other memory: {_SAME}"),
    "mi300x": ("h100-sxm", f"no table for AMD: {_SAME}; software of another vendor, expect tens of percent"),
    "mi325x": ("h100-sxm", f"no table for AMD: {_SAME}; software of another vendor, expect tens of percent"),
    "mi355x": ("b200-hgx", f"no table for AMD: {_SAME}; software of another vendor, expect tens of percent"),
    "rtx-5090": ("a100-sxm-80gb", f"{_SM120}: {_SAME}"),
    "rtx-pro-6000": ("a100-sxm-80gb", f"{_SM120}: {_SAME}"),
    "rtx-pro-6000-server": ("a100-sxm-80gb", f"{_SM120}: {_SAME}"),
    "a100-sxm-40gb": ("a100-sxm-80gb", f"A100 with less and slower memory: {_SAME}"),
    "v100-sxm2-16gb": ("a100-sxm-80gb", f"Volta, fp16 only: {_SAME}"),
    "v100-sxm2-32gb": ("a100-sxm-80gb", f"Volta, fp16 only: {_SAME}"),
}
# parts whose power limit holds the clock of long kernels below the lender's; training runs measured that of the 500 W
# H100 (clock_factor in the constants of training)
_POWER_LIMITED = ("h100-pcie", "h100-nvl")


def measured_gpus() -> tuple[str, ...]:
    """GPUs with a profile of their own."""
    names = (f.name for f in files("moesim.hwmodels").joinpath("profiles").iterdir())
    return tuple(sorted(n.removesuffix(".json") for n in names if n.endswith(".json")))


@cache
def load_profile(gpu_name: str) -> Profile:
    """The profile of a catalogue GPU (or alias): its own, or one derived from a measured GPU, marked as such.

    FactError for a GPU that is not in the catalogue.
    """
    gpu = load_gpu(gpu_name)
    if gpu.name != gpu_name:
        return load_profile(gpu.name)
    measured = measured_gpus()
    if gpu.name in measured:
        return _read(gpu.name)
    lender, note = _DERIVED.get(gpu.name) or _nearest(gpu, measured)
    return _derive(gpu, load_profile(lender), note)


def profile_of(gpu: GpuSpec) -> Profile:
    """The profile of a GPU of the catalogue, or, for one of one's own, that of the GPU it is like, marked as such."""
    if gpu.name in gpu_names():
        return load_profile(gpu.name)
    if not gpu.like:
        lender, note = _nearest(gpu, measured_gpus())
        return _derive(gpu, load_profile(lender), note)
    return _derive(gpu, load_profile(gpu.like), f"nothing measured on {gpu.name}, said to be like {gpu.like}: {_SAME}")


def _nearest(gpu: GpuSpec, measured: tuple[str, ...]) -> tuple[str, str]:
    """The measured GPU with the nearest 16-bit peak, same vendor and architecture preferred."""

    def distance(name: str) -> tuple[int, float]:
        other = load_gpu(name)
        other_arch = 0 if other.arch.split()[0] == gpu.arch.split()[0] else 1
        return other_arch, abs(log(_peak16(other) / _peak16(gpu)))

    name = min(measured, key=distance)
    foreign = "" if gpu.vendor == load_gpu(name).vendor else "; software of another vendor, expect tens of percent"
    return name, f"nothing measured on {gpu.name}, nearest in the catalogue: {_SAME}{foreign}"


def _peak16(gpu: GpuSpec) -> float:
    return gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s["fp16"]


def _derive(gpu: GpuSpec, base: Profile, note: str) -> Profile:
    """`base` under another name: only the dtypes this GPU has, NVLS only where the switches have it."""
    collectives = base.collectives
    old = gpu.arch.split()[0] in ("Volta", "Turing", "Ampere", "Ada")
    if gpu.vendor != "NVIDIA" or old or not gpu.scale_up_bytes_per_s:
        collectives = replace(collectives, nvls_efficiency=0.0, nvls_min_ranks=0)
    share = _sustained_share(gpu, load_gpu(base.gpu)) if gpu.name in _POWER_LIMITED else 1.0
    if share < 1.0:
        note += f"; {share:.0%} of the lender's sustained share of peak, by watts per peak FLOP/s (assumed)"
    return replace(
        base,
        gpu=gpu.name,
        derived_from=base.gpu,
        derived_note=note,
        gemms={d: _slower(f, share) for d, f in _supported(gpu, base.gemms).items()},
        grouped_gemms={d: _slower(f, share) for d, f in _supported(gpu, base.grouped_gemms).items()},
        attentions={d: _of_vendor(_slower(f, share), gpu, base) for d, f in _supported(gpu, base.attentions).items()},
        collective_fit=collectives,
    )


def _of_vendor(fit: AttentionFit, gpu: GpuSpec, base: Profile) -> AttentionFit:
    """Kernels for latent caches are written by hand for one vendor's tensor cores: no other vendor's GPU has them."""
    own = gpu.vendor == load_gpu(base.gpu).vendor
    return fit if own else replace(fit, decode_latent_flops_efficiency=None)


def _sustained_share(gpu: GpuSpec, lender: GpuSpec) -> float:
    """Sustained clocks of a part against its lender's of the same silicon: watts per peak FLOP/s to a power below 1."""
    watts = (gpu.tdp_w / _peak16(gpu)) / (lender.tdp_w / _peak16(lender))
    exponent: float = catalogue("power")["clock_per_watt_exponent"]["value"]
    slowed: float = watts**exponent
    return min(1.0, slowed)


def _slower(fit: M, share: float) -> M:
    """A matrix or attention fit at a share of its arithmetic rate; traffic and launches as they were."""
    if share >= 1.0:
        return fit
    if isinstance(fit, AttentionFit):
        latent = fit.decode_latent_flops_efficiency
        return replace(
            fit,
            flops_efficiency=fit.flops_efficiency * share,
            decode_flops_efficiency=fit.decode_flops_efficiency * share,
            decode_latent_flops_efficiency=None if latent is None else latent * share,
        )
    return replace(fit, flops_efficiency=fit.flops_efficiency * share)


def _supported(gpu: GpuSpec, fits: Mapping[str, F]) -> dict[str, F]:
    """Fits whose tensor path the data sheet lists; bf16 coefficients also serve a GPU that has fp16 only."""
    have = set(gpu.peak_flops_per_s)
    return {d: f for d, f in fits.items() if PEAK_OF[d] in have or (d == "bf16" and "fp16" in have)}


def _read(name: str) -> Profile:
    text = files("moesim.hwmodels").joinpath("profiles", f"{name}.json").read_text(encoding="utf-8")
    return profile_from_dict(json.loads(text))


def profile_from_dict(raw: Mapping[str, Any]) -> Profile:
    """The record from the parsed JSON, every number of it checked.

    KeyError or TypeError when a part is missing, BadNumber for a coefficient that cannot be.
    """

    def fits(part: str, record: type[F]) -> dict[str, F]:
        given = mapping(raw.get(part, {}), part)
        return {name: checked_fit(record, each, f"{part}.{name[:40]}") for name, each in given.items()}

    return Profile(
        gpu=str(raw["gpu"]),
        derived_from=raw.get("derived_from"),
        derived_note=raw.get("derived_note", ""),
        gemms=fits("gemm", GemmFit),
        grouped_gemms=fits("grouped_gemm", GroupedGemmFit),
        attentions=fits("attention", AttentionFit),
        collective_fit=checked_fit(CollectiveFit, raw["collectives"], "collectives") if raw["collectives"] else None,
        provenance={k: _provenance(v) for k, v in mapping(raw["provenance"], "provenance").items()},
        streams=fits("streams", StreamFit),
        constants={
            name: number(value, f"constants.{name[:60]}", 0.0, 1e18)
            for name, value in mapping(raw.get("constants", {}), "constants").items()
        },
        device=_device(raw),
        transfers=fits("transfers", MeasuredTransfer),
    )


def _device(raw: Mapping[str, Any]) -> GpuSpec | None:
    """The device that was measured, where the profile is of a whole machine. FactError for an impossible one."""
    record = raw.get("device")
    if record is None:
        return None
    return spec_from_record(raw["gpu"], checked(GpuRecord, "device of a profile", raw["gpu"], record))


def _provenance(raw: Mapping[str, Any]) -> Provenance:
    ranges = {k: (float(v[0]), float(v[1])) for k, v in raw["shape_range"].items()}
    return Provenance(
        **{**raw, "tables": tuple(raw["tables"]), "assumed": tuple(raw["assumed"]), "shape_range": ranges}
    )
