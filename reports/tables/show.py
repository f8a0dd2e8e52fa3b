"""Catalogue entries as tables: numbers with units, sources below."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.reports.show import Entry
from moesim.reports.text import count, si

# endings of key names and how their values are written; longest first
_UNITS = (
    ("_flops_per_s", "FLOP/s"), ("_bytes_per_s", "B/s"), ("_usd_per_hour", "$/h"), ("latency_s", "s"),
    ("bytes_per_token", "B"), ("_bytes", "B"), ("_w", "W"),
)  # fmt: skip
_LAST = ("notes", "source")


def overview_report(overview: Entry) -> RenderableType:
    """All names: models and GPUs with their sizes, the rest as lists."""
    parts: list[RenderableType] = [_models(overview["models"]), _gpus(overview["gpus"])]
    nodes = [f"{n} ({r['gpu']}, {r['gpus_per_domain']} per domain)" for n, r in overview["nodes"].items()]
    instances = [f"{n} ({r['cloud']}: {r['node']})" for n, r in overview["instances"].items()]
    fabrics = [f"{n} ({si(r['link_bytes_per_s'], 'B/s')})" for n, r in overview["fabrics"].items()]
    stacks = [f"{n}: {r['title']}" for n, r in overview["stacks"].items()]
    engines = [f"{n}: {r['title']}" for n, r in overview["engines"].items()]
    libraries = [f"{n}: {r['title']}" for n, r in overview["libraries"].items()]
    for title, lines, wide in (
        ("nodes", nodes, False),
        ("instances of clouds (cluster.node or cluster.gpu takes them)", instances, False),
        ("fabrics", fabrics, False),
        ("stacks", stacks, True),
        ("serving engines", engines, True),
        ("libraries of transfers", libraries, True),
        ("measured profiles (other GPUs borrow from these)", list(overview["profiles"]), False),
    ):
        parts.append(Text(f"\n{title}", style="bold"))
        parts.append(Group(*map(Text, lines)) if wide else Columns(map(Text, lines), padding=(0, 3)))
    parts.append(Text("\nmoesim show NAME explains one of them and gives its sources"))
    return Group(*parts)


def _models(models: Entry) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for title in ("parameters", "active", "layers"):
        table.add_column(title, justify="right")
    table.add_column("kind")
    for name, r in models.items():
        kind = "MoE" if r["moe"] else "dense"
        table.add_row(name, count(r["parameters"]), count(r["active_parameters"]), str(r["layers"]), kind)
    return table


def _gpus(gpus: Entry) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("GPU", no_wrap=True)
    for title in ("16-bit peak", "memory", "bandwidth", "scale-up link"):
        table.add_column(title, justify="right")
    for name, r in gpus.items():
        peak = r["peak_bf16_flops_per_s"]
        values = (r["hbm_bytes"], "B"), (r["hbm_bytes_per_s"], "B/s"), (r["scale_up_bytes_per_s"], "B/s")
        table.add_row(name, si(peak, "FLOP/s") if peak else "", *(si(v, u) if v else "none" for v, u in values))
    return table


def entry_report(entry: Entry) -> RenderableType:
    """One entry: a title, a line per number, nested records indented, notes and sources last."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    wide: list[RenderableType] = []
    ordered = sorted(entry.items(), key=lambda kv: _LAST.index(kv[0]) if kv[0] in _LAST else -1)
    for key, value in ordered:
        if key in ("kind", "name") or value in (None, "", [], (), {}):
            continue
        if key == "constants":
            wide.append(_constants(value))
        elif key == "fits":
            wide.append(_fits(value))
        elif isinstance(value, dict):
            rows = [(k, v) for k, v in value.items() if v not in (None, "")]
            table.add_row(_words(key), ", ".join(f"{_words(k)} {_value(_unit_key(key, k), v)}" for k, v in rows))
        else:
            table.add_row(_words(key), _value(key, value))
    title = Text(f"{entry['kind']} {entry.get('name', entry.get('gpu', ''))}", style="bold")
    return Group(title, table, *wide, Text(""))


def _words(key: str) -> str:
    for ending, _ in _UNITS:
        if key.endswith(ending) and ending.startswith("_"):
            key = key[: -len(ending)] + (" rate" if ending == "_bytes_per_s" else "")
            break
    return key.removesuffix("_s").replace("_", " ") if key != "latency_s" else "latency"


def _unit_key(outer: str, inner: str) -> str:
    """peak_flops_per_s: {bf16: ...} carries its unit outside."""
    return outer if any(outer.endswith(ending) for ending, _ in _UNITS) else inner


def _value(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_value("", v) for v in value)
    if isinstance(value, (int, float)):
        if "flops_per_token" in key:
            return si(float(value), "FLOP")
        if "param" in key:
            return f"{count(value)} ({value:,})"
        for ending, unit in _UNITS:
            if key.endswith(ending):
                return f"{value:,.2f} {unit}" if unit == "$/h" else si(float(value), unit)
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value)


def _constants(constants: Entry) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("constant", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("kind")
    table.add_column("why")
    for key, r in constants.items():
        table.add_row(key, f"{float(r['value']):g}", str(r.get("kind", "")), str(r.get("why", "")))
    return table


def _fits(fits: Entry) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fit", no_wrap=True)
    for title in ("samples", "left out", "median error", "p90", "bias > 20 us"):
        table.add_column(title, justify="right")
    for key, r in fits.items():
        errors = [f"{100 * r[k]:.1f} %" for k in ("median_error", "p90_error")]
        samples = (f"{r['samples_fit']:,}", f"{r['samples_left_out']:,}")
        table.add_row(key, *samples, *errors, f"{100 * r['long_bias']:+.1f} %")
    origins = dict.fromkeys(
        f"tables of {r['package']} {r['package_version']} ({r['licence']}), fitted {r['fit_date']}"
        for r in fits.values()
    )
    assumed = list(dict.fromkeys(line for r in fits.values() for line in r["assumed"]))
    return Group(table, Text(""), *map(Text, origins), *(Text(f"assumed: {line}") for line in assumed))
