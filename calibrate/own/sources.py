"""Profiles from what others have measured: kernel tables, logs of nccl-tests, profiler traces, tables of samples."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.kernel_tables import SYSTEM_OF
from moesim.calibrate.measure.device import Machine
from moesim.calibrate.measure.samples import BadSamples, load_samples
from moesim.hwmodels.facts import did_you_mean
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.machine import SCHEMA
from moesim.hwmodels.profile import measured_gpus
from moesim.hwmodels.work import Comm, CommKind, Gemm, Group
from moesim.refusal import Refusal


class BadSource(Refusal):
    """A log, trace or system that no profile can be made of; the message says what would do."""


def system_name(text: str) -> str:
    """Our name of a system: h200-sxm, or h200_sxm as the tables spell it. BadSource otherwise."""
    spelled = {directory: name for name, directory in SYSTEM_OF.items()} | {name: name for name in SYSTEM_OF}
    if text not in spelled:
        hint = did_you_mean(text, list(spelled)) if text else f"one of {', '.join(SYSTEM_OF)}"
        raise BadSource(f"--system {text or 'is missing'}: {hint}")
    return spelled[text]


def from_tables(system: str) -> dict[str, Any]:
    """The profile of a GPU from the kernel tables of aiconfigurator-core, fitted as the shipped ones are."""
    name = system_name(system)
    try:
        from moesim.calibrate.fit.kernel_tables import data_root
        from moesim.calibrate.fit.kernels import make_profile
        from moesim.calibrate.fit.nccl import read_exclusions

        data_root()
    except ImportError as error:
        raise BadSource(f"kernel tables need {error.name}, which is not installed; pip install 'moesim[fit]'") from None
    with_tests = Path(str(files("moesim.calibrate").joinpath("published", "comm.csv")))
    return make_profile(name, read_exclusions(with_tests), date.today().isoformat())


def _shipped(system: str) -> dict[str, Any]:
    """The shipped profile of a GPU as it is written, to replace parts of."""
    name = system_name(system)
    if name not in measured_gpus():
        raise BadSource(f"no profile of {name} is shipped; use one of {', '.join(measured_gpus())}")
    text = files("moesim.hwmodels").joinpath("profiles", f"{name}.json").read_text(encoding="utf-8")
    raw: dict[str, Any] = json.loads(text)
    return raw | {"schema": SCHEMA}


# -- nccl-tests -------------------------------------------------------------------------------------------------------

_TEST_OF: dict[str, CommKind] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send",
    "broadcast": "broadcast",
}
_LINE = re.compile(r"^\s*(\d+)\s+(\d+)\s+(\w+)\s+(\w+)\s+(-?\d+)\s+([\d.]+)\s")


def read_nccl_log(path: Path) -> list[tuple[Comm, float]]:
    """(transfer, seconds) of an nccl-tests log, out of place. BadSource when it names no test, ranks or times."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadSource(f"cannot read {path}: {error.strerror}") from None
    told = re.search(r"(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv|broadcast)(?:_perf)?", text + path.name)
    ranks = len(re.findall(r"^#\s+Rank\s+\d+\s", text, re.MULTILINE))
    lines = [match for match in map(_LINE.match, text.splitlines()) if match]
    if told is None or ranks < 2 or not lines:
        lacks = "which test it is" if told is None else "two ranks or more" if ranks < 2 else "any line of times"
        raise BadSource(f"{path} does not say {lacks}; give the whole output of an nccl-tests program")
    kind = _TEST_OF[told.group(1)]
    group = Group(ranks, ranks)
    rows = [(Comm(kind, float(f.group(1)), group), float(f.group(6)) * 1e-6) for f in lines]
    return [(work, seconds) for work, seconds in rows if work.bytes > 0 and seconds > 0]


def from_nccl_logs(paths: Sequence[Path], system: str) -> dict[str, Any]:
    """The shipped profile of a GPU with collectives as these logs of one node measured them."""
    from moesim.calibrate.fit.formula import Sample
    from moesim.calibrate.fit.left_out import RULE
    from moesim.calibrate.fit.machine import FEWEST, Rates, fit_transfers, shape_ranges

    raw, gpu = _shipped(system), load_gpu(system_name(system))
    transfers = [pair for path in paths for pair in read_nccl_log(path)]
    samples = [Sample(work, seconds, (work.bytes,)) for work, seconds in transfers]
    if len(samples) < FEWEST:
        raise BadSource(f"{len(samples)} measured sizes are too few to fit; {FEWEST} or more are needed")
    rates = Rates(
        flops_per_s={}, memory_bytes_per_s=gpu.hbm_bytes_per_s, link_bytes_per_s=gpu.scale_up_bytes_per_s or 1e9
    )
    fit, fitted = fit_transfers(samples, rates)
    raw["collectives"] = asdict(fit)
    raw["provenance"]["collectives"] = _provenance(
        "nccl-tests", paths, fitted.result, shape_ranges((s.work for s in samples), ("bytes",)), RULE
    )
    return raw


def _provenance(
    package: str, paths: Sequence[Path], result: Any, ranges: dict[str, list[float]], rule: str
) -> dict[str, Any]:
    errors = asdict(result)
    del errors["values"], errors["loss"]
    return {
        "package": package,
        "package_version": "as logged",
        "licence": "own measurement",
        "tables": [path.name for path in paths],
        "fit_date": date.today().isoformat(),
        "left_out_rule": rule,
        "shape_range": ranges,
        "assumed": [],
        "notes": "",
        **errors,
    }


# -- PyTorch profiler traces ------------------------------------------------------------------------------------------

_GEMMS = ("aten::mm", "aten::addmm")
_DTYPE_OF = {"float": "fp32", "c10::BFloat16": "bf16", "c10::Half": "fp16"}


def read_trace(path: Path) -> list[tuple[Gemm, float]]:
    """(GEMM, seconds on the device) of a PyTorch profiler trace recorded with shapes. BadSource when it holds none."""
    try:
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    except OSError as error:
        raise BadSource(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BadSource(f"{path} is not a profiler trace; prof.export_chrome_trace writes one") from None
    kernels: dict[int, float] = {}
    for e in events:
        if e.get("cat") == "kernel":
            number = e.get("args", {}).get("External id", -1)
            kernels[number] = kernels.get(number, 0.0) + float(e["dur"]) * 1e-6
    gemms = [pair for e in events if e.get("name") in _GEMMS for pair in _gemm_of(e, kernels)]
    if not gemms:
        how = "record with activities=[CPU, CUDA] and record_shapes=True"
        raise BadSource(f"{path} holds no GPU kernels of GEMMs with shapes; {how}")
    return gemms


def _gemm_of(event: dict[str, Any], kernels: dict[int, float]) -> list[tuple[Gemm, float]]:
    """The GEMM of one operator with the time of its kernels; nothing where shapes or kernels are missing."""
    args = event.get("args", {})
    shapes = [s for s in args.get("Input Dims", []) if len(s) == 2]
    types = args.get("Input type", [])
    seconds = kernels.get(args.get("External id", -2), 0.0)
    if len(shapes) < 2 or seconds <= 0.0 or not types or types[0] not in _DTYPE_OF:
        return []
    (m, k), (_, n) = shapes[-2:]
    dtype = _DTYPE_OF[types[0]]
    return [(Gemm(m, n, k, dtype, dtype), seconds)]


def from_trace(paths: Sequence[Path], system: str) -> dict[str, Any]:
    """The shipped profile of a GPU with GEMMs as these traces of the user's own run timed them."""
    from statistics import median

    from moesim.calibrate.fit.formula import Sample
    from moesim.calibrate.fit.left_out import RULE
    from moesim.calibrate.fit.machine import FEWEST, Rates, fit_gemms, shape_ranges

    raw, gpu = _shipped(system), load_gpu(system_name(system))
    timed: dict[Gemm, list[float]] = {}
    for path in paths:
        for work, seconds in read_trace(path):
            timed.setdefault(work, []).append(seconds)
    changed = False
    for dtype in sorted({work.dtype for work in timed}):
        samples = [Sample(w, median(times), (w.m, w.n, w.k)) for w, times in timed.items() if w.dtype == dtype]
        if len(samples) < FEWEST or not gpu.supports(dtype):
            continue
        rates = Rates(
            flops_per_s={dtype: gpu.peak(dtype)}, memory_bytes_per_s=gpu.hbm_bytes_per_s, link_bytes_per_s=1.0,
            sm_count=gpu.sm_count,
        )  # fmt: skip
        fit, fitted = fit_gemms(samples, gpu.peak(dtype), rates)
        raw["gemm"][dtype] = asdict(fit)
        ranges = shape_ranges((s.work for s in samples), ("m", "n", "k"))
        raw["provenance"][f"gemm/{dtype}"] = _provenance("PyTorch profiler", paths, fitted.result, ranges, RULE)
        changed = True
    if not changed:
        raise BadSource(f"the traces hold fewer than {FEWEST} different GEMM shapes of one format; profile more steps")
    return raw


# -- tables of samples ------------------------------------------------------------------------------------------------


def machine_file(table: Path) -> Path:
    """Where the machine that filled a table is described."""
    return table.with_suffix(".machine.json")


def from_samples(table: Path) -> dict[str, Any]:
    """The profile that a table of samples gives, on whatever machine it was measured."""
    from moesim.calibrate.own.profile import make_own_profile

    samples = load_samples(table)
    beside = machine_file(table)
    try:
        machine = Machine(**json.loads(beside.read_text(encoding="utf-8")))
    except OSError:
        raise BadSamples(f"{table} needs {beside.name} beside it, which says what machine it is of") from None
    except (ValueError, TypeError):
        raise BadSamples(f"{beside} does not describe a machine; `moesim calibrate` writes it") from None
    return make_own_profile(samples, machine, table)
