"""Profiler traces: kernels joined through their launches, every operator that is read, and truthful refusals."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from trace_forms import H100, SHAPES, TraceForm, of_gemms, shipped_s

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.kineto import TraceRead, read_trace
from moesim.calibrate.own.sources import from_trace
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.kernels import gemm_time_s
from moesim.hwmodels.machine import load_machine
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import Attention, Gemm, GroupedGemm

BF16 = ["c10::BFloat16"] * 3


def written(tmp_path: Path, form: TraceForm, name: str = "t.json", **top: Any) -> Path:
    path = tmp_path / name
    text = json.dumps(form.trace(**top))
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def read_one(tmp_path: Path, name: str, dims: Any, types: list[str], **more: Any) -> TraceRead:
    form = TraceForm()
    form.run(name, dims, types, 1e-3, **more)
    return read_trace(written(tmp_path, form))


@pytest.mark.parametrize("vendor", ["cuda", "hip"])
def test_kernels_find_their_operator_through_the_launch(tmp_path: Path, vendor: str) -> None:
    read = read_trace(written(tmp_path, of_gemms(vendor=vendor)))
    assert [(w.m, w.n, w.k) for w, _ in read.works if isinstance(w, Gemm)] == SHAPES
    assert [s for _, s in read.works] == pytest.approx([shipped_s(*shape) for shape in SHAPES])
    assert (read.kernels, read.joined, read.with_shapes, read.gpu) == (12, 12, 12, H100)


def test_a_numbering_that_only_looks_alike_joins_nothing(tmp_path: Path) -> None:
    """Kernels whose External id repeats the correlation must not find the operator of that number."""
    form = of_gemms()
    form.events = [e for e in form.events if e["cat"] != "cuda_runtime"]
    for event in form.events:
        if event["cat"] == "kernel":
            event["args"]["External id"] = event["args"]["correlation"]
    assert read_trace(written(tmp_path, form)).joined == 0
    for number, event in enumerate(e for e in form.events if e["cat"] == "kernel"):  # as the oldest traces number
        event["args"] = {"External id": 3 * number}
    assert read_trace(written(tmp_path, form)).joined == 12


def test_the_oldest_form_has_no_category_and_other_capitals(tmp_path: Path) -> None:
    form = of_gemms()
    for number, event in enumerate(form.events):
        event["cat"] = {"cpu_op": None, "cuda_runtime": "Runtime", "kernel": "Kernel"}[event["cat"]]
        if event["cat"] is None:
            del event["cat"]
        event["args"]["external id"] = number // 3
        event["args"].pop("External id", None)
    trace = form.trace()
    (tmp_path / "t.json").write_text(json.dumps(trace))
    assert read_trace(tmp_path / "t.json").joined == 12
    trace["traceEvents"] = [e for e in form.events if e.get("cat") != "Runtime"]  # by the shared number alone
    (tmp_path / "t.json").write_text(json.dumps(trace))
    assert read_trace(tmp_path / "t.json").joined == 12


def test_several_kernels_of_one_operator_add_up_and_outer_operators_count_once(tmp_path: Path) -> None:
    form = TraceForm()
    form.run("aten::linear", [[4, 512, 1024], [4096, 1024]], BF16, 1e-4, inner="aten::t")
    form.events.append({**form.events[-1], "ts": 5000.0, "dur": 50.0})  # split-k: a second kernel of the same launch
    [(work, seconds)] = read_trace(written(tmp_path, form)).works
    assert (work, seconds) == (Gemm(2048, 4096, 1024), pytest.approx(1.5e-4))


CASES: dict[str, tuple[Any, list[str], Any]] = {
    "aten::addmm": ([[64], [32, 16], [16, 64]], BF16, Gemm(32, 64, 16)),
    "aten::mm": ([[32, 16], [16, 64]], ["c10::Half"] * 2, Gemm(32, 64, 16, "fp16", "fp16")),
    "aten::bmm": ([[1, 32, 16], [1, 16, 64]], BF16, Gemm(32, 64, 16)),
    "aten::baddbmm": ([[1, 32, 64], [1, 32, 16], [1, 16, 64]], BF16, Gemm(32, 64, 16)),
    "aten::linear": ([[2, 16, 16], [64, 16], []], BF16, Gemm(32, 64, 16)),
    "aten::_scaled_mm": (
        [[32, 256], [256, 64], [], []],
        ["c10::Float8_e4m3fn", "c10::Float8_e4m3fn", "float", "float"],
        Gemm(32, 64, 256, "fp8", "bf16"),
    ),
    "aten::_grouped_mm": ([[10, 16], [4, 16, 64], [4]], BF16, GroupedGemm((3, 3, 2, 2), 64, 16)),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_are_the_work_that_they_say(tmp_path: Path, name: str) -> None:
    dims, types, work = CASES[name]
    assert [w for w, _ in read_one(tmp_path, name, dims, types).works] == [work]


def test_scales_tell_the_eight_bit_formats_apart(tmp_path: Path) -> None:
    eight = ["c10::Float8_e4m3fn"] * 2
    blocks = read_one(
        tmp_path, "aten::_scaled_mm", [[256, 512], [512, 128], [256, 4], [4, 1]], [*eight, "float", "float"]
    )
    assert [w.dtype for w, _ in blocks.works] == ["fp8_block"]
    rows = read_one(
        tmp_path, "aten::_scaled_mm", [[256, 512], [512, 128], [256, 1], [1, 128]], [*eight, "float", "float"]
    )
    assert [w.dtype for w, _ in rows.works] == ["fp8"]
    small = [*eight, "c10::Float8_e8m0fnu", "c10::Float8_e8m0fnu"]
    assert [w.dtype for w, _ in read_one(tmp_path, "aten::_scaled_mm", [[256, 512], [512, 128]], small).works] == [
        "mxfp8"
    ]


def test_fused_attention_with_its_mask(tmp_path: Path) -> None:
    q, kv = [2, 32, 4096, 128], [2, 8, 4096, 128]
    values = ["", "", "", "0.", "True", "False", ""]
    name = "aten::_scaled_dot_product_flash_attention"
    read = read_one(tmp_path, name, [q, kv, kv], BF16, **{"Concrete Inputs": values})
    assert [w for w, _ in read.works] == [Attention(2, 4096, 4096, 32, 8, 128, 128, True)]
    unsaid = read_one(tmp_path, name, [q, kv, kv], BF16)
    assert not unsaid.works
    assert list(unsaid.skipped) == [f"{name} does not record whether it is causal"]
    flash = [2, 4096, 32, 128]
    values = ["", "", "", "0.", "0.088", "False"]
    read = read_one(tmp_path, "flash_attn::_flash_attn_forward", [flash] * 3, BF16, **{"Concrete Inputs": values})
    assert [w for w, _ in read.works] == [Attention(2, 4096, 4096, 32, 32, 128, 128, False)]


def test_batches_of_matrices_and_strange_shapes_are_named_and_left_out(tmp_path: Path) -> None:
    read = read_one(tmp_path, "aten::bmm", [[8, 32, 16], [8, 16, 64]], BF16)
    assert not read.works and list(read.skipped) == ["aten::bmm is a batch of matrices, on which no coefficient rests"]
    odd = read_one(tmp_path, "aten::mm", [[32, 16], [17, 64]], BF16)
    assert not odd.works and list(odd.skipped) == ["aten::mm has shapes that do not multiply"]
    assert not read_one(tmp_path, "aten::mm", [[32, -1], ["x"]], BF16).works
    assert not read_one(tmp_path, "aten::mm", [[32, 16], [16, 64]], ["c10::complex", "c10::complex"]).works


def test_the_profile_meets_the_trace_and_moves_its_format_alone(tmp_path: Path) -> None:
    made = from_trace([written(tmp_path, of_gemms(1.3))], "")
    (tmp_path / "own.json").write_text(json.dumps(made.raw))
    own, gpu, shipped = load_machine(str(tmp_path / "own.json")), load_gpu("h100-sxm"), load_profile("h100-sxm")
    for m, n, k in SHAPES:
        on = (gpu.peak("bf16"), gpu.hbm_bytes_per_s, gpu.sm_count)
        assert gemm_time_s(Gemm(m, n, k), *on, own.gemms["bf16"]) == pytest.approx(1.3 * shipped_s(m, n, k), rel=0.01)
    assert own.gemms["fp8"] == shipped.gemms["fp8"]
    assert (own.grouped_gemms, own.attentions, own.transfers) == (shipped.grouped_gemms, shipped.attentions, {})
    assert own.own_kernels == ("gemm/bf16",)
    assert any("gemm bf16: 12 shapes (m 256 to 4096, n 1024 to 4096, k 2048 to 8192)" in note for note in made.notes)


def test_shapes_that_do_not_tell_floor_from_rest_get_one_factor(tmp_path: Path) -> None:
    form = TraceForm()
    for k in (1024, 1088, 1152, 1216, 1280):  # ten microseconds whatever the size
        form.run("aten::mm", [[512, k], [k, 1024]], BF16, 1e-5)
    made = from_trace([written(tmp_path, form)], "")
    (tmp_path / "own.json").write_text(json.dumps(made.raw))
    own, gpu = load_machine(str(tmp_path / "own.json")), load_gpu("h100-sxm")
    on = (gpu.peak("bf16"), gpu.hbm_bytes_per_s, gpu.sm_count)
    assert gemm_time_s(Gemm(512, 1024, 1152), *on, own.gemms["bf16"]) == pytest.approx(1e-5, rel=0.05)
    large = Gemm(8192, 8192, 8192)
    assert gemm_time_s(large, *on, own.gemms["bf16"]) > gemm_time_s(large, *on, load_profile("h100-sxm").gemms["bf16"])


def test_transfers_of_several_ranks_count_where_nobody_waited(tmp_path: Path) -> None:
    paths = []
    for rank in range(2):
        form = of_gemms()
        for more, elements in enumerate((1 << 22, 1 << 24, 1 << 26)):
            listed = {"In msg nelems": elements, "Process Group Ranks": str(list(range(16)))}
            form.event(
                "kernel", "ncclDevKernel_AllReduce_Sum_bf16", form.clock, (elements * 2 / 4e10 + rank * 0.1) * 1e6, 99,
                **{"Collective name": "allreduce", "Group size": 16, "dtype": "BFloat16", **listed},
            )  # fmt: skip
            form.clock += 1e6 + more
        name = f"rank{rank}.json.gz"
        paths.append(written(tmp_path, form, name, distributedInfo={"backend": "nccl", "rank": rank, "world_size": 16}))
    made = from_trace(paths, "")
    assert list(made.raw["transfers"]) == ["all_reduce across"]
    assert made.raw["transfers"]["all_reduce across"]["domains"] == (2,)
    assert any("6 NCCL kernels: of every size the fastest counts" in note for note in made.notes)
    assert made.raw["transfers"]["all_reduce across"]["size_factor"] < 10.0  # none of rank 1's waits


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("no kernels", "holds no GPU kernels; record with activities"),
        ("no cpu", "12 kernels, none joined to an operator: the trace holds no CPU side"),
        ("no launches", "12 kernels, none launched by one of its 12 operators: launches .cuda_runtime. are missing"),
        ("no shapes", "12 kernels, joined to 12 operators without shapes: record_shapes=True was off"),
        ("graphs", "12 of 12 kernels were launched by CUDA graphs"),
        ("others", "12 operators with shapes, none of them mm, addmm"),
    ],
)
def test_refusals_say_what_is_missing(tmp_path: Path, change: str, said: str) -> None:
    form = of_gemms()
    if change == "no kernels":
        form.events = [e for e in form.events if e["cat"] != "kernel"]
    elif change == "no launches":
        form.events = [e for e in form.events if e["cat"] != "cuda_runtime"]
    elif change == "no cpu":
        form.events = [e for e in form.events if e["cat"] == "kernel"]
    for event in form.events:
        if change == "no shapes":
            event["args"].pop("Input Dims", None)
        if change == "graphs" and event["cat"] == "cuda_runtime":
            event["name"] = "cudaGraphLaunch"
        if change == "others" and event["cat"] == "cpu_op":
            event["name"] = "aten::copy_"
    with pytest.raises(BadSource, match=said) as refused:
        from_trace([written(tmp_path, form)], "")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "text", ["", "{}", '{"traceEvents": 3}', "3", "[" * 100_000, '{"traceEvents": [{"ph": ', "nan"]
)
def test_files_that_are_no_trace_are_refused_without_their_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret.json").write_text(text)
    with pytest.raises(BadSource, match="export_chrome_trace") as refused:
        read_trace(tmp_path / "secret.json")
    assert len(str(refused.value)) < 500


def test_broken_events_are_passed_over(tmp_path: Path) -> None:
    form = of_gemms()
    bad: list[Any] = [
        3, None, {"cat": "kernel"}, {"cat": "kernel", "dur": "x"}, {"cat": "kernel", "args": 3},
        {"cat": "cpu_op", "ts": None},
        {"ph": "X", "cat": "cuda_runtime", "args": {"correlation": [1]}}, {"ph": "X", "cat": "kernel", "dur": 1e999},
    ]  # fmt: skip
    form.events += bad
    assert len(read_trace(written(tmp_path, form)).works) == 12
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSource, match="no plain file"):
        from_trace([tmp_path / "pipe"], "h100-sxm")


def test_a_trace_of_another_gpu_or_of_faster_kernels_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, of_gemms())
    with pytest.raises(BadSource, match="but --system says b200-hgx"):
        from_trace([path], "b200-hgx")
    with pytest.raises(BadSource, match="all are faster than its peak"):
        from_trace([written(tmp_path, of_gemms(0.1))], "")
    with pytest.raises(BadSource, match="names no GPU; say which it is with --system"):
        from_trace([written(tmp_path, of_gemms(), devices=0)], "")


@pytest.mark.parametrize(
    ("dur", "said"),
    [
        ("soon", "12 kernels whose dur is text"),
        (-5.0, "12 kernels whose dur is negative"),
        (float("nan"), "12 kernels whose dur is nan or infinite"),
        (None, "12 kernels whose dur is missing"),
        (0, "12 kernels whose dur is 0"),
        ([1], "12 kernels whose dur is no number"),
    ],
)
def test_kernels_without_a_time_are_counted_by_what_is_wrong(tmp_path: Path, dur: object, said: str) -> None:
    form = of_gemms()
    for event in form.events:
        if event["cat"] == "kernel":
            event["dur"] = dur
    with pytest.raises(BadSource, match=f"{said}: none has a time; dur is microseconds above 0"):
        from_trace([written(tmp_path, form)], "")


def test_some_events_without_a_time_are_left_out_and_said(tmp_path: Path) -> None:
    form = of_gemms()
    next(event for event in form.events if event["cat"] == "kernel")["dur"] = -1
    [event for event in form.events if event["cat"] == "cpu_op"][3]["ts"] = float("inf")
    [event for event in form.events if event["cat"] == "cuda_runtime"][5]["ts"] = "late"
    made = from_trace([written(tmp_path, form)], "")
    assert {
        "trace.json: 1 kernels whose dur is negative, left out",
        "trace.json: 1 operators whose ts is nan or infinite, left out",
        "trace.json: 1 launches whose ts is text, left out",
    } <= {note.replace(note.split(":")[0], "trace.json") for note in made.notes}
