"""The changes that mutation testing makes: each is another program, and none is of what decides no result."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tests.mutants.__main__ import EQUIVALENT, _named
from tests.mutants.mutate import ROOMS, Mutant, all_mutants, mutants_of, sampled

ROOT = Path(__file__).parents[2]
CODE = '''\
"""Text with 1 + 1."""
LIMIT: int = 3

def f(a: float, b: float = 2.0) -> float:
    """Says a < b."""
    if not a < b and a is not None:
        raise ValueError(f"{a} + {b} must be < {LIMIT + 1}")
    a += b * 4
    return min(a, -b) if a >= b else a[0] ** 2
'''
CHANGES = {
    "3 -> 4", "2.0 -> 3.0", "not  -> ", "< -> <=", "and -> or", "is not -> is", "+= -> -=", "* -> /", "4 -> 5",
    "min( -> max(", "- -> ", ">= -> >", "** -> *", "2 -> 3",
}  # fmt: skip


def test_every_kind_of_change_and_nothing_of_messages(tmp_path: Path) -> None:
    file = tmp_path / "code.py"
    file.write_text(CODE, encoding="utf-8")
    found = mutants_of(tmp_path, file)
    assert {m.key.partition(" ")[2] for m in found} == CHANGES
    for mutant in found:
        changed = mutant.applied(CODE)
        assert changed != CODE and ast.dump(ast.parse(changed)) != ast.dump(ast.parse(CODE))


def test_the_sample_is_of_all_rooms_and_the_same_for_a_seed() -> None:
    mutants = all_mutants(ROOT)
    assert len(mutants) > 5000 and {m.file.rpartition("/")[0] for m in mutants} == set(ROOMS)
    one = list(sampled(mutants, 300, 16))
    assert one == list(sampled(mutants, 300, 16)) != list(sampled(mutants, 300, 17)) and len(set(one)) == 300
    for mutant in one:
        ast.parse(mutant.applied((ROOT / mutant.file).read_text(encoding="utf-8")))


def test_a_change_of_another_text_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"code\.py:1:0"):
        Mutant("code.py", 1, 0, "a", "b").applied("x")


def test_every_change_that_is_said_to_change_nothing_is_still_one_of_them() -> None:
    """Named by the text of its line: one whose line was changed since has to be looked at again."""
    reasons = yaml.safe_load(EQUIVALENT.read_text(encoding="utf-8"))
    known = {_named(mutant.key) for mutant in all_mutants(ROOT)}
    assert set(reasons) <= known and all(len(why) > 15 for why in reasons.values())
