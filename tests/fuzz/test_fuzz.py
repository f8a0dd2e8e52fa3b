"""A slice of the hostile inputs, and the judge itself: what it must find wrong."""

from __future__ import annotations

import json
import sys

import pytest

from tests.fuzz import judge, seeds
from tests.fuzz.inputs import Input, inputs

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and memory of a process")
QUICK = ("train", "serve", "validate", "calibrate", "show", "comm", "init", "schema")


@pytest.mark.filterwarnings("ignore:This process")  # it has threads, and the child starts none of them
@pytest.mark.parametrize("part", range(2))
def test_hostile_inputs_are_answered_or_refused(part: int) -> None:
    for index, asked in enumerate(inputs(40, 1000 + part, QUICK)):
        ended = judge.judged(asked)
        assert not ended.wrong, (f"{1000 + part}.{index}", asked.words, ended.wrong, ended.err[-500:])


@pytest.mark.filterwarnings("ignore:This process")
def test_seeds_are_answered() -> None:
    for name in ("train", "serve"):
        ended = judge.judged(Input((name, "job.yaml", "--json"), {"job.yaml": seeds.text(seeds.SCENARIOS[name])}))
        assert (ended.code, ended.wrong) == (0, ""), ended.err


def test_the_same_inputs_for_a_seed() -> None:
    assert list(inputs(40, 3)) == list(inputs(40, 3)) != list(inputs(40, 4))


ASKED = Input(("train", "job.yaml", "--json"))


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (0, json.dumps({"step_time_s": 1.0}), "", ""),
        (0, json.dumps({"step_time_s": -1.0}), "", "step_time_s is -1.0"),
        (0, '{"x": NaN}', "", "is not JSON"),
        (0, '{"x": "\x1b]0;x\x07"}', "", "control characters"),
        (1, "", "", "exit code 1"),
        (2, "", "error: no\n", ""),
        (2, "", "", "0 lines of error"),
        (2, "", "error: no\nerror: no\n", "2 lines of error"),
        (2, "", "error: " + "x" * 600 + "\n", "607 characters"),
        (3, "", "error: out of memory\n", "blames the machine"),
        (-9, "", "", "hangs"),
        (-24, "", "", "20 s of a core"),
        (70, "", "Traceback\nKeyError: 1\n", "KeyError"),
    ],
)
def test_what_is_wrong(code: int, out: str, err: str, said: str) -> None:
    found = judge.wrong_of(code, out, err, 1, ASKED)
    assert said in found and bool(said) == bool(found)
    assert "MiB" in judge.wrong_of(0, "{}", "", 2 << 30, ASKED)
