"""Answers to about 360 questions of every kind stay what they are until a change is meant.

These numbers are right only as far as the laws, the exact values and the published measurements say so. What they
notice is a change that nobody meant: a term that moved where only another was to move. A change of physics that is
meant moves them: `python -m tests.pinned` says which questions and by how much, `python -m tests.pinned --write` keeps
the new answers, and docs/accuracy_log.md says what the change bought.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.pinned.answers import FILES, answer, kept, moved, read, signature

PINS = [(kind, number, pin) for kind in FILES for number, pin in enumerate(read(kind))]


@pytest.mark.parametrize(("kind", "pin"), [pytest.param(k, p, id=f"{k}-{n}") for k, n, p in PINS])
def test_the_answer_is_what_it_was(kind: str, pin: dict[str, Any]) -> None:
    changes = moved(pin["answer"], answer(kind, pin["ask"]))
    assert not changes, f"{pin['ask']}: {'; '.join(changes)}; meant? python -m tests.pinned --write"


def test_a_signature_moves_with_every_number_and_its_place() -> None:
    tree = {"a": [1.0, 2e-9], "b": {"c": 3e12, "d": True, "e": "text"}}
    same = signature(tree)
    assert signature({"a": [1.0, 2e-9], "b": {"c": 3e12, "d": True, "e": "other"}}) == same
    for changed in (
        {"a": [1.0, 2.00001e-9], "b": {"c": 3e12, "d": True}},
        {"a": [1.0, 2e-9], "b": {"c": 3.00001e12, "d": True}},
        {"a": [2e-9, 1.0], "b": {"c": 3e12, "d": True}},
        {"a": [-1.0, 2e-9], "b": {"c": 3e12, "d": True}},
        {"a": [1.0, 2e-9], "b": {"c": 3e12, "d": False}},
    ):
        assert abs(signature(changed) - same) > 1e-6, changed


def test_what_moved_is_said_by_name() -> None:
    before = kept({"step_time_s": 1.5, "parts": {"a": 1.0}, "label": "stable", "model": "x"})
    assert set(before) == {"step_time_s", "parts (all)", "label"}
    after = kept({"step_time_s": 1.6, "parts": {"a": 1.1}, "mfu": 0.4})
    assert moved(before, before) == []
    assert moved(before, after) == [
        "step_time_s: 1.5 -> 1.6", "parts (all): moved", "label: stable -> nothing", "mfu: nothing -> 0.4",
    ]  # fmt: skip
    assert moved(before, {"refused": "BadLayout"})[-1] == "refused: nothing -> BadLayout"
