"""A sweep as a table for the terminal, and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from reports.failures import OutputError, check_writable, writing
from reports.text import gib, seconds, three
from sim.plan.sweep import RESULTS, Sweep

if TYPE_CHECKING:
    import pandas as pd

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


def frame(sweep: Sweep) -> pd.DataFrame:
    """One row per point: settings, then results."""
    import pandas as pd

    return pd.DataFrame(list(sweep.rows), columns=[*sweep.names, *RESULTS])


def write_table(sweep: Sweep, path: Path) -> None:
    """Write the table; its ending says the format."""
    with writing(path):
        if path.suffix.lower() == ".parquet":
            frame(sweep).to_parquet(path, index=False)
        else:
            frame(sweep).to_csv(path, index=False)


def sweep_report(sweep: Sweep) -> Table:
    """Settings, step, throughput, memory and money; the fastest point is bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in (*sweep.names, "step", "tokens/s/GPU", "MFU", "GiB", "$/Mtok"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    rates = [row["tokens_per_s_per_gpu"] or 0.0 for row in sweep.rows if row["memory_fits"]]
    for row in sweep.rows:
        cells = [str(row[name]) for name in sweep.names]
        if row["error"]:
            table.add_row(*cells, *[""] * 5, row["error"])
            continue
        usd = "" if row["usd_per_million_tokens"] is None else three(row["usd_per_million_tokens"])
        cells += [seconds(row["step_time_s"]), three(row["tokens_per_s_per_gpu"]), f"{row['mfu']:.1%}"]
        cells += [gib(row["memory_bytes"]), usd, "" if row["memory_fits"] else "does not fit"]
        best = bool(rates) and row["memory_fits"] and row["tokens_per_s_per_gpu"] == max(rates)
        table.add_row(*cells, style="bold" if best else "")
    return table
