"""Write docs/published_serving.md: published gains and costs of serving features, predicted against published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moesim.calibrate.record.headlines_serving import Seed
from moesim.calibrate.record.published_serving import PUBLISHED
from moesim.reports.text import three

PAGE = Path(__file__).parent / "published_serving.md"
NEAR = 0.25  # of the published value, for rows whose setup is stated
INTRO = """# Serving features, predicted

Written by `python docs/write_published_serving.py` from `calibrate/record/published_serving.py`. Each row is a ratio of
two runs on the same machine. The error is the distance from the published value or range. "Setup stated": the source
publishes enough of its setup to hold the prediction to it, {near} of {all} of these are within a quarter; for the
others the assumption that stands in is named. Rows that a constant was read off say so.
"""


def row(seed: Seed, value: float) -> str:
    """One line of a table."""
    published = three(seed.low) if seed.low == seed.high else f"{three(seed.low)} to {three(seed.high)}"
    error = f"{100 * seed.error(value):+.0f} %"
    cells = (seed.name, published, three(value), error, "yes" if seed.stated else "", seed.assumed, seed.source)
    return f"| {' | '.join(cells)} |\n"


def table(title: str, rows: Iterable[str]) -> str:
    """A section with its table."""
    head = "| what | published | predicted | error | setup stated | what was assumed | source |\n"
    return f"\n## {title}\n\n{head}| --- | ---: | ---: | ---: | --- | --- | --- |\n{''.join(rows)}"


def main() -> None:
    """Predict every row and write the page."""
    values = {title: [(seed, seed.predict()) for seed in seeds] for title, seeds in PUBLISHED.items()}
    stated = [(seed, value) for rows in values.values() for seed, value in rows if seed.stated]
    near = sum(abs(seed.error(value)) <= NEAR for seed, value in stated)
    page = INTRO.format(near=near, all=len(stated))
    page += "".join(table(title, (row(*each) for each in rows)) for title, rows in values.items())
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
