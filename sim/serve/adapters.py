"""LoRA adapters beside each other: their bytes on one GPU, and what reading those of a step's sequences takes."""

from __future__ import annotations

from moesim.hwmodels.work import Stream
from moesim.sim.serve.job import ServeJob

_KERNELS = 2  # assumed: grouped kernels per layer, one down and one up (Punica, S-LoRA)


def adapter_bytes(job: ServeJob) -> float:
    """Bytes of all adapters on one GPU: two thin matrices beside every projection of attention, 16 bits."""
    a = job.arch.attention
    if job.adapters is None or a is None:
        return 0.0
    width = (a.heads + 2 * a.kv_heads) * a.head_dim + a.heads * a.v_head_dim + 3 * job.arch.hidden
    return 2.0 * job.adapters.count * job.adapters.rank * width * job.arch.num_layers / job.layout.tp / job.layout.pp


def adapter_work(job: ServeJob, tokens: int) -> Stream:
    """Adapters that `tokens` tokens touch are read once each; which one a sequence asks for is even chance."""
    assert job.adapters is not None
    count = job.adapters.count
    touched = count * (1.0 - (1.0 - 1.0 / count) ** tokens)
    return Stream(adapter_bytes(job) / count * touched, "adapters", _KERNELS * job.arch.num_layers)
