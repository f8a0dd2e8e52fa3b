"""What the age of an engine's release adds to its passes: constants were fitted on one month, runs are of others.

Three forms, each for large models whose experts and latent attention were new to engines in 2025. A factor on
everything before their kernels had settled; a drift per month after that; on GPUs whose port of an engine is young a
time per layer of experts that halves every few months. A release of unknown month is taken to be of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.serve.job import ServeJob
from moesim.sim.software.engine_release import month_of
from moesim.sim.software.stack import Tuning

SETTLED = "2025-06"  # from then on engines had kernels of their own for experts with latent attention
_LARGE = 128  # assumed: experts from which a model is one that engines were still learning to serve
_DRIFT = (0.75, 1.35)  # no drift is extrapolated beyond this


@dataclass(frozen=True, slots=True)
class Age:
    """What a release's age does to a pass: everything times a factor, and seconds on top."""

    factor: float = 1.0
    added_s: float = 0.0  # per pass


def age_of(job: ServeJob, tuning: Tuning, expert_layers: int) -> Age:
    """The age of a job's engine on its GPUs. Constants: early_factor, month_drift, young_layer_s, young_months."""
    engine, gpu, arch = job.engine, job.cluster.gpu, job.arch
    month = engine.month
    if month is None or arch.moe is None or arch.moe.experts < _LARGE:
        return Age()
    latent = arch.attention is not None and arch.attention.is_mla
    if month < (month_of(SETTLED) or 0):
        return Age(tuning.get("early_factor", engine.name, gpu.family)) if latent else Age()
    since = month - tuning.get("reference_month", engine.name)
    low, high = _DRIFT
    drift = min(high, max(low, tuning.get("month_drift", engine.name, gpu.family) ** -since))
    return Age(drift, expert_layers * _young_s(tuning, engine.name, gpu.family, month))


def _young_s(tuning: Tuning, engine: str, family: str, month: int) -> float:
    """Seconds per layer of experts and pass; at most what the slowest measured release took."""
    newest = tuning.get("young_layer_s", engine, family)
    if newest <= 0.0:
        return 0.0
    months = tuning.get("young_month", engine) - month
    return float(min(newest * 2.0 ** (months / tuning.get("young_halving_months", engine)), _most(tuning, engine)))


def _most(tuning: Tuning, engine: str) -> float:
    return tuning.get("young_layer_most_s", engine)


def young_experts(job: ServeJob, tuning: Tuning) -> float:
    """Factor on the arithmetic of experts in releases before their kernels for this format were tuned."""
    month = job.engine.month
    if month is None or month >= tuning.get("young_expert_month", job.engine.name):
        return 1.0
    return tuning.get("young_expert_factor", job.formats.experts, job.engine.name, job.cluster.gpu.family)


def draft_gaps_s(job: ServeJob, tuning: Tuning) -> tuple[float, float]:
    """(seconds per draft, per pass that checks drafts) beside their kernels. Nothing where drafts are free.

    Constants: draft_pass_s; draft_check_s, before draft_check_month early_draft_check_s.
    """
    if job.speculation is None or job.speculation.drafter is None:
        return 0.0, 0.0
    month, engine = job.engine.month, job.engine.name
    early = month is not None and month < tuning.get("draft_check_month", engine)
    return tuning.get("draft_pass_s", engine), tuning.get("early_draft_check_s" if early else "draft_check_s", engine)


def stream_s(job: ServeJob, tuning: Tuning) -> float:
    """Seconds of the API server's process per token that it sends: with many sequences passes wait for it.

    Nothing where the engine is a library, and for releases that were not seen at this limit.
    """
    month = job.engine.month
    if job.engine.run == "library" or month is None or month >= tuning.get("streaming_month", job.engine.name):
        return 0.0
    return tuning.get("stream_token_s", job.engine.name)


def cold_s(job: ServeJob, tuning: Tuning) -> float:
    """Seconds of a cold start until the first request is served: kernels compiled, tuned and warmed up."""
    month = job.engine.month
    early = month is not None and month < (month_of(SETTLED) or 0)
    return tuning.get("early_cold_s" if early else "cold_s", job.engine.name, job.cluster.gpu.family)
