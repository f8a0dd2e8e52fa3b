"""Which GPU of the catalogue a driver's name means: 'NVIDIA H100 80GB HBM3' is h100-sxm, 'NVIDIA H100 PCIe' is not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import load_gpu


@dataclass(frozen=True, slots=True)
class DriverName:
    """A catalogue name, "" where none is meant, and how the part differs from what the catalogue holds."""

    gpu: str
    note: str = ""


_DGX2 = "a V100 of SXM3 hosts has the same silicon; the catalogue holds the SXM2 part"
_H20E = "an H20-3e holds more and faster memory than the catalogue's H20"
_A800 = "an A800 is an A100 with slower NVLink"
# patterns in the order in which they are tried; parts that share a word come first where they say more
_NAMES: tuple[tuple[str, DriverName], ...] = (
    (r"\bGB300\b", DriverName("gb300")),
    (r"\bGB200\b", DriverName("gb200")),
    (r"\bGH200\b.*\b144", DriverName("h200-sxm")),
    (r"\bGH200\b", DriverName("gh200-96gb")),
    (r"\bB300\b", DriverName("b300-hgx")),
    (r"\bB200\b", DriverName("b200-hgx")),
    (r"\bH200\b", DriverName("h200-sxm")),
    (r"\bH100\b.*\bPCIe\b", DriverName("h100-pcie")),
    (r"\bH100\b.*\bNVL\b", DriverName("h100-nvl")),
    (r"\bH100\b", DriverName("h100-sxm")),
    (r"\bH800\b(?!.*PCIe)", DriverName("h800-sxm")),
    (r"\bH20-3e\b|\bH20\b.*\b141", DriverName("h20-96gb", _H20E)),
    (r"\bH20\b", DriverName("h20-96gb")),
    (r"\bA800\b.*(SXM|80GB)", DriverName("a100-sxm-80gb", _A800)),
    (r"\bA100\b.*SXM.*\b40GB", DriverName("a100-sxm-40gb")),
    (r"\bA100\b.*SXM.*\b80GB", DriverName("a100-sxm-80gb")),
    (r"\bV100-SXM2-16GB", DriverName("v100-sxm2-16gb")),
    (r"\bV100-SXM2-32GB", DriverName("v100-sxm2-32gb")),
    (r"\bV100-SXM3-32GB", DriverName("v100-sxm2-32gb", _DGX2)),
    (r"\bMI300X\b", DriverName("mi300x")),
    (r"\bMI325X?\b", DriverName("mi325x")),
    (r"\bMI355X?\b", DriverName("mi355x")),
    (r"\bL40S\b", DriverName("l40s")),
    (r"\bL4\b", DriverName("l4")),
    (r"\bT4\b", DriverName("t4")),
    (r"\bA10\b", DriverName("a10")),
    (r"\bRTX 4090\b(?! Laptop)", DriverName("rtx-4090")),
    (r"\bRTX 5090\b(?! Laptop)", DriverName("rtx-5090")),
)


def gpu_of_driver(described: str) -> DriverName:
    """What the catalogue calls the GPU that a driver, a log or a trace calls `described`."""
    for pattern, named in _NAMES:
        if re.search(pattern, described, re.IGNORECASE):
            return named
    try:
        return DriverName(load_gpu(described.replace("NVIDIA", "").strip()).name)
    except FactError:
        return DriverName("")
