"""Effects that only a clock with ranks that differ can show, predicted: uneven routing, old placement plans, a slow
GPU, an exchange that hides. docs/write_seeds.py makes a table of it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from moesim.calibrate.record.headlines_serving import Seed
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prices import StepPrices

_DEEPSEEK: dict[str, Any] = {
    "model": "deepseek-v3",
    "cluster": {"node": "hgx-h800", "gpus": 2048, "fabric": "mpft-ib-400"},
    "layout": {"pp": 16, "ep": 64, "zero": 1, "schedule": "dualpipe"},
    "train": {
        "global_batch": 15360, "micro_batch": 1, "seq_len": 4096, "precision": "fp8_block",
        "recompute": ["mla_up_proj", "layernorm", "moe_act"],
    },
    "stack": "hai-llm",
}  # fmt: skip
# a router without a balancer: the spreads of recorded loads of this model, inside and between its router groups
_UNBALANCED = {"lognormal": 0.58, "group_sigma": 0.36, "topic": 0.0, "group_topic": 0.0}
_DRIFT = 0.9995  # assumed: moves log shares in 100 steps by half of what two recorded workloads differ by


@cache
def _step_s(words: str) -> float:
    """Seconds of a step with these words of a scenario, as JSON, on top."""
    return predict_train({**_DEEPSEEK, **json.loads(words)}, check_memory=False).step_time_s


def _step(**words: Any) -> float:
    return _step_s(json.dumps(words, sort_keys=True))


def _over_balanced(**words: Any) -> float:
    return _step(**words) / _step(routing="balanced")


def _slow(gpu: int) -> float:
    """Step with one GPU at four fifths of its speed, over the step without."""
    return _over_balanced(routing="balanced", slow={"ids": [gpu], "factor": 0.8})


@cache
def _busiest_over_mean(age_steps: int) -> float:
    """Rows of the busiest of 64 ranks over the mean, 320 slots filled by a plan of so many steps ago."""
    routing = {**_UNBALANCED, "drift": _DRIFT}
    placement = {"slots": 320, "plan_age_steps": age_steps}
    resolved = resolve(parse_scenario({**_DEEPSEEK, "routing": routing, "placement": placement}))
    return StepPrices(resolved.job, resolved.kernels, resolved.tuning(), drawn=False).expected_busiest(8)


_SETUP = "DeepSeek-V3 on 2,048 H800, DualPipe, experts over 64 ranks"
CLOCK_SEEDS: tuple[Seed, ...] = (
    Seed(
        "DeepSeek-V3 on 2,048 H800 under DualPipe, s per step", 19.93, 19.93, "s",
        _step,
        "the usual router process; forced balance gives 18.7 s", "arXiv:2505.09343, table 4", stated=True,
    ),
    Seed(
        "real router over forced balance, time per step", 2.2, 2.2, "x", lambda: _over_balanced(routing=_UNBALANCED),
        f"{_SETUP}, popularity as recorded without a balancer; the published pair is another model on 64 GPUs: it "
        "holds the size of the effect, not the number", "32.4 and 14.7 % MFU on the same 64 GPUs, read second-hand",
    ),
    Seed(
        "placement plan of this step, busiest rank over mean", 1.0, 1.03, "x", lambda: _busiest_over_mean(0),
        "64 ranks, 320 slots for 256 experts, popularity as recorded", "recorded loads of DeepSeek-V3, replayed",
    ),
    Seed(
        "placement plan of 100 steps ago, busiest rank over mean", 1.2, 1.4, "x", lambda: _busiest_over_mean(100),
        f"as above, popularity drifts by {_DRIFT} a step (assumed)", "recorded loads of DeepSeek-V3, replayed",
    ),
    *(
        Seed(
            f"one GPU of 2,048 at four fifths of its speed, {where}", 1.0, 1.25, "x",
            lambda gpu=gpu: _slow(gpu),  # type: ignore[misc]  # bound per turn
            f"{_SETUP}; between nobody waits and everybody does: no measured value with its setup is known to us",
            "arithmetic",
        )
        for gpu, where in ((0, "in the first stage"), (1024, "in the middle"))
    ),
)  # fmt: skip
