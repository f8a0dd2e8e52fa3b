"""GpuSpec: what the data sheet says about one GPU. Facts with a source each; no efficiency lives here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from moesim.hwmodels.facts import FactError, GpuRecord, catalogue, did_you_mean, gpu_spellings
from moesim.hwmodels.hardware import SHIPPED, Hardware, record_of

# bytes per element; block formats carry their scales: MXFP8 one byte per 32, FP8 blocks 4 bytes per 128,
# MXFP4 one byte per 32 nibbles, NVFP4 one byte per 16 nibbles.
_BYTES: dict[str, float] = {
    "fp64": 8.0,
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0 + 4.0 / 128.0,
    "mxfp8": 1.0 + 1.0 / 32.0,
    "fp6": 0.75,
    "int8": 1.0,
    "w8a16": 1.0 + 4.0 / 128.0,
    "int4": 0.5 + 2.0 / 128.0,
    "mxfp4": 0.5 + 1.0 / 32.0,
    "nvfp4": 0.5 + 1.0 / 16.0,
}

# the peak of the spec sheet that a format runs at
PEAK_OF: dict[str, str] = {
    "fp64": "fp32",
    "fp32": "fp32",
    "tf32": "tf32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "mxfp8": "fp8",
    "fp6": "fp6",
    "int8": "int8",
    "w8a16": "bf16",  # weight-only, as int4: widened to 16 bits before the tensor cores
    "int4": "bf16",
    "mxfp4": "fp4",
    "nvfp4": "fp4",
}


# formats whose scales (one per 32 elements) tensor cores apply themselves; the parts that do also have a 4-bit path
# (Blackwell: PTX ISA, `mma` with block scaling; CDNA 4 white paper), Hopper's and Ada's 8-bit paths do not
_MICROSCALED = ("mxfp8",)


def bytes_per_element(dtype: str) -> float:
    """Bytes of one element of `dtype`, block scales included. KeyError for an unknown name."""
    return _BYTES[dtype]


# formats that token vectors travel in, and the one above that counts their scales
_TOKEN = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8_block", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}


def token_dtypes() -> tuple[str, ...]:
    """Formats in which token vectors are sent to experts."""
    return tuple(_TOKEN)


def token_bytes(hidden: float, dtype: str) -> float:
    """Bytes of one token's vector with its scales (fp8: one float per 128). KeyError for an unknown name."""
    return hidden * _BYTES[_TOKEN[dtype]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """Peaks are dense (no structured sparsity); bandwidths per direction."""

    name: str
    vendor: str
    arch: str
    family: str  # parts of the same silicon: they share fitted constants
    generation: str  # families that share what has no constant per family
    peak_flops_per_s: dict[str, float]  # by spec-sheet format: fp32 tf32 fp16 bf16 fp8 fp6 fp4 int8
    fp4_formats: tuple[str, ...]  # of 4 bits with scales, where there is an fp4 peak: nvfp4 mxfp4
    hbm_bytes: float  # as marketed
    usable_bytes: float  # as the driver reports, where known; else the marketed figure
    hbm_bytes_per_s: float
    l2_bytes: float
    sm_count: int
    scale_up_bytes_per_s: float  # 0 when there is no scale-up link
    pcie_bytes_per_s: float
    host_link_bytes_per_s: float  # to the host's memory: PCIe, or NVLink-C2C with Grace
    tdp_w: float
    price_usd_per_hour: float | None  # middle of the published range
    price_note: str
    notes: str
    source: str
    like: str = ""  # of one that is not in the catalogue: the GPU whose kernels it borrows; "": the nearest

    def peak(self, dtype: str) -> float:
        """Peak FLOP/s of the tensor path that runs `dtype`. FactError when this GPU has none."""
        if not self.supports(dtype):
            have = ", ".join(sorted(self.peak_flops_per_s))
            four = f" (fp4: {' and '.join(self.fp4_formats)})" if "fp4" in self.peak_flops_per_s else ""
            raise FactError(f"{self.name} has no {dtype} tensor path; it has {have}{four}")
        return self.peak_flops_per_s[PEAK_OF[dtype]]

    @property
    def weight_only(self) -> tuple[str, ...]:
        """Formats of weights that it has no peak for: read narrow, widened to 16 bits before the tensor cores."""
        if not self.supports("bf16"):
            return ()
        return ("w8a16", "int4", *(("mxfp4", "nvfp4") if not self.fp4_formats else ()))

    def supports(self, dtype: str) -> bool:
        """True when the data sheet lists a peak for `dtype`, and the tensor cores apply the scales that it has."""
        peaks = self.peak_flops_per_s
        if PEAK_OF[dtype] == "fp4" and dtype not in self.fp4_formats:
            return False
        return PEAK_OF[dtype] in peaks and (dtype not in _MICROSCALED or "fp4" in peaks)


def spec_from_record(name: str, r: GpuRecord) -> GpuSpec:
    """The spec that a checked record describes."""
    price, middle, note = r.price_usd_per_hour, None, ""
    if price is not None:
        note = f"{price.date} {price.source}".strip()
        if price.low is not None and price.high is not None:
            middle = (price.low + price.high) / 2.0
    family = r.family or name
    peaks = {k: v for k, v in r.peak_flops_per_s.items() if v is not None}
    return GpuSpec(
        name=name,
        vendor=r.vendor,
        arch=r.arch,
        family=family,
        generation=r.generation or family,
        peak_flops_per_s=peaks,
        fp4_formats=r.fp4_formats if "fp4" in peaks else (),
        hbm_bytes=r.hbm_bytes,
        usable_bytes=r.usable_bytes or r.hbm_bytes,
        hbm_bytes_per_s=r.hbm_bytes_per_s,
        l2_bytes=r.l2_bytes or 0.0,
        sm_count=r.sm_count or 0,
        scale_up_bytes_per_s=r.scale_up_bytes_per_s,
        pcie_bytes_per_s=r.pcie_bytes_per_s,
        host_link_bytes_per_s=r.host_link_bytes_per_s or r.pcie_bytes_per_s,
        tdp_w=r.tdp_w,
        price_usd_per_hour=middle,
        price_note=note,
        notes=r.notes,
        source=r.source,
        like=r.like or "",
    )


@cache
def generation_of() -> dict[str, str]:
    """The generation of every family in the catalogue."""
    families = {name: r.get("family") or name for name, r in catalogue("gpus").items()}
    return {family: catalogue("gpus")[name].get("generation") or family for name, family in families.items()}


def gpu_names() -> tuple[str, ...]:
    """Names of all GPUs in the catalogue."""
    return tuple(catalogue("gpus"))


def load_gpu(name: str, hardware: Hardware = SHIPPED) -> GpuSpec:
    """The GPU called `name` (or one of its aliases). FactError with the nearest names otherwise."""
    key = hardware.gpu_called(name)
    if key is None:
        known = [*hardware.own.get("gpus", {}), *gpu_spellings()]
        raise FactError(f"unknown GPU {name!r}; {did_you_mean(name, known)}")
    return spec_from_record(key, record_of(GpuRecord, "gpus", key, hardware))
