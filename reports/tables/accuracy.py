"""How wrong we are, as tables for the terminal and for Markdown files."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.calibrate.record.ranking import Ranking
from moesim.calibrate.record.summary import COUNTED, Line, Summary

METRIC_TITLES = {
    "step_time_s": "step time",
    "peak_allocated_gib": "peak allocated memory",
    "time_us": "time of transfers",
    "bandwidth_gbs": "bandwidth of transfers",
    "tpot_ms": "time per output token",
    "ttft_ms": "time to the first token",
    "derived_tokens_per_s_per_gpu": "tokens per second and GPU, closed loop",
    "output_tokens_per_s": "output tokens per second, offline",
    "output_tokens_per_s_per_gpu": "output tokens per second and GPU, one batch",
}
_COLUMNS = ("split", "rows", "median", "mean", "p90", "bias, median", "bias, mean", "interval +-", "in interval")
_REASONS = 8  # refusals shown one by one


def accuracy_report(summary: Summary, order: Ranking | None = None) -> RenderableType:
    """Counts, the table of splits, and the breakdowns, for a terminal."""
    parts: list[RenderableType] = [Text(_counts(summary), style="bold"), *map(Text, _refusals(summary))]
    if order is not None:
        parts.append(Text("\n" + ranking_text(order)))
    for metric in _metrics(summary):
        parts += [
            Text(
                f"\n{_title(metric)}: absolute error in % of the measured value, and signed bias",
                style="bold",
            )
        ]
        parts.append(_table("", summary.of("all", metric), with_value=False))
        for d in summary.dimensions():
            if _counted(summary.of(d, metric)):
                parts += [Text(""), _table(d, _counted(summary.of(d, metric)))]
    if not summary.lines and summary.uncounted:
        parts.append(Text("no measured value that counts (above): predictions only (--out writes them)"))
    elif not summary.lines:
        parts.append(Text("no measured values in this file: predictions only (--out writes them)"))
    return Group(*parts)


def ranking_text(order: Ranking) -> str:
    """One paragraph on how well alternatives are put in order."""
    return (
        f"order of alternatives: rank correlation {order.spearman_median:.2f} (median of {order.groups} groups of one "
        f"model, GPU count and batch; worst tenth {order.spearman_low:.2f}), {order.pairs_right_pct:.0f} % of "
        f"{order.pairs} pairs in the right order; {order.release_pairs_right_pct:.0f} % of {order.release_pairs} pairs "
        "of runs of the same software release"
    )


def accuracy_markdown(summary: Summary, order: Ranking | None = None) -> str:
    """The same tables in GitHub Markdown, ending with a newline."""
    lines = [_counts(summary), "", *(f"- {reason.strip()}" for reason in _refusals(summary))]
    if order is not None:
        lines += ["", ranking_text(order)]
    for metric in _metrics(summary):
        lines += [
            "",
            f"### {_title(metric).capitalize()}",
            "",
            "Absolute error in % of the measured value; bias > 0: predicted too high.",
            "",
        ]
        lines += _markdown("", summary.of("all", metric), with_value=False)
        for dimension in summary.dimensions():
            counted = _counted(summary.of(dimension, metric))
            if counted:
                lines += [
                    "",
                    f"#### {_title(metric).capitalize()} by {dimension}",
                    "",
                    *_markdown(dimension, counted),
                ]
    return "\n".join(lines).replace("\n\n\n", "\n\n").strip() + "\n"


def _title(metric: str) -> str:
    return METRIC_TITLES.get(metric, metric)


def _metrics(summary: Summary) -> list[str]:
    return list(dict.fromkeys(line.metric for line in summary.lines))


def _counted(lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if line.counted]


def _counts(summary: Summary) -> str:
    splits = ", ".join(f"{n} {name}{'' if name in COUNTED else ' (not counted)'}" for name, n in summary.splits.items())
    refused = sum(summary.refused.values())
    return f"{summary.rows} rows ({splits}): {summary.answered} answered, {refused} refused"


def _refusals(summary: Summary) -> list[str]:
    shown = list(summary.refused.items())[:_REASONS]
    lines = [f"  refused {n}: {reason}" for reason, n in shown]
    rest = sum(summary.refused.values()) - sum(n for _, n in shown)
    lines += [f"  not counted {n}: {reason}" for reason, n in list(summary.uncounted.items())[:_REASONS]]
    return lines + ([f"  refused {rest} for other reasons (--json lists them)"] if rest else [])


def _cells(line: Line) -> tuple[str, ...]:
    a = line.accuracy
    split = line.split if line.counted else f"{line.split} (not counted)"
    sizes = (f"{v:.1f}" for v in (a.median_abs_pct, a.mean_abs_pct, a.p90_abs_pct))
    signed = (f"{v:+.1f}" for v in (a.median_bias_pct, a.mean_bias_pct))
    return (split, str(a.rows), *sizes, *signed, f"{a.half_width_pct:.0f} %", f"{a.coverage_pct:.0f} %")


def _table(dimension: str, lines: Sequence[Line], with_value: bool = True) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    if with_value:
        table.add_column(dimension, max_width=36)
    for i, name in enumerate(_COLUMNS):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    before = ""
    for line in lines:
        value = [] if not with_value else [line.value if line.value != before else ""]
        before = line.value
        table.add_row(*value, *_cells(line))
    return table


def _markdown(dimension: str, lines: Sequence[Line], with_value: bool = True) -> list[str]:
    head = [*([dimension] if with_value else []), *_COLUMNS]
    ruler = [*(["---"] if with_value else []), "---", *["---:"] * (len(_COLUMNS) - 1)]
    rows = [[*([line.value.replace("|", "\\|")] if with_value else []), *_cells(line)] for line in lines]
    return [f"| {' | '.join(cells)} |" for cells in (head, ruler, *rows)]
