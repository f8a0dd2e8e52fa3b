"""Pictures of the network: times over sizes by algorithm, what links carry, and a cluster's graph with its rails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.hwmodels.cluster import link_bytes_per_s
from moesim.reports.figures.files import check_format, save
from moesim.reports.figures.palette import END, INK, LIMIT, PHASES
from moesim.reports.text import seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from moesim.hwmodels.topology import Topology
    from moesim.sim.transfer.predict import CommAnswer

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#3C3C3C", "#9E9AC8")
_STYLE: Any = {"font.size": 9.0, "axes.edgecolor": "#888888", "text.color": INK, "svg.hashsalt": "moesim"}
_KINDS = {"gpu": PHASES["F"], "switch": PHASES["W"], "nic": "#BDBDBD", "leaf": PHASES["B"], "spine": LIMIT, "core": END}
_SHOWN_DOMAINS = 4


def _blank(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_comm_figure(answer: CommAnswer, table: Mapping[str, Sequence[tuple[float, float]]], path: str | Path) -> None:
    """Times over sizes for every algorithm, and how busy the kinds of links are. OutputError for a bad file name."""
    from matplotlib import rc_context

    check_format(path)
    with rc_context(_STYLE):
        figure = _blank(12.0, 4.6)
        left, right = figure.subplots(1, 2, width_ratios=(1.5, 1.0))
        _curves(left, answer, table)
        _bars(right, answer)
        q = answer.question
        figure.suptitle(
            f"{q.op} on {q.ranks} x {answer.cluster.gpu.name} ({q.node}, {answer.cluster.fabric}): "
            f"{seconds(answer.prediction.time_s)} with {answer.prediction.algorithm}",
            fontweight="bold", x=0.01, ha="left",
        )  # fmt: skip
        save(figure, Path(path))


def _curves(axes: Axes, answer: CommAnswer, table: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    q = answer.question
    for colour, (name, line) in zip(_COLOURS, table.items(), strict=False):
        thick = 2.6 if name == answer.prediction.algorithm else 1.3
        axes.plot([x for x, _ in line], [t * 1e6 for _, t in line], color=colour, linewidth=thick, label=name)
    x = float(q.tokens) if q.routed else q.size_bytes
    p = answer.prediction
    axes.errorbar(
        [x], [p.time_s * 1e6], [[(p.time_s - p.low_s) * 1e6], [(p.high_s - p.time_s) * 1e6]],
        fmt="o", color=INK, capsize=4, label="asked, 90 % interval",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens per rank" if q.routed else "bytes per rank")
    axes.set_ylabel("microseconds")
    if not q.routed:
        axes.set_xticks([2.0**i for i in (12, 16, 20, 24, 28, 32)])
        axes.set_xticklabels(["4 KiB", "64 KiB", "1 MiB", "16 MiB", "256 MiB", "4 GiB"])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    axes.set_title("time by algorithm (the chosen one thick)", loc="left")


def _bars(axes: Axes, answer: CommAnswer) -> None:
    axes.set_title("how long each kind of link is busy", loc="left")
    loads = answer.loads.summary()
    names = list(loads)[::-1]
    busiest = [loads[n]["busy_s"] * 1e6 for n in names]
    mean = [loads[n]["mean_bytes"] / loads[n]["link_bytes_per_s"] * 1e6 for n in names]
    colours = [LIMIT if b == max(busiest) else "#56B4E9" for b in busiest]
    axes.barh(names, busiest, color=colours, label="busiest link")
    axes.plot(mean, names, "|", color=INK, markersize=16, markeredgewidth=2, label="mean link")
    axes.set_xlabel("microseconds at the link's own rate")
    axes.legend(frameon=False, loc="lower right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def write_topology_figure(topology: Topology, path: str | Path) -> None:
    """Draw the first domains of a cluster: GPUs around their switch, NICs, and the rails that meet at leaves."""
    from matplotlib import rc_context

    check_format(path)
    with rc_context(_STYLE):
        figure = _blank(13.0, 6.0)
        _draw_graph(figure.subplots(), topology)
        save(figure, Path(path))


def _shown_domains(topology: Topology) -> list[int]:
    """The domains that are drawn: the first ones, or where hosts hang on different leaves some from all over."""
    domains = topology.cluster.domains
    count = min(_SHOWN_DOMAINS if topology.cluster.domain <= 8 else 1, domains)
    rails = topology.kind in ("rail-optimised", "multi-plane")
    return list(range(count)) if rails else [i * domains // count for i in range(count)]


def _positions(topology: Topology, domains: list[int]) -> dict[str, tuple[float, float]]:
    """Where each node stands: domains side by side, NICs above their GPUs, leaves and spines over all."""
    size = topology.cluster.domain
    places: dict[str, tuple[float, float]] = {}
    for place, domain in enumerate(domains):
        for rail in range(size):
            gpu, x = domain * size + rail, place * (size + 1.5) + rail
            if gpu < topology.cluster.gpus:
                places[f"gpu{gpu}"], places[f"nic{gpu}"] = (x, 1.0), (x, 2.0)
        places[f"switch{domain}"] = (place * (size + 1.5) + (size - 1) / 2.0, 0.0)
    width = max(x for x, _ in places.values())
    for kind, height in (("leaf", 3.6), ("spine", 5.0), ("core", 6.2)):
        names = [n for n, d in topology.graph.nodes(data=True) if d["kind"] == kind]
        if kind == "leaf":
            near = {leaf for g, leaf in enumerate(topology.leaf_of) if f"gpu{g}" in places}
            names = [n for n in names if n in near]
        names.sort(key=lambda n: int(n.strip("leafspincor")))
        for i, name in enumerate(names):
            places[name] = ((i + 0.5) * width / len(names), height)
    return {name: place for name, place in places.items() if name in topology.graph}


def _draw_graph(axes: Axes, topology: Topology) -> None:
    domains = _shown_domains(topology)
    places = _positions(topology, domains)
    for a, b in topology.graph.edges:
        if a < b and a in places and b in places:
            (x1, y1), (x2, y2) = places[a], places[b]
            rail = next((int(n[3:]) % topology.cluster.domain for n in (a, b) if n.startswith("nic")), None)
            colour = _COLOURS[rail % len(_COLOURS)] if rail is not None and min(y1, y2) >= 2.0 else "#BBBBBB"
            axes.plot([x1, x2], [y1, y2], color=colour, linewidth=1.0, zorder=1)
    for kind, colour in _KINDS.items():
        own = [places[n] for n in places if topology.graph.nodes[n]["kind"] == kind]
        if own:
            x, y = [p[0] for p in own], [p[1] for p in own]
            axes.scatter(x, y, s=70 if kind != "nic" else 30, color=colour, label=kind, zorder=2)
    cluster = topology.cluster
    near = link_bytes_per_s(cluster)
    title = f"{cluster.name}: {topology.kind}, {near / 1e9:g} GB/s inside a domain"
    if cluster.domains > 1:
        title += f", {cluster.nic_bytes_per_s / 1e9:g} GB/s per NIC, oversubscription {cluster.oversubscription:g}"
    axes.set_title(title, loc="left", fontweight="bold")
    if len(domains) < cluster.domains:
        axes.text(0.0, -0.7, f"{len(domains)} of {cluster.domains} domains drawn; each colour is one rail", fontsize=9)
    axes.legend(frameon=False, loc="lower right", ncols=6, bbox_to_anchor=(1.0, -0.08))
    axes.set_axis_off()
