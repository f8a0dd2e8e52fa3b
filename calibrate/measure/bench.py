"""Bench: where measurements run, the buffers they rotate, and what a prepared measurement is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moesim.calibrate.measure.clock import Call
from moesim.calibrate.measure.tensors import noise
from moesim.refusal import Refusal

COPIES = 4  # of an activation
_MOST_COPIES = 24


class Unsupported(Refusal):
    """This device or torch has no such kernel; the message says which."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A call, how many units of the asked work one call does, and which implementation runs."""

    call: Call
    units: int
    backend: str


@dataclass(frozen=True, slots=True)
class Bench:
    """Where measurements run: a torch device and what its last cache level holds."""

    device: str
    cache_bytes: float

    @property
    def cuda(self) -> bool:
        """True on an NVIDIA GPU."""
        return self.device.startswith("cuda")

    def copies(self, each_bytes: float) -> int:
        """Buffers of this size that together are larger than the cache."""
        return max(2, min(_MOST_COPIES, int(2.0 * self.cache_bytes / max(each_bytes, 1.0)) + 1))

    def many(self, shape: tuple[int, ...], dtype: str, cold: bool = True, gradient: bool = False) -> list[Any]:
        """Copies of one tensor: more than the cache holds when `cold`, else a few."""
        first = noise(shape, dtype, self.device, gradient=gradient)
        count = self.copies(first.numel() * first.element_size()) if cold else COPIES
        return [first, *(first.detach().clone().requires_grad_(gradient) for _ in range(count - 1))]
