"""Kernel times: the roofline floor plus what measurements add (launch, tiles, waves), as pure functions.

Every formula has the shape  t = launch + (t_flops^p + t_bytes^p)^(1/p),  where t_flops and t_bytes are the
roofline legs divided by a fitted efficiency and stretched by padding to tiles and by the last, partly filled
wave of thread blocks, and the whole by a surface: what measured kernels add at their sizes. The forms were chosen
by error on left-out shapes; the coefficients come from a profile and are fits, not facts. All functions are positive
and never below flops/peak or bytes/bandwidth (of the keys inside the window, for windowed decode). Without a
surface they are non-decreasing in every size; surfaces follow measured kernels, which are not quite. Math only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, sqrt

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.kernel_fits import AttentionFit, GemmFit, GroupedGemmFit, StreamFit, Surface
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm, Stream

# Query rows of one thread block in the attention kernels that were measured, about.
QUERY_TILE = 128
# Rows of the tiles whose last one is partly filled: what separates m = 129 from m = 256 in every library measured.
FILL_TILE = 128
# Wider heads were not measured: surfaces say nothing of them (absorbed latent attention).
MAX_HEAD_DIM = 256


@dataclass(frozen=True, slots=True)
class Legs:
    """A kernel's time taken apart: what it costs at any size, its arithmetic, its traffic, and how those overlap."""

    fixed_s: float
    flops_s: float
    bytes_s: float
    overlap_power: float

    def stretched(self, factor: float) -> Legs:
        """Every leg times the same factor."""
        return Legs(factor * self.fixed_s, factor * self.flops_s, factor * self.bytes_s, self.overlap_power)

    def seconds(self, fixed: float = 1.0, flops: float = 1.0, bytes_: float = 1.0) -> float:
        """The kernel's time, each leg times a factor."""
        return fixed * self.fixed_s + _norm(flops * self.flops_s, bytes_ * self.bytes_s, self.overlap_power)


def _norm(a: float, b: float, p: float) -> float:
    """(a^p + b^p)^(1/p) without overflow; between max(a, b) and a + b."""
    if a < b:
        a, b = b, a
    if b <= 0.0:
        return a
    return float(a * (1.0 + (b / a) ** p) ** (1.0 / p))


def _wave_stretch(blocks_per_slot: float, partial_exponent: float, wave_exponent: float) -> float:
    """Stretch by idle SMs: f^-a below one wave of thread blocks, (ceil(f)/f)^b above.

    Times a work that grows like f it never decreases as long as both exponents lie in [0, 1].
    """
    f = blocks_per_slot
    if f <= 1.0:
        return float(f**-partial_exponent)
    return float((ceil(f) / f) ** wave_exponent)


_NOTHING = Legs(0.0, 0.0, 0.0, 1.0)


def gemm_time_s(work: Gemm, peak_flops_per_s: float, hbm_bytes_per_s: float, sm_count: int, fit: GemmFit) -> float:
    """Seconds of `work.count` GEMMs, one after the other. `sm_count` 0 leaves out the wave term.

    Steps in m at multiples of `tile_m` and in m*n at full waves are meant: tile and wave quantisation.
    """
    return float(max(0, work.count) * gemm_legs(work, peak_flops_per_s, hbm_bytes_per_s, sm_count, fit).seconds())


def gemm_legs(work: Gemm, peak_flops_per_s: float, hbm_bytes_per_s: float, sm_count: int, fit: GemmFit) -> Legs:
    """One of the GEMMs, taken apart."""
    m, n, k = work.m, work.n, work.k
    if m <= 0 or n <= 0 or k <= 0 or work.count <= 0:
        return _NOTHING
    rows = m * (fit.tile_m * ceil(m / fit.tile_m) / m) ** fit.tile_m_exponent
    columns = n + fit.pad_n_columns
    flops = 2.0 * rows * columns * (k + fit.pad_k)
    if sm_count:
        slots = float(fit.tile_m * fit.tile_n * sm_count)
        stretch = _wave_stretch(rows * columns / slots, fit.partial_wave_exponent, fit.wave_exponent)
    else:
        stretch = 1.0
    ideal_s = flops / peak_flops_per_s
    slowdown = 1.0 + fit.decline * ideal_s / (ideal_s + fit.decline_scale_s)
    flops_s = ideal_s * stretch * slowdown / fit.flops_efficiency
    bytes_s = work.bytes / work.count / (hbm_bytes_per_s * fit.bandwidth_efficiency)
    legs = Legs(fit.launch_s + fit.serial_s_per_k * k, flops_s, bytes_s, fit.overlap_power)
    if fit.surface is None:
        return legs
    ideal = max(2.0 * m * n * k / peak_flops_per_s, work.bytes / work.count / hbm_bytes_per_s)
    return legs.stretched(max(fit.surface.factor(*gemm_position(work)), ideal / legs.seconds()))


def gemm_position(work: Gemm) -> tuple[float, ...]:
    """Where a GEMM lies on GEMM_AXES."""
    fill = work.m / (FILL_TILE * ceil(work.m / FILL_TILE))
    return log2(work.m), log2(work.n), log2(work.k), fill


def grouped_gemm_time_s(
    work: GroupedGemm, peak_flops_per_s: float, hbm_bytes_per_s: float, sm_count: int, fit: GroupedGemmFit
) -> float:
    """Seconds of one grouped GEMM kernel. Rows of a group are padded to a tile; empty groups cost nothing."""
    return grouped_gemm_legs(work, peak_flops_per_s, hbm_bytes_per_s, sm_count, fit).seconds()


def grouped_gemm_legs(
    work: GroupedGemm, peak_flops_per_s: float, hbm_bytes_per_s: float, sm_count: int, fit: GroupedGemmFit
) -> Legs:
    """One grouped GEMM kernel, taken apart."""
    tile = fit.tile_rows
    total = active = tiles = 0
    for r in work.rows:
        if r:
            total += r
            active += 1
            tiles += -(-r // tile)
    if not total:
        return _NOTHING
    rows = total + fit.pad_weight * (tiles * tile - total)
    columns = work.n + fit.pad_n_columns
    flops = 2.0 * rows * columns * (work.k + fit.pad_k)
    if sm_count:
        area = float(active * work.k) if work.weight_gradient else rows
        slots = float(tile * fit.tile_n * sm_count)
        stretch = _wave_stretch(area * columns / slots, fit.partial_wave_exponent, fit.wave_exponent)
    else:
        stretch = 1.0
    flops_s = flops * stretch / (peak_flops_per_s * fit.flops_efficiency)
    bytes_s = work.bytes / (hbm_bytes_per_s * fit.bandwidth_efficiency)
    return Legs(fit.launch_s + fit.group_s * active, flops_s, bytes_s, fit.overlap_power)


def attention_time_s(
    work: Attention,
    peak_flops_per_s: float,
    hbm_bytes_per_s: float,
    sm_count: int,
    fit: AttentionFit,
) -> float:
    """Seconds of one fused attention kernel, forward, backward or decode.

    The measured prefill rows include writing K and V into a paged cache: serving sets `cache_write`, training
    leaves it out. Decode ignores the flag.
    """
    if work.batch <= 0 or work.q_len <= 0 or work.kv_len <= 0:
        return 0.0
    if work.phase == "decode":
        return _decode_time_s(work, peak_flops_per_s, hbm_bytes_per_s, sm_count, fit)
    queries = float(work.batch * work.q_len)
    pairs = work.score_elements + (queries * fit.diagonal_keys if work.causal else 0.0)
    width = work.qk_dim + work.v_dim + fit.pad_dim
    flops = 2.0 * pairs * work.heads * width
    if sm_count:
        blocks = work.batch * work.heads * work.q_len / QUERY_TILE
        stretch = _wave_stretch(blocks / sm_count, fit.partial_wave_exponent, fit.wave_exponent)
    else:
        stretch = 1.0
    efficiency = fit.flops_efficiency
    if work.phase == "backward":
        flops *= 2.5  # five GEMMs instead of two, as in Attention.flops
        efficiency *= fit.backward_efficiency_ratio
    flops_s = flops * stretch / (peak_flops_per_s * efficiency)
    moved = work.bytes
    if work.cache_write:
        kv = work.batch * work.kv_len * work.kv_heads * work.cache_width
        moved += fit.cache_write_passes * kv * bytes_per_element(work.dtype)
    bytes_s = moved / (hbm_bytes_per_s * fit.bandwidth_efficiency)
    seen = min(work.kv_len, work.window or work.kv_len)
    seconds = fit.launch_s + fit.serial_s_per_key * seen + _norm(flops_s, bytes_s, fit.overlap_power)
    return _on_surface(seconds, fit.surface, work, work, peak_flops_per_s, hbm_bytes_per_s)


def _on_surface(
    seconds: float, surface: Surface | None, work: Attention, seen: Attention, peak: float, bandwidth: float
) -> float:
    """The formula's seconds times the surface, no faster than peak on the `seen` keys; wide heads have none."""
    if surface is None or work.qk_dim > MAX_HEAD_DIM:
        return seconds
    return max(seen.flops / peak, seen.bytes / bandwidth, seconds * surface.factor(*attention_position(work)))


def attention_position(work: Attention) -> tuple[float, ...]:
    """Where an attention lies on ATTENTION_AXES. A chunk of queries counts like the square with as many scores."""
    keys = sqrt(work.q_len * work.kv_len) if work.phase != "decode" else float(work.kv_len)
    per_window = max(1.0, keys / work.window) if work.window else 1.0
    per_kv_head = max(1.0, work.heads / work.kv_heads)
    return log2(keys), log2(work.batch * work.kv_heads), log2(per_kv_head), log2(work.qk_dim), log2(per_window)


def _decode_time_s(
    work: Attention, peak_flops_per_s: float, hbm_bytes_per_s: float, sm_count: int, fit: AttentionFit
) -> float:
    """Few queries against a long KV cache: memory bound, with a slow ramp and work per sequence."""
    kv_len = min(work.kv_len, work.window + work.q_len - 1) if work.window else work.kv_len
    seen = work if kv_len == work.kv_len else _with_kv_len(work, kv_len)
    width = work.qk_dim + work.v_dim
    padding = work.batch * work.kv_heads * work.cache_width * fit.decode_pad_keys * bytes_per_element(work.dtype)
    moved = seen.bytes + padding
    slots = work.batch * work.kv_heads / sm_count if sm_count else 1.0
    stretch = slots**-fit.decode_partial_wave_exponent if slots < 1.0 else 1.0
    ramped = moved + sqrt(moved * fit.decode_ramp_bytes) * stretch
    bytes_s = ramped / (hbm_bytes_per_s * fit.decode_bandwidth_efficiency)
    group = work.q_len * work.heads / work.kv_heads
    rows = max(group, fit.decode_group_rows)
    flops = 2.0 * work.batch * work.kv_heads * rows * kv_len * width
    efficiency = fit.decode_flops_efficiency
    if work.shared_values and fit.decode_latent_flops_efficiency is not None:
        efficiency = fit.decode_latent_flops_efficiency
    flops_s = flops / (peak_flops_per_s * efficiency)
    per_sequence_s = fit.decode_sequence_s * work.batch * work.heads
    seconds = fit.decode_launch_s + per_sequence_s + _norm(flops_s, bytes_s, fit.decode_overlap_power)
    return _on_surface(seconds, fit.decode_surface, work, seen, peak_flops_per_s, hbm_bytes_per_s)


def _with_kv_len(work: Attention, kv_len: int) -> Attention:
    """The same attention against `kv_len` keys (dataclasses.replace is ten times slower)."""
    return Attention(
        work.batch, work.q_len, kv_len, work.heads, work.kv_heads, work.qk_dim, work.v_dim,
        work.causal, None, work.dtype, work.phase, work.shared_values,
    )  # fmt: skip


def stream_key(work: Stream) -> str:
    """The name under which a profile keeps the fit: the kind, "<kind>.bwd" for its backward."""
    return f"{work.kind}.bwd" if work.backward else work.kind


def stream_time_s(work: Stream, memory_bytes_per_s: float, fit: StreamFit) -> float:
    """Seconds: launch + b / rate x (1 - gain c / (c + b)), times the surface's factor at b bytes.

    Without a surface non-decreasing in b, as the gain is below 1.
    """
    if work.bytes <= 0.0:
        return 0.0
    held = fit.cache_share * fit.cache_bytes / (fit.cache_bytes + work.bytes) if fit.cache_bytes > 0.0 else 0.0
    seconds = fit.launch_s + work.bytes / (memory_bytes_per_s * fit.memory_efficiency) * (1.0 - held)
    return seconds if fit.surface is None else seconds * fit.surface.factor(*stream_position(work))


def stream_position(work: Stream) -> tuple[float, ...]:
    """Where the work lies on STREAM_AXES."""
    return (log2(work.bytes),)
