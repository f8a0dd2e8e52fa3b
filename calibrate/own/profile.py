"""The profile of a machine from its sample table: fits, a record of the device, own constants, and their provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from moesim.calibrate.fit.formula import Sample
from moesim.calibrate.fit.kernels import rounded
from moesim.calibrate.fit.left_out import RULE, Fitted
from moesim.calibrate.fit.machine import (
    FEWEST,
    Rates,
    best_rates,
    fit_attention,
    fit_gemms,
    fit_grouped,
    fit_stream,
    fit_transfers,
    shape_ranges,
)
from moesim.calibrate.measure.asks import work_of
from moesim.calibrate.measure.device import Machine
from moesim.calibrate.measure.samples import BadSamples, Measured, calmest
from moesim.files.whole import write_text
from moesim.hwmodels.facts import catalogue
from moesim.hwmodels.machine import SCHEMA, profile_text
from moesim.hwmodels.work import Attention, Comm, Gemm, GroupedGemm, Stream, Work
from moesim.sim.software.stack import Tuning

STACK = "torch-eager"  # whose constants a measured machine replaces
_ASSUMED_W = 100.0  # assumed: what a CPU of unknown make draws
_SHAPE_OF = {
    "gemm": ("m", "n", "k"),
    "grouped_gemm": ("total_rows", "active_groups", "n", "k"),
    "attention": ("batch", "q_len", "kv_len", "heads", "kv_heads", "qk_dim"),
    "stream": ("bytes",),
    "collectives": ("bytes",),
}


@dataclass(frozen=True, slots=True)
class Pool:
    """Samples of one number of ranks by what they are fitted as, each with its Work."""

    ranks: int
    measured: tuple[Measured, ...]
    works: dict[int, Work]  # by position in `measured`

    def of(self, kind: type[Any], dtype: str = "", phase: str = "") -> list[Sample[Any]]:
        """Samples whose work is of one kind; a family is one shape."""
        samples = []
        for number, work in self.works.items():
            s = self.measured[number]
            if isinstance(work, kind) and (not dtype or s.ask.dtype == dtype) and (not phase or s.ask.phase == phase):
                samples.append(Sample(work, s.seconds, (s.ask.sizes,)))
        return samples

    def dtypes(self, op: str) -> list[str]:
        """Formats an op was measured in."""
        return list(dict.fromkeys(s.ask.dtype for s in self.measured if s.ask.op == op))


def pool(samples: Sequence[Measured], ranks: int) -> Pool:
    """The calmest sample of every question measured with `ranks` ranks."""
    own = tuple(s for s in calmest(samples) if s.ranks == ranks)
    works = {number: work_of(s.ask) for number, s in enumerate(own)}
    return Pool(ranks, own, {number: work for number, work in works.items() if work is not None})


class _Body:
    """One number of ranks: a kernel profile in the making."""

    def __init__(self, held: Pool, machine: Machine, table: str) -> None:
        self.pool, self.machine, self.table = held, machine, table
        self.rates = _rates(held, machine)
        self.raw: dict[str, Any] = {
            "gpu": machine.name, "gemm": {}, "grouped_gemm": {}, "attention": {}, "streams": {}, "collectives": None,
            "provenance": {}, "device": _device_record(machine, self.rates, held.ranks),
        }  # fmt: skip
        self.lacking: list[str] = []

    def build(self) -> dict[str, Any]:
        for dtype in self.pool.dtypes("gemm"):
            self._gemms(dtype)
        for dtype in self.pool.dtypes("grouped_gemm"):
            self._grouped(dtype)
        for dtype in self.pool.dtypes("attention"):
            self._attention(dtype)
        for phase in dict.fromkeys(s.ask.phase for s in self.pool.measured if s.ask.op == "stream"):
            self._stream(phase)
        self._transfers()
        self.raw["constants"] = self._constants()
        self.raw["not_fitted"] = self.lacking
        return self.raw

    def _enough(self, label: str, samples: Sequence[Sample[Any]]) -> bool:
        if len(samples) < FEWEST:
            self.lacking.append(f"{label} with {self.pool.ranks} ranks ({len(samples)} samples)")
        return len(samples) >= FEWEST

    def _note(self, label: str, op: str, fitted: Fitted, samples: Sequence[Sample[Any]]) -> None:
        errors = asdict(fitted.result)
        del errors["values"], errors["loss"]
        days = [s.measured_at[:10] for s in self.pool.measured]
        self.raw["provenance"][label] = {
            "package": "torch",
            "package_version": self.machine.torch,
            "licence": "own measurement",
            "tables": [self.table],
            "fit_date": max(days),
            "left_out_rule": RULE,
            "shape_range": shape_ranges((s.work for s in samples), _SHAPE_OF[op]),
            "assumed": [],
            "notes": f"{self.pool.ranks} ranks with {self.pool.measured[0].threads} threads each",
            **errors,
        }

    def _gemms(self, dtype: str) -> None:
        samples = self.pool.of(Gemm, dtype)
        if self._enough(f"gemm/{dtype}", samples):
            fit, fitted = fit_gemms(samples, self.rates.flops_per_s[dtype], self.rates)
            self.raw["gemm"][dtype] = asdict(fit)
            self._note(f"gemm/{dtype}", "gemm", fitted, samples)

    def _grouped(self, dtype: str) -> None:
        samples = self.pool.of(GroupedGemm, dtype)
        if self._enough(f"grouped_gemm/{dtype}", samples):
            fit, fitted = fit_grouped(samples, self.rates.flops_per_s[dtype], self.rates)
            self.raw["grouped_gemm"][dtype] = asdict(fit)
            self._note(f"grouped_gemm/{dtype}", "grouped_gemm", fitted, samples)

    def _attention(self, dtype: str) -> None:
        every: list[Sample[Attention]] = self.pool.of(Attention, dtype)
        decode = [s for s in every if s.work.phase == "decode"]
        forward = [s for s in every if s.work.phase != "decode"]
        if not self._enough(f"attention/{dtype}", min(decode, forward, key=len)):
            return
        fit, fitted = fit_attention(forward, decode, self.rates.flops_per_s[dtype], self.rates)
        self.raw["attention"][dtype] = asdict(fit)
        self._note(f"attention_forward/{dtype}", "attention", fitted["attention_forward"], forward)
        self._note(f"attention_decode/{dtype}", "attention", fitted["attention_decode"], decode)

    def _stream(self, phase: str) -> None:
        samples = self.pool.of(Stream, phase=phase)
        if self._enough(f"stream/{phase}", samples):
            fit, fitted = fit_stream(samples, self.rates)
            self.raw["streams"][phase] = asdict(fit)
            self._note(f"stream/{phase}", "stream", fitted, samples)

    def _transfers(self) -> None:
        samples = self.pool.of(Comm)
        if self.pool.ranks > 1 and self._enough("collectives", samples):
            fit, fitted = fit_transfers(samples, self.rates)
            self.raw["collectives"] = asdict(fit)
            self._note("collectives", "collectives", fitted, samples)

    def _constants(self) -> dict[str, float]:
        """Constants of a training step that were measured, or that timing kernels on the machine itself makes one."""
        record = self.raw["device"]
        family, generation = record["family"], record["generation"]
        constants = {f"clock_factor[{family}]": 1.0, f"attention_factor[fused,{family}]": 1.0}
        for dtype in ("fp32", "bf16", "fp16"):
            constants[f"gemm_factor[{dtype},{generation}]"] = 1.0
            constants[f"grouped_factor[{dtype},{generation},{STACK}]"] = 1.0
        steps = [s for s in self.pool.measured if s.ask.op == "optimizer"]
        if steps:
            each = Tuning().get("optimizer_bytes_per_param", STACK)
            moved = [each * s.ask.number("tensors") * s.ask.number("each") / s.seconds for s in steps]
            constants[f"optimizer_bandwidth[{STACK}]"] = median(moved) / record["hbm_bytes_per_s"]
        if self.machine.device != "cpu":
            launches = [s.seconds for s in self.pool.measured if s.ask.op == "launch" and s.ask.phase == "eager"]
            constants |= {f"host_launch_s[{STACK}]": median(launches)} if launches else {}
        return constants | self._overlap()

    def _overlap(self) -> dict[str, float]:
        alone = {s.ask.phase: s.seconds for s in self.pool.measured if s.ask.op == "overlap"}
        if set(alone) != {"compute", "comm", "both"}:
            return {}
        slower = max(1.0, alone["both"] / max(alone["compute"], alone["comm"]))
        return {f"overlap_compute_slowdown[{STACK}]": slower, f"overlap_comm_slowdown[{STACK}]": slower}


def _rates(held: Pool, machine: Machine) -> Rates:
    """Peaks of the data sheet for a GPU that the catalogue knows, else the best that was measured."""
    best = best_rates(held.measured, held.works)
    record = catalogue("gpus").get(machine.name)
    if machine.device == "cpu" or record is None:
        if not best.flops_per_s or best.memory_bytes_per_s <= 0.0:
            raise BadSamples(f"the samples with {held.ranks} ranks hold no GEMM or no copy; calibrate again to go on")
        return best
    stated = record["peak_flops_per_s"]
    peaks = {dtype: float(stated.get(dtype) or rate) for dtype, rate in best.flops_per_s.items()}
    link = float(record.get("scale_up_bytes_per_s") or best.link_bytes_per_s)
    return Rates(
        flops_per_s=peaks,
        memory_bytes_per_s=float(record["hbm_bytes_per_s"]),
        link_bytes_per_s=link,
        sm_count=int(record.get("sm_count") or 0),
    )


def _device_record(machine: Machine, rates: Rates, ranks: int) -> dict[str, Any]:
    """What one rank of the machine is, as a record of specs/gpus.yaml would say it."""
    known = catalogue("gpus").get(machine.name)
    if machine.device != "cpu" and known is not None:
        kept = {k: v for k, v in known.items() if k not in ("aliases", "alias_notes")}
        family = kept.get("family") or machine.name
        return kept | {"family": family, "generation": kept.get("generation") or family}
    return {
        "vendor": machine.described.split()[0],
        "arch": machine.described,
        "family": machine.name,
        "generation": machine.name,
        "peak_flops_per_s": rates.flops_per_s,
        "hbm_bytes": machine.memory_bytes / (ranks if machine.device == "cpu" else 1),
        "hbm_bytes_per_s": rates.memory_bytes_per_s,
        "l2_bytes": machine.cache_bytes,
        "scale_up_bytes_per_s": rates.link_bytes_per_s,
        "pcie_bytes_per_s": 0.0,
        "tdp_w": _ASSUMED_W,
        "notes": "peaks are the best that was measured; power is assumed",
        "source": "measured by moesim calibrate",
        "verified": False,
    }


def make_own_profile(samples: Sequence[Measured], machine: Machine, table: Path) -> dict[str, Any]:
    """The profile as JSON holds it: one rank at the top, `beside` with the machine shared by more."""
    counts = sorted({s.ranks for s in samples})
    bodies = {ranks: _Body(pool(samples, ranks), machine, table.name).build() for ranks in counts}
    first = bodies.pop(counts[0])
    if machine.device != "cpu":  # every rank has a GPU of its own: what more ranks add are the transfers between them
        for other in bodies.values():
            first["collectives"] = other["collectives"]
            first["provenance"] |= {k: v for k, v in other["provenance"].items() if k == "collectives"}
            first["constants"] |= other["constants"]
        bodies = {}
    whole = {
        "schema": SCHEMA,
        "machine": asdict(machine) | {"ranks": counts, "samples": len(samples), "samples_table": table.name},
        **first,
        "beside": {str(ranks): body for ranks, body in bodies.items()},
    }
    profile: dict[str, Any] = rounded(whole)
    return profile


def write_profile(profile: Mapping[str, Any], path: Path) -> None:
    """The profile as JSON, keys sorted: same samples, same bytes."""
    write_text(path, profile_text(profile))
