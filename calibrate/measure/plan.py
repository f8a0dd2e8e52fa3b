"""What to measure: grids of shapes for CPUs and GPUs, or what one scenario's step is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from math import exp

from moesim.calibrate.measure.asks import BACKWARD, Ask, ask, rows_text

_PHASES = ("forward", "dgrad", "wgrad")
_SKEWS = (0.0, 0.6, 1.2)  # sigma of the lognormal popularity of experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Sizes that one class of device is measured at."""

    dtypes: tuple[str, ...]  # the first is measured in full, the others in part and as GEMMs only
    rows: tuple[int, ...]  # m of a GEMM: tokens
    pairs: tuple[tuple[int, int], ...]  # (n, k) of a GEMM
    most_flops: float  # of one GEMM
    experts: tuple[tuple[int, int, int], ...]  # (experts, n, k)
    expert_rows: tuple[int, ...]  # rows of all experts together
    attention: tuple[tuple[int, int, int, int], ...]  # (batch, length, heads, dimension)
    decode: tuple[tuple[int, int, int, int], ...]  # (batch, KV length, heads, dimension)
    streams: tuple[tuple[int, int], ...]  # (tokens, width)
    vocabs: tuple[int, ...]
    weights: tuple[tuple[int, int], ...]  # (tensors, elements of each) of an optimizer step
    copies_bytes: tuple[int, ...]
    messages_bytes: tuple[int, ...]


CPU = Grid(
    dtypes=("fp32", "bf16"),
    rows=(1, 4, 8, 16, 24, 32, 128, 256, 512, 1024, 2048),
    pairs=(
        (256, 256), (512, 512), (768, 256), (1024, 512), (512, 1024), (1536, 512), (768, 768), (2048, 768), (768, 2048),
        (1024, 1024), (3072, 1024), (1024, 3072), (2048, 2048), (4096, 512), (8, 512), (16, 768), (512, 128),
        (1408, 512), (8192, 512),
    ),
    most_flops=6e9,
    experts=(
        (8, 512, 256), (8, 1024, 512), (8, 512, 512), (16, 512, 256), (16, 768, 512), (4, 1536, 768), (32, 256, 256),
    ),
    expert_rows=(16, 64, 256, 512, 1024, 2048),
    attention=(
        (1, 128, 4, 64), (2, 128, 8, 64), (1, 256, 8, 64), (4, 128, 8, 32), (2, 256, 4, 128), (1, 512, 8, 64),
        (2, 512, 8, 64), (1, 1024, 8, 64), (4, 256, 12, 64), (1, 1024, 4, 128), (8, 64, 8, 64), (1, 256, 4, 32),
    ),
    decode=(
        (1, 256, 8, 64), (4, 256, 8, 64), (16, 256, 8, 64), (8, 512, 8, 64), (1, 2048, 8, 64), (4, 1024, 4, 128),
        (32, 128, 8, 32), (8, 1024, 12, 64), (2, 512, 4, 64), (16, 1024, 8, 64),
    ),
    streams=(
(4, 512), (16, 768), (32, 512), (128, 256), (192, 512), (256, 512), (512, 256), (384, 768), (512, 768), (1024, 512),
        (768, 1024), (1024, 1024), (2048, 768), (2048, 1024),
    ),
    vocabs=(1024, 2048, 4096),
    weights=((8, 65536), (8, 262144), (16, 262144), (8, 1048576), (24, 524288), (16, 1048576)),
    copies_bytes=(2**26, 2**27),
    messages_bytes=tuple(2**i for i in range(10, 25)),
)  # fmt: skip
CUDA = Grid(
    dtypes=("bf16", "fp16", "tf32", "fp8"),
    rows=(1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384),
    pairs=(
        (1024, 1024), (2048, 2048), (4096, 4096), (6144, 4096), (4096, 14336), (28672, 4096), (8192, 8192),
        (10240, 8192), (2048, 7168), (7168, 2048), (4096, 7168), (24576, 1536), (8, 4096), (256, 7168), (32000, 4096),
        (1536, 7168), (5120, 5120), (14336, 4096), (512, 2048),
    ),
    most_flops=2e13,
    experts=(
        (8, 28672, 4096), (8, 4096, 14336), (32, 4096, 7168), (32, 7168, 2048), (64, 1536, 2048), (16, 2048, 4096),
    ),
    expert_rows=(64, 512, 2048, 8192, 32768, 65536),
    attention=(
        (1, 1024, 32, 128), (2, 2048, 32, 128), (1, 4096, 32, 128), (4, 1024, 16, 128), (1, 8192, 32, 128),
        (1, 16384, 16, 128), (8, 512, 32, 64), (2, 4096, 16, 64), (16, 256, 32, 128), (1, 2048, 64, 128),
    ),
    decode=(
        (1, 1024, 32, 128), (8, 2048, 32, 128), (64, 2048, 32, 128), (256, 1024, 32, 128), (16, 8192, 16, 128),
        (1, 32768, 32, 128), (128, 4096, 8, 128), (32, 512, 64, 128),
    ),
    streams=(
        (16, 4096), (256, 4096), (1024, 2048), (2048, 4096), (4096, 4096), (8192, 4096), (8192, 7168), (16384, 8192),
    ),
    vocabs=(32000, 65536, 128256),
    weights=((16, 2**20), (64, 2**20), (16, 2**24), (32, 2**24), (8, 2**26), (16, 2**26)),
    copies_bytes=(2**28, 2**30, 2**32),
    messages_bytes=tuple(2**i for i in range(10, 30)),
)  # fmt: skip


def spread_rows(total: int, experts: int, sigma: float) -> tuple[int, ...]:
    """`total` rows over experts whose popularity is lognormal: its quantiles, unshuffled, so that no draw is needed."""
    from statistics import NormalDist

    shares = [exp(sigma * NormalDist().inv_cdf((i + 0.5) / experts)) for i in range(experts)]
    rows = [int(total * share / sum(shares)) for share in shares]
    for i in range(total - sum(rows)):
        rows[-1 - i % experts] += 1
    return tuple(rows)


def _gemms(grid: Grid, dtype: str, every: int) -> list[Ask]:
    """Each pair with every other m or so, the phases in turn."""
    asks = []
    cells = [(m, pair) for pair in grid.pairs for m in grid.rows]
    for number, (m, (n, k)) in enumerate(cells[::every]):
        if 2.0 * m * n * k > grid.most_flops:
            continue
        phase = _PHASES[number % 3]
        if phase == "wgrad" and m < 16:  # no weight gradient has so few tokens
            phase = "forward"
        size = {"m": n, "n": k, "k": m} if phase == "wgrad" else {"m": m, "n": n, "k": k}
        asks.append(ask("gemm", phase, dtype, **size))
    return asks


def _grouped(grid: Grid, dtype: str) -> list[Ask]:
    asks = []
    cells = [(shape, total) for shape in grid.experts for total in grid.expert_rows]
    for number, ((experts, n, k), total) in enumerate(cells):
        if 2.0 * total * n * k > grid.most_flops:
            continue
        rows = rows_text(spread_rows(total, experts, _SKEWS[number % 3]))
        asks.append(ask("grouped_gemm", _PHASES[number // 3 % 3], dtype, rows=rows, n=n, k=k))
    return asks


def _attention(grid: Grid, dtype: str) -> list[Ask]:
    asks = []
    for number, (batch, length, heads, dim) in enumerate(grid.attention):
        kv_heads = heads if number % 3 else max(1, heads // 4)
        size = {"batch": batch, "q_len": length, "kv_len": length, "heads": heads, "kv_heads": kv_heads, "dim": dim}
        asks += [ask("attention", phase, dtype, **size) for phase in ("forward", BACKWARD)]
    for number, (batch, length, heads, dim) in enumerate(grid.decode):
        kv_heads = heads if number % 3 else max(1, heads // 4)
        size = {"batch": batch, "q_len": 1, "kv_len": length, "heads": heads, "kv_heads": kv_heads, "dim": dim}
        asks.append(ask("attention", "decode", dtype, **size))
    return asks


def _streams(grid: Grid, dtype: str) -> list[Ask]:
    asks = []
    for number, (tokens, width) in enumerate(grid.streams):
        experts, top_k = (8, 2) if number % 2 else (16, 4)
        vocab = grid.vocabs[number % len(grid.vocabs)]
        routed = {"rows": tokens * top_k, "cols": width, "experts": experts, "top_k": top_k}
        asks += _both("norm", dtype, rows=tokens, cols=width)
        asks += _both("residual", dtype, rows=tokens, cols=width)
        asks += _both("rope", dtype, tokens=tokens, heads=2 * (width // 64), dim=64)
        asks += _both("gated_act", dtype, rows=tokens, cols=2 * width)
        asks += _both("router", dtype, tokens=tokens, experts=experts, top_k=top_k)
        asks += _both("permute", dtype, **routed)
        asks += _both("unpermute", dtype, **routed)
        asks += _both("embedding", dtype, rows=tokens, cols=width, vocab=vocab)
        asks += _both("loss", dtype, tokens=tokens, vocab=vocab)
    return asks


def _both(kind: str, dtype: str, **size: int) -> list[Ask]:
    return [ask("stream", kind, dtype, **size), ask("stream", f"{kind}.bwd", dtype, **size)]


def _machine(grid: Grid, dtype: str) -> list[Ask]:
    """Copies first: what they reach is the memory's rate for everything else."""
    asks = [ask("copy", phase, "fp32", bytes=size) for size in grid.copies_bytes for phase in ("copy", "add")]
    asks += [ask("launch", phase, "fp32", elements=16) for phase in ("eager", "graph")]
    asks += [ask("host_link", phase, "fp32", bytes=2**28) for phase in ("up", "down")]
    return asks + [ask("optimizer", "adamw", dtype, tensors=t, each=e) for t, e in grid.weights]


def _transfers(grid: Grid, ranks: int) -> list[Ask]:
    kinds = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast")
    asks = [ask("collective", kind, "fp32", bytes=size, ranks=ranks) for size in grid.messages_bytes for kind in kinds]
    beside = {"side": 512, "gemms": 8, "bytes": 2**22, "ranks": ranks}
    return asks + [ask("overlap", phase, "fp32", **beside) for phase in ("compute", "comm", "both")]


def far_apart(asks: Sequence[Ask]) -> list[Ask]:
    """The same questions, neighbours last: whatever the budget leaves of a group spans it from end to end."""
    left, right = 0, len(asks) - 1
    order = [left, right] if right > 0 else [left][: len(asks)]
    gaps = [(left, right)]
    while gaps:
        left, right = gaps.pop(0)
        middle = (left + right) // 2
        if left < middle < right:
            order.append(middle)
            gaps += [(left, middle), (middle, right)]
    return [asks[i] for i in order]


def _in_turn(groups: Sequence[Sequence[Ask]]) -> list[Ask]:
    """One of each group after the other, so that a measurement cut short has seen every kind."""
    return [a for turn in zip_longest(*groups) for a in turn if a is not None]


def thinned(asks: Sequence[Ask], every: int) -> list[Ask]:
    """One ask in `every`, of a group in which neighbours are alike."""
    return list(asks[::every])


def default_plan(device: str, ranks: int, quick: bool) -> list[Ask]:
    """The grid of a class of devices, every kind in turn and its ends first; `quick` takes a fifth of it."""
    grid = CPU if device == "cpu" else CUDA
    main, *others = grid.dtypes
    every = 3 if quick else 1
    streams: dict[str, list[Ask]] = {}
    for a in _streams(grid, main):
        streams.setdefault(a.phase, []).append(a)
    attention: dict[str, list[Ask]] = {}
    for a in _attention(grid, main):
        attention.setdefault(a.phase, []).append(a)
    gemms = _gemms(grid, main, 7 if quick else 2)
    groups = [
        gemms[0::2],
        gemms[1::2],
        thinned(_grouped(grid, main), 4 if quick else 1),
        *(thinned(group, 2 if quick else 1) for group in attention.values()),
        *(thinned(group, every) for group in streams.values()),
        *([] if quick else [_gemms(grid, other, 7) for other in others]),
        thinned(_machine(grid, main)[-len(grid.weights) :], 2 if quick else 1),
    ]
    first = [a for a in _machine(grid, main) if a.op != "optimizer"]
    if ranks > 1:
        transfers = _transfers(grid, ranks)
        kinds = dict.fromkeys(a.phase for a in transfers if a.op == "collective")
        groups += [thinned([a for a in transfers if a.phase == kind], 4 if quick else 1) for kind in kinds]
        groups.append(transfers[-3:])
    return [*first, *_in_turn([far_apart(group) for group in groups])]


def unmeasured(plan: Iterable[Ask], done: Mapping[tuple[str, int], int], ranks: int, rounds: int) -> list[Ask]:
    """What a plan still lacks after `rounds` rounds, each question once; `done` counts samples of a question."""
    return [a for a in dict.fromkeys(plan) if done.get((a.key, ranks), 0) < rounds]
