"""Profiles from logs and traces of others, and corrections from own rows: what is read, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.calibrate.measure.samples import BadSamples
from moesim.calibrate.own.deployments import BadDeployment, learn
from moesim.calibrate.own.sources import (
    BadSource,
    from_nccl_logs,
    from_samples,
    from_trace,
    machine_file,
    read_nccl_log,
    read_trace,
    system_name,
)
from moesim.calibrate.rows.files import load_rows
from moesim.hwmodels.domain_collectives import domain_collective_s
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.kernels import gemm_time_s
from moesim.hwmodels.machine import load_machine
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import CommKind, Gemm
from moesim.sim.train.own_runs import write_own_runs
from moesim.sim.train.predict import predict_train

SIZES = [2**i for i in range(12, 31, 2)]
TESTS: dict[str, CommKind] = {"all_reduce": "all_reduce", "alltoall": "all_to_all"}


def nccl_log(test: str, ranks: int = 8) -> str:
    """What nccl-tests would print on the H100 of the shipped profile."""
    fit, link = load_profile("h100-sxm").collectives, load_gpu("h100-sxm").scale_up_bytes_per_s
    lines = [f"# Collective test starting: {test}_perf", "# Using devices"]
    lines += [f"#  Rank  {r} Group  0 Pid  42 on node device  {r} [0x0{r}] NVIDIA H100" for r in range(ranks)]
    lines.append("#       size         count      type   redop    root     time   algbw   busbw #wrong")
    for size in SIZES:
        us = domain_collective_s(TESTS[test], ranks, size, link, fit) * 1e6
        lines.append(f" {size} {size // 4} float sum -1 {us:.2f} 1.0 1.0 0 {us:.2f} 1.0 1.0 0")
    return "\n".join([*lines, "# Avg bus bandwidth    : 100"])


def test_an_nccl_log_is_read_and_fitted(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    logs = []
    for test in TESTS:
        logs.append(tmp_path / f"{test}.log")
        logs[-1].write_text(nccl_log(test))
    assert [w.bytes for w, _ in read_nccl_log(logs[0])] == SIZES
    raw = from_nccl_logs(logs, "h100_sxm")
    assert raw["provenance"]["collectives"]["median_error"] < 0.15
    path = tmp_path / "own.json"
    path.write_text(json.dumps(raw))
    held, link = load_machine(str(path)), load_gpu("h100-sxm").scale_up_bytes_per_s
    for work, seconds in read_nccl_log(logs[1]):
        assert domain_collective_s(work.kind, 8, work.bytes, link, held.collectives) == pytest.approx(seconds, rel=0.25)
    assert held.gemms == load_profile("h100-sxm").gemms  # the rest is as shipped


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "which test"),
        ("all_reduce_perf", "two ranks"),
        ("all_reduce_perf\n#  Rank  0 a\n#  Rank  1 b\n", "any line of times"),
    ],
)
def test_logs_that_say_too_little_are_refused(tmp_path: Path, text: str, said: str) -> None:
    log = tmp_path / "x.log"
    log.write_text(text)
    with pytest.raises(BadSource, match=said):
        read_nccl_log(log)
    with pytest.raises(BadSource, match="cannot read"):
        read_nccl_log(tmp_path / "none.log")


def trace(path: Path, shapes: list[tuple[int, int, int]], kernels: bool = True) -> Path:
    """A PyTorch profiler trace of GEMMs that run as the shipped H100 profile says."""
    gpu, fit = load_gpu("h100-sxm"), load_profile("h100-sxm").gemms["bf16"]
    events: list[dict[str, Any]] = []
    for number, (m, n, k) in enumerate(shapes):
        seconds = gemm_time_s(Gemm(m, n, k), gpu.peak("bf16"), gpu.hbm_bytes_per_s, gpu.sm_count, fit)
        args = {"External id": number, "Input Dims": [[m, k], [k, n]], "Input type": ["c10::BFloat16"] * 2}
        events.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": number, "dur": 5, "args": args})
        if kernels:
            kernel = {"ph": "X", "cat": "kernel", "name": "gemm", "ts": number, "dur": seconds * 1e6}
            events.append(kernel | {"args": {"External id": number}})
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_a_profiler_trace_is_read_and_fitted(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    shapes = [(m, n, k) for m in (256, 1024, 4096, 8192) for n in (1024, 4096) for k in (2048, 8192)]
    path = trace(tmp_path / "t.json", shapes)
    assert [(w.m, w.n, w.k) for w, _ in read_trace(path)] == shapes
    raw = from_trace([path], "h100-sxm")
    assert raw["provenance"]["gemm/bf16"]["median_error"] < 0.1
    assert raw["provenance"]["gemm/bf16"]["tables"] == ["t.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"traceEvents": []}', "[1]"])
def test_traces_without_kernels_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(BadSource, match=r"record with|export_chrome_trace"):
        read_trace(path)
    with pytest.raises(BadSource, match="holds no GPU kernels of GEMMs with shapes"):
        read_trace(trace(path, [(8, 8, 8)], kernels=False))


def test_systems_are_spelled_either_way() -> None:
    assert system_name("h200_sxm") == system_name("h200-sxm") == "h200-sxm"
    with pytest.raises(BadSource, match="did you mean 'h200"):
        system_name("h200_smx")
    with pytest.raises(BadSource, match="--system is missing: one of"):
        system_name("")


def test_a_table_of_samples_makes_the_profile_that_measuring_made(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    from dataclasses import asdict

    from synthetic import MACHINE, samples

    from moesim.calibrate.measure.samples import append, load_samples
    from moesim.calibrate.own.profile import make_own_profile

    table, rows = tmp_path / "law.samples.csv", samples(1, quick=True)
    append(table, rows)
    with pytest.raises(BadSamples, match=r"needs law.samples.machine.json beside it"):
        from_samples(table)
    machine_file(table).write_text(json.dumps(asdict(MACHINE)))
    assert from_samples(table) == make_own_profile(load_samples(table), MACHINE, table)


ROW = "llama-3.1-8b,H100,8,4096,128,1,1,1,1,megatron-tuned,26.02"
HEADER = "model,gpu,gpus,seq_len,gbs,mbs,tp,pp,cp,stack,release,step_time_s"


def own_rows(path: Path, factors: list[float]) -> Path:
    """Runs of one deployment that take `factors` times what is predicted."""
    from moesim.calibrate.record.validation import validate

    path.write_text(f"{HEADER}\n{ROW},\n")
    predicted = validate(path).records[0].predicted
    assert predicted is not None
    path.write_text("\n".join([HEADER, *(f"{ROW},{predicted * f}" for f in factors)]) + "\n")
    return path


def test_own_rows_correct_their_deployment_and_no_other(tmp_path: Path) -> None:
    kept = learn(load_rows(own_rows(tmp_path / "mine.csv", [1.2, 1.25, 1.3])))
    assert [len(each.runs) for each in kept] == [3]
    file = tmp_path / "corrections.json"
    write_own_runs(kept, file)
    job: dict[str, Any] = {
        "model": "llama-3.1-8b", "cluster": {"gpu": "H100", "gpus": 8}, "stack": "megatron-tuned",
        "train": {"global_batch": 64, "seq_len": 8192},
    }  # fmt: skip
    plain = predict_train(job, check_memory=False)
    ours = predict_train({**job, "corrections": str(file)}, check_memory=False)
    assert 1.1 < ours.step_time_s / plain.step_time_s < 1.25  # two doublings away: part of it is not believed yet
    assert ours.high_s > 1.25 * plain.step_time_s
    assert sum(ours.breakdown_s.values()) == pytest.approx(ours.step_time_s, rel=1e-9)
    assert ours.sureness.band.startswith("own runs") and ours.low_s < ours.step_time_s < ours.high_s
    other = {**job, "model": "mixtral-8x7b", "corrections": str(file)}
    stretched = predict_train(other, check_memory=False)
    assert stretched.step_time_s == predict_train({**job, "model": "mixtral-8x7b"}, check_memory=False).step_time_s
    assert any("knows no own runs of mixtral-8x7b" in note for note in stretched.assumptions)


def test_rows_without_a_measured_step_teach_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(f"{HEADER}\n{ROW},\n")
    with pytest.raises(BadDeployment, match="no row has a measured step_time_s"):
        learn(load_rows(tmp_path / "mine.csv"))
