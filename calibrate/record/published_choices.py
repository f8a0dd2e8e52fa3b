"""Would we have chosen what the makers chose? Where published layouts rank in our search for their jobs.

A published row is laid out as it says and simulated; the same search as `moesim plan` looks at its job on the same
cluster with the same software and kind of sharding (ZeRO-1 where a distributed optimizer ran). Ranks count what the
search finds to be faster: candidates, against the row exactly as it is; layouts (tp, pp, vpp, cp, ep, etp), each with
its best micro-batch, recompute and dispatcher, the published one too; splits, the same with virtual stages left free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of
from moesim.calibrate.rows.files import measured, published_rows
from moesim.calibrate.rows.predict_training import RowResult, simulate_row
from moesim.calibrate.rows.training import scenario_of
from moesim.sim.layout.layout import Layout
from moesim.sim.plan.train.judge import Finalist
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.train.memory import step_memory

MODELS = ("qwen3-235b-a22b", "llama-3.1-405b", "gpt-175b", "deepseek-v3")
TOP = 10
_MOST_GPUS = 2048  # assumed: larger searches only repeat these, with more data parallelism
THOROUGH = Effort(top=40, most=1000)  # ranks up to 40 are exact
_NEEDED = ("tp", "pp", "vpp")  # a choice is only judged where it is printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A published layout beside what our search finds for the same job."""

    id: str
    model: str
    cluster: str
    layout: str
    measured_s: float
    predicted_s: float
    best: str
    best_s: float
    rank: int
    layout_rank: int
    split_rank: int
    fits: bool  # by our own count of memory

    @property
    def in_top(self) -> bool:
        """Whether its layout is among our best ten."""
        return self.layout_rank <= TOP


def candidates_of(models: Iterable[str] = MODELS) -> list[Row]:
    """Published rows of these models whose choice is printed, one per job and layout."""
    wanted = set(models)
    distinct: dict[str, Row] = {}
    for file in published_rows()[:1]:
        for row in file.rows:
            printed = all(text_of(row, key) for key in _NEEDED) or "dualpipe" in _software(row)
            if text_of(row, "model") in wanted and printed and int(row["gpus"]) <= _MOST_GPUS:
                keys = ("model", "gpu", "gpus", "gbs", "seq_len", "precision", "tp", "pp", "vpp", "cp", "ep", "mbs")
                distinct.setdefault("/".join(text_of(row, k) for k in keys), row)
    return list(distinct.values())


def _software(row: Row) -> str:
    return "dualpipe" if "128x128" in text_of(row, "precision") else ""


def choice(row: Row, effort: Effort = THOROUGH) -> Choice:
    """Where a published row's layout ranks, exactly up to rank `effort.top` of candidates.

    ValueErrors carry the reason where it cannot be judged.
    """
    result = simulate_row(row)
    own_s = result.step.step_time_s
    own_zero = max(1, result.resolved.job.layout.zero)
    plan = plan_train(_open(row), given={"zero": (own_zero,)}, effort=effort)
    finalists = [f for s in plan.searches for f in s.finalists]
    best = finalists[0]
    job = result.resolved.job
    return Choice(
        id=row["id"],
        model=job.arch.name,
        cluster=f"{job.cluster.gpus:,} {job.cluster.gpu.name}, {job.global_batch:,} sequences, {job.precision}",
        layout=_title(job.layout, job.micro_batch),
        measured_s=measured(row, "step_time_s")[0] or 0.0,
        predicted_s=own_s,
        best=best.candidate.title,
        best_s=best.step_time_s,
        rank=1 + sum(f.step_time_s < own_s for f in finalists),
        layout_rank=_rank(finalists, own_s, job.layout, _layout_key),
        split_rank=_rank(finalists, own_s, job.layout, _split_key),
        fits=_fits(result),
    )


def _rank(finalists: Iterable[Finalist], own_s: float, own: Layout, key: Callable[[Layout], tuple[Any, ...]]) -> int:
    """One more than the distinct layouts whose best is faster than the best of the published one."""
    best: dict[tuple[Any, ...], float] = {key(own): own_s}
    for f in finalists:
        name = key(f.candidate.layout)
        best[name] = min(best.get(name, f.step_time_s), f.step_time_s)
    return 1 + sum(seconds < best[key(own)] for seconds in best.values())


def _layout_key(layout: Layout) -> tuple[Any, ...]:
    return (*_split_key(layout), layout.vpp)


def _split_key(layout: Layout) -> tuple[Any, ...]:
    return layout.tp, layout.pp, layout.cp, layout.ep, layout.etp


def _open(row: Row) -> dict[str, Any]:
    """The row's job with its layout left to the search."""
    scenario, _ = scenario_of(row)
    kept: Mapping[str, Any] = scenario["layout"]
    layout = {key: kept[key] for key in ("sequence_parallel",) if key in kept}
    return {**scenario, "layout": layout}


def _title(layout: Layout, micro_batch: int) -> str:
    parts = f"tp{layout.tp} pp{layout.pp} vpp{layout.vpp} cp{layout.cp} ep{layout.ep}"
    return f"{parts} dp{layout.dp} zero{layout.zero} mbs{micro_batch} {layout.schedule}"


def _fits(result: RowResult) -> bool:
    usable = result.resolved.job.cluster.gpu.usable_bytes
    return max(m.total for m in step_memory(result.prices)) <= usable
