"""A training prediction as tables: the answer first, then where time, memory and numbers come from."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moesim.files.words import counted
from moesim.hwmodels.power_and_money import JOULES_PER_KWH
from moesim.hwmodels.wires import Wire
from moesim.reports.text import gib, seconds, sureness_lines, three
from moesim.sim.train.expert_view import ExpertView
from moesim.sim.train.memory import RankMemory
from moesim.sim.train.prediction import Prediction
from moesim.sim.train.wire_load import WireView

CATEGORY_TITLES = {
    "gemm": "GEMM (attention projections, dense FFN)",
    "grouped_gemm": "expert GEMM",
    "lora": "adapters",
    "attention": "attention core",
    "ssm": "state-space mixer",
    "head": "output head and loss",
    "embedding": "embedding",
    "elementwise": "norms, activations, residuals",
    "router": "router",
    "permute": "token permutation",
    "cast": "quantise and cast",
    "grad_accumulate": "gradient accumulation",
    "tp_comm": "tensor-parallel communication, exposed",
    "cp_comm": "context-parallel communication, exposed",
    "ep_comm": "expert all-to-all, exposed",
    "pp_comm": "pipeline transfers, exposed",
    "dp_comm": "gradient and weight exchange, exposed",
    "overlap": "compute slowed by transfers beside it",
    "imbalance": "waiting for the busiest expert rank",
    "slow_gpu": "waiting for the slowest GPU",
    "optimizer": "optimizer",
    "offload": "offload to the host",
    "host": "waiting for the host",
    "bubble": "pipeline bubble",
    "straggler": "stragglers",
    "step_constant": "constant per step",
}


WIRE_TITLES: dict[Wire, str] = {
    "nic": "NIC",
    "link": "scale-up link",
    "uplink": "uplinks of leaves",
    "down": "copies to the host",
    "up": "copies from the host",
}
LOST_TITLES = {  # what the step would gain without; not what ranks waited for, which the breakdown says
    "busiest_rank": "uneven routing",
    "slow_gpus": "being tied to slow GPUs",
    "jitter": "jitter",
    "links": "being tied to bad links",
}


def train_report(p: Prediction) -> RenderableType:
    """Everything that a person wants to see of one prediction."""
    gap = Text("")
    parts: tuple[RenderableType, ...] = (
        _title(p),
        _answer(p),
        gap,
        _breakdown(p),
        gap,
        _memory(p),
        gap,
        _evidence(p),
        *_notes(p),
    )
    return Group(*parts)


def layout_line(p: Prediction) -> str:
    """'tp 1 x pp 16 x dp 128, ep 64, zero 1, dualpipe': degrees of 1 left out, but for tp, pp and dp."""
    lay = p.resolved.job.layout
    parts = [f"tp {lay.tp} x pp {lay.pp}"]
    parts += [f"x {k} {getattr(lay, k)}" for k in ("cp",) if getattr(lay, k) > 1]
    parts += [f"x dp {lay.dp}"]
    extra = [f"{k} {getattr(lay, k)}" for k in ("vpp", "ep", "etp") if getattr(lay, k) > 1]
    tail = [*extra, f"ZeRO-{lay.zero}"] + ([lay.schedule] if lay.pp > 1 else [])
    return " ".join(parts) + ", " + ", ".join(tail)


def batch_line(p: Prediction) -> str:
    """'15,360 sequences of 4,096 tokens in 120 micro-batches of 1, fp8_block'."""
    job = p.resolved.job
    return (
        f"{counted(job.global_batch, 'sequence')} of {job.seq_len:,} tokens in "
        f"{counted(job.micro_batches, 'micro-batch')} of "
        f"{job.micro_batch} per replica, {job.precision}"
    )


def _title(p: Prediction) -> Text:
    job = p.resolved.job
    recompute = ", ".join(sorted(job.recompute)) or "none"
    text = Text(f"{job.arch.name} on {job.cluster.name}\n", style="bold")
    text.append(f"{layout_line(p)}; stack {job.stack.name}\n", style="default")
    text.append(f"{batch_line(p)}; recompute {recompute}\n", style="default")
    return text


def _plain(*columns: tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, justify in columns:
        table.add_column(title, justify="right" if justify == "right" else "left", no_wrap=justify == "right")
    return table


def _answer(p: Prediction) -> Table:
    table = Table(box=box.ROUNDED, show_header=False, pad_edge=True)
    table.add_column(style="bold")
    table.add_column()
    table.add_row(
        "step time",
        f"{seconds(p.step_time_s)}   (90 % interval {three(p.low_s)} to {seconds(p.high_s)}, {p.sureness.band})",
    )
    table.add_row("interval", "\n".join(sureness_lines(p.sureness)))
    table.add_row("tokens/s", f"{p.tokens_per_s:,.0f}   ({p.tokens_per_s_per_gpu:,.1f} per GPU)")
    peak = f"{p.resolved.job.precision} peak"
    table.add_row("MFU", f"{p.mfu:.1%} of the {peak}   ({p.model_flops_per_s_per_gpu / 1e12:,.1f} TFLOP/s per GPU)")
    table.add_row("peak memory", _memory_line(p))
    table.add_row("cost", _cost_line(p))
    bounds = ", ".join(f"{seconds(v)} ({k})" for k, v in p.lower_bounds_s.items() if v > 0)
    table.add_row("lower bounds", bounds or "none")
    if p.wires.loads:
        table.add_row("wires in use", wires_line(p.wires))
    if p.dropped_share > 0:
        table.add_row("tokens dropped", f"{p.dropped_share:.1%} of token-expert pairs (capacity factor)")
    if p.experts is not None and p.experts.drawn:
        table.add_row("experts", experts_line(p.experts))
    if p.lost_s:
        table.add_row("time lost", "\n".join([*lost_lines(p), *_waits_inside(p)]))
    return table


def wires_line(wires: WireView) -> str:
    """'NIC 46% of the step (stage 7), scale-up link 21% (stage 0)': of the busiest stages."""
    parts = [(WIRE_TITLES[load.wire], float(load.share.max()), load.busiest_rank) for load in wires.loads]
    only = len(wires.loads[0].share) == 1
    said = [f"{name} {share:.0%}" + ("" if only else f" (busiest: stage {rank})") for name, share, rank in parts]
    return ", ".join(said) + " of the step"


def experts_line(experts: ExpertView) -> str:
    """'busiest of 8 ranks gets 2.18 x the mean, busiest of 8 experts 2.20 x (mean over 32 layers)'."""
    ranks, layers = experts.prices.job.layout.ep, len(experts.layers)
    of_experts = f"busiest expert {experts.busiest_expert_ratio:.2f} x the mean"
    if ranks > 1:
        of_experts += f", busiest of {ranks} ranks {experts.busiest_rank_ratio:.2f} x"
    return f"{of_experts} (mean over {counted(layers, 'layer')})"


def lost_lines(p: Prediction) -> list[str]:
    """'uneven routing costs 1.50 s (7 %)', for everything that sets ranks apart, the largest first."""
    lines = []
    for name, lost in sorted(p.lost_s.items(), key=lambda item: -abs(item[1])):
        if abs(lost) < 0.0005 * p.step_time_s:
            lines.append(f"{LOST_TITLES[name]}: nothing")
        else:
            verb = "costs" if lost > 0.0 else "saves"
            usd = f", ${three(abs(p.lost_usd[name]))}" if name in p.lost_usd else ""
            lines.append(
                f"{LOST_TITLES[name]} {verb} {seconds(abs(lost))} ({abs(lost) / p.step_time_s:.1%} of the step{usd})"
            )
    return lines


def _waits_inside(p: Prediction) -> list[str]:
    """How the line of the breakdown and what uneven routing costs hang together: the same seconds in both places."""
    waited, lost = p.breakdown_s.get("imbalance", 0.0), p.lost_s.get("busiest_rank", 0.0)
    if waited <= 0.0 or lost <= 0.0:
        return []
    said = f"{seconds(waited)} {CATEGORY_TITLES['imbalance']} (below)"
    if lost > waited:
        return [f"  of it {said}, {seconds(lost - waited)} longer expert layers, bubbles and waits behind it"]
    return [f"  less than {said}, which hides other waits"]


def _memory_line(p: Prediction) -> str:
    worst = max(p.memory, key=lambda m: m.total)
    verdict = "fits" if p.memory_fits else "DOES NOT FIT"
    return f"{gib(worst.total)} of {gib(p.usable_bytes)} GiB on stage {worst.rank}   ({verdict})"


def _cost_line(p: Prediction) -> str:
    c = p.cost
    parts = [f"{three(float(c['gpu_hours_per_million_tokens']))} GPU-hours and"]
    gpus, facility = (
        float(c[key]) / p.tokens_per_step * 1e6 / JOULES_PER_KWH
        for key in ("energy_joules_per_step", "facility_energy_joules_per_step")
    )
    parts.append(f"{three(gpus)} kWh per million tokens ({three(facility)} with hosts and cooling)")
    if "usd_per_million_tokens" in c:
        parts.append(
            f"; ${three(float(c['usd_per_million_tokens']))} at ${three(float(c['usd_per_gpu_hour']))} per GPU-hour"
        )
    return " ".join(parts).replace(" ;", ";")


def _breakdown(p: Prediction) -> Table:
    table = _plain(("where the step goes", "left"), ("seconds", "right"), ("share", "right"), ("", "left"))
    for key, value in p.breakdown_s.items():
        share = value / p.step_time_s
        table.add_row(CATEGORY_TITLES.get(key, key), f"{value:.3f}", f"{share:.1%}", "█" * round(share * 40))
    table.add_row("step", f"{sum(p.breakdown_s.values()):.3f}", "100.0%", "")
    return table


def _memory(p: Prediction) -> Table:
    table = _plain(("GiB at the peak of", "left"), *((k, "right") for k in (*p.memory[0].by_kind(), "total")))
    for label, m in _shown_stages(p.memory):
        table.add_row(label, *(gib(v) for v in (*m.by_kind().values(), m.total)))
    return table


def _shown_stages(memory: tuple[RankMemory, ...]) -> Iterable[tuple[str, RankMemory]]:
    """All stages when there are few, else the first, the fullest and the last."""
    if len(memory) <= 4:
        return [(f"stage {m.rank}", m) for m in memory]
    worst = max(memory, key=lambda m: m.total)
    names = {memory[0].rank: "first", memory[-1].rank: "last", worst.rank: "fullest"}
    return [(f"stage {m.rank} ({names[m.rank]})", m) for m in memory if m.rank in names]


def _evidence(p: Prediction) -> Table:
    table = _plain(("how the busy seconds are known", "left"), ("share", "right"))
    for source, share in p.sources.items():
        table.add_row(source, f"{share:.1%}")
    return table


def _notes(p: Prediction) -> list[Text]:
    """Assumptions in the order of interest; stack defaults and constants take a line each."""
    defaults = [a.split(" (default of stack")[0] for a in p.assumptions if "(default of stack" in a]
    constants = [a for a in p.assumptions if a.startswith("constant ")]
    others = [a for a in p.assumptions if "(default of stack" not in a and not a.startswith("constant ")]
    lines = [Text("\nassumed", style="bold"), *(Text(f"- {a}") for a in others)]
    name = p.resolved.job.stack.name
    if defaults:
        lines.append(Text(f"- defaults of stack {name}: {', '.join(defaults)}"))
    if constants:
        lines.append(
            Text(f"- {counted(len(constants), 'constant')} without a fit: see --json, or `moesim show {name}`")
        )
    return lines
