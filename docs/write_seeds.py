"""Write docs/seed_experiments.md: headline experiments of papers, predicted against published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moesim.calibrate.record.headlines_clock import CLOCK_SEEDS
from moesim.calibrate.record.headlines_serving import SEEDS, Seed
from moesim.calibrate.record.headlines_training import TRAINING_SEEDS
from moesim.reports.text import three

PAGE = Path(__file__).parent / "seed_experiments.md"
NEAR = 0.2  # of the published value: farther ones carry a reason
NEAR_SERVED = 0.25
INTRO = """# Headline experiments, predicted

Written by `python docs/write_seeds.py` from `calibrate/record/headlines_training.py`,
`calibrate/record/headlines_clock.py` and `calibrate/record/headlines_serving.py`. No constant was fitted on these
numbers; that messages to very many peers have all of their overhead, however small, was read off Tutel's gain on 2,048
GPUs; the host's time per layer of Mixtral-offloading off other rows of its table, those without a cache. The error is
the distance from the published value or range. "Setup stated": the source publishes enough of its setup to hold the
prediction to it; for the others the assumption that stands in is named.

## Training

{near} of {all} are within a fifth of the published value; the others give the physical reason.

"""
CLOCK = """
## What only a clock shows

Ranks that differ, plans that age, exchanges that hide: the same step with other words. Ranges are published ones, or
what arithmetic allows where nobody published a number.

"""
SERVING = """
## Serving

{near} of {all} are within a quarter of the published value or range; the others give the physical reason.

"""


def cells(seed: Seed, value: float) -> tuple[str, str, str, str]:
    """Name, published, predicted, error."""
    published = three(seed.low) if seed.low == seed.high else f"{three(seed.low)} to {three(seed.high)}"
    return seed.name, f"{published} {seed.unit}", f"{three(value)} {seed.unit}", f"{100 * seed.error(value):+.0f} %"


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the second to fourth column are numbers."""
    names = list(titles)
    marks = ["---:" if 0 < i < 4 else "---" for i in range(len(names))]
    lines = [names, marks, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rows(seeds: Iterable[Seed], near: float) -> tuple[list[tuple[str, ...]], int]:
    """The rows of a table, each seed predicted once, and how many of them are near; distant ones say why."""
    found, count = [], 0
    for seed in seeds:
        value = seed.predict()
        close = abs(seed.error(value)) <= near
        count += close
        why = "" if close else seed.reason
        found.append((*cells(seed, value), "yes" if seed.stated else "", why, seed.assumed, seed.source))
    return found, count


def main() -> None:
    """Predict every seed and write the page."""
    head = ("experiment", "published", "predicted", "error", "setup stated")
    full = (*head, "why not nearer", "what was assumed", "source")
    trained, near = rows(TRAINING_SEEDS, NEAR)
    page = INTRO.format(near=near, all=len(TRAINING_SEEDS)) + table(full, trained)
    clocked = [row[:5] + row[6:] for row in rows(CLOCK_SEEDS, NEAR)[0]]
    page += CLOCK + table((*head, "what was assumed", "source"), clocked)
    served, near = rows(SEEDS, NEAR_SERVED)
    page += SERVING.format(near=near, all=len(SEEDS)) + table(full, served)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
