"""Write docs/seed_experiments.md: headline experiments of papers, predicted against published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moesim.calibrate.record.headlines_clock import CLOCK_SEEDS
from moesim.calibrate.record.headlines_serving import SEEDS, Seed
from moesim.calibrate.record.headlines_training import TRAINING_SEEDS, TrainingSeed
from moesim.reports.text import three

PAGE = Path(__file__).parent / "seed_experiments.md"
NEAR = 0.2  # of the published value: farther ones carry a reason
INTRO = """# Headline experiments, predicted

Written by `python docs/write_seeds.py` from `calibrate/record/headlines_training.py`,
`calibrate/record/headlines_clock.py` and `calibrate/record/headlines_serving.py`. No constant was fitted on these
numbers; that messages to very many peers have all of their overhead, however small, was read off Tutel's gain on 2,048
GPUs. The error is the distance from the published value or range. "Setup stated": the source publishes enough of its
setup to hold the prediction to it; for the others the assumption that stands in is named.

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

Rows with a stated setup should come within 25 %.

"""


def cells(seed: Seed) -> tuple[str, str, str, str]:
    """Name, published, predicted, error."""
    value = seed.predict()
    published = three(seed.low) if seed.low == seed.high else f"{three(seed.low)} to {three(seed.high)}"
    return seed.name, f"{published} {seed.unit}", f"{three(value)} {seed.unit}", f"{100 * seed.error(value):+.0f} %"


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the second to fourth column are numbers."""
    names = list(titles)
    marks = ["---:" if 0 < i < 4 else "---" for i in range(len(names))]
    lines = [names, marks, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def why(seed: TrainingSeed) -> str:
    """The reason for a distant prediction; '' for a near one."""
    return seed.reason if abs(seed.error(seed.predict())) > NEAR else ""


def main() -> None:
    """Predict every seed and write the page."""
    trained = [(*cells(s), "yes" if s.stated else "", why(s), s.assumed, s.source) for s in TRAINING_SEEDS]
    served = [(*cells(s), "yes" if s.stated else "", s.assumed, s.source) for s in SEEDS]
    near = sum(abs(s.error(s.predict())) <= NEAR for s in TRAINING_SEEDS)
    head = ("experiment", "published", "predicted", "error", "setup stated")
    page = INTRO.format(near=near, all=len(TRAINING_SEEDS))
    page += table((*head, "why not nearer", "what was assumed", "source"), trained)
    clocked = [(*cells(s), "yes" if s.stated else "", s.assumed, s.source) for s in CLOCK_SEEDS]
    page += CLOCK + table((*head, "what was assumed", "source"), clocked)
    page += SERVING + table((*head, "what was assumed", "source"), served)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
