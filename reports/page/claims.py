"""Headline experiments of other systems, predicted: the claims that people know, held against the same simulator."""

from __future__ import annotations

from functools import cache
from typing import Any

from moesim.calibrate.record.headlines_serving import SEEDS
from moesim.calibrate.record.headlines_training import TRAINING_SEEDS
from moesim.reports.page.section import Section
from moesim.reports.text import three

NEAR = 0.25  # of the published value or range


_COLUMNS = ("what was claimed", "published", "predicted", "error", "source")


@cache
def claims_section() -> Section:
    """Every headline experiment: published, predicted, and how far apart; those of training, then those of serving."""
    claims: list[dict[str, Any]] = []
    for seed in (*TRAINING_SEEDS, *SEEDS):
        value = seed.predict()
        published = three(seed.low) if seed.low == seed.high else f"{three(seed.low)} to {three(seed.high)}"
        claims.append(
            {
                "claim": seed.name,
                "published": f"{published} {seed.unit}",
                "predicted": f"{three(value)} {seed.unit}",
                "error": seed.error(value),
                "source": seed.source,
            }
        )
    near = sum(abs(row["error"]) <= NEAR for row in claims)
    lead = (
        f"{near} of {len(claims)} headline results of published systems come out within {NEAR:.0%}, no constant "
        "fitted to them; the others stay visible."
    )
    rows = [(r["claim"], r["published"], r["predicted"], f"{r['error']:+.0%}", r["source"]) for r in claims]
    return Section("claims", "Claims that people know", lead, {"claims": claims}, {"columns": _COLUMNS, "rows": rows})
