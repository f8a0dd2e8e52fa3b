"""A serving prediction as tables: the answer first, then what it was spent on and what it rests on."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.files.words import counted
from moesim.reports.text import gib, seconds, si, sureness_lines, three
from moesim.sim.serve.accounts import BACKLOGGED, BEGINNING, MISSES, OVERLOADED, STABLE, Spread
from moesim.sim.serve.band import TITLES
from moesim.sim.serve.expert_view import ServedExperts
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.pass_waits import PassWait
from moesim.sim.serve.predict import SHORT
from moesim.sim.serve.prediction import ServePrediction

PART_TITLES = {
    "gemm": "projections and dense FFN",
    "experts": "experts",
    "attention": "attention core",
    "ssm": "state-space mixer",
    "head": "output head and sampling",
    "router": "router",
    "elementwise": "norms, activations, permutation",
    "tp_comm": "tensor-parallel communication",
    "ep_comm": "expert exchange",
    "pp_comm": "pipeline transfers",
    "pp_wait": "waiting for the slowest pipeline stage",
    "adapters": "LoRA adapters",
    "offload": "experts from host memory",
    "apart": "waiting for experts on other GPUs",
    "draft": "drafting tokens",
    "rebalance": "new placements of experts",
    "host and gaps": "host, launches, gaps",
    "prefill": "passes that carry prompts",
    "idle": "idle",
}
_LABELS = {
    STABLE: "stable",
    BACKLOGGED: "backlogged: the queue grew during the run",
    OVERLOADED: "overloaded: more comes than can be served",
    BEGINNING: "only the beginning of these conversations: whether they are served in time is not decided",
}


def serve_report(p: ServePrediction) -> RenderableType:
    """Everything that a person wants to see of one prediction."""
    gap = Text("")
    return Group(_title(p), gap, _latency(p), gap, _rates(p), gap, _shares(p), gap, *_notes(p))


def layout_text(job: ServeJob) -> str:
    """'tp 8 x attention dp 4, ep 32': degrees of 1 left out, but for tp."""
    lay = job.layout
    parts = [f"tp {lay.tp}"] + [f"x {name} {n}" for name, n in (("pp", lay.pp), ("attention dp", lay.dp)) if n > 1]
    more = [f"{name} {n}" for name, n in (("ep", lay.ep), ("etp", lay.etp)) if n > 1]
    return " ".join(parts) + (", " + ", ".join(more) if more else "")


def deployment_text(p: ServePrediction) -> str:
    """Which GPUs serve in which roles."""
    d = p.resolved.deployment
    if d.pools:
        return ", ".join(
            f"{counted(g.workers, g.role + ' worker')} of {g.job.cluster.gpu.name} ({layout_text(g.job)})"
            for g in d.groups
        )
    if d.prefill is not None:
        return (
            f"{counted(d.prefill_workers, 'prefill worker')} ({layout_text(d.prefill)}), "
            f"{counted(d.replicas, 'decode worker')} ({layout_text(d.job)}), {counted(d.gpus, 'GPU')}"
            + (f" and {d.idle_gpus:,} idle" if d.idle_gpus else "")
        )
    return f"{d.replicas} x ({layout_text(d.job)}), {counted(d.gpus, 'GPU')}"


def _title(p: ServePrediction) -> Text:
    job = p.resolved.deployment.job
    text = Text(f"{job.arch.name} on {job.cluster.gpu.name} with {job.engine.title}\n", style="bold")
    text.append(f"{deployment_text(p)}\n", style="")
    text.append(
        f"{counted(p.requests, 'request')}: {label_text(p)}; capacity {three(p.capacity_requests_per_s)} requests/s"
    )
    for line in p.assumptions:
        if line.startswith(SHORT):
            text.append(f"\n{line}", style="bold")
    return text


def label_text(p: ServePrediction) -> str:
    """The label with what it means; of limits that are missed, by how many, and what would meet them."""
    if p.label != MISSES:
        return _LABELS[p.label]
    would = f"; {p.limits.said}" if p.limits is not None else ""
    away = p.admission["rejected"] + p.admission["timed_out"]
    turned = f", {away:,} were turned away" if away else ""
    return f"{MISSES}: {p.attained_share:.0%} of the requests are within them{turned}{would}"


def _latency(p: ServePrediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "mean", "90 % interval", "p50", "p90", "p99"):
        table.add_column(name, justify="left" if not name else "right")
    rows: tuple[tuple[str, Spread, str], ...] = (
        ("first token (TTFT)", p.ttft_s, "ttft_s"),
        ("each further token (TPOT)", p.tpot_s, "tpot_s"),
        ("whole request", p.e2e_s, ""),
    )
    for title, spread, key in rows:
        band = p.intervals.get(key)
        shown = f"{seconds(band.low)} to {seconds(band.high)}" if band else ""
        table.add_row(title, seconds(spread.mean), shown, *(seconds(v) for v in (spread.p50, spread.p90, spread.p99)))
    return table


def _rates(p: ServePrediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    band = p.intervals["output_tokens_per_s"]
    slo = p.resolved.ask.slo
    rows = [
        ("output tokens/s", f"{three(p.output_tokens_per_s)} ({three(band.low)} to {three(band.high)})"),
        ("output tokens/s per GPU", three(p.output_tokens_per_s_per_gpu)),
        ("output tokens/s once warm, while requests come", _steady(p)),
        ("requests/s", three(p.requests_per_s)),
        (f"requests/s within {slo.ttft_s:g} s + {slo.tpot_s * 1e3:g} ms a token", three(p.goodput_per_s)),
        ("mean running sequences", three(p.mean_batch)),
        ("KV blocks, tokens per replica, used at most", f"{p.kv_blocks:,}, {p.kv_tokens:,}, {p.kv_use:.0%}"),
        ("preemptions", f"{p.preemptions:,}"),
        ("weights, KV space per GPU", f"{gib(p.memory['weights'])} GiB, {gib(p.memory['cache_bytes'])} GiB"),
    ]
    rows += [*_percentile_rows(p), *_interval_rows(p)]
    for title, value in (*rows, *_cache_rows(p), *_expert_rows(p), *_handover_rows(p), *_money_rows(p)):
        table.add_row(title, value)
    return table


def _steady(p: ServePrediction) -> str:
    return "none" if p.steady_output_tokens_per_s is None else three(p.steady_output_tokens_per_s)


def _percentile_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """What was asked to be sure, with how sure the simulation is of it."""
    shown = {
        name: f"{seconds(of.value)} ({seconds(of.low)} to {seconds(of.high)})" for name, of in p.percentiles.items()
    }
    return [(f"p{p.percentiles[name].p:g} of {TITLES[name]}, 95 % interval", text) for name, text in shown.items()]


def _interval_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """Why each interval is as wide as it is; metrics of one reason share a line."""
    titles: dict[str, list[str]] = {}
    for metric, sure in p.sureness.items():
        titles.setdefault("\n".join(sureness_lines(sure)), []).append(TITLES[metric])
    return [(f"interval of {', '.join(metrics)}", why) for why, metrics in titles.items()]


def _cache_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """What prompts found, and who was not let in."""
    rows, kept = [], p.cache
    if kept:
        brought = [f"{name} {tier['hit_share']:.1%}" for name, tier in kept["tiers"].items()]
        more = f", of which {', '.join(brought)}" if brought else ""
        rows.append(("prompt tokens found in caches", f"{kept['hit_share']:.1%}{more}"))
    turned = p.admission
    if turned["rejected"] or turned["timed_out"]:
        rows.append(("requests rejected, given up", f"{turned['rejected']:,}, {turned['timed_out']:,}"))
    for each in turned.get("classes", ()):
        first = each["ttft_s"]
        title = f"first token of class {each['class']} ({each['requests']:,} requests)"
        rows.append((title, f"{seconds(first['mean'])} mean, {seconds(first['p90'])} p90"))
    return rows


def _expert_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """Who gets the tokens, and what passes and dollars wait for the busiest rank."""
    view = p.experts
    if view is None:
        return []
    each = [layer.busiest_rank_ratio for layer in view.layers]
    text = f"{view.busiest_rank_ratio:.2f} x the mean ({min(each):.2f} to {max(each):.2f} by layer)"
    rows = [] if view.ranks == 1 else [(f"busiest of {view.ranks} expert ranks, mean pass", text)]
    if not view.drawn:
        return rows
    rows.append(("busiest expert, mean over layers", f"{view.busiest_expert_ratio:.2f} x the mean"))
    for title, wait in (("decode pass", view.decode), ("pass with prompts", view.prefill)):
        if wait is not None:
            rows.append((f"busiest rank costs the mean {title}", waits_text(wait)))
    rows.append(("busiest rank costs, of all paid GPU time", waiting_text(view)))
    if view.between is not None:
        sent = view.exchange_bytes.sum() / len(view.exchange_bytes)
        rows.append((f"each of {len(view.exchange_bytes)} {view.between} dispatches", f"{si(sent, 'B')} a decode pass"))
    return rows


def waits_text(wait: PassWait) -> str:
    """'1.21 ms of 23.4 ms (5.2%)', and with balanced routing; which may be slower, as it reads more experts."""
    if abs(wait.share) < 0.0005:
        return f"nothing of {seconds(wait.pass_s)}"
    if wait.waits_s < 0.0:
        faster = f"it takes {seconds(wait.pass_s)}, with balanced routing {seconds(wait.balanced_pass_s)}"
        return f"nothing: {faster}, as tokens then pick more different experts and all of those are read"
    even = f"balanced {seconds(wait.balanced_pass_s)}"
    return f"{seconds(wait.waits_s)} of {seconds(wait.pass_s)} ({wait.share:.1%}); {even}"


def waiting_text(view: ServedExperts) -> str:
    """'4.1%: $0.012 per million output tokens, $33.1 a day'; the share alone without a price."""
    usd = view.usd
    if view.waiting_share < 0.0005:
        return "nothing"
    if not usd:
        return f"{view.waiting_share:.1%}; no price is known"
    each, day = (three(usd[name]) for name in ("per_million_output_tokens", "per_day"))
    return f"{view.waiting_share:.1%}: ${each} per million output tokens, ${day} a day"


def _handover_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """What pools lose to the wires between them."""
    if not p.handover:
        return []
    lost, took = float(p.handover["network_wait_s"]), float(p.handover["seconds"])
    return [
        ("KV hand-over, mean", f"{seconds(took)}, of which {seconds(lost)} waiting for other transfers"),
        ("tokens' time until a client sees its first one", f"{p.run.stream_tokens:g} (of the decode worker's pace)"),
        ("busiest NIC", f"{p.handover['busiest_nic']}: {float(p.handover['busiest_nic_share']):.0%} of the time"),
    ]


def _money_rows(p: ServePrediction) -> list[tuple[str, str]]:
    """Dollars and joules, with the price that they were counted at."""
    cost = p.cost
    rows = []
    if "usd_per_gpu_hour" in cost:  # of pools with machines of their own the mean over all
        rows.append(("$ per GPU-hour", f"{float(cost['usd_per_gpu_hour']):g}, {cost['price_source']}"))
    for key, title in (
        ("usd_per_million_output_tokens", "$ per million output tokens, prompts paid by them"),
        ("usd_per_million_tokens", "$ per million tokens, input and output alike"),
        ("joules_per_output_token", "joules per output token, GPUs alone"),
        ("facility_joules_per_output_token", "joules per output token, with hosts and cooling"),
    ):
        if isinstance(cost.get(key), float):
            sure = p.cost_intervals.get(key)
            ends = "" if sure is None else f" (p10 {three(sure['p10'])}, p90 {three(sure['p90'])})"
            rows.append((title, f"{three(float(cost[key]))}{ends}"))
    return rows


def _shares(p: ServePrediction) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what the GPUs' time goes to")
    table.add_column("share", justify="right")
    for name, share in p.utilisation.items():
        if share >= 0.0005:
            table.add_row(PART_TITLES.get(name, name), f"{share:.1%}")
    return table


def _notes(p: ServePrediction) -> list[Text]:
    lines = [Text("assumptions", style="bold")]
    lines += [Text(f"  {line}") for line in p.assumptions if not line.startswith("constant ")]
    constants = sum(line.startswith("constant ") for line in p.assumptions)
    if constants:
        lines.append(Text(f"  {constants} constants of the engine are assumed; --json lists them"))
    return lines
