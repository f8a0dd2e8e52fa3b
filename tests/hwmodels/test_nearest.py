"""What is near to a name that nobody knows."""

from __future__ import annotations

import pytest

from moesim.hwmodels.nearest import named_in, nearest, with_a_way_out

MEANINGS = {
    "alpha": "sends messages over the network",
    "beta-two": "keeps weights in host memory",
    "gamma": "sends weights between hosts",
    "delta": "does nothing",
}


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("alhpa", "alpha"),
        ("beta", "beta-two"),
        ("DELTA", "delta"),
        ("network messages", "alpha"),
        ("weights-host", "beta-two"),
    ],
)
def test_spelling_and_meaning_both_count(asked: str, first: str) -> None:
    found = nearest(asked, MEANINGS)
    assert found[0] == first and len(set(found)) == 3


def test_the_way_out_says_what_each_would_assume() -> None:
    said = with_a_way_out("alhpa", MEANINGS, {name: f"assumes {name}" for name in MEANINGS})
    assert said.startswith("nearest are alpha (assumes alpha); ") and said.count("(assumes ") == 3


def test_a_name_is_found_as_whole_words_and_outside_brackets_first() -> None:
    spellings = {"efa": "aws", "mega": "mega", "megabridge": "bridge", "interface": "other"}
    assert named_in("Mega-Bridge 26.04", spellings) == "bridge"
    assert named_in("mega (interface)", spellings) == "mega"
    assert named_in("(interface)", spellings) == "other"
    assert named_in("default", spellings) is None  # "efa" stands in it, but not as a word
