"""Knobs of a what-if for serving that are no keys of a scenario: hardware, and loads that come as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from moesim.hwmodels.gpu import GpuSpec
from moesim.sim.serve.job import Deployment, ResolvedServe, ServeJob


def _jobs(asked: ResolvedServe, change: Callable[[ServeJob], ServeJob]) -> ResolvedServe:
    """The same change to every job of a deployment."""
    d = asked.deployment
    other: Deployment = replace(d, job=change(d.job), prefill=change(d.prefill) if d.prefill else None)
    return replace(asked, deployment=other)


def _gpu(asked: ResolvedServe, change: Callable[[GpuSpec], GpuSpec]) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, cluster=replace(job.cluster, gpu=change(job.cluster.gpu))))


def _flops(asked: ResolvedServe, factor: float) -> ResolvedServe:
    def faster(gpu: GpuSpec) -> GpuSpec:
        return replace(gpu, peak_flops_per_s={name: peak * factor for name, peak in gpu.peak_flops_per_s.items()})

    return _gpu(asked, faster)


def _hbm(asked: ResolvedServe, factor: float) -> ResolvedServe:
    return _gpu(asked, lambda gpu: replace(gpu, hbm_bytes_per_s=gpu.hbm_bytes_per_s * factor))


def _hbm_size(asked: ResolvedServe, factor: float) -> ResolvedServe:
    def larger(gpu: GpuSpec) -> GpuSpec:
        return replace(gpu, hbm_bytes=gpu.hbm_bytes * factor, usable_bytes=gpu.usable_bytes * factor)

    return _gpu(asked, larger)


def _link(asked: ResolvedServe, factor: float) -> ResolvedServe:
    return _gpu(asked, lambda gpu: replace(gpu, scale_up_bytes_per_s=gpu.scale_up_bytes_per_s * factor))


def _nic(asked: ResolvedServe, factor: float) -> ResolvedServe:
    def faster(job: ServeJob) -> ServeJob:
        return replace(job, cluster=replace(job.cluster, nic_bytes_per_s=job.cluster.nic_bytes_per_s * factor))

    return _jobs(asked, faster)


def _latency(asked: ResolvedServe, factor: float) -> ResolvedServe:
    """Floors of collectives inside a domain, and the fabric's own latency."""
    kernels = asked.deployment.job.kernels  # one for all jobs of a deployment
    fit = kernels.collectives
    slower = replace(
        fit, base_s=fit.base_s * factor, hop_s=fit.hop_s * factor, a2a_base_s=fit.a2a_base_s * factor,
        nvls_base_s=fit.nvls_base_s * factor,
    )  # fmt: skip

    own = replace(kernels, collective_fit=slower)

    def far(job: ServeJob) -> ServeJob:
        cluster = replace(job.cluster, fabric_latency_s=job.cluster.fabric_latency_s * factor)
        return replace(job, cluster=cluster, kernels=own)

    return _jobs(asked, far)


HARDWARE: Mapping[str, Callable[[ResolvedServe, float], ResolvedServe]] = {
    "GPU FLOP/s": _flops,
    "HBM bandwidth": _hbm,
    "HBM size": _hbm_size,
    "NVLink bandwidth": _link,
    "NIC bandwidth": _nic,
    "network latency": _latency,
}


def _load(asked: ResolvedServe, factor: float) -> ResolvedServe:
    """More clients, or requests that come faster."""
    load = asked.workload
    r = load.requests
    if load.clients:
        return replace(asked, workload=replace(load, clients=max(1, round(load.clients * factor))))
    waits = np.array(r.after) >= 0 if r.after else np.zeros(len(r), dtype=bool)  # people think as long as before
    arrivals = tuple(float(t) for t in np.where(waits, r.arrival_s, np.array(r.arrival_s) / factor))
    return replace(asked, workload=replace(load, requests=replace(r, arrival_s=arrivals)))


def _lengths(asked: ResolvedServe, inputs: float, outputs: float) -> ResolvedServe:
    r = asked.workload.requests
    ends = tuple(tuple(round(end * inputs) for end in piece) for piece in r.chains.ends) if r.chains else ()
    other = replace(
        r,
        input_tokens=tuple(max(1, round(t * inputs)) for t in r.input_tokens),
        output_tokens=tuple(max(1, round(t * outputs)) for t in r.output_tokens),
        prefix=tuple(round(t * inputs) for t in r.prefix),
        chains=r.chains and replace(r.chains, ends=ends),
    )
    return replace(asked, workload=replace(asked.workload, requests=other))


def hardware_changes(asked: ResolvedServe, share: float) -> Iterator[tuple[str, str, ResolvedServe]]:
    """(knob, change, what is asked then): hardware by plus and minus `share`."""
    job = asked.deployment.job
    for name, knob in HARDWARE.items():
        far, linked = asked.deployment.gpus > job.cluster.domain, asked.deployment.gpus > 1
        if (name == "NIC bandwidth" and not far) or (name in ("NVLink bandwidth", "network latency") and not linked):
            continue
        for factor in (1.0 - share, 1.0 + share):
            yield name, f"{factor - 1.0:+.0%}", knob(asked, factor)


def load_changes(asked: ResolvedServe) -> Iterator[tuple[str, str, ResolvedServe]]:
    """The same requests faster or slower, shorter or longer: of loads that no key of a scenario scales."""
    if said_rate(asked) is None and (asked.workload.clients or asked.workload.rate_per_s):
        title = "clients" if asked.workload.clients else "request rate"
        for factor in (0.5, 2.0):
            yield title, f"x{factor:g}", _load(asked, factor)
    if not says_lengths(asked):
        for factor in (0.5, 2.0):
            if asked.workload.longest * factor <= asked.deployment.job.arch.max_context:
                yield "prompt length", f"x{factor:g}", _lengths(asked, factor, 1.0)


def said_rate(asked: ResolvedServe) -> tuple[str, float] | None:
    """The key of serve.requests that says how much comes, and its value; None where it is a trace, or all at once."""
    r = asked.ask.requests
    if r.kind == "trace":
        return None
    return next(((key, v) for key in ("rate_per_s", "concurrency") if (v := getattr(r, key)) is not None), None)


def says_lengths(asked: ResolvedServe) -> bool:
    """Whether a key of the scenario says how long prompts are."""
    return asked.ask.requests.kind in ("closed", "offline", "poisson", "gamma")
