"""Every kernel model, on every profile: positive, deterministic, above the roofline, monotone, plausible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
from measured import fit_of

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.domain_collectives import domain_collective_s, ring_steps, wire_bytes
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.kernels import attention_time_s, gemm_time_s, grouped_gemm_time_s
from moesim.hwmodels.profile import load_profile, measured_gpus
from moesim.hwmodels.work import Attention, AttentionPhase, CommKind, Gemm, GroupedGemm

GPUS = (*measured_gpus(), "h800-sxm", "h20-96gb", "v100-sxm2-32gb", "mi300x", "gb300")
SIZES = (1, 2, 7, 16, 33, 64, 96, 127, 128, 129, 255, 256, 257, 500, 1024, 1500, 4096, 5000, 16384, 32768)
EPS = 1e-9
# surfaces follow measured kernels: more rows that fill the tiles better take up to a third less time (fp8, H100)
DIP = 0.35


def gemm_s(gpu: str, work: Gemm, surfaces: bool = True) -> float:
    g, dtype, fit = load_gpu(gpu), _peak_dtype(gpu, work.dtype), fit_of(load_profile(gpu), "gemm", work.dtype)
    fit = fit if surfaces else replace(fit, surface=None)
    return gemm_time_s(work, g.peak(dtype), g.hbm_bytes_per_s, g.sm_count, fit)


def grouped_s(gpu: str, work: GroupedGemm) -> float:
    g, fit = load_gpu(gpu), fit_of(load_profile(gpu), "grouped_gemm", work.dtype)
    return grouped_gemm_time_s(work, g.peak(_peak_dtype(gpu, work.dtype)), g.hbm_bytes_per_s, g.sm_count, fit)


def attention_s(gpu: str, work: Attention, surfaces: bool = True) -> float:
    g, fit = load_gpu(gpu), fit_of(load_profile(gpu), "attention", work.dtype)
    fit = fit if surfaces else replace(fit, surface=None, decode_surface=None)
    peak = g.peak(_peak_dtype(gpu, work.dtype))
    return attention_time_s(work, peak, g.hbm_bytes_per_s, g.sm_count, fit)


def _peak_dtype(gpu: str, dtype: str) -> str:
    return dtype if load_gpu(gpu).supports(dtype) else "fp16"


def non_decreasing(time_of: Callable[[int], float], dip: float = EPS) -> None:
    for (a, ta), (b, tb) in pairwise((s, time_of(s)) for s in SIZES):
        assert tb >= ta * (1.0 - dip), f"{a} takes {ta}, {b} takes {tb}"


def floor_s(gpu: str, work: Gemm | GroupedGemm | Attention) -> float:
    g = load_gpu(gpu)
    return max(work.flops / g.peak(_peak_dtype(gpu, work.dtype)), work.bytes / g.hbm_bytes_per_s)


@pytest.mark.parametrize("gpu", GPUS)
def test_gemm_never_faster_with_more_work(gpu: str) -> None:
    for dtype in load_profile(gpu).gemms:
        for n, k in ((64, 4096), (512, 128), (4096, 4096), (14336, 8192)):
            sweep_gemm(gpu, dtype, n, k)


def sweep_gemm(gpu: str, dtype: str, n: int, k: int) -> None:
    for surfaces, dip in ((False, EPS), (True, DIP)):
        non_decreasing(lambda s, on=surfaces: gemm_s(gpu, Gemm(s, n, k, dtype), on), dip)
        non_decreasing(lambda s, on=surfaces: gemm_s(gpu, Gemm(n, s, k, dtype), on), dip)
        non_decreasing(lambda s, on=surfaces: gemm_s(gpu, Gemm(n, k, s, dtype), on), dip)


@pytest.mark.parametrize("gpu", GPUS)
def test_gemm_above_roofline_and_deterministic(gpu: str) -> None:
    for dtype in load_profile(gpu).gemms:
        for m in SIZES:
            for n, k in ((64, 4096), (4096, 512), (16384, 8192)):
                work = Gemm(m, n, k, dtype)
                t = gemm_s(gpu, work)
                assert t >= floor_s(gpu, work) * (1.0 - EPS)
                assert t == gemm_s(gpu, work) > 0.0


@pytest.mark.parametrize("gpu", measured_gpus())
def test_gemm_shares_of_peak_are_plausible(gpu: str) -> None:
    work = Gemm(8192, 8192, 8192)
    share = floor_s(gpu, work) / gemm_s(gpu, work)
    assert 0.60 < share < 0.90
    skinny = Gemm(1, 16384, 16384)
    assert 0.5 < floor_s(gpu, skinny) / gemm_s(gpu, skinny) < 1.0


def test_gemm_repetitions_add_up_and_empty_work_is_free() -> None:
    one = gemm_s("h100-sxm", Gemm(4096, 4096, 4096))
    assert gemm_s("h100-sxm", Gemm(4096, 4096, 4096, count=7)) == pytest.approx(7 * one, rel=1e-12)
    assert gemm_s("h100-sxm", Gemm(0, 4096, 4096)) == 0.0


def test_gemm_tile_step_costs() -> None:
    """One row more than a tile pays for a new row of tiles: measured on fp8 block GEMMs."""
    assert gemm_s("h100-sxm", Gemm(257, 8192, 8192, "fp8_block")) > 1.15 * gemm_s(
        "h100-sxm", Gemm(256, 8192, 8192, "fp8_block")
    )


@pytest.mark.parametrize("gpu", GPUS)
def test_grouped_gemm_monotone_and_above_roofline(gpu: str) -> None:
    for dtype in load_profile(gpu).grouped_gemms:
        for experts in (1, 8, 64):
            sweep_grouped(gpu, dtype, experts)
            for rows in ((3,) * experts, (4000,) * experts, (10000,) + (0,) * experts):
                for gradient in (False, True):
                    work = GroupedGemm(rows, 4096, 7168, dtype, weight_gradient=gradient)
                    assert grouped_s(gpu, work) >= floor_s(gpu, work) * (1.0 - EPS)


def sweep_grouped(gpu: str, dtype: str, e: int) -> None:
    non_decreasing(lambda s: grouped_s(gpu, GroupedGemm((s,) * e, 4096, 7168, dtype)))
    non_decreasing(lambda s: grouped_s(gpu, GroupedGemm((s, *((5,) * e)), 512, 512, dtype)))
    non_decreasing(lambda s: grouped_s(gpu, GroupedGemm((77,) * e, s, 2048, dtype)))
    non_decreasing(lambda s: grouped_s(gpu, GroupedGemm((77,) * e, 2048, s, dtype)))


def test_grouped_gemm_reads_only_touched_experts_and_pays_for_padding() -> None:
    touched = grouped_s("h100-sxm", GroupedGemm((1,) * 8 + (0,) * 248, 4096, 7168))
    spread = grouped_s("h100-sxm", GroupedGemm((1,) * 256, 4096, 7168))
    assert spread > 4.0 * touched
    balanced = grouped_s("h100-sxm", GroupedGemm((256,) * 64, 4096, 7168))
    assert balanced > gemm_s("h100-sxm", Gemm(256 * 64, 4096, 7168))
    assert grouped_s("h100-sxm", GroupedGemm((0, 0), 4096, 7168)) == 0.0


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("phase", ["forward", "backward", "decode"])
def test_attention_monotone_and_above_roofline(gpu: str, phase: AttentionPhase) -> None:
    base = Attention(2, 512, 512, 32, 8, 128, 128, phase=phase)
    if phase == "decode":
        base = replace(base, q_len=1)
    for surfaces, dip in ((False, EPS), (True, DIP)):
        sweep_attention(base, dip, lambda work, on=surfaces: attention_s(gpu, work, on))
    for s in SIZES:
        work = replace(base, kv_len=s, q_len=min(s, base.q_len))
        assert attention_s(gpu, work) >= floor_s(gpu, work) * (1.0 - EPS)
        assert attention_s(gpu, replace(work, cache_write=True)) >= attention_s(gpu, work)


def sweep_attention(base: Attention, dip: float, time_of: Callable[[Attention], float]) -> None:
    if base.phase == "decode":
        non_decreasing(lambda s: time_of(replace(base, kv_len=s)), dip)
    else:
        non_decreasing(lambda s: time_of(replace(base, q_len=s, kv_len=s)), dip)
        non_decreasing(lambda s: time_of(replace(base, q_len=s, kv_len=32768)), dip)
        non_decreasing(lambda s: time_of(replace(base, q_len=s, kv_len=s, window=1024)), dip)
    non_decreasing(lambda s: time_of(replace(base, batch=s)), dip)
    non_decreasing(lambda s: time_of(replace(base, heads=8 * s)), dip)
    non_decreasing(lambda s: time_of(replace(base, heads=8 * s, kv_heads=8 * s)), dip)
    non_decreasing(lambda s: time_of(replace(base, qk_dim=s)), dip)


@pytest.mark.parametrize("gpu", measured_gpus())
def test_attention_shares_of_peak_are_plausible(gpu: str) -> None:
    prefill = Attention(4, 8192, 8192, 32, 8, 128, 128)
    assert 0.40 < floor_s(gpu, prefill) / attention_s(gpu, replace(prefill, cache_write=True)) < 0.80
    decode = Attention(64, 1, 16384, 32, 8, 128, 128, phase="decode")
    assert 0.55 < floor_s(gpu, decode) / attention_s(gpu, decode) < 1.0


@pytest.mark.parametrize(("gpu", "share"), [("h100-sxm", 0.69), ("b200-hgx", 0.44)])
def test_many_heads_over_one_latent_vector_fill_the_tensor_cores(gpu: str, share: float) -> None:
    """Share of the bandwidth that measured kernels reach with 128 heads; fewer heads are bound by the cache alone."""
    spec, fit = load_gpu(gpu), load_profile(gpu).attentions["bf16"]

    def moved(heads: int) -> float:
        work = Attention(512, 1, 8192, heads, 1, 576, 512, False, None, "bf16", "decode", shared_values=True)
        peak, bandwidth = spec.peak_flops_per_s["bf16"], spec.hbm_bytes_per_s
        seconds = attention_time_s(work, peak, bandwidth, spec.sm_count, fit)
        return 512 * 8192 * 576 * 2 / seconds / bandwidth

    assert moved(128) == pytest.approx(share, rel=0.05)
    assert moved(16) > 0.85


def test_windowed_decode_reads_only_the_window() -> None:
    full = Attention(64, 1, 65536, 32, 8, 128, 128, phase="decode")
    assert attention_s("h100-sxm", replace(full, window=1024)) < 0.1 * attention_s("h100-sxm", full)


KINDS: tuple[CommKind, ...] = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "send",
    "broadcast",
)


def collective_s(gpu: str, kind: CommKind, ranks: int, kib: int) -> float:
    link = load_gpu(gpu).scale_up_bytes_per_s
    return domain_collective_s(kind, ranks, 1024.0 * kib, link, load_profile(gpu).collectives)


@pytest.mark.parametrize("gpu", measured_gpus())
def test_collectives_monotone_and_above_the_wire(gpu: str) -> None:
    fit, link = load_profile(gpu).collectives, load_gpu(gpu).scale_up_bytes_per_s
    for kind in KINDS:
        for ranks in (2, 4, 8):
            non_decreasing(partial(collective_s, gpu, kind, ranks))
            wire_s = wire_bytes(kind, ranks, 1e9) / link
            if kind == "all_reduce":  # in-switch reduction sends S (1 + 1/n) instead of 2 S (n-1)/n
                wire_s = min(wire_s, 1e9 * (1.0 + 1.0 / ranks) / link)
            assert domain_collective_s(kind, ranks, 1e9, link, fit) > wire_s
    assert domain_collective_s("all_reduce", 1, 1e9, link, fit) == 0.0


def test_ring_steps() -> None:
    assert [ring_steps(k, 8) for k in KINDS] == [14, 7, 7, 1, 1, 7]


@pytest.mark.parametrize("node", ["dgx-h100", "hgx-b300", "mi300x-platform"])
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_groups_are_never_faster_than_one_gemm_of_all_their_rows(node: str, dtype: str) -> None:
    """In a long step both run at the clock that the chip sustains; alone they are what was timed."""
    cluster = build_cluster(node, 8)
    factors = Sustained(gemm={dtype: 1.12}, grouped={dtype: 1.05})
    model = KernelCostModel(cluster, load_profile(cluster.gpu.name), factors)
    for n, k in ((4096, 4096), (28672, 4096), (1024, 7168)):
        for rows in (64, 512, 8192):
            groups, one = GroupedGemm((rows,) * 8, n, k, dtype), Gemm(8 * rows, n, k, dtype)
            assert model.cost(groups).time_s >= model.cost(one).time_s
            weights = replace(groups, weight_gradient=True)
            assert model.cost(weights).time_s >= model.cost(Gemm(n, k, 8 * rows, dtype)).time_s
