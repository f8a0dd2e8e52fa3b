"""Coefficients of a profile by the name of the operation, as tests ask for them."""

from __future__ import annotations

from typing import Any

from moesim.hwmodels.profile import Profile


def fit_of(profile: Profile, op: str, dtype: str) -> Any:
    """The fit of "gemm", "grouped_gemm" or "attention" in one dtype."""
    return profile.fit_of(getattr(profile, f"{op}s"), op, dtype)
