"""`check_cost_model`: what every cost model must pass before the simulator may use it."""

from __future__ import annotations

from dataclasses import fields, replace
from math import isfinite

from moesim.hwmodels.cost import CostModel
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.profile import Profile
from moesim.hwmodels.work import Attention, Comm, ExpertExchange, Gemm, Group, GroupedGemm, Stream, Work, floor_s

SIZES = {
    Gemm: ("m", "n", "k", "count"),
    GroupedGemm: ("n", "k"),
    Attention: ("batch", "q_len", "kv_len", "heads"),
    Stream: ("bytes", "kernels"),
    Comm: ("bytes",),
    ExpertExchange: ("tokens", "payload_bytes", "node_copies", "imbalance"),
}


def without_surfaces(profile: Profile) -> Profile:
    """The formulas of a profile alone."""
    gemms = {dtype: replace(fit, surface=None) for dtype, fit in profile.gemms.items()}
    attentions = {d: replace(fit, surface=None, decode_surface=None) for d, fit in profile.attentions.items()}
    return replace(profile, gemms=gemms, attentions=attentions)


def sample_work(dtype: str) -> list[Work]:
    """Pieces of work from a few rows to a large model's layer, in `dtype` where that applies."""
    shapes = [(1, 128, 128), (17, 4096, 1024), (4096, 4096, 4096), (8192, 57344, 8192)]
    local, wide = Group(8, 8), Group(64, 8)
    half = dtype if dtype == "fp16" else "bf16"  # attention stays in 16 bits
    return [
        *(Gemm(m, n, k, dtype) for m, n, k in shapes),
        *(GroupedGemm(rows, n, k, dtype) for _, n, k in shapes[1:] for rows in ((128,), (1, 0, 700, 64), (512,) * 8)),
        *(GroupedGemm((300, 9, 0), 2048, 1024, dtype, weight_gradient=wgrad) for wgrad in (False, True)),
        *(
            Attention(1, s, s, 32, kv, 128, 128, dtype=half, phase=p)
            for s in (64, 4096)
            for kv in (8, 32)
            for p in _PHASES
        ),
        *(Stream(size, kind) for size in (1e3, 1e9) for kind in ("elementwise", "permute", "softmax")),
        *(Comm(kind, 1e7, group) for kind in _KINDS for group in (local, wide)),
        *(ExpertExchange("dispatch", 4096, 8, 7168.0, group, 3.5, 7.0) for group in (local, wide)),
    ]


_PHASES = ("forward", "backward")
_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast")


def check_cost_model(model: CostModel, fresh: CostModel, gpu: GpuSpec, dtype: str = "bf16", dip: float = 0.0) -> None:
    """Positive, finite, deterministic, named, no faster than the roofline, and never faster for more work.

    `fresh` is a second model of the same kind: it is asked in the reverse order and must give the same bits. Tile and
    wave steps are allowed; more work may be `dip` faster (kernels that were measured are, from tile to tile), and
    next to nothing where it is ten times as much.
    """
    asked = sample_work(dtype)
    answers = {work: model.cost(work) for work in asked}
    for work in reversed(asked):
        cost = answers[work]
        assert isfinite(cost.time_s) and cost.time_s > 0.0, (work, cost)
        assert 0.0 <= cost.spread < 1.0, (work, cost)
        assert cost.source and cost.bound in ("compute", "memory", "network", "latency"), (work, cost)
        assert fresh.cost(work) == cost and model.cost(work) == cost, work
        if not isinstance(work, Comm | ExpertExchange):
            assert cost.time_s >= floor_s(work, gpu) * (1 - 1e-12), (work, cost)
    for work in asked:
        _check_monotone(model, work, dip)


def _check_monotone(model: CostModel, work: Work, dip: float) -> None:
    names = {field.name for field in fields(work)}
    for size in SIZES[type(work)]:
        assert size in names
        before = model.cost(work).time_s
        for factor in (1.01, 1.5, 2, 3, 10):
            value = getattr(work, size)
            larger = max(value + 1, round(value * factor)) if isinstance(value, int) else value * factor
            if size in ("q_len", "kv_len") and isinstance(work, Attention):  # causal needs kv_len >= q_len
                bigger = replace(
                    work, kv_len=max(work.kv_len, larger), **({"q_len": larger} if size == "q_len" else {})
                )
            else:
                bigger = replace(work, **{size: larger})  # type: ignore[arg-type]  # a size is a field of this kind of work
            after = model.cost(bigger).time_s
            least = before * (1 - (dip if factor < 10 else dip / 30.0) - 1e-12)
            assert after >= least, f"{size} x {factor} makes {work} faster: {before} -> {after}"
