"""What each term of the step model buys: errors with one term switched off at a time, by family of runs.

`python -m moesim.calibrate.record.ablate` prints a Markdown table from the shipped rows (all splits). Nothing is
refitted, so a term whose neighbours could take its place looks more important here than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from csv import DictReader
from importlib.resources import files

from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.sim.software.stack import constants
from moesim.sim.train.job import TrainJob

# term -> (prefixes of its constants, value that switches it off; None leaves the constant's neutral factor of 1)
TERMS: dict[str, tuple[tuple[str, ...], float]] = {
    "sustained GEMM factors": (("gemm_factor", "grouped_factor", "clock_factor"), 1.0),
    "attention factor": (("attention_factor",), 1.0),
    "elementwise traffic": (("elementwise_traffic",), 1.0),
    "quantise and cast": (("cast_traffic",), 1e-9),
    "gradient accumulation": (("accumulate_traffic",), 1e-9),
    "permutation and router": (("permute_traffic", "router_passes"), 1e-9),
    "state-space scan": (("ssm_passes",), 1e-9),
    "unfused score traffic": (("unfused_score_bytes",), 1e-9),
    "loss traffic": (("loss_bytes_per_logit",), 1e-9),
    "tensor-parallel transfers": (("tp_exposed", "tp_slowdown"), 1e-9),
    "multiprocessors held by exchanges": (("exchange_sms",), 1e-9),
    "host floor": (("host_launch_s", "host_moe_layer_s", "host_pipeline_s"), 1e-9),
    "kernel gaps": (("kernel_gap_s",), 1e-12),
    "multiprocessors held by data-parallel transfers": (("collective_sms",), 1e-9),
    "fused expert MLP of late releases": (("fused_expert_mlp_factor",), 1.0),
    "optimizer": (("optimizer_bytes_per_param",), 1e-9),
    "constant per step": (("step_constant_s",), 1e-9),
    "stragglers": (("straggler_per_doubling",), 1e-9),
}


def family(job: TrainJob) -> str:
    """Column of the table that a run belongs to."""
    if job.arch.is_moe:
        return "MoE H100" if job.cluster.gpu.generation != "blackwell" else "MoE Blackwell"
    if job.stack.name == "megatron-tuned":
        return "dense tuned H100" if job.cluster.gpu.generation != "blackwell" else "dense tuned Blackwell"
    return f"dense {job.stack.name}"


def _evaluate(task: tuple[Row, Mapping[str, float]]) -> tuple[str, float] | None:
    row, overrides = task
    try:
        result = simulate_row(row, dict(overrides))
    except ValueError:
        return None
    return family(result.resolved.job), abs(result.step.step_time_s / float(row["step_time_s"]) - 1.0)


def _overrides(term: str) -> dict[str, float]:
    prefixes, value = TERMS[term]
    return {key: value for key in constants() if key.split("[")[0] in prefixes}


def published_rows(every: int = 4) -> list[Row]:
    """The shipped training rows; of the single-node sweep every `every`-th, since its rows repeat each other."""
    rows: list[Row] = []
    for name in ("training.csv", "training_sweeps.csv"):
        text = files("moesim.calibrate").joinpath("published", name).read_text(encoding="utf-8")
        shipped = [r for r in DictReader(text.splitlines()) if r.get("step_time_s")]
        rows += (
            shipped
            if name == "training.csv"
            else [r for i, r in enumerate(shipped) if r["model"] != "gpt" or i % every == 0]
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: median / p90 error in % per family with the whole model, then with each term off."""
    lines: list[str] = []
    columns: list[str] = []
    with ProcessPoolExecutor(2) as pool:
        for term in ["whole model", *TERMS]:
            overrides = {} if term == "whole model" else _overrides(term)
            errors: dict[str, list[float]] = {}
            for judged in pool.map(_evaluate, [(row, overrides) for row in rows], chunksize=16):
                if judged is not None:
                    errors.setdefault(judged[0], []).append(judged[1])
            if not columns:
                columns = sorted(errors)
                lines.append("| | " + " | ".join(f"{c} ({len(errors[c])})" for c in columns) + " |")
                lines.append("|---" * (len(columns) + 1) + "|")
            cells = [_cell(errors.get(c, [])) for c in columns]
            label = term if term == "whole model" else f"without {term}"
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(errors: Sequence[float]) -> str:
    ordered = sorted(errors)
    if not ordered:
        return "-"
    return (
        f"{100 * ordered[len(ordered) // 2]:.1f} / {100 * ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]:.0f}"
    )


def main() -> None:
    """Print the table."""
    import sys

    sys.stdout.write(table(published_rows()))


if __name__ == "__main__":
    main()
