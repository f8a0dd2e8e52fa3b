"""Knobs of a what-if for serving: every change that makes another deployment, or another load, out of the asked one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from moesim.hwmodels.gpu import GpuSpec
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.job import Deployment, ResolvedServe, ServeJob
from moesim.sim.serve.weight_formats import SERVE_PRECISIONS, Formats, formats_of
from moesim.traces.routing import Routing

_SKEWS = (0.0, 0.5, 1.0)  # sigma of the popularity of experts (assumed: even, usual, a router with favourites)


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


def serve_changes(asked: ResolvedServe, share: float) -> Iterator[tuple[str, str, ResolvedServe]]:
    """(knob, change, what is asked then): hardware by plus and minus `share`, load, skew, formats."""
    job = asked.deployment.job
    for name, knob in HARDWARE.items():
        far, linked = asked.deployment.gpus > job.cluster.domain, asked.deployment.gpus > 1
        if (name == "NIC bandwidth" and not far) or (name in ("NVLink bandwidth", "network latency") and not linked):
            continue
        for factor in (1.0 - share, 1.0 + share):
            yield name, f"{factor - 1.0:+.0%}", knob(asked, factor)
    if asked.workload.clients or asked.workload.rate_per_s:
        title = "clients" if asked.workload.clients else "request rate"
        for factor in (0.5, 2.0):
            yield title, f"x{factor:g}", _load(asked, factor)
    for factor in (0.5, 2.0):
        if asked.workload.longest * factor <= job.arch.max_context:
            yield "prompt length", f"x{factor:g}", _lengths(asked, factor, 1.0)
    if job.arch.is_moe:
        yield from _skewed(asked)
    yield from _in_other_formats(asked)


def _skewed(asked: ResolvedServe) -> Iterator[tuple[str, str, ResolvedServe]]:
    for sigma in _SKEWS:
        routing = Routing() if sigma == 0.0 else Routing(kind="lognormal", sigma=sigma)
        if routing != asked.deployment.job.routing:
            name = "balanced" if sigma == 0.0 else f"lognormal {sigma:g}"
            yield "expert imbalance", name, _routed(asked, routing)


def _in_other_formats(asked: ResolvedServe) -> Iterator[tuple[str, str, ResolvedServe]]:
    """Every precision whose formats the GPU has and no other has had."""
    job = asked.deployment.job
    seen = {job.formats}
    for precision in SERVE_PRECISIONS:
        try:
            formats = formats_of(precision, asked.ask.kv_dtype, job.arch, job.cluster.gpu, job.engine)
        except ScenarioError:  # this GPU has no such path: no change to offer
            continue
        if formats not in seen and precision != "fp16":
            seen.add(formats)
            yield "precision", precision, _formatted(asked, formats)


def _formatted(asked: ResolvedServe, formats: Formats) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, formats=formats))


def _routed(asked: ResolvedServe, routing: Routing) -> ResolvedServe:
    return _jobs(asked, lambda job: replace(job, routing=routing))
