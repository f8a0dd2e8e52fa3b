"""Coefficients of the kernel models: what a profile holds for one GPU and one dtype."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, prod
from typing import Any


@dataclass(frozen=True, slots=True)
class Surface:
    """A correction of a formula over the plane of its sizes, linear between nodes and constant outside them.

    `nodes` holds the positions along every axis, ascending; `per_mille` 1000 times the natural logarithm of
    measured over formula at every node, the last axis fastest. ValueError when those do not fit together.
    """

    axes: tuple[str, ...]
    nodes: tuple[tuple[float, ...], ...]
    per_mille: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.axes) != len(self.nodes) or prod(map(len, self.nodes)) != len(self.per_mille):
            raise ValueError(f"a surface over {', '.join(self.axes)} with {len(self.per_mille)} values does not fit")

    def factor(self, *position: float) -> float:
        """Measured over formula at `position`, one coordinate per axis."""
        offsets, weights, stride = [0], [], len(self.per_mille)
        for nodes, x in zip(self.nodes, position, strict=True):
            stride //= len(nodes)
            i, weight = _between(nodes, x)
            offsets = [at + i * stride for at in offsets]
            if weight > 0.0:
                offsets += [at + stride for at in offsets]
                weights.append(weight)
        values: list[float] = [self.per_mille[at] for at in offsets]
        for weight in reversed(weights):  # the newest axis split the list in two halves
            half = len(values) // 2
            values = [low + (high - low) * weight for low, high in zip(values[:half], values[half:], strict=True)]
        return exp(values[0] / 1000.0)

    def corners(self, position: tuple[float, ...]) -> list[tuple[int, float]]:
        """Indices of the nodes around `position` and their weights, which add up to one: what a fit solves for."""
        cells, stride = [(0, 1.0)], len(self.per_mille)
        for nodes, x in zip(self.nodes, position, strict=True):
            stride //= len(nodes)
            i, weight = _between(nodes, x)
            low = [(at + i * stride, held * (1.0 - weight)) for at, held in cells]
            cells = low + [(at + (i + 1) * stride, held * weight) for at, held in cells] if weight > 0.0 else low
        return cells


def _between(nodes: tuple[float, ...], x: float) -> tuple[int, float]:
    """The node at or below `x` and the weight of the next one."""
    if x <= nodes[0]:
        return 0, 0.0
    if x >= nodes[-1]:
        return len(nodes) - 1, 0.0
    i = bisect_right(nodes, x) - 1
    return i, (x - nodes[i]) / (nodes[i + 1] - nodes[i])


def surface_from(raw: Mapping[str, Any] | None) -> Surface | None:
    """The record from its JSON, None where a profile has none."""
    if raw is None:
        return None
    return Surface(tuple(raw["axes"]), tuple(map(tuple, raw["nodes"])), tuple(raw["per_mille"]))


GEMM_AXES = ("log2_m", "log2_n", "log2_k", "fill_of_tiles")
ATTENTION_AXES = ("log2_kv_len", "log2_batch_kv_heads", "log2_heads_per_kv_head", "log2_qk_dim", "log2_keys_per_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmFit:
    """Coefficients of `gemm_time_s` for one GPU and one dtype. Fractions unless the name carries a unit."""

    launch_s: float  # floor of one kernel
    flops_efficiency: float  # of peak, before padding, waves and decline
    bandwidth_efficiency: float  # of peak HBM bandwidth
    overlap_power: float  # p of the p-norm of compute and memory: 1 adds them, large p takes the maximum
    tile_m: int  # rows of one thread block's tile
    tile_n: int  # columns of one thread block's tile
    tile_m_exponent: float  # 0: the library always finds a tile that fits m, 1: m is padded to tile_m
    pad_n_columns: float  # columns' worth of work that every GEMM pays on top of n
    pad_k: float  # k-steps' worth of prologue and epilogue
    partial_wave_exponent: float  # below one wave of tiles: 0 = split-k fills the GPU, 1 = idle SMs are lost
    wave_exponent: float  # above one wave: 0 = no quantisation, 1 = full waves are paid
    decline: float  # share by which long kernels slow down (clocks, power, L2 reuse), saturating
    decline_scale_s: float  # ideal duration at which half of the decline has come
    serial_s_per_k: float  # time of one k-step that parallelism over the output cannot hide
    surface: Surface | None = None  # over GEMM_AXES


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedGemmFit:
    """Coefficients of `grouped_gemm_time_s` for one GPU and one dtype."""

    launch_s: float  # floor of one grouped kernel (taken from the plain GEMM of the same dtype)
    group_s: float  # per group that has rows
    flops_efficiency: float
    bandwidth_efficiency: float
    overlap_power: float
    tile_rows: int  # rows of every group are padded to a multiple of this
    tile_n: int
    pad_weight: float  # 0 = padding is free, 1 = padded rows cost like real ones
    pad_n_columns: float
    pad_k: float
    partial_wave_exponent: float
    wave_exponent: float
    # the two below describe the whole MoE op around its GEMMs and are NOT in grouped_gemm_time_s:
    op_overhead_s: float  # routing, sort and the launches of permute, activation and combine
    stream_bandwidth_efficiency: float  # share of HBM bandwidth of the bytes that these move; ASSUMED


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFit:
    """Coefficients of `attention_time_s` for one GPU and one dtype: forward, backward and decode."""

    launch_s: float
    flops_efficiency: float
    bandwidth_efficiency: float
    overlap_power: float
    diagonal_keys: float  # masked keys per query that are computed anyway: tiles across the diagonal
    pad_dim: float  # head-dimension elements' worth of softmax and epilogue per score
    serial_s_per_key: float  # a thread block walks its keys in sequence, however idle the GPU
    cache_write_passes: float  # extra passes over K and V when they are also written to a paged KV cache
    partial_wave_exponent: float
    wave_exponent: float
    backward_efficiency_ratio: float  # of forward efficiency; ASSUMED, the tables hold no backward kernels
    decode_launch_s: float
    decode_bandwidth_efficiency: float
    decode_ramp_bytes: float  # sqrt(bytes x this) is added to the bytes: ramp up and tail
    decode_pad_keys: float  # keys' worth of bytes that every sequence pays on top of its own
    decode_sequence_s: float  # per sequence and query head: schedule, merge of split KV
    decode_partial_wave_exponent: float
    decode_flops_efficiency: float
    decode_group_rows: float  # query heads of one KV head are padded to this many rows
    decode_overlap_power: float
    # where all heads share one latent vector (MLA), whose kernels fill the tensor cores; None: as others. Measured ones
    # with 128 heads move 0.69 of an H100's bandwidth and 0.44 of a B200's: 0.57 and 0.38 of their 16-bit peak
    decode_latent_flops_efficiency: float | None = None
    surface: Surface | None = None  # of the forward pass, over ATTENTION_AXES; the backward pass shares it
    decode_surface: Surface | None = None


STREAM_AXES = ("log2_bytes",)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFit:
    """Coefficients of `stream_time_s` for one kind of work, forward or backward."""

    launch_s: float  # floor of one piece of work, however many kernels it is made of
    memory_efficiency: float  # of the memory's rate; above 1 where fewer bytes travel than are counted
    cache_share: float  # share of the time per byte that a cache saves small work; 0: none
    cache_bytes: float  # size at which half of that gain is left
    surface: Surface | None = None  # over STREAM_AXES
