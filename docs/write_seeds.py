"""Write docs/seed_experiments.md: headline serving experiments, predicted against published."""

from __future__ import annotations

from pathlib import Path

from calibrate.seed_serving import SEEDS
from reports.text import three

INTRO = """# Headline serving experiments, predicted

Written by `python docs/write_seeds.py` from `calibrate/seed_serving.py`. No constant was fitted on these numbers.
The error is the distance from the published value or range. "Stated" rows publish enough of their setup to be held to
25 %; for the others the guess that stands in is named.

| experiment | published | predicted | error | setup stated | what was assumed | source |
| --- | ---: | ---: | ---: | :---: | --- | --- |
"""


def main() -> None:
    """Predict every seed and write the page."""
    lines = []
    for seed in SEEDS:
        value = seed.predict()
        published = three(seed.low) if seed.low == seed.high else f"{three(seed.low)} to {three(seed.high)}"
        error, stated = f"{100 * seed.error(value):+.0f} %", "yes" if seed.stated else ""
        cells = (seed.name, f"{published} {seed.unit}", f"{three(value)} {seed.unit}", error, stated)
        lines.append(f"| {' | '.join((*cells, seed.assumed, seed.source))} |")
    (Path(__file__).parent / "seed_experiments.md").write_text(INTRO + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
