"""Tensors to measure with: random numbers of every dtype, drawn once from the one door to randomness and repeated."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

from moesim.traces.rng import stream

_BLOCK = 1 << 20


def dtype_of(name: str) -> Any:
    """The torch dtype of one of our names. KeyError for a format that torch has no plain dtype for."""
    import torch

    return {
        "fp32": torch.float32,
        "tf32": torch.float32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp8": torch.float8_e4m3fn,
    }[name]


@cache
def _block() -> Any:
    import torch

    return torch.from_numpy(stream(0, "calibrate.tensors").standard_normal(_BLOCK).astype("float32"))


def noise(shape: tuple[int, ...], dtype: str, device: str, scale: float = 0.1, gradient: bool = False) -> Any:
    """A contiguous tensor of normal numbers times `scale`."""
    import torch

    count = prod(shape)
    flat = torch.empty(count, dtype=torch.float32)
    for start in range(0, count, _BLOCK):
        part = flat[start : start + _BLOCK]
        part.copy_(_block()[: len(part)])
    made = (flat * scale).reshape(shape).to(device=device, dtype=dtype_of(dtype))
    return made.requires_grad_() if gradient else made
