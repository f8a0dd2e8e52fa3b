"""What if, for serving: every change moves the deployment the way it must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.predict import predict_serve
from moesim.sim.variation.whatif_serve import ServeWhatIf, whatif_serve

REQUESTS = {"kind": "poisson", "rate_per_s": 10, "count": 200, "input_tokens": 1000, "output_tokens": 200}
JOB: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 4},
    "layout": {"tp": 2},
    "serve": {"engine": "vllm", "requests": REQUESTS},
    "price_usd_per_gpu_hour": 2.0,
}


@pytest.fixture(scope="module")
def found() -> ServeWhatIf:
    return whatif_serve(JOB)


def test_the_run_as_asked_is_the_prediction(found: ServeWhatIf) -> None:
    asked = predict_serve(JOB)
    assert (found.ttft_s, found.tpot_s) == (asked.ttft_s.mean, asked.tpot_s.mean)
    assert found.tokens_per_s == pytest.approx(asked.capacity_requests_per_s * 200)
    assert found.usd_per_million_output_tokens_at_most == pytest.approx(4 * 2.0 / 3600 / found.tokens_per_s * 1e6)


def test_more_hardware_never_hurts_and_less_never_helps(found: ServeWhatIf) -> None:
    by = {(o.knob, o.change): o for o in found.outcomes}
    for knob in ("GPU FLOP/s", "HBM bandwidth", "NVLink bandwidth"):
        worse, better = by[knob, "-20%"], by[knob, "+20%"]
        assert worse.speed_factor < 1.0 < better.speed_factor and worse.tpot_s > found.tpot_s > better.tpot_s
    assert by["network latency", "+20%"].tpot_s >= by["network latency", "-20%"].tpot_s * (1 - 1e-3)
    assert by["HBM size", "-20%"].speed_factor <= 1.0 <= by["HBM size", "+20%"].speed_factor * (1 + 1e-9)
    assert by["HBM bandwidth", "+20%"].tpot_s < by["GPU FLOP/s", "+20%"].tpot_s  # decoding reads


def test_load_formats_and_price(found: ServeWhatIf) -> None:
    by = {(o.knob, o.change): o for o in found.outcomes}
    assert by["request rate", "x2"].tpot_s > found.tpot_s > by["request rate", "x0.5"].tpot_s
    assert by["request rate", "x2"].speed_factor == pytest.approx(1.0)  # what comes does not change what can be
    assert by["prompt length", "x2"].speed_factor < 1.0 < by["prompt length", "x0.5"].speed_factor
    assert by["precision", "fp8"].speed_factor > 1.1
    assert by["price", "+20%"].value_factor == pytest.approx(1 / 1.2) and by["price", "+20%"].speed_factor == 1.0
    assert found.by_knob()[0][0] == found.outcomes[0].knob


def test_what_does_not_fit_is_said() -> None:
    tight = {**JOB, "model": "gpt-oss-120b", "cluster": {"node": "dgx-h100", "gpus": 1}, "layout": {"tp": 1}}
    tight["serve"] = {"engine": "vllm", "precision": "fp4", "requests": REQUESTS}
    found = whatif_serve(tight)
    by = {(o.knob, o.change): o for o in found.outcomes}
    assert not by["HBM size", "-20%"].fits and by["HBM size", "-20%"].speed_factor == 0.0
    assert not any(o.knob in ("NVLink bandwidth", "NIC bandwidth") for o in found.outcomes)  # one GPU has no links


def test_the_roofline_accounts_for_decode_steps(found: ServeWhatIf) -> None:
    parts = {p.part: p for p in found.parts}
    assert sum(p.share for p in found.parts) == pytest.approx(1.0)
    assert parts["experts"].share > 0.4 and 0.5 < parts["experts"].floor_share <= 1.0
    assert all(0.0 <= p.floor_share <= 1.0 for p in found.parts)


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scenario, picture = tmp_path / "job.yaml", tmp_path / "tornado.svg"
    fewer = {**REQUESTS, "count": 60, "output_tokens": 60}
    scenario.write_text(json.dumps({**JOB, "serve": {"engine": "vllm", "requests": fewer}}), encoding="utf-8")
    assert run(["whatif", str(scenario), "--figure", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    said = capsys.readouterr()
    assert "roofline of the decode passes" in said.out
    assert 5 < sum(line.startswith("changes run: ") for line in said.err.splitlines()) < 14
    assert run(["whatif", str(scenario), "--json", "--share", "0.1"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][0]["tokens_per_usd"] > 0
    with pytest.raises(ScenarioError, match="above 0 and at most"):
        whatif_serve(JOB, 1.0)
