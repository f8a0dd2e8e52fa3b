"""Measuring for real on the CPU: samples arrive, a killed session goes on, ranks agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from moesim.calibrate.measure.asks import Ask, ask
from moesim.calibrate.measure.samples import load_samples
from moesim.calibrate.measure.session import measure

pytest.importorskip("torch", reason="measures with torch")

TINY = (
    ask("copy", "copy", "fp32", bytes=2**20),
    ask("gemm", "forward", "fp32", m=16, n=32, k=64),
    ask("gemm", "wgrad", "fp32", m=32, n=64, k=16),
    ask("grouped_gemm", "forward", "fp32", rows="4/0/9", n=16, k=8),
    ask("grouped_gemm", "wgrad", "fp32", rows="4/0/9", n=16, k=8),
    ask("attention", "forward", "fp32", batch=1, q_len=16, kv_len=16, heads=4, kv_heads=2, dim=8),
    ask("attention", "backward", "fp32", batch=1, q_len=16, kv_len=16, heads=4, kv_heads=2, dim=8),
    ask("attention", "decode", "fp32", batch=2, q_len=1, kv_len=16, heads=4, kv_heads=4, dim=8),
    *(
        ask("stream", kind + way, "fp32", **size)
        for way in ("", ".bwd")
        for kind, size in (
            ("norm", {"rows": 8, "cols": 16}),
            ("residual", {"rows": 8, "cols": 16}),
            ("rope", {"tokens": 8, "heads": 4, "dim": 8}),
            ("gated_act", {"rows": 8, "cols": 16}),
            ("router", {"tokens": 8, "experts": 4, "top_k": 2}),
            ("permute", {"rows": 16, "cols": 8, "experts": 4, "top_k": 2}),
            ("unpermute", {"rows": 16, "cols": 8, "experts": 4, "top_k": 2}),
            ("embedding", {"rows": 8, "cols": 16, "vocab": 32}),
            ("loss", {"tokens": 8, "vocab": 32}),
        )
    ),
    ask("optimizer", "adamw", "fp32", tensors=2, each=64),
    ask("launch", "graph", "fp32", elements=4),
    ask("gemm", "forward", "fp8", m=16, n=16, k=16),
)


def machine() -> Any:
    from moesim.calibrate.measure.device import find_machine

    return find_machine("cpu")


def test_every_kind_of_work_runs_and_a_second_session_finds_it_done(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    first = measure(machine(), {1: TINY}, 60.0, table, rounds=1)
    assert set(first.skipped) == {"launch/graph/fp32 with 1 ranks", "gemm/forward/fp8 with 1 ranks"}
    assert {s.ask for s in first.samples} == {a for a in TINY if a.op != "launch" and a.dtype != "fp8"}
    assert not first.failures and not first.not_reached
    before = table.read_bytes()
    second = measure(machine(), {1: [a for a in TINY if a.op != "launch" and a.dtype != "fp8"]}, 60.0, table, rounds=1)
    assert second.resumed == len(first.samples) and table.read_bytes() == before


def test_two_ranks_measure_collectives_together(tmp_path: Path) -> None:
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast")
    asks = [ask("collective", kind, "fp32", bytes=4096, ranks=2) for kind in kinds]
    asks += [ask("overlap", phase, "fp32", side=32, gemms=2, bytes=4096, ranks=2) for phase in ("comm", "both")]
    asks.append(TINY[1])
    outcome = measure(machine(), {2: asks}, 60.0, tmp_path / "s.csv", rounds=1)
    assert not outcome.failures
    skipped = {a for a in asks if f"{a.op}/{a.phase}" in str(outcome.skipped)}
    assert {s.ask for s in outcome.samples} | skipped == set(asks)
    assert all(s.ranks == 2 for s in outcome.samples) and len(outcome.samples) >= 5


def test_a_budget_that_is_spent_leaves_the_rest_for_next_time(tmp_path: Path) -> None:
    outcome = measure(machine(), {1: TINY}, 1e-9, tmp_path / "s.csv", rounds=1)
    assert outcome.samples == [] and outcome.not_reached == len(TINY)


def test_a_killed_calibration_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL, as a power cut would: what was measured stays, the next run adds to it."""
    out, table = tmp_path / "cpu.json", tmp_path / "cpu.samples.csv"
    command = [sys.executable, "-m", "moesim", "calibrate", "--quick", "--ranks", "1"]
    command += ["--device", "cpu", "--out", str(out), "--minutes", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not (table.exists() and len(table.read_bytes().splitlines()) > 5):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    kept = table.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    done = [s.ask for s in load_samples(table)] if kept == table.read_bytes() else []
    outcome = measure(machine(), {1: TINY[:3]}, 30.0, table, rounds=1)
    assert table.read_bytes().startswith(kept)
    assert outcome.resumed >= 4 and (not done or outcome.samples[0].ask == done[0])


def test_asks_that_no_rank_can_run_are_listed_not_raised(tmp_path: Path) -> None:
    impossible: list[Ask] = [ask("gemm", "forward", "fp32", m=2**20, n=2**20, k=2**20), TINY[1]]
    outcome = measure(machine(), {1: impossible}, 30.0, tmp_path / "s.csv", rounds=1)
    assert list(outcome.skipped) == ["gemm/forward/fp32 with 1 ranks"] and not outcome.failures
    assert [s.ask for s in outcome.samples] == [TINY[1]]
