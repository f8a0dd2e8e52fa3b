"""A day of traffic as tables: what it cost and how well it was served, then hour by hour."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.tables.serve import layout_text
from moesim.reports.text import seconds, three
from moesim.sim.serve.day_answer import DayPart, DayPrediction

_LINES = 24


def day_report(p: DayPrediction) -> RenderableType:
    """Everything that a person wants to see of one day."""
    job = p.resolved.deployment.job
    title = Text(f"{job.arch.name} on {job.cluster.gpu.name} with {job.engine.title}\n", style="bold")
    title.append(f"replicas of ({layout_text(job)}), {p.replicas[0]} to {p.replicas[1]} at a time\n")
    title.append(_verdict(p))
    return Group(title, Text(""), _answer(p), Text(""), _hours(p), Text(""), *_notes(p))


def _verdict(p: DayPrediction) -> str:
    slo = p.resolved.ask.slo
    text = (
        f"{p.attained_share:.1%} of {p.requests:,} requests within {slo.ttft_s:g} s + {slo.tpot_s * 1e3:g} ms a token"
    )
    if p.overloaded_since_s is not None:
        text += f"; overloaded since {clock(p.overloaded_since_s)}, and not over by the end"
    return text


def clock(time_s: float) -> str:
    """'14:30', with the day before it from the second one on."""
    minutes = round(time_s / 60.0)
    day, minutes = divmod(minutes, 24 * 60)
    text = f"{minutes // 60:02d}:{minutes % 60:02d}"
    return f"day {day + 1}, {text}" if day else text


def _answer(p: DayPrediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    rows = [
        ("first token, mean, p99", f"{seconds(p.ttft_s.mean)}, {seconds(p.ttft_s.p99)}"),
        ("each further token, mean, p99", f"{seconds(p.tpot_s.mean)}, {seconds(p.tpot_s.p99)}"),
        (
            "replica-hours",
            f"{three(p.replica_hours)}; {three(p.fixed_replica_hours)} if {p.replicas[1]} ran all the time",
        ),
        ("GPU-hours", f"{three(p.gpu_hours)}{_between(p, 'gpu_hours')}"),
    ]
    if p.usd is not None and p.fixed_usd is not None:
        rows.append(
            (
                "dollars",
                f"{p.usd:,.0f}{_between(p, 'usd')}; {p.fixed_usd:,.0f} if {p.replicas[1]} replicas ran all the time",
            )
        )
    if p.usd_per_million_output_tokens is not None:
        dear = _between(p, "usd_per_million_output_tokens")
        each = f"{three(p.usd_per_million_output_tokens)}{dear}"
        rows.append(("$ per million output tokens, prompts paid by them", each))
    if p.cache:
        rows.append(("prompt tokens found in caches", f"{p.cache['hit_share']:.1%}"))
    rows.append(("energy at the meter", f"{p.energy_joules / 3.6e6:,.0f} kWh"))
    if p.rejected or p.timed_out:
        rows.append(("requests rejected, given up", f"{p.rejected:,}, {p.timed_out:,}"))
    if p.lost_replicas:
        rows.append(("replicas lost, requests sent again", f"{p.lost_replicas:,}, {p.retried:,}"))
    for title, value in rows:
        table.add_row(title, value)
    return table


def _between(p: DayPrediction, name: str) -> str:
    """' (p10 41.2, p90 60.3)'; nothing for replicas that are fixed."""
    sure = p.intervals.get(name)
    return "" if sure is None else f" (p10 {three(sure['p10'])}, p90 {three(sure['p90'])})"


def _hours(p: DayPrediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("from", "requests/s", "replicas", "paid", "TTFT p50", "TTFT p99", "TPOT", "within limits"):
        table.add_column(name, justify="left" if name == "from" else "right")
    step = max(1, len(p.parts) // _LINES)
    for n in range(0, len(p.parts), step):
        table.add_row(*_line(p.parts[n : n + step]))
    return table


def _line(parts: tuple[DayPart, ...]) -> list[str]:
    count, many = sum(part.requests for part in parts), len(parts)

    def mean(name: str) -> float:
        return float(sum(getattr(part, name) for part in parts)) / many

    def weighted(name: str) -> float:
        return float(sum(getattr(part, name) * part.requests for part in parts)) / max(1, count)

    worst = max(part.ttft_p99_s for part in parts)
    if not count:
        return [
            clock(parts[0].begin_s),
            "0",
            f"{mean('ready_replicas'):.1f}",
            f"{mean('paid_replicas'):.1f}",
            *[""] * 4,
        ]
    return [
        clock(parts[0].begin_s),
        three(mean("requests_per_s")),
        f"{mean('ready_replicas'):.1f}",
        f"{mean('paid_replicas'):.1f}",
        seconds(weighted("ttft_p50_s")),
        seconds(worst),
        seconds(weighted("tpot_mean_s")),
        f"{weighted('attained_share'):.1%}",
    ]


def _notes(p: DayPrediction) -> list[Text]:
    return [Text("assumptions", style="bold"), *(Text(f"  {line}") for line in p.assumptions)]
