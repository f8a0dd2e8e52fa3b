"""Nsight Systems exports: kernels find their shapes in NVTX ranges; what an export lacks is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from nsight_forms import export, ranges
from trace_forms import SHAPES, shipped_s

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.nsight import is_nsight, read_nsight
from moesim.calibrate.own.sources import from_trace
from moesim.hwmodels.work import Gemm


def test_ranges_with_sizes_are_read(tmp_path: Path) -> None:
    path = export(tmp_path / "r.sqlite", ranges())
    assert is_nsight(path)
    read = read_nsight(path)
    assert [w for w, _ in read.works] == [Gemm(m, n, k) for m, n, k in SHAPES]
    assert [s for _, s in read.works] == pytest.approx([shipped_s(*shape) for shape in SHAPES], rel=1e-3)
    made = from_trace([path], "")
    assert made.raw["gpu"] == "h100-sxm"
    assert made.raw["provenance"]["gemm/bf16"]["samples_fit"] == len(SHAPES)


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("ampere_h16816gemm_128x128_ldg8_stages_32x5_nn", "fp16"), ("sm90_xmma_gemm_e4m3bf16_e4m3f32", "fp8")],
)
def test_formats_are_told_by_the_kernel(tmp_path: Path, kernel: str, dtype: str) -> None:
    assert {w.dtype for w, _ in read_nsight(export(tmp_path / "r.sqlite", ranges(), kernel)).works} == {dtype}


def test_a_kernel_name_that_says_no_format_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="no kernel name says the format"):
        from_trace([export(tmp_path / "r.sqlite", ranges(), "my_gemm")], "")


@pytest.mark.parametrize("table", ["CUPTI_ACTIVITY_KIND_KERNEL", "NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME"])
def test_missing_tables_are_named_with_what_would_do(tmp_path: Path, table: str) -> None:
    with pytest.raises(BadSource, match=rf"lacks table {table}.*(nsys|emit_nvtx)"):
        read_nsight(export(tmp_path / "r.sqlite", ranges(), without=table))


def test_ranges_without_sizes_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"2 kernels, none in an NVTX range with sizes; run it under.*emit_nvtx"):
        read_nsight(export(tmp_path / "r.sqlite", ["aten::mm", "aten::mm, seq = 3"]))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(b"SQLite format 3\0" + b"\7" * 500)
    with pytest.raises(BadSource, match="broken SQLite file"):
        read_nsight(path)
    assert not is_nsight(Path(__file__))
