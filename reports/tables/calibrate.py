"""Tables of a calibration: left-out errors per op, proved programs, corrections of deployments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from moesim.reports.text import seconds, si

if TYPE_CHECKING:
    from moesim.calibrate.prove.proof import Proof
    from moesim.sim.train.own_runs import OwnRuns


def profile_summary(made: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile came to: its GPU, peaks, and the left-out error of every op by number of ranks."""
    errors = []
    bodies = {"1": made, **made.get("beside", {})}
    for ranks, body in bodies.items():
        for op, p in sorted(body["provenance"].items()):
            errors.append(
                {
                    "op": op,
                    "ranks": int(ranks),
                    "samples": p["samples_fit"],
                    "median_error_pct": 100.0 * p["median_error"],
                    "p90_error_pct": 100.0 * p["p90_error"],
                }
            )
    device = made.get("device") or {}
    return {
        "gpu": made["gpu"],
        "peak_flops_per_s": device.get("peak_flops_per_s", {}),
        "memory_bytes_per_s": device.get("hbm_bytes_per_s"),
        "left_out": errors,
        "not_fitted": [line for body in bodies.values() for line in body.get("not_fitted", [])],
    }


def calibrate_report(summary: Mapping[str, Any]) -> Group:
    """The left-out errors of a profile as a table."""
    head = f"{summary['gpu']}"
    if summary["memory_bytes_per_s"]:
        peaks = ", ".join(f"{d} {si(v, 'FLOP/s')}" for d, v in summary["peak_flops_per_s"].items())
        head += f": {peaks}, memory {si(summary['memory_bytes_per_s'], 'B/s')}"
    if "samples" in summary:
        head += f"; {summary['samples']} samples ({summary['resumed']} from before)"
        head += f", {summary['not_reached']} not reached"
    table = Table(title="error on shapes left out, %", title_justify="left")
    for name in ("op", "ranks", "samples", "median", "p90"):
        table.add_column(name, justify="left" if name == "op" else "right")
    for e in summary["left_out"]:
        numbers = (f"{e['median_error_pct']:.1f}", f"{e['p90_error_pct']:.1f}")
        table.add_row(e["op"], str(e["ranks"]), str(e["samples"]), *numbers)
    lacking = []
    if summary["not_fitted"]:
        lacking.append(Text(f"too few samples to fit: {', '.join(summary['not_fitted'])}"))
    lacking += [Text(line) for line in summary.get("read", ())]
    return Group(Text(head), table, *lacking)


def proof_report(proof: Proof) -> Group:
    """Predicted against measured, program by program."""
    table = Table(title="programs that no sample has seen", title_justify="left")
    for name in ("program", "measured", "predicted", "error %", "noise %"):
        table.add_column(name, justify="left" if name == "program" else "right")
    for p in proof.programs:
        table.add_row(
            p.name, seconds(p.measured_s), seconds(p.predicted_s), f"{p.error_pct:+.1f}", f"{p.noise_pct:.1f}"
        )
    line = (
        f"{len(proof.programs)} programs: median error {proof.median_error_pct:.1f} %, worst "
        f"{proof.worst_error_pct:.1f} %; noise between repeats {proof.noise_pct:.1f} %"
    )
    return Group(table, Text(line))


def corrections_report(kept: Sequence[OwnRuns]) -> Table:
    """Own runs of every deployment: how many, of how many layouts and scales, and measured over predicted."""
    table = Table(title="learned from own runs", title_justify="left")
    for name in ("deployment", "runs", "layouts", "measured / predicted", "least to most"):
        table.add_column(name, justify="left" if name == "deployment" else "right")
    for each in kept:
        ratios = sorted(exp(run.log_ratio) for run in each.runs)
        places = len({run.place for run in each.runs})
        middle, spread = f"{median(ratios):.3f}", f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        table.add_row(each.deployment, str(len(ratios)), str(places), middle, spread)
    return table
