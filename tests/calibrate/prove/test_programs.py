"""The programs that a profile is proved on compute what they should, on one rank and on two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from moesim.calibrate.measure.session import crew_of
from moesim.calibrate.measure.workers import Crew, run_crew, start_rank
from moesim.calibrate.prove.cases import Case

pytest.importorskip("torch", reason="runs programs in torch")


def _forward(rank: int, crew: Crew, rendezvous: str, case: Case, out: Any) -> None:
    """A program's answer on each rank, put out by rank 0 as one list."""
    import torch
    import torch.distributed as dist

    from moesim.calibrate.prove.programs import Program

    start_rank(rank, crew, rendezvous)
    program = Program(case, rank, "cpu")
    if crew.ranks > 1:  # every rank's experts are those of the whole model
        per = case.experts // crew.ranks
        for layer in program.layers:
            for name in ("up", "down"):
                layer[name] = [w * (1.0 + rank * per + i) for i, w in enumerate(layer[name])]
    else:
        for layer in program.layers:
            for name in ("up", "down"):
                layer[name] = [w * (1.0 + i) for i, w in enumerate(layer[name])]
    logits = program.logits().detach()
    if rank == 0:
        out.put(logits.double().sum(dim=1).tolist())
        out.put(None)
    if crew.ranks > 1:
        dist.barrier()
        dist.destroy_process_group()
    assert torch.isfinite(logits).all()


def answers(case: Case, ranks: int) -> Sequence[float]:
    from moesim.calibrate.measure.device import find_machine

    crew = crew_of(find_machine("cpu"), ranks)
    return next(iter(run_crew(_forward, crew, case)))


def test_experts_on_two_ranks_give_what_one_rank_gives() -> None:
    """Rows go to their experts' rank and back: nothing is lost, swapped or added twice."""
    sizes: dict[str, Any] = {
        "layers": 2, "hidden": 32, "heads": 4, "kv_heads": 2, "inner": 16, "vocab": 64, "batch": 2, "seq_len": 8,
        "experts": 4, "top_k": 2, "sigma": 1.0,
    }  # fmt: skip
    alone = answers(Case(name="one", ranks=1, **sizes), 1)
    shared = answers(Case(name="two", ranks=2, **sizes), 2)
    assert shared == pytest.approx(alone, rel=1e-4, abs=1e-6)
