"""LoRA adapters in a pass: two thin kernels beside every linear layer that has them, and the bytes that they move.

Shrink reads the layer's inputs and the thin matrix [rank, in], expand adds to its outputs with [out, rank]. Each
adapter that a pass touches is read once; kernels before 2025-04 read it again for every token.
"""

from __future__ import annotations

from moesim.hwmodels.work import Stream
from moesim.sim.model.adapted import Adapted, adapted_layers
from moesim.sim.serve.job import ServeJob
from moesim.sim.software.stack import Tuning

_KERNELS = 2  # per linear layer: shrink and expand, however many adapters
_WIDTH = 2.0  # bytes of an element


def _adapted(job: ServeJob) -> list[tuple[Adapted, int]]:
    assert job.adapters is not None
    return adapted_layers(job.arch, job.layout.tp, job.adapters.targets != "all")


def _one_adapter_bytes(job: ServeJob) -> float:
    """Bytes of one adapter's matrices in all layers, on one tensor rank."""
    assert job.adapters is not None
    return _WIDTH * job.adapters.rank * sum(one.rows * layers for one, layers in _adapted(job))


def adapter_bytes(job: ServeJob) -> float:
    """Bytes of all adapters on one GPU."""
    return job.adapters.count * _one_adapter_bytes(job) / job.layout.pp if job.adapters is not None else 0.0


def adapter_work(job: ServeJob, tokens: int, tuning: Tuning) -> tuple[Stream, float]:
    """(what a pass of `tokens` tokens moves, seconds of its small kernels) over all layers.

    Which adapter a token asks for is even chance. Constants: adapter_kernel_s, adapter_reads; before adapter_month
    those of early_adapter_kernel_s, early_adapter_reads.
    """
    assert job.adapters is not None
    count, engine = job.adapters.count, job.engine
    early = engine.month is not None and engine.month < tuning.get("adapter_month", engine.name)
    kernel_s, reads = (
        tuning.get(f"early_{name}" if early else name, engine.name) for name in ("adapter_kernel_s", "adapter_reads")
    )
    touched = count * (1.0 - (1.0 - 1.0 / count) ** tokens)
    moved = _WIDTH * tokens * sum(one.moved * layers for one, layers in _adapted(job))
    read = _one_adapter_bytes(job) * (touched + reads * tokens)
    kernels = _KERNELS * sum(layers for _, layers in _adapted(job))
    return Stream(moved + read, "adapters", 0), kernels * kernel_s
