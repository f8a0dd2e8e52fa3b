"""The device at hand: what it is called, what of it the system tells, and how its process is set up to be measured."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from moesim.calibrate.measure.driver_names import gpu_of_driver
from moesim.hwmodels.checked_fit import number, whole
from moesim.refusal import Refusal


class NoDevice(Refusal):
    """Torch or the device is missing or too small; the message says what would do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What is measured. `device` is cpu or cuda; a CPU's ranks share its cores."""

    device: str
    name: str  # our catalogue's name of a GPU we know, else a name made from the system's
    described: str  # as the system calls it
    cores: int
    cache_bytes: float
    memory_bytes: float
    torch: str
    system: str
    power_and_clocks: str

    def threads(self, ranks: int) -> int:
        """Threads that each of `ranks` ranks runs on a CPU; 1 beside a GPU."""
        return max(1, self.cores // ranks) if self.device == "cpu" else 1


def checked_machine(raw: object) -> Machine:
    """A machine as its file describes it. ValueError for fields that are missing, unknown or cannot be."""
    if not isinstance(raw, dict) or set(raw) != {field.name for field in fields(Machine)}:
        raise ValueError("not the fields of a machine")
    for name, value in raw.items():
        if name in ("cores", "cache_bytes", "memory_bytes"):
            number(value, name, 1 if name == "cores" else 0, _MOST)
        elif not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
            raise ValueError(f"{name} is no short text")
    whole(raw["cores"], "cores", 1, 1_000_000)
    if raw["device"] not in ("cpu", "cuda"):
        raise ValueError("device is neither cpu nor cuda")
    return Machine(**raw)


_MOST, _LONGEST = 1e18, 2000  # bytes, characters


def torch_version() -> str:
    """The version of torch. NoDevice when it is not installed."""
    try:
        import torch
    except ImportError:
        raise NoDevice(
            "calibrate measures with torch, which is not installed; pip install 'moesim[calibrate]'"
        ) from None
    return str(torch.__version__)


def find_machine(asked: str = "") -> Machine:
    """The machine behind `cpu`, `cuda:0`, or the best there is. NoDevice with what is there otherwise."""
    version = torch_version()
    import torch

    kind = asked.partition(":")[0] or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cpu":
        return _cpu(version)
    if kind != "cuda":
        raise NoDevice(f"device {asked!r} is not known; use cpu or cuda:0")
    if not torch.cuda.is_available():
        raise NoDevice(
            f"device {asked} was asked for, but this torch ({version}) sees no CUDA device; use --device cpu"
        )
    number = int(asked.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise NoDevice(f"there is no {asked}; this machine has {torch.cuda.device_count()} CUDA devices")
    return _cuda(number, version)


def _cpu(version: str) -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    described = _cpu_model()
    slug = "-".join(filter(None, "".join(c if c.isalnum() else " " for c in described.lower()).split()))
    return Machine(
        device="cpu",
        name=f"cpu-{slug[:40]}-{cores}",
        described=described,
        cores=cores,
        cache_bytes=_last_cache_bytes(),
        memory_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        torch=version,
        system=platform.platform(terse=True),
        power_and_clocks="not told by the system",
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _last_cache_bytes() -> float:
    """The largest cache of the first core; 0 where the system does not say."""
    sizes = [0.0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        sizes.append(float(text.rstrip("KM")) * {"K": 2.0**10, "M": 2.0**20}.get(text[-1], 1.0))
    return max(sizes)


def _cuda(number: int, version: str) -> Machine:
    """Never run in this repository's own CI, which has no GPU."""
    import torch

    properties = torch.cuda.get_device_properties(number)
    return Machine(
        device="cuda",
        name=_catalogue_name(str(properties.name)),
        described=str(properties.name),
        cores=int(properties.multi_processor_count),
        cache_bytes=float(properties.L2_cache_size),
        memory_bytes=float(properties.total_memory),
        torch=f"{version}, CUDA {torch.version.cuda}",
        system=platform.platform(terse=True),
        power_and_clocks=_nvidia_smi(number),
    )


def _catalogue_name(described: str) -> str:
    """'h200-sxm' of 'NVIDIA H200'; a name made from the driver's where the catalogue has no such part."""
    return gpu_of_driver(described).gpu or "-".join(described.replace("NVIDIA", "").split()).lower()


def _nvidia_smi(number: int) -> str:
    query = "clocks.sm,clocks.mem,power.draw,power.limit,driver_version"
    command = ["nvidia-smi", f"--id={number}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"not told: {type(error).__name__}"


def others_load(machine: Machine) -> float:
    """How many processes want a core of a CPU before we begin; 0 beside a GPU or where the system does not say."""
    return os.getloadavg()[0] if machine.device == "cpu" and hasattr(os, "getloadavg") else 0.0


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def keep_pages() -> bool:
    """Make the C allocator keep memory that is freed, as PyTorch's CPU tuning guide advises.

    Otherwise every large tensor is mapped and its pages are zeroed anew, which a loop over one kernel would not see
    and a training step would. False where the C library has no such switch.
    """
    try:
        libc = ctypes.CDLL(None)
        return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    except (OSError, AttributeError):
        return False
