"""What fills the memory of every pipeline rank, by kind, against what the GPU has."""

from __future__ import annotations

from moesim.reports.figures.palette import MEMORY
from moesim.reports.page.section import Section
from moesim.reports.page.train_case import TrainCase
from moesim.reports.text import gib

_MOST_ROWS = 16


def held(case: TrainCase) -> Section:
    """One stacked bar per pipeline rank."""
    p = case.asked
    full = max(p.usable_bytes, *(m.total for m in p.memory))
    ranks = p.memory[:: -(-len(p.memory) // _MOST_ROWS)]
    rows = [
        {
            "title": f"rank {m.rank}",
            "parts": [(kind, colour, m.by_kind().get(kind, 0.0) / full) for kind, colour in MEMORY.items()],
            "value": f"{gib(m.total)} GiB",
        }
        for m in ranks
    ]
    data = {
        "usable_bytes": p.usable_bytes,
        "fits": p.memory_fits,
        "ranks": [{"rank": m.rank, "total": m.total, **m.by_kind()} for m in p.memory],
    }
    used = {kind for m in p.memory for kind, size in m.by_kind().items() if size > 0.0}
    shown = {
        "rows": rows,
        "limit": p.usable_bytes / full,
        "limit_text": f"{gib(p.usable_bytes)} GiB usable",
        "legend": [(kind, colour) for kind, colour in MEMORY.items() if kind in used],
        "left_out": len(p.memory) - len(ranks),
    }
    return Section("held", "Memory by kind", _lead(case), data, shown)


def _lead(case: TrainCase) -> str:
    p = case.asked
    worst = max(p.memory, key=lambda m: m.total)
    kind, size = max(worst.by_kind().items(), key=lambda kv: kv[1])
    share = worst.total / p.usable_bytes
    verdict = f"{share:.0%} full" if share <= 1.0 else f"{share - 1.0:.0%} too small"
    return (
        f"The fullest GPU (rank {worst.rank}) needs {gib(worst.total)} of {gib(p.usable_bytes)} GiB: {verdict}. "
        f"The largest part is {kind}, {gib(size)} GiB."
    )
