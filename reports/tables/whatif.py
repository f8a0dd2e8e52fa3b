"""What-if answers as tables: what each change does, and how near the run is to its limits."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.tables.serve import PART_TITLES
from moesim.reports.text import gib, seconds, si, three
from moesim.sim.variation.outcome import by_group
from moesim.sim.variation.settings import GROUPS, Reach
from moesim.sim.variation.whatif_serve import ServeOutcome, ServeWhatIf
from moesim.sim.variation.whatif_train import Outcome, WhatIf


def whatif_report(answer: WhatIf, title: str) -> RenderableType:
    """The run as asked, every change, the roofline."""
    each = answer.usd_per_million_tokens
    usd = "" if each is None else f", ${three(each)} per million tokens{_at(answer.usd_per_hour)}"
    memory = (
        f"{gib(answer.free_bytes)} GiB free" if answer.free_bytes >= 0 else f"{gib(-answer.free_bytes)} GiB too large"
    )
    head = f"step {seconds(answer.step_time_s)}, {answer.tokens_per_s:,.0f} tokens/s{usd}, {memory}"
    notes = [Text(f"- {note}") for note in answer.notes]
    return Group(
        Text(title, style="bold"),
        Text(head),
        Text("one thing changed at a time"),
        *_changes(answer),
        *notes,
        _roofline(answer),
    )


def _changes(answer: WhatIf) -> list[Table]:
    return [_group(answer, group, knobs) for group, knobs in by_group(answer.outcomes)]


def _group(answer: WhatIf, group: Reach, knobs: list[tuple[str, list[Outcome]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=GROUPS[group], title_justify="left")
    bought = group == "hardware"
    for name in ("what", "change", "step", "tokens/s", "tokens/$", *(("worth it up to",) if bought else ()), ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right")
    for knob, outcomes in knobs:
        for i, o in enumerate(outcomes):
            cells = [knob if i == 0 else "", o.change, seconds(o.step_time_s), f"{o.speed_factor - 1.0:+.1%}"]
            cells.append(f"{o.value_factor - 1.0:+.1%}")
            cells += [_worth(answer.usd_per_hour, o.speed_factor)] if bought else []
            marks = [*([] if o.fits else ["does not fit"]), *(["estimated"] if o.estimated else [])]
            table.add_row(*cells, ", ".join(marks))
        table.add_section()
    return table


def _roofline(answer: WhatIf) -> Table:
    title = "roofline: where the seconds go, and what the data sheet alone would take"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("work", "busy", "FLOP/s", "HBM", "of its limit", "bound by"):
        table.add_column(name, justify="left" if name in ("work", "bound by") else "right")
    for p in answer.parts:
        if p.busy_s > 0.0:
            rates = [si(p.flops / p.busy_s, "FLOP/s") if p.flops else "", si(p.hbm_bytes / p.busy_s, "B/s")]
            limit = f"{p.floor_share:.0%}" if p.hbm_bytes else ""
            table.add_row(p.category, seconds(p.busy_s), rates[0], rates[1] if p.hbm_bytes else "", limit, p.bound)
    return table


def _at(usd_per_hour: float | None) -> str:
    return "" if usd_per_hour is None else f" at ${three(usd_per_hour)} per GPU-hour"


def _worth(usd_per_hour: float | None, speed_factor: float) -> str:
    """The price at which a change leaves tokens per dollar as they are."""
    return "" if usd_per_hour is None else f"${usd_per_hour * speed_factor:.2f} a GPU-hour"


def serve_whatif_report(answer: ServeWhatIf, title: str) -> RenderableType:
    """The deployment as asked, every change, the roofline of its decode passes."""
    each = answer.usd_per_million_output_tokens_at_most
    usd = "" if each is None else f", ${three(each)} per million of them{_at(answer.usd_per_hour)}"
    head = (
        f"first token {seconds(answer.ttft_s)}, then {seconds(answer.tpot_s)} a token; at most "
        f"{three(answer.tokens_per_s)} output tokens/s{usd}"
    )
    return Group(Text(title, style="bold"), Text(head), *_serve_changes(answer), _serve_roofline(answer))


def _serve_changes(answer: ServeWhatIf) -> list[RenderableType]:
    said = "one thing changed at a time; latencies are those of the asked load, tokens/s what can be served at most"
    return [Text(said), *(_serve_group(answer, group, knobs) for group, knobs in by_group(answer.outcomes))]


def _serve_group(answer: ServeWhatIf, group: Reach, knobs: list[tuple[str, list[ServeOutcome]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=GROUPS[group], title_justify="left")
    last = "worth it up to" if group == "hardware" else ""
    for name in ("what", "change", "TTFT", "TPOT", "tokens/s", "tokens/$", last):
        table.add_column(name, justify="left" if name == "what" else "right")
    for knob, outcomes in knobs:
        for i, o in enumerate(outcomes):
            name = knob if i == 0 else ""
            if not o.fits:
                table.add_row(name, o.change, "", "", "", "", "does not fit")
                continue
            cells = [
                seconds(o.ttft_s),
                seconds(o.tpot_s),
                f"{o.speed_factor - 1.0:+.1%}",
                f"{o.value_factor - 1.0:+.1%}",
            ]
            table.add_row(name, o.change, *cells, _worth(answer.usd_per_hour, o.speed_factor) if last else "")
        table.add_section()
    return table


def _serve_roofline(answer: ServeWhatIf) -> Table:
    title = f"roofline of the decode passes ({answer.mean_batch:.0f} sequences in the mean)"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in ("work", "share of the step", "of the data sheet's limit"):
        table.add_column(name, justify="left" if name == "work" else "right")
    for p in answer.parts:
        if p.share >= 0.001:
            table.add_row(
                PART_TITLES.get(p.part, p.part), f"{p.share:.1%}", f"{p.floor_share:.0%}" if p.floor_share else ""
            )
    return table
