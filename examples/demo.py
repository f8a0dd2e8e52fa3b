"""The main job: DeepSeek-V3 on 2,048 H800 as published, beside its dense twin of equal active parameters.

The twin runs in its own best layout. Prints both predictions and the measured step time, writes figures, timelines and
JSON, and a report of Mixtral 8x7B and DeepSeek-V3 against dense models: one page to forward.   python examples/demo.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import yaml
from rich.console import Console
from rich.table import Table

from moesim.files.whole import write_text
from moesim.hwmodels.units import GIB
from moesim.reports.chrometrace import write_chrome_trace
from moesim.reports.figures.step import write_figure
from moesim.reports.page.make import make_page
from moesim.reports.page.render import write_page
from moesim.sim.comparison.best import best_train
from moesim.sim.comparison.twin import twin_scenario
from moesim.sim.model.catalogue import load_model
from moesim.sim.model.params import active_parameters, parameters
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

HERE = Path(__file__).parent
TOKENS = 14.8e12  # of the whole run in the report: what DeepSeek-V3 was trained on
MEASURED_S = 19.93  # one training step, arXiv:2505.09343, table 4 (multi-plane fat tree)


def main() -> None:
    """Predict both models, print them side by side, write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("out") / "demo", help="folder for figures and timelines")
    parser.add_argument(
        "--chapters",
        nargs="*",
        default=["mixtral-8x7b-h100", "deepseek-v3-h800"],
        help="of the report; none: no report",
    )
    given = parser.parse_args()
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    begin = perf_counter()
    console = Console(width=100)
    console.print("one training step of DeepSeek-V3 on 2,048 H800, as its makers laid it out ...")
    question = yaml.safe_load((HERE / "deepseek-v3-h800.yaml").read_text(encoding="utf-8"))
    moe = predict_train(question, check_memory=False)
    console.print(f"{moe.step_time_s:.2f} s in {perf_counter() - begin:.1f} s; the best layout of its dense twin ...")
    twin = best_train(twin_scenario(question, load_model(question["model"])))
    dense = predict_train(twin.scenario)
    console.print(side_by_side(moe, dense))
    console.print(
        f"the twin, which is no substitute for it (the report has one of equal quality): {twin.note}", soft_wrap=True
    )
    console.print(
        f"both in {perf_counter() - begin:.1f} s on this machine; measured by DeepSeek: {MEASURED_S} s a step"
    )
    for path in write_files(out, moe, dense):
        console.print(f"wrote {path}", soft_wrap=True)
    console.print("timelines open in https://ui.perfetto.dev")
    if not given.chapters:
        return
    console.print("the report: both models against dense ones of equal quality, what-ifs, better layouts ...")
    console.print(
        f"wrote {write_report(out / 'report.html', given.chapters, console)}: open it in a browser, or forward it",
        soft_wrap=True,
    )


def side_by_side(moe: Prediction, dense: Prediction) -> Table:
    """Both answers in one table; what was held equal stands in the title."""
    table = Table(title="One step of 15,360 sequences of 4,096 tokens on 2,048 H800; equal active parameters")
    for column in ("", "DeepSeek-V3 (experts)", "dense twin"):
        table.add_column(column, justify="left" if not column else "right")
    rows = [
        ("parameters", *(f"{parameters(p.resolved.job.arch) / 1e9:,.0f} B" for p in (moe, dense))),
        ("active per token", *(f"{active(p) / 1e9:,.1f} B" for p in (moe, dense))),
        ("measured step", f"{MEASURED_S:.2f} s", "-"),
        ("predicted step", *(f"{p.step_time_s:.2f} s" for p in (moe, dense))),
        ("off by", f"{moe.step_time_s / MEASURED_S - 1:+.1%}", "-"),
        ("90 % interval", *(f"{p.low_s:.1f} to {p.high_s:.1f} s" for p in (moe, dense))),
        ("MFU (of the 8-bit peak)", *(f"{p.mfu:.1%}" for p in (moe, dense))),
        ("peak memory", *(memory(p) for p in (moe, dense))),
        ("GPU-hours per 1e12 tokens", *(f"{gpu_hours(p) * 1e6:,.0f}" for p in (moe, dense))),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def active(p: Prediction) -> int:
    """Parameters that one token touches."""
    return active_parameters(p.resolved.job.arch).with_input_embedding


def memory(p: Prediction) -> str:
    """Peak memory of a GPU, and whether it has that much."""
    needed, usable = (size / GIB for size in (max(m.total for m in p.memory), p.usable_bytes))
    return f"{needed:.0f} GiB" + ("" if p.memory_fits else f", but there are {usable:.0f}")


def gpu_hours(p: Prediction) -> float:
    """GPU-hours per million tokens."""
    return float(p.cost["gpu_hours_per_million_tokens"])


def write_files(out: Path, moe: Prediction, dense: Prediction) -> list[Path]:
    """A figure, a timeline and the whole answer of each."""
    written = []
    for name, prediction in (("deepseek-v3", moe), ("dense-twin", dense)):
        figure, trace, answer = (out / f"{name}{ending}" for ending in (".png", ".trace.json", ".json"))
        write_figure(prediction, figure)
        write_chrome_trace(prediction, trace)
        write_text(answer, json.dumps(prediction.to_dict(), indent=1) + "\n")
        written += [figure, trace, answer]
    return written


def write_report(path: Path, chapters: list[str], console: Console) -> Path:
    """The page about both models, each against dense ones."""

    def show(what: str, done: int, total: int) -> None:
        console.print(f"  {what}: {done} of {total}, {perf_counter() - begin:.0f} s")

    begin = perf_counter()
    files = [HERE / f"{name}.yaml" for name in chapters]
    page = make_page(files, tokens=TOKENS, progress=show)
    write_page(page, path)
    return path


if __name__ == "__main__":
    main()
