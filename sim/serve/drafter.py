"""The job that drafts for another job: its layers on the same tensor group, or on what divides its heads."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from moesim.sim.layout.layout import Layout
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.weight_formats import Formats


def drafter_of(job: ServeJob) -> ServeJob | None:
    """The drafting model as a job of its own, on the ranks of one pipeline stage; None where drafts are free."""
    speculation = job.speculation
    if speculation is None or speculation.drafter is None:
        return None
    arch, lay = speculation.drafter, job.layout
    stage = lay.gpus // lay.pp
    if speculation.method == "mtp":  # experts as those of the model; what else it has is spread as it is there
        layout, formats = replace(lay, gpus=stage, pp=1), job.formats
        placement = job.placement
    else:  # copies of a dense layer or a small model: one for every tensor group, in 16 bits
        heads = arch.attention.heads if arch.attention is not None else lay.tp
        layout = Layout(gpus=stage, tp=gcd(heads, lay.tp), sequence_parallel=False)
        if arch.is_moe:
            layout = replace(layout, etp=stage)
        half = job.formats.head
        formats, placement = Formats(half, half, half, job.formats.kv), type(job.placement)()
    return replace(
        job, arch=arch, layout=layout, formats=formats, placement=placement, speculation=None, adapters=None,
        offload=None, sampling=None, two_batch=False, joins=speculation.joins,
        drafts_checked=speculation.tokens,
    )  # fmt: skip
