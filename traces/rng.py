"""The only door to randomness: one named stream per subsystem, derived from the seed and the stream's name."""

from __future__ import annotations

from zlib import crc32

import numpy as np

Generator = np.random.Generator


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator that depends on `seed` and `name` only: a draw added elsewhere moves nothing here."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, crc32(name.encode())])))
