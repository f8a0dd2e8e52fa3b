"""Write docs/seed_experiments.md and its block in README.md: headline experiments, predicted against published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from moesim.calibrate.record.headlines_serving import SEEDS, Seed
from moesim.calibrate.record.headlines_training import TRAINING_SEEDS, TrainingSeed
from moesim.reports.text import three

HERE = Path(__file__).parent
NEAR = 0.2  # of the published value: farther ones carry a reason
INTRO = """# Headline experiments, predicted

Written by `python docs/write_seeds.py` from `headlines_training.py` and `headlines_serving.py` in `calibrate/record`.
No constant was fitted on these numbers. The error is the distance from the published value or range. "Stated" rows
publish enough of their setup to be held to it; for the others the guess that stands in is named.

## Training

Within a fifth of the published value, or the physical reason why not.

"""
SERVING = """
## Serving

"Stated" rows should come within 25 %.

"""
BLOCK = "seeds"


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
    """Predict every seed and write the page and the block."""
    trained = [(*cells(s), "yes" if s.stated else "", why(s), s.assumed, s.source) for s in TRAINING_SEEDS]
    served = [(*cells(s), "yes" if s.stated else "", s.assumed, s.source) for s in SEEDS]
    head = ("experiment", "published", "predicted", "error", "setup stated")
    page = INTRO + table((*head, "why not nearer", "what was assumed", "source"), trained)
    page += SERVING + table((*head, "what was assumed", "source"), served)
    (HERE / "seed_experiments.md").write_text(page, encoding="utf-8")
    near = sum(abs(s.error(s.predict())) <= NEAR for s in TRAINING_SEEDS)
    block = f"{near} of {len(TRAINING_SEEDS)} within a fifth; setups, assumptions and reasons, and serving: "
    block += "[docs/seed_experiments.md](docs/seed_experiments.md).\n\n"
    block += table(
        ("experiment", "published", "predicted", "error", "why not nearer"), (row[:4] + row[5:6] for row in trained)
    )
    readme = HERE.parent / "README.md"
    begin, end = f"<!-- {BLOCK}:begin -->\n", f"<!-- {BLOCK}:end -->"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    readme.write_text(before + begin + block + end + rest.split(end)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
