"""predict_comm for Python users: mappings and records give one answer, what cannot be is refused in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from moesim.hwmodels.facts import FactError
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.transfer.beside import parse_beside
from moesim.sim.transfer.predict import forced, predict_comm
from moesim.sim.transfer.question import CommQuestion

RING: dict[str, Any] = {"node": "dgx-h100", "op": "all_reduce", "ranks": 64, "size_bytes": "64MiB"}
DISPATCH: dict[str, Any] = {
    "node": "dgx-h100", "op": "moe_dispatch", "ranks": 16, "tokens": 1024, "hidden": 7168, "top_k": 8, "experts": 256,
}  # fmt: skip


def test_a_mapping_asks_what_a_record_asks() -> None:
    record = CommQuestion(node="dgx-h100", op="all_reduce", ranks=64, size_bytes=64 * 2.0**20)
    assert predict_comm(RING).to_dict() == predict_comm(record).to_dict()
    assert predict_comm(RING).question == record
    assert predict_comm(DISPATCH).to_dict() == predict_comm(CommQuestion(**DISPATCH)).to_dict()


def test_neighbours_are_texts_or_records() -> None:
    text = "reduce_scatter:1GiB:8:8"
    assert (
        predict_comm({**RING, "beside": [text]}).together
        == predict_comm({**RING, "beside": (parse_beside(text),)}).together
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rank": 8}, "unknown key 'rank'; did you mean 'ranks'"),
        ({3: 8}, "unknown key '3'"),
        ({"node": None}, "node must be a text, not NoneType"),
        ({"ranks": "eight"}, "ranks must be a whole number, not str"),
        ({"ranks": True}, "ranks must be a whole number, not bool"),
        ({"ranks": 1}, "ranks=1 must be between 2"),
        ({"ecmp": 1}, "ecmp must be true or false, not int"),
        ({"size_bytes": "64 metres"}, "size_bytes: '64 metres'"),
        ({"size_bytes": [1]}, "size_bytes must be a number, not list"),
        ({"oversubscription": "2:1"}, "oversubscription must be a number, not str"),
        ({"beside": "all_reduce:1GiB:8"}, "beside must be a list of OP:BYTES:RANKS"),
        ({"beside": [8]}, "one of them is of type int"),
        ({"op": "all_reduc"}, "did you mean 'all_reduce'"),
    ],
)
def test_bad_questions_are_refused_in_one_line(change: dict[Any, Any], match: str) -> None:
    with pytest.raises(ScenarioError, match=match) as refusal:
        predict_comm({**RING, **change})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("key", ["node", "op", "ranks"])
def test_missing_keys_are_named(key: str) -> None:
    with pytest.raises(ScenarioError, match=f"{key} is missing"):
        predict_comm({k: v for k, v in RING.items() if k != key})


def test_what_is_no_question_says_so() -> None:
    with pytest.raises(ScenarioError, match="is a mapping or a CommQuestion, not str"):
        predict_comm("all_reduce")


def test_oversubscription_without_effect_is_said() -> None:
    """Eight hosts share the leaf of each rail; 64 do not, and other rails are reached over spines only."""
    ask = {"node": "dgx-h100", "op": "all_to_all", "size_bytes": 1e9, "oversubscription": 8.0}
    rails = {"algorithm": "pxn"}
    assert "no transfer climbs" in " ".join(predict_comm({**ask, **rails, "ranks": 64}).to_dict()["assumptions"])
    usual = ("library = nccl (not stated)",)
    assert predict_comm({**ask, **rails, "ranks": 512}).assumptions == usual
    assert predict_comm({**ask, "algorithm": "direct", "ranks": 64}).assumptions == usual
    assert predict_comm({**ask, **rails, "ranks": 64, "oversubscription": None}).assumptions == usual


def test_the_library_of_an_exchange_is_assumed_aloud_refused_or_its_own() -> None:
    assert "library = deepep (not stated)" in predict_comm(DISPATCH).assumptions
    mori = predict_comm({**DISPATCH, "library": "mori"})
    assert any(note.startswith("library = mori: constants of deepep") for note in mori.assumptions)
    assert predict_comm({**DISPATCH, "library": "hybridep"}).prediction.algorithm == "hybrid"
    with pytest.raises(
        FactError, match=r"library 'hybird-ep' is not known; nearest are hybridep \(.*or ask for generic"
    ):
        predict_comm({**DISPATCH, "library": "hybird-ep"})
    with pytest.raises(FactError, match="library hybridep has no kernel normal; it has hybrid"):
        predict_comm({**DISPATCH, "library": "hybridep", "algorithm": "normal"})
    generic = predict_comm({**DISPATCH, "library": "generic", "algorithm": "elastic"})
    assert any(note.startswith("library = generic (asked for)") for note in generic.assumptions)


def test_the_library_of_a_collective_follows_the_gpus_maker() -> None:
    assert predict_comm(RING).assumptions == ("library = nccl (not stated)",)
    rccl = predict_comm({**RING, "node": "mi300x", "ranks": 8}).assumptions
    assert "library = rccl (not stated): constants of nccl (no fit row)" in rccl
    exchange = predict_comm({**DISPATCH, "node": "mi300x", "ranks": 8})
    assert any(note.startswith("library = mori (not stated): constants of deepep") for note in exchange.assumptions)
    with pytest.raises(FactError, match="deepep carries no collectives"):
        predict_comm({**RING, "library": "deepep"})


def test_a_sweep_shows_the_kernels_of_the_library_that_was_asked_for() -> None:
    asked = CommQuestion(**DISPATCH)
    assert set(forced(replace(asked, library="uccl-ep"))) == {"normal", "low_latency"}
    assert len(forced(asked)) > 2
