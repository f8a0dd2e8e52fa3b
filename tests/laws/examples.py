"""How many random scenarios there are: 300 where every change is tested, 10,000 with `make fuzz`."""

from __future__ import annotations

import os


def examples(share: float) -> int:
    """Examples of a test that has this share of all random scenarios."""
    return round(share * (10_000 if os.environ.get("MOESIM_TESTS") == "fuzz" else 300))
