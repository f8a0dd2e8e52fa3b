"""Traces of the PyTorch profiler as it writes them: operators, launches and kernels as events of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.kernels import gemm_time_s
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import Gemm

SHAPES = [(m, n, k) for m in (256, 1024, 4096) for n in (1024, 4096) for k in (2048, 8192)]
H100 = "NVIDIA H100 80GB HBM3"


def shipped_s(m: int, n: int, k: int, dtype: str = "bf16") -> float:
    """What the shipped H100 profile says of a GEMM."""
    gpu, fit = load_gpu("h100-sxm"), load_profile("h100-sxm").gemms[dtype]
    return gemm_time_s(Gemm(m, n, k, dtype, dtype), gpu.peak(dtype), gpu.hbm_bytes_per_s, gpu.sm_count, fit)


class TraceForm:
    """A trace in the making: each `run` is an operator that launches one kernel."""

    def __init__(self, vendor: str = "cuda") -> None:
        self.events: list[dict[str, Any]] = []
        self.vendor, self.clock = vendor, 1000.0

    def event(self, cat: str, name: str, ts: float, dur: float, tid: int, **args: Any) -> None:
        self.events.append(
            {"ph": "X", "cat": cat, "name": name, "pid": 7, "tid": tid, "ts": ts, "dur": dur, "args": args}
        )

    def run(self, name: str, dims: Any, types: Sequence[str], seconds: float, **more: Any) -> None:
        """One operator, the launch inside it, and its kernel, which carries nothing but the launch's number."""
        number, inner = len(self.events) + 50_000, more.pop("inner", "")
        shapes = {} if dims is None else {"Input Dims": dims, "Input type": list(types)}
        self.event("cpu_op", name, self.clock, 40.0, 1, **{"External id": len(self.events)}, **shapes, **more)
        if inner:
            self.event("cpu_op", inner, self.clock + 5, 30.0, 1, **{"External id": len(self.events)})
        launch = {"cuda": "cudaLaunchKernel", "hip": "hipExtModuleLaunchKernel"}[self.vendor]
        cat = "cuda_runtime" if self.vendor == "cuda" else "hip_runtime"
        self.event(cat, launch, self.clock + 10, 4.0, 1, correlation=number, cbid=211)
        self.event("kernel", "gemm", self.clock + 60, seconds * 1e6, 99, correlation=number, device=0, stream=7)
        self.clock += 1000.0

    def trace(self, gpu: str = H100, devices: int = 8, **top: Any) -> dict[str, Any]:
        """The file's JSON."""
        properties = [{"id": i, "name": gpu} for i in range(devices)]
        return {"schemaVersion": 1, "deviceProperties": properties, "traceEvents": self.events, **top}


def of_gemms(slower: float = 1.0, vendor: str = "cuda") -> TraceForm:
    """aten::mm of SHAPES in bf16, each `slower` times what is shipped."""
    form = TraceForm(vendor)
    for m, n, k in SHAPES:
        form.run("aten::mm", [[m, k], [k, n]], ["c10::BFloat16"] * 2, slower * shipped_s(m, n, k))
    return form
