"""Published gains of serving features: near where their setup is stated; and the page that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.calibrate.record.headlines_serving import Seed
from moesim.calibrate.record.published_serving import PUBLISHED

ROOT = Path(__file__).parents[3]
ROWS = [seed for seeds in PUBLISHED.values() for seed in seeds]


@pytest.mark.parametrize("seed", ROWS, ids=lambda s: s.name)
def test_stated_rows_are_near_and_the_others_say_what_was_assumed(seed: Seed) -> None:
    value = seed.predict()
    assert value > 0.0 and seed.source and seed.assumed
    assert abs(seed.error(value)) <= (0.25 if seed.stated else 0.5)


def test_the_page_shows_every_row() -> None:
    text = (ROOT / "docs" / "published_serving.md").read_text(encoding="utf-8")
    for seed in ROWS:
        assert f"| {seed.name} |" in text
