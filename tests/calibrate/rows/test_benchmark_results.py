"""Results of vLLM, SGLang, genai-perf, aiperf, guidellm and InferenceMAX become rows; what they lack is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from result_forms import AIPERF, GENAI_PERF, GUIDELLM, INFERENCEMAX, SGLANG, VLLM

from moesim.calibrate.record.validation import validate
from moesim.calibrate.rows.files import BadRows
from moesim.calibrate.rows.measured.models import model_named
from moesim.calibrate.rows.measured.read import load_measured
from moesim.sim.question.scenario import ScenarioError

MACHINE = {"gpu": "H100", "gpus": "2", "tp": "2", "precision": "bf16"}


def written(tmp_path: Path, content: Any, name: str = "result.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def rows(tmp_path: Path, content: Any, settings: dict[str, str]) -> list[dict[str, str]]:
    return list(load_measured(written(tmp_path, content), None, settings).file.rows)


def part(row: dict[str, str], expected: dict[str, str]) -> dict[str, str]:
    return {name: row.get(name, "") for name in expected}


def test_vllm_states_load_and_measured_values(tmp_path: Path) -> None:
    [row] = rows(tmp_path, VLLM, MACHINE)
    assert row == {
        "id": "result", "source": "result of vLLM or SGLang", "engine": "vllm", "model": "qwen3-32b", "isl": "1024",
        "osl": "128", "requests": "100", "concurrency": "8", "ttft_ms": "250.5", "tpot_ms": "20.25",
        "output_tokens_per_s": "128", "requests_per_s": "1", **MACHINE,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"request_rate": 5.0}, {"arrival": "rate 5", "concurrency": ""}),
        ({"max_concurrency": None}, {"arrival": "100 prompts at once", "concurrency": ""}),
        ({"input_lens": [100, 2000, 900], "output_lens": [10, 10]}, {"lengths": "lognormal"}),
        ({"input_lens": [1024, 1024], "output_lens": [128, 128]}, {"lengths": "fixed"}),
        ({"model_id": "/models/Qwen3-32B-FP8"}, {"model": "qwen3-32b", "precision": "fp8"}),
    ],
)
def test_loads_and_lengths_of_vllm(tmp_path: Path, change: dict[str, Any], expected: dict[str, str]) -> None:
    machine = {k: v for k, v in MACHINE.items() if k not in expected}
    [row] = rows(tmp_path, {**VLLM, **change}, machine)
    assert part(row, expected) == expected


def test_sglang_lines_with_their_server(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({**SGLANG, "max_concurrency": clients}) for clients in (16, 32))
    first, second = rows(tmp_path, lines + '\n{"backend": "sgl', {"gpu": "H100", "gpus": "8"})
    expected = {
        "engine": "sglang", "model": "qwen3-30b-a3b", "precision": "fp8", "tp": "2", "attention_dp": "4", "ep": "8",
        "isl": "1024", "osl": "512", "lengths": "fixed", "concurrency": "16", "tpot_ms": "9.5",
    }  # fmt: skip
    assert part(first, expected) == expected
    assert (second["concurrency"], second["id"]) == ("32", "result-2")


@pytest.mark.parametrize("content", [GENAI_PERF, AIPERF], ids=["genai-perf", "aiperf"])
def test_genai_perf_and_aiperf(tmp_path: Path, content: dict[str, Any]) -> None:
    [row] = rows(tmp_path, content, {**MACHINE, "engine": "trtllm"})
    expected = {
        "model": "llama-3.1-8b",
        "isl": "2048",
        "osl": "256",
        "requests": "200",
        "concurrency": "10",
        "lengths": "fixed",
        "ttft_ms": "120",
        "tpot_ms": "11.5",
        "output_tokens_per_s": "512",
        "requests_per_s": "2",
    }
    assert part(row, expected) == expected
    with pytest.raises(BadRows, match="does not say engine, gpu, gpus"):
        rows(tmp_path, content, {})


def test_guidellm_has_a_row_a_load(tmp_path: Path) -> None:
    got = rows(tmp_path, GUIDELLM, {**MACHINE, "engine": "vllm"})
    assert [(r.get("concurrency", ""), r.get("arrival", "")) for r in got] == [
        ("1", ""),
        ("16", ""),
        ("", "rate 4.5"),
        ("", "300 prompts at once"),
    ]
    expected = {
        "model": "qwen3-32b",
        "ttft_ms": "100",
        "tpot_ms": "15",
        "isl": "512",
        "osl": "100",
        "output_tokens_per_s": "400",
    }
    assert part(got[0], expected) == expected


def test_inferencemax_states_all(tmp_path: Path) -> None:
    loaded = load_measured(written(tmp_path, INFERENCEMAX))
    first, second = loaded.file.rows
    expected = {
        "gpu": "H200",
        "gpus": "8",
        "tp": "8",
        "ep": "1",
        "model": "deepseek-r1-0528",
        "engine": "sglang",
        "precision": "fp8",
        "concurrency": "64",
        "isl": "1024",
        "osl": "1024",
        "ttft_ms": "423.1",
        "tpot_ms": "34.6",
        "mtp": "",
        "output_tokens_per_s_per_gpu": "223.6",
    }
    assert part(first, expected) == expected
    expected = {
        "gpu": "B200",
        "gpus": "4",
        "tp": "1",
        "attention_dp": "4",
        "ep": "4",
        "precision": "nvfp4",
        "mtp": "yes",
    }
    assert part(second, expected) == expected
    assert any("medians stand for means" in note for note in loaded.notes)
    pools = {
        "hw": "gb200",
        "conc": 512,
        "model": "deepseek-ai/DeepSeek-R1",
        "framework": "dynamo-trtllm",
        "precision": "fp4",
        "isl": 1024,
        "osl": 1024,
        "prefill_tp": 4,
        "prefill_ep": 4,
        "prefill_dp_attention": "true",
        "prefill_num_workers": 2,
        "decode_tp": 8,
        "decode_ep": 8,
        "decode_dp_attention": "false",
        "decode_num_workers": 1,
        "mean_tpot": 0.01,
    }
    [row] = load_measured(written(tmp_path, [pools])).file.rows
    expected = {
        "gpus": "16",
        "engine": "trtllm",
        "prefill_workers": "2",
        "prefill_tp": "1",
        "prefill_attention_dp": "4",
        "decode_tp": "8",
    }
    assert part(row, expected) == expected


def test_a_result_is_predicted(tmp_path: Path) -> None:
    validation = validate(written(tmp_path, {**VLLM, "total_output_tokens": 3200}), settings=MACHINE)
    by_metric = {r.metric: r for r in validation.records}
    assert by_metric["ttft_ms"].measured == 250.5
    assert all(r.status == "ok" for r in validation.records)


def test_what_a_file_lacks_is_named_with_what_gives_it(tmp_path: Path) -> None:
    with pytest.raises(
        BadRows, match=r"does not say gpu, gpus, tp, precision; give a scenario .* --scenario my.yaml\) or --set gpu"
    ):
        rows(tmp_path, VLLM, {})
    throughput = {"elapsed_time": 10.0, "num_requests": 1000, "total_num_tokens": 384_000, "requests_per_second": 100.0,
                  "tokens_per_second": 38_400.0}  # fmt: skip
    with pytest.raises(BadRows, match="does not say model, gpu, gpus, isl, osl, tp, precision"):
        rows(tmp_path, throughput, {})
    [row] = rows(tmp_path, throughput, {**MACHINE, "model": "llama-3.1-8b", "isl": "256", "osl": "128"})
    assert part(row, {"arrival": "", "requests_per_s": ""}) == {
        "arrival": "offline, 1000 prompts",
        "requests_per_s": "100",
    }


DEPLOYMENT: dict[str, Any] = {
    "model": "qwen3-32b",
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {"engine": {"name": "vllm", "version": "0.11.0"}, "requests": {"rate_per_s": 1.0}},
}


def test_a_deployment_is_a_scenario_and_must_agree(tmp_path: Path) -> None:
    deployment = tmp_path / "deployment.yaml"
    deployment.write_text(yaml.safe_dump(DEPLOYMENT))
    path = written(tmp_path, {**VLLM, "total_output_tokens": 3200})
    validation = validate(path, scenario=deployment)
    assert {r.metric: r.status for r in validation.records}["tpot_ms"] == "ok"
    from moesim.sim.serve.predict import predict_serve

    requests = {
        "kind": "closed",
        "concurrency": 8,
        "count": 100,
        "input_tokens": 1024,
        "output_tokens": 32,
        "warmup": 0,
        "jitter": 0.0,
    }
    serve = {**DEPLOYMENT["serve"], "requests": requests}
    asked = predict_serve({**DEPLOYMENT, "serve": serve})
    predicted = {r.metric: r.predicted for r in validation.records}["tpot_ms"]
    assert predicted == pytest.approx(asked.tpot_s.mean * 1e3, rel=1e-9)
    for change, said in (
        ({"model": "llama-3.1-8b"}, "model = qwen3-32b"),
        ({"serve": {**serve, "engine": "sglang"}}, "engine = vllm"),
    ):
        deployment.write_text(yaml.safe_dump({**DEPLOYMENT, **change}))
        with pytest.raises(BadRows, match=f"says {said}, but .*deployment.yaml says"):
            validate(path, scenario=deployment)
    deployment.write_text("model: 3\n")
    with pytest.raises(ScenarioError, match=r"deployment\.yaml"):
        validate(path, scenario=deployment)
    with pytest.raises(ScenarioError, match="no such scenario file"):
        validate(path, scenario=tmp_path / "none.yaml")


@pytest.mark.parametrize("tool", ["vllm", "sglang", "genai-perf"])
def test_what_serve_writes_is_read_again(tmp_path: Path, tool: str) -> None:
    """One spelling for writing and reading: the prediction validates as itself, but for what its load does not tell."""
    from moesim.reports.results import write_result
    from moesim.sim.serve.predict import predict_serve

    requests = {"kind": "closed", "concurrency": 4, "count": 40, "input_tokens": 512, "output_tokens": 64, "warmup": 0}
    answer = predict_serve({**DEPLOYMENT, "serve": {**DEPLOYMENT["serve"], "requests": requests}})
    write_result(answer, tool, tmp_path / "r.json")
    settings = {**MACHINE} if tool != "genai-perf" else {**MACHINE, "engine": "vllm"}
    if tool == "sglang":
        settings["model"] = "qwen3-32b"
    [row] = load_measured(tmp_path / "r.json", None, settings).file.rows
    assert part(row, {"isl": "", "osl": "", "concurrency": "", "requests": ""}) == {
        "isl": "512", "osl": "64", "concurrency": "4", "requests": "40",
    }  # fmt: skip
    assert float(row["ttft_ms"]) == pytest.approx(answer.ttft_s.mean * 1e3, rel=1e-6)
    assert float(row["tpot_ms"]) == pytest.approx(answer.tpot_s.mean * 1e3, rel=1e-6)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "no objects of results"),
        ({}, "of no form that is known"),
        ({**VLLM, **{k: 0 for k in VLLM if "mean" in k or "put" in k}}, "without a measured value"),
        (
            [{**INFERENCEMAX[0], "mean_ttft": None, "mean_tpot": "x", "output_tput_per_gpu": 0}],
            "mean_tpot is text",
        ),
        ('{"a": 1}\n{"b": \n{"c": 3}', "is not JSON"),
        ("[" * 50_000, "nested too deep"),
        ('{"output_throughput": 1' + "0" * 6000 + ', "total_input_tokens": 5}', "is not JSON|without a measured value"),
    ],
)
def test_broken_results_are_refused_in_one_line(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(BadRows, match=said) as refused:
        rows(tmp_path, content, MACHINE)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1-0528"), ("nvidia/DeepSeek-R1-0528-FP4-v2", "deepseek-r1-0528"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.3-70b"), ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral-8x7b-v0.1"), ("who/Knows-7B", "who/Knows-7B"),
    ],
)  # fmt: skip
def test_published_names_are_models_of_the_catalogue(published: str, ours: str) -> None:
    assert model_named(published) == ours


def test_other_spellings_of_the_same_tools(tmp_path: Path) -> None:
    listed = [{"tag": "ttft", **GENAI_PERF["time_to_first_token"]}, {"tag": "itl", **GENAI_PERF["inter_token_latency"]}]
    listed += [
        {"tag": name, **GENAI_PERF[name]} for name in ("request_throughput", "output_token_throughput", "request_count")
    ]
    listed += [{"tag": name, **GENAI_PERF[name]} for name in ("input_sequence_length", "output_sequence_length")]
    short = {"records": listed, "input_config": AIPERF["input_config"]}
    settings = {**MACHINE, "engine": "vllm"}
    assert rows(tmp_path, short, settings) == rows(tmp_path, AIPERF, settings)
    web = {
        "hardware": "b200", "framework": "sglang", "model": "DeepSeek-R1", "precision": "fp4", "spec_method": "none",
        "disagg": False, "prefill_tp": 8, "decode_tp": 8, "decode_ep": 8, "decode_dp_attention": True, "isl": 8192,
        "osl": 1024, "conc": 16, "metrics": {"mean_ttft": 0.5, "mean_tpot": 0.011, "output_tput_per_gpu": 200.0},
        "prefill_num_workers": 1, "decode_num_workers": 1,
    }  # fmt: skip
    agents = {**web, "isl": None, "osl": None}
    loaded = load_measured(written(tmp_path, [web, agents]))
    expected = {"gpu": "B200", "gpus": "8", "tp": "1", "attention_dp": "8", "model": "deepseek-r1", "tpot_ms": "11"}
    assert [part(row, expected) for row in loaded.file.rows] == [expected]
    assert any("1 records without fixed lengths" in note for note in loaded.notes)


def test_sglangs_offline_benchmark_queues_all_prompts(tmp_path: Path) -> None:
    offline = {
        "backend": "engine", "successful_requests": 100, "total_latency": 20.0, "total_input_tokens": 51_200,
        "total_output_tokens": 12_800, "request_throughput": 5.0, "input_throughput": 2560.0,
        "output_throughput": 640.0,
    }  # fmt: skip
    [row] = rows(tmp_path, offline, {**MACHINE, "model": "qwen3-32b"})
    expected = {"engine": "sglang", "arrival": "offline", "requests": "100", "isl": "512", "osl": "128"}
    assert part(row, expected) == expected


def test_a_newer_report_of_guidellm_with_medians_and_asked_lengths(tmp_path: Path) -> None:
    run = {
        "config": {"strategy": {"type_": "concurrent", "streams": 8}, "backend": {"model": "Qwen/Qwen3-32B"}},
        "metrics": {
            "output_tokens_per_second": {"successful": {"mean": 900.0}},
            "time_to_first_token_ms": {"successful": {"median": 45.0}},
            "inter_token_latency_ms": {"successful": {"median": 9.0}},
        },
    }
    report = {"args": {"data": ["prompt_tokens=1000,output_tokens=500"]}, "benchmarks": [run]}
    loaded = load_measured(written(tmp_path, report), None, {**MACHINE, "engine": "vllm"})
    expected = {"concurrency": "8", "isl": "1000", "osl": "500", "ttft_ms": "45", "tpot_ms": "9", "model": "qwen3-32b"}
    assert part(loaded.file.rows[0], expected) == expected
    assert any("medians stand for means" in note for note in loaded.notes)
    listed = {**GENAI_PERF, "input_config": {"model": ["meta-llama/Llama-3.1-8B"], "concurrency": [16]}}
    assert rows(tmp_path, listed, {**MACHINE, "engine": "vllm"})[0]["concurrency"] == "16"
