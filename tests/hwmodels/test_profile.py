"""Profiles: provenance, derivation, and refusal to guess."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from importlib.util import find_spec

import pytest
from measured import fit_of

from moesim.hwmodels.cluster import build_cluster, node_for_gpu
from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import gpu_names, load_gpu
from moesim.hwmodels.machine import profile_text
from moesim.hwmodels.profile import NoFit, load_profile, measured_gpus, profile_from_dict
from moesim.hwmodels.work import Gemm


def test_seven_gpus_are_measured() -> None:
    assert set(measured_gpus()) == {
        "a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-hgx", "b300-hgx", "gb200", "gb300",
    }  # fmt: skip


@pytest.mark.parametrize("gpu", measured_gpus())
def test_provenance_is_complete(gpu: str) -> None:
    profile = load_profile(gpu)
    assert profile.derived_from is None
    wanted = {f"gemm/{d}" for d in profile.gemms} | {f"grouped_gemm/{d}" for d in profile.grouped_gemms}
    wanted |= {f"attention_{p}/{d}" for d in profile.attentions for p in ("forward", "decode")}
    wanted.add("collectives")
    assert set(profile.provenance) == wanted
    for record in profile.provenance.values():
        assert record.package == "aiconfigurator-core" and record.package_version
        assert record.licence == "Apache-2.0"
        assert record.tables and not any(t.startswith("/") for t in record.tables)
        assert record.samples_fit > 50 and record.samples_left_out > 20
        assert 0.0 < record.median_error < record.p90_error
        assert record.shape_range and all(low <= high for low, high in record.shape_range.values())
        assert len(record.fit_date) == 10


@pytest.mark.parametrize("gpu", measured_gpus())
def test_long_bf16_gemms_are_predicted_well(gpu: str) -> None:
    record = load_profile(gpu).provenance["gemm/bf16"]
    assert record.long_median_error < 0.08
    assert abs(record.long_bias) < 0.03


def test_no_fit_says_what_there_is() -> None:
    with pytest.raises(NoFit, match=r"a100-sxm-80gb: no gemm fit for 'fp8'; fitted: bf16"):
        fit_of(load_profile("a100-sxm-80gb"), "gemm", "fp8")
    with pytest.raises(NoFit):
        fit_of(load_profile("h100-sxm"), "grouped_gemm", "nvfp4")
    with pytest.raises(NoFit):
        fit_of(load_profile("h100-sxm"), "attention", "no-such-dtype")
    with pytest.raises(FactError):
        load_profile("no-such-gpu")


def test_fp16_runs_like_bf16() -> None:
    profile = load_profile("h100-sxm")
    assert fit_of(profile, "gemm", "fp16") == fit_of(profile, "gemm", "bf16")


@pytest.mark.parametrize(
    ("gpu", "lender"),
    [
        ("h800-sxm", "h100-sxm"),
        ("h20-96gb", "h100-sxm"),
        ("h100-sxm-96gb-500w", "h100-sxm"),
        ("mi300x", "h100-sxm"),
        ("a100-sxm-40gb", "a100-sxm-80gb"),
        ("v100-sxm2-32gb", "a100-sxm-80gb"),
    ],
)
def test_derived_profiles_are_marked(gpu: str, lender: str) -> None:
    profile, base = load_profile(gpu), load_profile(lender)
    assert profile.gpu == gpu
    assert profile.derived_from == lender and profile.derived_note
    assert fit_of(profile, "gemm", "bf16" if load_gpu(gpu).supports("bf16") else "fp16") == fit_of(base, "gemm", "bf16")
    assert profile.provenance == base.provenance


def test_every_gpu_of_the_catalogue_has_a_profile() -> None:
    for name in gpu_names():
        profile = load_profile(name)
        assert profile.gpu == name
        assert (profile.derived_from is None) == (name in measured_gpus())
        for dtype in profile.gemms:
            stands_in = {"nvfp4": "mxfp4"}.get(dtype, dtype)  # whose kernels lend their efficiencies to MXFP4 (CDNA 4)
            assert load_gpu(name).supports(dtype) or load_gpu(name).supports(stands_in) or dtype == "bf16"
    assert load_profile("mi300x").collectives.nvls_efficiency == 0.0
    assert load_profile("H100") is load_profile("h100-sxm")


@pytest.mark.parametrize("gpu", measured_gpus())
def test_files_are_canonical(gpu: str) -> None:
    text = files("moesim.hwmodels").joinpath("profiles", f"{gpu}.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    assert text == profile_text(raw)
    assert "/work" not in text and "/home" not in text
    fit = fit_of(profile_from_dict(raw), "gemm", "bf16")
    assert json.loads(json.dumps(dataclasses.asdict(fit))) == raw["gemm"]["bf16"]


@pytest.mark.skipif(find_spec("aiconfigurator_core") is None, reason="needs the tables (extra `fit`)")
def test_refit_of_one_small_table_agrees() -> None:
    """The collective fit of B300 (no exclusions there) comes out as shipped."""
    pytest.importorskip("scipy", reason="fits need scipy")
    pytest.importorskip("pyarrow", reason="the tables are Parquet files")
    from moesim.calibrate.fit.nccl import fit_collectives

    fit, result, samples, dropped = fit_collectives(load_gpu("b300-hgx"), frozenset())
    shipped = load_profile("b300-hgx")
    assert len(samples) == 252 and dropped == 0
    assert result.median_error == pytest.approx(shipped.provenance["collectives"].median_error, rel=0.05)
    assert fit.link_efficiency == pytest.approx(shipped.collectives.link_efficiency, rel=0.01)


@pytest.mark.parametrize("gpu", ["l40s", "l4", "rtx-4090", "mi300x", "rtx-pro-6000-server", "trainium2"])
def test_eight_bits_are_derived_from_sixteen_where_the_lender_has_none(gpu: str) -> None:
    """FP8 where the data sheet has it: never slower than 16 bits, at most the ratio of peaks or of bytes faster."""
    node = node_for_gpu(gpu)
    cluster = build_cluster(node, 1)
    model = KernelCostModel(cluster, load_profile(gpu), Sustained())
    ratio = cluster.gpu.peak("fp8") / cluster.gpu.peak("bf16")
    for m in (1, 64, 4096):
        wide, narrow = model.cost(Gemm(m, 8192, 8192)), model.cost(Gemm(m, 8192, 8192, "fp8"))
        assert 1.0 <= wide.time_s / narrow.time_s <= ratio * 1.05
        assert narrow.source.startswith("derived ")


def test_a_format_that_the_part_lacks_is_refused_not_derived() -> None:
    ampere = build_cluster("dgx-a100", 1)
    with pytest.raises(FactError, match=r"a100-sxm-80gb has no fp8 tensor path; it has bf16, fp16"):
        KernelCostModel(ampere, load_profile("a100-sxm-80gb"), Sustained()).cost(Gemm(64, 64, 64, "fp8"))
    assert not load_gpu("h100-sxm").supports("mxfp8") and load_gpu("h100-sxm").supports("fp8_block")
    assert not load_gpu("l40s").supports("mxfp8") and not load_gpu("mi300x").supports("mxfp8")
    assert load_gpu("b200-hgx").supports("mxfp8") and load_gpu("mi355x").supports("mxfp8")
    with pytest.raises(FactError, match="no mxfp8 tensor path"):
        load_gpu("h100-sxm").peak("mxfp8")


def test_a_lower_power_limit_lowers_what_is_sustained() -> None:
    """Watts per peak FLOP/s of the same silicon: the 350 W card keeps four fifths of the 700 W part's share of peak."""
    work = Gemm(8192, 8192, 8192)
    shares = {}
    for gpu in ("h100-sxm", "h100-pcie", "h100-nvl", "h20-96gb"):
        spec = load_gpu(gpu)
        model = KernelCostModel(build_cluster(node_for_gpu(gpu), 1), load_profile(gpu), Sustained())
        shares[gpu] = work.flops / model.cost(work).time_s / spec.peak("bf16")
    assert shares["h100-pcie"] / shares["h100-sxm"] == pytest.approx(0.8, abs=0.04)
    assert shares["h100-nvl"] / shares["h100-sxm"] == pytest.approx(0.81, abs=0.04)
    assert shares["h20-96gb"] > shares["h100-pcie"]  # few FLOPs for its watts: nothing to give up
    assert "sustained share of peak" in load_profile("h100-pcie").derived_note
    assert "sustained share" not in load_profile("h800-sxm").derived_note


def test_other_vendors_software_is_said() -> None:
    for gpu in ("gaudi-3", "trainium2", "tpu-v7", "ascend-910c", "mi300x"):
        assert "software of another vendor" in load_profile(gpu).derived_note
        assert load_profile(gpu).collectives.nvls_efficiency == 0.0
