"""Lower bounds stay below the simulated step; equal questions get equal bytes in any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import DENSE, JOBS, job, prices_of

from moesim.sim.train.predict import predict_train
from moesim.sim.train.step import lower_bounds_s, simulate_step

_SCRIPT = """
import json, sys
from moesim.sim.train.predict import predict_train
scenario = json.loads(sys.argv[1])
print(json.dumps(predict_train(scenario, check_memory=False).to_dict()))
"""
_MOE = "MoE, skewed"


def _in_fresh_process(name: str, hash_seed: str) -> bytes:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", _SCRIPT, json.dumps(JOBS[name])]
    root = Path(__file__).parents[2]
    return subprocess.run(command, env=env, cwd=root, capture_output=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("name", [_MOE, "MoE, DualPipe"])
def test_another_hash_seed_gives_the_same_bytes(name: str) -> None:
    first = _in_fresh_process(name, "1")
    assert json.loads(first)["step_time_s"] > 0.0
    assert first == _in_fresh_process(name, "271828")


def test_another_routing_seed_gives_another_step() -> None:
    # on a stack whose CPU never holds the GPU up, so that the GPU's own time shows
    routings = ({"lognormal": 0.5, "seed": seed} for seed in (1, 2))
    first, second = ({**JOBS[_MOE], "stack": "hai-llm", "routing": routing} for routing in routings)
    a, b = (predict_train(s, check_memory=False).step_time_s for s in (first, second))
    assert a != b
    assert a == predict_train(first, check_memory=False).step_time_s


@pytest.mark.parametrize("name", JOBS)
def test_lower_bounds_never_exceed_the_step(name: str) -> None:
    prices = prices_of(JOBS[name])
    bounds = lower_bounds_s(prices)
    assert set(bounds) >= {"flops", "nic"} and bounds["flops"] > 0.0
    step = simulate_step(prices)
    for kind, seconds in bounds.items():
        assert seconds <= step.step_time_s, kind


@pytest.mark.parametrize(
    ("key", "values"),
    [("global_batch", (16, 32, 64, 128)), ("seq_len", (512, 1024, 2048, 4096))],
)
def test_more_work_never_takes_less_time(key: str, values: tuple[int, ...]) -> None:
    times = [simulate_step(prices_of(job(DENSE, 8, {"pp": 2}, **{key: value}))).step_time_s for value in values]
    assert times == sorted(times)


@pytest.mark.parametrize("key", ["layers", "hidden", "intermediate", "vocab"])
def test_a_larger_model_never_takes_less_time(key: str) -> None:
    times = [
        simulate_step(prices_of(job({**DENSE, key: DENSE[key] * factor}, 8, {"pp": 2}))).step_time_s
        for factor in (1, 2, 4)
    ]
    assert times == sorted(times)


def test_recomputing_costs_time_and_saves_memory() -> None:
    none, selective, full = (
        predict_train(job(DENSE, 8, {"pp": 2}, recompute=mode), check_memory=False)
        for mode in ("none", "selective", "full")
    )
    assert none.step_time_s < selective.step_time_s < full.step_time_s
    assert full.memory[0].activations < none.memory[0].activations
    assert selective.memory[0].activations <= none.memory[0].activations
