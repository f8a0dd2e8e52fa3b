"""Write docs/accuracy.md from `moesim validate`, and its ten most important lines between the markers of README.md.

`python docs/write_accuracy.py` predicts every published row (minutes) and each with one term off (minutes more).
`python docs/write_accuracy.py --from-page` keeps the tables that docs/accuracy.md holds and writes the rest again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from moesim.hwmodels.facts import read_yaml
from moesim.hwmodels.interval import width_of

ROOT = Path(__file__).parents[1]
PAGE, LOG, README = ROOT / "docs" / "accuracy.md", ROOT / "docs" / "accuracy_log.md", ROOT / "README.md"
BLOCK = re.compile(r"(<!-- accuracy:begin -->\n).*?(<!-- accuracy:end -->)", re.DOTALL)
INTRO = """# Accuracy

Predictions against published measurements, written by `make accuracy`. Constants were fitted on rows marked `fit` only;
the fit never reads rows marked `test`. Where rows marked `test` prompted a change of the model all the same, the log at
the end says so. Where the rows come from: [their table](../calibrate/published/README.md). What is behind the numbers
and what is not: [fidelity.md](fidelity.md).

Rows of other teams, stacks, ages and GPUs than those that moesim was first built on stand apart, as "other teams". The
intervals are from errors with whole sources left out of the fit, in a table before the log. When other teams' results
were first seen (2026-11-28: 197 training, 720 serving, 158 transfers) the median error was 17.5 % for a training step,
30 % for the time per output token, 40 % for throughput, and the intervals of then held 37 to 56 % of the values. Those
rows that ship since have taught some constants, so theirs is no longer a test of strangers; rows kept elsewhere are.
"""
ABLATION = """## What each term buys

Median / p90 error in % over all published rows (fit and test; one row in four of the single-node sweep) with one term
switched off and nothing refitted. Written by `python -m moesim.calibrate.record.ablate`.
"""
WIDTHS = """## Intervals, on sources left out

How much of a source is held when neither constants nor widths had seen it, by estimator; every source counts alike. The
one used is of the best interval score (twice the half-width, and 20 times what sticks out) of those that hold 85 % or
more. Half-widths are of the logarithm. Written by `python -m moesim.calibrate.fit.widths --table`.
"""
TRUST = """## How far to trust your question

Find the line that is most like it. Nine of ten measured values of teams that nobody here has seen are meant to lie
within the interval (a value 30 % above the prediction is +30 %); an answer prints its own, what makes it wide, and
what would narrow it. Where there is no line of your engine or GPU, the shorter line holds; a GPU that no fitted run is
of, lengths and numbers of GPUs beyond the measured ones, and an engine without a version widen it further.
"""
FILES = {
    "train": ROOT / "sim" / "software" / "stacks" / "bands.yaml",
    "serve": ROOT / "sim" / "software" / "engines" / "bands.yaml",
    "transfer": ROOT / "hwmodels" / "profiles" / "comm" / "bands.yaml",
}
METRICS = {"tpot_s": "time per output token", "ttft_s": "first token", "output_tokens_per_s": "output tokens/s"}
WORDS = {
    "moe": "mixture", "vendor": "vendor's recipe, release named", "other": "any other team or no release",
    "closed": "closed loop", "open": "open load or batch", "pools": "prefill and decode pools", "nccl": "NCCL",
}  # fmt: skip
# the README's table: what a line says, and the table, family and metric of docs/accuracy.md that it is taken from
LINES = (
    ("training step, mixture of experts", "Step time by kind", "MoE"),
    ("training step, dense, A100 and Hopper", "Step time by family of runs", "dense, A100 and Hopper"),
    ("training step, dense, Blackwell", "Step time by family of runs", "dense, Blackwell"),
    ("training step, Megatron-LM of 2022", "Step time by family of runs", "dense, sweeps on Megatron-LM of 2022"),
    ("one collective or expert exchange", "Time of transfers", ""),
    ("time per output token, mixture of experts", "Time per output token by family of serving", "MoE, closed loop"),
    ("time per output token, dense", "Time per output token by family of serving", "dense, closed loop"),
    ("time per output token, pools", "Time per output token by family of serving", "disaggregated"),
    ("time to the first token", "Time to the first token", ""),
    ("output tokens per second, offline", "Output tokens per second, offline", ""),
    ("other teams: training step, mixture of experts", "Step time by kind", "other teams: MoE"),
    ("other teams: time per output token", "Time per output token by whose rows", "other teams"),
)
HEAD = ("what", "rows: fit, test", "fit: median / p90 %", "test: median / p90 %", "test rows in the interval")


def cells_of(tables: str, title: str, family: str) -> dict[str, list[str]]:
    """split -> cells (rows, median, mean, p90, two biases, in interval) of a family, or of the table without one."""
    part = re.search(rf"(?ms)^####? {re.escape(title)}\n(.*?)(?=^#|\Z)", tables)
    if part is None:
        sys.exit(f"the tables have no section {title!r}: change LINES in docs/write_accuracy.py")
    table = [line for line in part[1].splitlines() if line.startswith("|")]
    lines = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]
    lead = [family] if family else []
    return {line[len(lead)]: line[len(lead) + 1 :] for line in lines if line[: len(lead)] == lead}


def headline(tables: str) -> str:
    """The README's table from the Markdown of `moesim validate`, with one sentence on counts and order above."""
    rows = re.search(r"(?m)^(\d+) rows .*?: (\d+) answered", tables)
    order = re.search(r"(\d+) % of (\d+) pairs in the right order", tables)
    if rows is None or order is None:
        sys.exit(
            "the tables lack their counts: run `moesim validate --markdown` and compare with docs/write_accuracy.py"
        )
    said = f"{int(rows[2]):,} of {int(rows[1]):,} rows answered; of {int(order[2]):,} pairs of alternative layouts "
    said += f"{order[1]} % come in the measured order."
    return f"{said}\n\n{_table(HEAD, [_line(tables, *line) for line in LINES])}"


def _line(tables: str, name: str, title: str, family: str) -> list[str]:
    splits = cells_of(tables, title, family)
    if not {"fit", "test"} <= set(splits):
        sys.exit(f"{title!r} lacks rows of {family or 'all'!r} marked fit or test: change LINES in this file")
    fit, test = splits["fit"], splits["test"]
    return [name, f"{fit[0]}, {test[0]}", f"{fit[1]} / {fit[3]}", f"{test[1]} / {test[3]}", test[-1]]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(titles) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (titles, marks, *rows))


def predicted(*arguments: str) -> str:
    """What a command of moesim prints."""
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def trust() -> str:
    """Every class that has a width of its own, as a planner asks: what of, how far, from how many sources and rows."""
    head = ("your question", "interval", "sources", "rows")
    lines = [
        (_question(kind, key), width_of(of).reach(), str(of["sources"]), str(of["rows"]))
        for kind, path in FILES.items()
        for key, of in sorted(read_yaml(path).items(), key=lambda item: _order(kind, item[0]))
    ]
    return TRUST.strip() + "\n\n" + _table(head, lines).strip()


def _order(kind: str, key: str) -> tuple[str, ...]:
    parts = key.split(",")
    return (*parts[1:], parts[0]) if kind == "serve" else tuple(parts)


def _question(kind: str, key: str) -> str:
    parts = key.split(",")
    metric = f"{METRICS[parts.pop(0)]}: " if kind == "serve" else ""
    return f"{kind}, {metric}{', '.join(WORDS.get(part, part) for part in parts)}"


def kept(page: str) -> tuple[str, str]:
    """(accuracy tables, ablation table) as the page holds them."""
    tables = re.search(r"(?ms)^\d+ rows .*?(?=^## (?:Intervals, on sources|What each term buys))", page)
    ablation = re.search(r"(?ms)^\| \| .*?(?=^## Log)", page)
    if tables is None or ablation is None:
        sys.exit("docs/accuracy.md holds no tables to keep: run without --from-page")
    return tables[0].strip(), ablation[0].strip()


def main() -> None:
    """Predict every published row, or keep the tables that are there, and write both files."""
    parser = argparse.ArgumentParser(description="write the accuracy tables")
    parser.add_argument("--from-page", action="store_true", help="keep the tables that docs/accuracy.md holds")
    if parser.parse_args().from_page:
        tables, ablation = kept(PAGE.read_text(encoding="utf-8"))
    else:
        tables = predicted("moesim", "validate", "--markdown")
        ablation = predicted("moesim.calibrate.record.ablate")
    text = README.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        sys.exit("README.md has no <!-- accuracy:begin --> ... <!-- accuracy:end --> block")
    block = BLOCK.sub(lambda match: f"{match[1]}{headline(tables)}{match[2]}", text)
    widths = WIDTHS.strip() + "\n\n" + predicted("moesim.calibrate.fit.widths", "--table")
    parts = [
        INTRO.strip(),
        trust(),
        "## Errors",
        tables,
        widths,
        ABLATION.strip(),
        ablation,
        LOG.read_text(encoding="utf-8").strip(),
    ]
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    README.write_text(block, encoding="utf-8")


if __name__ == "__main__":
    main()
