"""Axes along which one model may start to win: settings and hardware, their ranges, and how a point is asked about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from moesim.sim.comparison.expense import AS_IS, Hardware, saturating, serve_hours, train_hours
from moesim.sim.question.scenario import scenario_of
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.train.job import resolve
from moesim.sim.variation.sweep import with_settings

_RECOMPUTED = "more is recomputed where it would not fit"

Hours = Callable[[Mapping[str, Any], float], float]  # GPU-hours per million tokens of a scenario at one value


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that is varied for both columns alike. `grid`: values at which a change of the winner is looked for."""

    section: str  # train or serve
    name: str
    unit: str
    grid: tuple[float, ...]
    whole: bool  # whole numbers only
    hours: Hours
    note: str = ""


def _doubling(first: float, last: float, by: float = 2.0) -> tuple[float, ...]:
    values = [first]
    while values[-1] * by <= last * 1.000001:
        values.append(values[-1] * by)
    return tuple(values)


def _with_micro_batch(scenario: Mapping[str, Any], value: float) -> dict[str, Any]:
    """`value` sequences per micro-batch, and the nearest larger global batch that they divide."""
    job = resolve(scenario_of(with_settings(scenario, {"train.micro_batch": 1}))).job
    each = round(value) * job.layout.dp * (2 if job.layout.schedule == "dualpipe" else 1)
    least = 2 * job.layout.pp * round(value) * job.layout.dp if job.layout.schedule == "dualpipe" else each
    batch = max(least, ceil(scenario["train"]["global_batch"] / each) * each)
    return with_settings(scenario, {"train.micro_batch": round(value), "train.global_batch": batch})


def _with_length(scenario: Mapping[str, Any], value: float) -> dict[str, Any]:
    """Sequences of about `value` tokens, a multiple of what context and tensor parallelism split."""
    layout = scenario.get("layout", {})
    each = 2 * layout.get("cp", 1) * layout.get("tp", 1)
    return with_settings(scenario, {"train.seq_len": max(each, round(value / each) * each)})


def _on_hbm(scenario: Mapping[str, Any], value: float) -> float:
    return train_hours(scenario, Hardware(hbm=value))


def _on_nic(scenario: Mapping[str, Any], value: float) -> float:
    return train_hours(scenario, Hardware(nic=value))


def train_axes(scenario: Mapping[str, Any]) -> list[Axis]:
    """What is varied about training; NICs only where the scenario has several scale-up domains."""
    job = resolve(scenario_of(scenario)).job
    shared: Any = {"section": "train"}
    axes = [
        Axis(name="micro-batch", unit="sequences", grid=_doubling(1, 16), whole=True,
             hours=lambda s, v: train_hours(_with_micro_batch(s, v)), note=_RECOMPUTED, **shared),
        Axis(name="sequence length", unit="tokens", grid=_doubling(512, 131072), whole=True,
             hours=lambda s, v: train_hours(_with_length(s, v)), note=_RECOMPUTED, **shared),
        Axis(name="HBM bandwidth", unit="x of the data sheet", grid=_doubling(0.25, 4), whole=False, hours=_on_hbm,
             **shared),
    ]  # fmt: skip
    if job.cluster.domains > 1:
        grid = _doubling(0.0625, 16, 4)
        axes.append(Axis(name="NIC bandwidth", unit="x of the node's", grid=grid, whole=False, hours=_on_nic, **shared))
    return axes


def _clients(scenario: Mapping[str, Any], value: float) -> float:
    load = scenario["serve"]["requests"]
    asked = {"kind": "closed", "concurrency": round(value), "count": max(8, 2 * round(value))}
    kept = {key: load[key] for key in ("input_tokens", "output_tokens", "jitter", "seed") if key in load}
    return serve_hours(with_settings(scenario, {"serve.requests": {**kept, **asked}}))


def _prompts(scenario: Mapping[str, Any], value: float) -> float:
    return serve_hours(with_settings(scenario, {"serve.requests.input_tokens": round(value)}))


def serve_axes(scenario: Mapping[str, Any]) -> list[Axis]:
    """What is varied about serving, under loads that keep the deployment busy."""
    deployment = resolve_serve(scenario_of(scenario)).deployment
    shared: Any = {"section": "serve"}
    axes = [
        Axis(name="clients at once", unit="", grid=_doubling(1, 4096, 4), whole=True,
             hours=lambda s, v: _clients(saturating(s), v), **shared),
        Axis(name="prompt length", unit="tokens", grid=_doubling(128, 32768, 4), whole=True,
             hours=lambda s, v: _prompts(saturating(s), v), **shared),
        Axis(name="HBM bandwidth", unit="x of the data sheet", grid=_doubling(0.25, 4), whole=False,
             hours=lambda s, v: serve_hours(saturating(s), Hardware(hbm=v)), **shared),
    ]  # fmt: skip
    if deployment.job.gpus > deployment.job.cluster.domain or deployment.prefill is not None:
        grid = _doubling(0.0625, 16, 4)
        axes.append(
            Axis(name="NIC bandwidth", unit="x of the node's", grid=grid, whole=False,
                 hours=lambda s, v: serve_hours(saturating(s), Hardware(nic=v)), **shared)
        )  # fmt: skip
    return axes


def hours_as_asked(section: str, scenario: Mapping[str, Any]) -> float:
    """GPU-hours of a million tokens of a section as the scenario has it; serving kept busy."""
    return train_hours(scenario, AS_IS) if section == "train" else serve_hours(saturating(scenario), AS_IS)
