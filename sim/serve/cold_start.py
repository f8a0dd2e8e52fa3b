"""Seconds until a new worker takes requests: its process, its weights, compiled code, captured graphs."""

from __future__ import annotations

from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import ColdStartAsk
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.kv_tiers import DISK_BYTES_PER_S
from moesim.sim.serve.memory import weight_bytes
from moesim.sim.software.stack import Tuning

# vLLM's own lines of a start with a warm compile cache (github.com/vllm-project/vllm/issues/20264, June 2025, one GPU):
# answers after 59 s, 34 of them the engine's (7.5 to 9 of compiled code, 17 of graphs); without that cache 29 s of
# compiling (github.com/kubernetes-sigs/gateway-api-inference-extension/pull/550). Other engines are assumed alike.
_PROCESS_S = 25.0
_GRAPHS_S = 17.0
_COMPILE_S = {"cold": 29.0, "cached": 8.0}


def cold_start(job: ServeJob, ask: ColdStartAsk, tuning: Tuning) -> dict[str, float]:
    """Seconds by part, of the slowest GPU; "stated" alone where the scenario says how long it takes.

    ScenarioError for weights from where no link is known.
    """
    if ask.seconds is not None:
        return {"stated": ask.seconds}
    return {
        "process": _PROCESS_S,
        f"weights from {ask.weights}": weight_bytes(job)[0] / _rate(job, ask, tuning),
        f"compile ({ask.compile})": _COMPILE_S[ask.compile],
        "graphs": _GRAPHS_S,
    }


def _rate(job: ServeJob, ask: ColdStartAsk, tuning: Tuning) -> float:
    """Bytes per second at which one GPU gets its weights while all GPUs of the worker get theirs."""
    cluster, efficiency = job.cluster, tuning.get("host_link_efficiency", job.engine.name)
    if ask.bytes_per_s is not None:
        return ask.bytes_per_s
    if ask.weights == "disk":
        return DISK_BYTES_PER_S / min(job.layout.gpus, cluster.gpus_per_host)
    rate = cluster.gpu.host_link_bytes_per_s if ask.weights == "cache" else cluster.nic_bytes_per_s
    if rate <= 0.0:
        what = f"{cluster.gpu.name} has no known link to its host" if ask.weights == "cache" else "there is no NIC"
        raise ScenarioError(f"serve.autoscale.cold_start: weights from {ask.weights}: {what}; give bytes_per_s")
    return rate * efficiency


def cold_start_said(parts: dict[str, float]) -> str:
    """'cold start 62 s: process 25 s, weights from disk 12 s, ...'."""
    each = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in parts.items())
    return f"cold start {sum(parts.values()):.3g} s: {each}"
