"""Write the accuracy tables (moesim validate --markdown) into docs/accuracy.md and between the markers of README.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(<!-- accuracy:begin -->\n).*?(<!-- accuracy:end -->)", re.DOTALL)
INTRO = """# Accuracy

Predictions against published measurements, written by `make accuracy`. Constants were fitted on rows marked `fit` only;
rows marked `test` were never looked at while fitting. Where the rows come from: `calibrate/published/README.md`.
What is behind the numbers and what is not: [fidelity.md](fidelity.md).

"""


ABLATION = """## What each term buys

Median / p90 error in % over all published rows (fit and test; every fourth row of the single-node sweep) with one term
switched off and nothing refitted. Written by `python -m moesim.calibrate.record.ablate`.
"""


SHOWN = (
    "Step time",
    "Step time by family of runs",
    "Time of transfers by family of transfers",
    "Bandwidth of transfers by family of transfers",
    "Time per output token by family of serving",
    "Time to the first token by family of serving",
    "Tokens per second and gpu, closed loop by family of serving",
    "Output tokens per second, offline by family of serving",
)


def summary_of(tables: str) -> str:
    """What fits the README: counts, order, and the tables by family."""
    head, *sections = re.split(r"(?m)^(?=#{3,4} )", tables.strip())
    kept = [part.strip() for part in sections if part.splitlines()[0].lstrip("# ").strip() in SHOWN]
    return "\n\n".join([head.strip(), *kept])


def ablation() -> str:
    """The table of errors with one term off at a time."""
    command = [sys.executable, "-m", "calibrate.ablate"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Predict every published row and write both files."""
    command = [sys.executable, "-c", "from reports.cli import main; main()", "validate", "--markdown"]
    tables = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    log = (ROOT / "docs" / "accuracy_log.md").read_text(encoding="utf-8").strip()
    parts = [INTRO.strip(), tables, ABLATION.strip(), ablation(), log]
    (ROOT / "docs" / "accuracy.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        sys.exit("README.md has no <!-- accuracy:begin --> ... <!-- accuracy:end --> block")
    block = BLOCK.sub(lambda match: f"{match[1]}{summary_of(tables)}\n{match[2]}", text)
    readme.write_text(block, encoding="utf-8")


if __name__ == "__main__":
    main()
