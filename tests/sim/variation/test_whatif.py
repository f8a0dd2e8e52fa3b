"""What if: every change moves the run the way it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.variation.whatif_train import WhatIf, whatif_train

JOB: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 4, "vpp": 8, "ep": 8},
    "train": {"global_batch": 256, "seq_len": 4096},
    "routing": "balanced",
}


@pytest.fixture(scope="module")
def found() -> WhatIf:
    return whatif_train(JOB)


def test_more_hardware_never_hurts_and_less_never_helps(found: WhatIf) -> None:
    for o in found.outcomes:
        if o.change in ("-20%", "+20%"):
            better = (o.change == "+20%") != (o.knob == "network latency")
            assert (o.speed_factor >= 1.0 - 1e-9) if better else (o.speed_factor <= 1.0 + 1e-9), o
    gains = {o.knob: o.speed_factor for o in found.outcomes if o.change == "+20%"}
    assert gains["GPU FLOP/s"] > gains["HBM bandwidth"] > 1.0
    assert sum(g - 1.0 for g in gains.values()) < 0.2  # no more than everything together


def test_skewed_experts_cost_and_eight_bits_pay(found: WhatIf) -> None:
    by = {(o.knob, o.change): o.speed_factor for o in found.outcomes}
    assert by["expert imbalance", "lognormal 0.5"] < by["expert imbalance", "lognormal 0.25"] < 1.0
    assert by["precision", "fp8"] > 1.1
    assert by["global batch", "x2"] > 1.0 > by["global batch", "x0.5"]  # the bubble


def test_the_roofline_accounts_for_compute(found: WhatIf) -> None:
    parts = {p.category: p for p in found.parts}
    assert 0.3 < parts["grouped_gemm"].floor_share < 1.0 and parts["grouped_gemm"].bound == "compute"
    assert parts["elementwise"].bound == "memory" and parts["elementwise"].flops == 0.0
    assert sum(p.busy_s for p in found.parts) < found.step_time_s


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scenario, picture = tmp_path / "job.yaml", tmp_path / "tornado.svg"
    small = {**JOB, "cluster": {"node": "dgx-h100", "gpus": 32}, "train": {"global_batch": 32, "seq_len": 2048}}
    scenario.write_text(json.dumps(small), encoding="utf-8")
    assert run(["whatif", str(scenario), "--figure", str(picture)]) == 0
    assert "what matters" in picture.read_text(encoding="utf-8")
    said = capsys.readouterr()
    assert "a GPU-hour" in said.out
    steps = [line for line in said.err.splitlines() if line.startswith("changes run: ")]
    total = steps[-1].split()[-1]
    assert steps[0] == f"changes run: 0 of {total}" and steps[-1] == f"changes run: {total} of {total}"
    assert run(["whatif", str(scenario), "--json", "--share", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"]
    assert run(["whatif", str(scenario), "--share", "2"]) == 2


def test_shares_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ScenarioError, match="above 0 and at most"):
        whatif_train(JOB, 1.0)


def test_price_and_memory_are_knobs_too(found: WhatIf) -> None:
    by = {(o.knob, o.change): o for o in found.outcomes}
    assert by["price", "+20%"].value_factor == pytest.approx(1 / 1.2) and by["price", "+20%"].speed_factor == 1.0
    assert by["HBM size", "-20%"].speed_factor == 1.0 and by["HBM size", "-20%"].fits
    assert found.tokens_per_usd == pytest.approx(1e6 / (found.usd_per_million_tokens or 1.0))
    assert not {(o.knob, o.change): o for o in whatif_train(JOB, 0.6).outcomes}["HBM size", "-60%"].fits
