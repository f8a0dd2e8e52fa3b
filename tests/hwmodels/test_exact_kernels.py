"""Kernel formulas to the digit, by hand: every coefficient alone, on sizes that give round numbers.

The machine does 1,000 FLOP/s and moves 100 byte/s; fits are neutral (legs add up) but for what a test sets.
"""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest

from moesim.hwmodels.kernel_fits import GEMM_AXES, AttentionFit, GemmFit, GroupedGemmFit, Surface
from moesim.hwmodels.kernels import attention_time_s, gemm_time_s, grouped_gemm_time_s
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm

PEAK, BANDWIDTH = 1000.0, 100.0
GEMM = GemmFit(
    launch_s=0.0, flops_efficiency=1.0, bandwidth_efficiency=1.0, overlap_power=1.0, tile_m=4, tile_n=4,
    tile_m_exponent=0.0, pad_n_columns=0.0, pad_k=0.0, partial_wave_exponent=0.0, wave_exponent=0.0, decline=0.0,
    decline_scale_s=1.0, serial_s_per_k=0.0,
)  # fmt: skip
GROUPED = GroupedGemmFit(
    launch_s=0.0, group_s=0.0, flops_efficiency=1.0, bandwidth_efficiency=1.0, overlap_power=1.0, tile_rows=4,
    tile_n=4, pad_weight=0.0, pad_n_columns=0.0, pad_k=0.0, partial_wave_exponent=0.0, wave_exponent=0.0,
    op_overhead_s=0.0, stream_bandwidth_efficiency=1.0,
)  # fmt: skip
ATTENTION = AttentionFit(
    launch_s=0.0, flops_efficiency=1.0, bandwidth_efficiency=1.0, overlap_power=1.0, diagonal_keys=0.0, pad_dim=0.0,
    serial_s_per_key=0.0, cache_write_passes=0.0, partial_wave_exponent=0.0, wave_exponent=0.0,
    backward_efficiency_ratio=1.0, decode_launch_s=0.0, decode_bandwidth_efficiency=1.0, decode_ramp_bytes=0.0,
    decode_pad_keys=0.0, decode_sequence_s=0.0, decode_partial_wave_exponent=0.0, decode_flops_efficiency=1.0,
    decode_group_rows=1.0, decode_overlap_power=1.0,
)  # fmt: skip

# 6 x 8 x 10: 2 * 480 = 960 FLOP, (60 + 80 + 48) * 2 = 376 bytes
SMALL = Gemm(6, 8, 10)


@pytest.mark.parametrize(
    ("changes", "sms", "seconds"),
    [
        ({}, 0, 0.96 + 3.76),
        ({"launch_s": 2.0}, 0, 2.0 + 0.96 + 3.76),
        ({"flops_efficiency": 0.5}, 0, 1.92 + 3.76),
        ({"bandwidth_efficiency": 0.5}, 0, 0.96 + 7.52),
        ({"overlap_power": 2.0}, 0, sqrt(0.96**2 + 3.76**2)),
        ({"tile_m_exponent": 1.0}, 0, 1.28 + 3.76),  # 6 rows are padded to 8
        ({"pad_n_columns": 2.0}, 0, 1.2 + 3.76),  # 10 columns
        ({"pad_k": 5.0}, 0, 1.44 + 3.76),  # 15 steps
        ({"serial_s_per_k": 0.1}, 0, 1.0 + 0.96 + 3.76),
        ({"decline": 0.5, "decline_scale_s": 0.96}, 0, 0.96 * 1.25 + 3.76),  # half of the decline has come
        ({"wave_exponent": 1.0}, 2, 0.96 * 2 / 1.5 + 3.76),  # 48 / (16 * 2): one wave and a half
        ({"partial_wave_exponent": 1.0}, 6, 0.96 * 2.0 + 3.76),  # 48 / 96: half the SMs have nothing to do
    ],
)
def test_gemm(changes: dict[str, float], sms: int, seconds: float) -> None:
    assert gemm_time_s(SMALL, PEAK, BANDWIDTH, sms, replace(GEMM, **changes)) == pytest.approx(seconds)
    three = replace(SMALL, count=3)
    assert gemm_time_s(three, PEAK, BANDWIDTH, sms, replace(GEMM, **changes)) == pytest.approx(3.0 * seconds)


# groups of 5, 0 and 3 rows, 8 x 10: 2 * 8 * 80 = 1,280 FLOP
ROWS = GroupedGemm((5, 0, 3), 8, 10)
MOVED_S = ROWS.bytes / BANDWIDTH


@pytest.mark.parametrize(
    ("changes", "sms", "seconds"),
    [
        ({}, 0, 1.28),
        ({"launch_s": 2.0, "group_s": 0.25}, 0, 2.5 + 1.28),  # two groups have rows
        ({"pad_weight": 1.0}, 0, 1.92),  # 5 and 3 rows are padded to 8 and 4
        ({"pad_n_columns": 2.0}, 0, 1.6),
        ({"pad_k": 5.0}, 0, 1.92),
        ({"flops_efficiency": 0.5}, 0, 2.56),
        ({"wave_exponent": 1.0}, 3, 1.28 * 2 / (4 / 3)),  # 64 / (16 * 3)
        ({"partial_wave_exponent": 1.0}, 8, 2.56),  # 64 / 128
    ],
)
def test_grouped_gemm(changes: dict[str, float], sms: int, seconds: float) -> None:
    got = grouped_gemm_time_s(ROWS, PEAK, BANDWIDTH, sms, replace(GROUPED, **changes))
    assert got == pytest.approx(seconds + MOVED_S)


def test_bytes_of_a_grouped_gemm_are_its_matrices_of_groups_with_rows() -> None:
    assert ROWS.bytes == 2 * (8 * 10 + 2 * 80 + 8 * 8)  # rows in, two matrices, rows out


# 2 sequences of 4 queries and keys, 3 heads, 1 key head, 5 + 6 wide; causal: 10 pairs each
FORWARD = Attention(2, 4, 4, 3, 1, 5, 6)
_FLOPS_S = 2.0 * 20 * 3 * 11 / PEAK
_BYTES_S = 2 * (2 * 4 * 3 * 11 + 2 * 4 * 11) / BANDWIDTH


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, _FLOPS_S + _BYTES_S),
        ({"launch_s": 2.0}, 2.0 + _FLOPS_S + _BYTES_S),
        ({"flops_efficiency": 0.5}, 2.0 * _FLOPS_S + _BYTES_S),
        ({"bandwidth_efficiency": 0.5}, _FLOPS_S + 2.0 * _BYTES_S),
        ({"diagonal_keys": 2.5}, 2.0 * _FLOPS_S + _BYTES_S),  # 8 queries x 2.5 more pairs beside 20
        ({"pad_dim": 11.0}, 2.0 * _FLOPS_S + _BYTES_S),
        ({"serial_s_per_key": 0.5}, 2.0 + _FLOPS_S + _BYTES_S),
    ],
)
def test_attention_forward(changes: dict[str, float], seconds: float) -> None:
    assert attention_time_s(FORWARD, PEAK, BANDWIDTH, 0, replace(ATTENTION, **changes)) == pytest.approx(seconds)


def test_attention_backward_has_five_matrix_products_for_two() -> None:
    work, fit = replace(FORWARD, phase="backward"), replace(ATTENTION, backward_efficiency_ratio=0.5)
    assert attention_time_s(work, PEAK, BANDWIDTH, 0, fit) == pytest.approx(2.5 * (2.0 * _FLOPS_S + _BYTES_S))


def test_what_is_also_written_to_a_cache_moves_keys_and_values_again() -> None:
    fit = replace(ATTENTION, cache_write_passes=3.0)
    more = 3.0 * 2 * 4 * 1 * 11 * 2 / BANDWIDTH  # passes x sequences x keys x key heads x width x bytes
    assert attention_time_s(FORWARD, PEAK, BANDWIDTH, 0, fit) == pytest.approx(_FLOPS_S + _BYTES_S)
    written = replace(FORWARD, cache_write=True)
    assert attention_time_s(written, PEAK, BANDWIDTH, 0, fit) == pytest.approx(_FLOPS_S + _BYTES_S + more)
    two_heads = replace(written, kv_heads=3)
    own = attention_time_s(replace(FORWARD, kv_heads=3), PEAK, BANDWIDTH, 0, fit)
    assert attention_time_s(two_heads, PEAK, BANDWIDTH, 0, fit) == pytest.approx(own + 3.0 * more)


def test_a_wave_of_attention_is_heads_times_tiles_of_queries() -> None:
    work = replace(FORWARD, q_len=256, kv_len=256)  # 2 x 3 x 2 blocks
    plain = attention_time_s(work, PEAK, BANDWIDTH, 0, ATTENTION)
    fit = replace(ATTENTION, partial_wave_exponent=1.0, wave_exponent=1.0)
    moved = work.bytes / BANDWIDTH
    assert attention_time_s(work, PEAK, BANDWIDTH, 24, fit) == pytest.approx(2.0 * (plain - moved) + moved)
    assert attention_time_s(work, PEAK, BANDWIDTH, 8, fit) == pytest.approx(2.0 / 1.5 * (plain - moved) + moved)


# 2 sequences with one query against 50 keys, 4 heads over 2 key heads, 5 + 6 wide
DECODE = Attention(2, 1, 50, 4, 2, 5, 6, phase="decode")
_MOVED = 2 * (2 * 4 * 11 + 2 * 50 * 2 * 11)
_D_FLOPS_S, _D_BYTES_S = 2.0 * 2 * 2 * 2 * 50 * 11 / PEAK, _MOVED / BANDWIDTH


@pytest.mark.parametrize(
    ("changes", "sms", "seconds"),
    [
        ({}, 0, _D_FLOPS_S + _D_BYTES_S),
        ({"decode_launch_s": 2.0}, 0, 2.0 + _D_FLOPS_S + _D_BYTES_S),
        ({"decode_group_rows": 8.0}, 0, 4.0 * _D_FLOPS_S + _D_BYTES_S),  # two query heads are padded to eight rows
        ({"decode_flops_efficiency": 0.5}, 0, 2.0 * _D_FLOPS_S + _D_BYTES_S),
        ({"decode_bandwidth_efficiency": 0.5}, 0, _D_FLOPS_S + 2.0 * _D_BYTES_S),
        ({"decode_sequence_s": 0.5}, 0, 4.0 + _D_FLOPS_S + _D_BYTES_S),  # 2 sequences x 4 heads
        ({"decode_pad_keys": 10.0}, 0, _D_FLOPS_S + _D_BYTES_S + 2 * 2 * 11 * 10 * 2 / BANDWIDTH),
        ({"decode_ramp_bytes": float(_MOVED)}, 0, _D_FLOPS_S + 2.0 * _D_BYTES_S),  # sqrt(bytes x bytes) more
        ({"decode_ramp_bytes": float(_MOVED), "decode_partial_wave_exponent": 0.5}, 16, _D_FLOPS_S + 3.0 * _D_BYTES_S),
        ({"decode_ramp_bytes": float(_MOVED), "decode_partial_wave_exponent": 0.5}, 2, _D_FLOPS_S + 2.0 * _D_BYTES_S),
        ({"decode_ramp_bytes": float(_MOVED), "decode_partial_wave_exponent": 0.5}, 3, _D_FLOPS_S + 2.0 * _D_BYTES_S),
        ({"decode_latent_flops_efficiency": 0.25}, 0, _D_FLOPS_S + _D_BYTES_S),  # not where values are apart
    ],
)
def test_attention_decode(changes: dict[str, float], sms: int, seconds: float) -> None:
    assert attention_time_s(DECODE, PEAK, BANDWIDTH, sms, replace(ATTENTION, **changes)) == pytest.approx(seconds)


def test_a_latent_cache_is_read_once_at_its_own_rate() -> None:
    work, fit = replace(DECODE, shared_values=True), replace(ATTENTION, decode_latent_flops_efficiency=0.25)
    moved_s = 2 * (2 * 4 * 11 + 2 * 50 * 2 * 5) / BANDWIDTH  # keys alone: values are their first part
    assert attention_time_s(work, PEAK, BANDWIDTH, 0, fit) == pytest.approx(4.0 * _D_FLOPS_S + moved_s)


def test_a_window_ends_what_decoding_reads() -> None:
    work, short = replace(DECODE, window=20), replace(DECODE, kv_len=20)
    got = attention_time_s(work, PEAK, BANDWIDTH, 0, ATTENTION)
    assert got == pytest.approx(attention_time_s(short, PEAK, BANDWIDTH, 0, ATTENTION))
    three = replace(work, q_len=3)  # the first of three queries sees two keys more
    assert attention_time_s(three, PEAK, BANDWIDTH, 0, ATTENTION) == pytest.approx(
        attention_time_s(replace(three, window=None, kv_len=22), PEAK, BANDWIDTH, 0, ATTENTION)
    )


@pytest.mark.parametrize(
    ("window", "pairs"),
    [(None, 10.0), (4, 10.0), (9, 10.0), (2, 7.0), (1, 4.0)],  # of 4 queries; two keys: 1 + 2 + 2 + 2
)
def test_pairs_that_a_window_leaves(window: int | None, pairs: float) -> None:
    assert replace(FORWARD, window=window).score_elements == 2 * pairs
    assert replace(FORWARD, causal=False).score_elements == 32.0
    later = replace(FORWARD, kv_len=6)  # queries at 2 to 5 of 6: 3 + 4 + 5 + 6
    assert later.score_elements == 36.0


def test_no_surface_takes_a_product_below_what_the_data_sheet_allows() -> None:
    """A correction that halves the seconds halves them; one that takes them to nothing leaves those at peak."""
    work, axes = Gemm(64, 48, 32, "bf16"), GEMM_AXES
    whole = gemm_time_s(work, PEAK, BANDWIDTH, 0, replace(GEMM, launch_s=100.0))

    def timed(per_mille: int, peak: float = PEAK, bandwidth: float = BANDWIDTH) -> float:
        surface = Surface(axes, ((0.0,),) * len(axes), (per_mille,))
        return gemm_time_s(work, peak, bandwidth, 0, replace(GEMM, launch_s=100.0, surface=surface))

    assert timed(round(1000 * log(0.5))) == pytest.approx(0.5 * whole, rel=1e-3)
    assert timed(-10_000, bandwidth=1e30) == pytest.approx(2.0 * 64 * 48 * 32 / PEAK)
    assert timed(-10_000, peak=1e30) == pytest.approx(work.bytes / BANDWIDTH)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 8, 8), (8, 1, 8), (8, 8, 1)])
def test_a_product_of_vectors_is_a_product(sizes: tuple[int, int, int]) -> None:
    m, n, k = sizes
    assert gemm_time_s(Gemm(m, n, k, "bf16"), PEAK, BANDWIDTH, 0, GEMM) > 0.0
    for empty in ((0, n, k), (m, 0, k), (m, n, 0)):
        assert gemm_time_s(Gemm(*empty, "bf16"), PEAK, BANDWIDTH, 0, replace(GEMM, launch_s=1.0)) == 0.0
