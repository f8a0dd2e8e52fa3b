"""A sweep as a table for the terminal, and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from moesim.files.whole import OutputError, check_writable, replacing
from moesim.files.words import cell, shown
from moesim.reports import frames
from moesim.reports.text import gib, seconds, three
from moesim.sim.variation.sweep import TRAINED, Sweep

ENDINGS = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """OutputError for an ending that is no table, a folder that is not there, or Parquet without its library."""
    if path.suffix.lower() not in ENDINGS:
        raise OutputError(f"table {path}: unknown format {path.suffix or '(none)'!r}; end it in .csv or .parquet")
    check_writable(path)
    if path.suffix.lower() == ".parquet":
        from importlib.util import find_spec

        if find_spec("pyarrow") is None:
            raise OutputError("Parquet needs pyarrow: pip install 'moesim[parquet]', or end the file in .csv")


def write_table(sweep: Sweep, path: Path) -> None:
    """Write the table; its ending says the format."""
    with replacing(path) as beside:
        if path.suffix.lower() == ".parquet":
            frames.sweep(sweep).map(shown).rename(columns=shown).to_parquet(beside, index=False)
        else:
            frames.sweep(sweep).map(cell).rename(columns=cell).to_csv(beside, index=False, lineterminator="\n")


def sweep_report(sweep: Sweep) -> Table:
    """Settings and the results that matter most; the point with most throughput per GPU is bold."""
    trained = sweep.results is TRAINED
    heads = ("step", "tokens/s/GPU", "MFU", "GiB", "$/Mtok") if trained else _SERVED_HEADS
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*sweep.names, *heads):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    rate = "tokens_per_s_per_gpu" if trained else "output_tokens_per_s_per_gpu"
    best = max((row[rate] for row in sweep.rows if row[rate] and row.get("memory_fits", True)), default=None)
    for row in sweep.rows:
        cells = [str(row[name]) for name in sweep.names]
        if row["error"]:
            table.add_row(*cells, *[""] * len(heads), row["error"])
        else:
            shown = _trained_cells(row) if trained else _served_cells(row)
            table.add_row(*cells, *shown, style="bold" if row[rate] == best else "")
    return table


_SERVED_HEADS = ("TTFT", "p99", "TPOT", "p99", "tokens/s/GPU", "$/Mtok out")


def _usd(value: float | None) -> str:
    return "" if value is None else three(value)


def _trained_cells(row: dict[str, Any]) -> list[str]:
    cells = [seconds(row["step_time_s"]), three(row["tokens_per_s_per_gpu"]), f"{row['mfu']:.1%}"]
    cells += [gib(row["memory_bytes"]), _usd(row["usd_per_million_tokens"])]
    return [*cells, "" if row["memory_fits"] else "does not fit"]


def _served_cells(row: dict[str, Any]) -> list[str]:
    cells = [seconds(row[name]) for name in ("ttft_s", "ttft_p99_s", "tpot_s", "tpot_p99_s")]
    return [*cells, three(row["output_tokens_per_s_per_gpu"]), _usd(row["usd_per_million_output_tokens"]), row["label"]]
