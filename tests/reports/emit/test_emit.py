"""Emitted deployments: every key is a documented one, numbers survive, what has no option is said."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from moesim.files.whole import OutputError
from moesim.reports.cli.app import run
from moesim.reports.emit.files import TARGETS, emitted, write_files
from moesim.reports.emit.scenario import name_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.job import ResolvedServe, ServeJob
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.software.engine_commands import Command, command_of
from moesim.sim.software.engine_options import engine_options

LOAD = {"kind": "poisson", "rate_per_s": 20, "count": 50, "input_tokens": 1500, "output_tokens": 100}
WIDE: dict[str, Any] = {
    "engine": {"name": "sglang", "token_budget": 4096, "kv_fraction": 0.85, "block_tokens": 64}, "precision": "fp8",
    "kv_dtype": "fp8", "expert_slots": 64, "two_batch_overlap": True, "speculative": {"tokens": 2},
    "pools": {"prefill": {"workers": 2, "ep": 16, "attention_dp": 16},
              "decode": {"ep": 64, "attention_dp": 32, "tp": 2}},
    "requests": LOAD,
}  # fmt: skip
QUESTIONS: dict[str, dict[str, Any]] = {
    "wide pools": {"model": "deepseek-v3", "cluster": {"node": "dgx-h200", "gpus": 96}, "serve": WIDE},
    "replicas": {
        "model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 2, "ep": 2},
        "serve": {"engine": {"name": "vllm", "max_batch": 128}, "adapters": {"count": 8, "rank": 16}, "requests": LOAD},
    },
    "a pipeline": {
        "model": "llama-3.1-70b", "cluster": {"node": "dgx-h100", "gpus": 16}, "layout": {"tp": 8, "pp": 2},
        "serve": {"engine": "vllm", "precision": "fp8", "requests": LOAD,
                  "speculative": {"tokens": 4, "method": "ngram"}},
    },
    "TensorRT-LLM": {
        "model": "gpt-oss-120b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 1, "ep": 4},
        "serve": {"engine": "trtllm", "precision": "fp4", "attention_dp": 4, "router": "prefix", "requests": LOAD},
    },
}  # fmt: skip
CASES = [(name, target) for name in QUESTIONS for target in TARGETS]


def resolved_of(name: str, **serve: Any) -> ResolvedServe:
    asked = QUESTIONS[name]
    return resolve_serve(parse_scenario({**asked, "serve": {**asked["serve"], **serve}}))


def files_of(name: str, target: str, **serve: Any) -> dict[str, str]:
    return emitted(resolved_of(name, **serve), str(QUESTIONS[name]["model"]), target)


def command_in(text: str) -> str:
    """Options of the one command of a shell file, host by host ones without their variables."""
    lines = [line for line in text.splitlines() if not line.startswith(("#", "MODEL", "HEAD", "NODE_RANK"))]
    joined = " ".join(
        line.rstrip("\\").strip() for line in lines if ("$([" not in line and '"$' not in line) or "MODEL" in line
    )
    return (
        joined[joined.index("--") :].replace('--model-path "$MODEL"', "").replace("--data-parallel-address $HEAD", "")
    )


@pytest.mark.parametrize(("name", "target"), CASES)
def test_every_option_is_documented(name: str, target: str) -> None:
    words = {word for each in ("vllm", "sglang", "trtllm", "dynamo") for word in engine_options(each).get("words", {})}
    known = {*words, *engine_options("vllm")["options"], *engine_options("sglang")["options"]}
    for text in files_of(name, target).values():
        lines = [line.split("trtllm-llmapi-launch")[-1] for line in text.splitlines()]  # behind what Slurm is told
        body = "\n".join(line for line in lines if not line.startswith("#"))
        assert set(re.findall(r"(?:^|[\s'\"])--([a-z0-9][a-z0-9-]*)", body)) <= known
        assert engine_options(target)["version"] in text  # comments cite the version


def agrees(read: Command, job: ServeJob) -> None:
    layout = {"tp": job.layout.tp, "pp": job.layout.pp, "ep": job.layout.ep, "attention_dp": job.attention_dp}
    assert read.layout == layout
    assert read.settings["max_batch"] == job.engine.max_batch
    assert read.settings["token_budget"] == job.engine.token_budget
    assert read.serve.get("expert_slots", 0) == job.expert_slots
    assert read.serve.get("two_batch_overlap", False) == job.two_batch
    assert (read.serve.get("kv_dtype") == "fp8") == (job.formats.kv == "fp8")
    drafts = None if job.speculation is None else {"method": job.speculation.method, "tokens": job.speculation.tokens}
    assert read.serve.get("speculative") == drafts
    assert ("adapters" in read.serve) == (job.adapters is not None)


@pytest.mark.parametrize("name", ["wide pools", "replicas", "a pipeline"])
@pytest.mark.parametrize("family", ["vllm", "sglang"])
def test_commands_read_back(name: str, family: str) -> None:
    resolved, files = resolved_of(name), files_of(name, family)
    d = resolved.deployment
    for role, job in (("decode" if d.prefill else "serve", d.job), ("prefill", d.prefill)):
        if job is None:
            continue
        read = command_of(family, command_in(files[f"{role}.sh"]))
        agrees(read, job)
        if job.engine.family == family and "kv_fraction" in job.engine.given:
            assert read.settings["kv_fraction"] == job.engine.kv_fraction
            assert read.settings["block_tokens"] == job.engine.block_tokens


def test_trtllm_numbers() -> None:
    files = files_of("TensorRT-LLM", "trtllm")
    said = yaml.safe_load(files["serve.yaml"])
    assert (said["tensor_parallel_size"], said["moe_expert_parallel_size"], said["enable_attention_dp"]) == (4, 4, True)
    assert said["kv_cache_config"]["free_gpu_memory_fraction"] == 0.92
    wide = files_of("wide pools", "trtllm")
    assert yaml.safe_load(wide["decode.yaml"])["moe_config"]["load_balancer"]["num_slots"] == 320
    both = yaml.safe_load(wide["disaggregated.yaml"])
    assert both["context_servers"]["num_instances"] == 2 and len(both["generation_servers"]["urls"]) == 1
    assert "two_batch_overlap: TensorRT-LLM has no option for it" in wide["decode.yaml"]
    assert "attention_dp is all or nothing" in wide["decode.yaml"]
    assert "trtllm-llmapi-launch" in wide["serve.sh"] and "disaggregated -c disaggregated.yaml" in wide["serve.sh"]


def test_manifests() -> None:
    dynamo = yaml.safe_load(files_of("wide pools", "dynamo")["dynamo.yaml"])
    services = dynamo["spec"]["services"]
    gpus = {name: s["replicas"] * s.get("multinode", {}).get("nodeCount", 1) * int(s["resources"]["limits"]["gpu"])
            for name, s in services.items() if name != "Frontend"}  # fmt: skip
    assert gpus == {"PrefillWorker": 32, "DecodeWorker": 64}
    args = services["DecodeWorker"]["extraPodSpec"]["mainContainer"]["args"]
    agrees(command_of("sglang", shlex.join(args[2:-2])), resolved_of("wide pools").deployment.job)
    config, graph = yaml.safe_load_all(files_of("TensorRT-LLM", "dynamo")["dynamo.yaml"])
    assert yaml.safe_load(config["data"]["serve.yaml"])["max_batch_size"] == 2048
    frontend = graph["spec"]["services"]["Frontend"]["extraPodSpec"]["mainContainer"]["args"]
    assert frontend[:2] == ["--router-mode", "kv"]
    values = yaml.safe_load(files_of("wide pools", "llm-d")["modelservice.yaml"])
    decode = values["decode"]
    assert decode["parallelism"] == {"tensor": 2, "data": 32, "dataLocal": 4, "workers": 8} and values["multinode"]
    one = yaml.safe_load(files_of("replicas", "llm-d")["modelservice.yaml"])
    assert one["decode"]["replicas"] == 4 and one["prefill"] == {"create": False}
    plugins = yaml.safe_load(files_of("wide pools", "llm-d")["scheduler.yaml"])["inferenceExtension"]
    profiles = yaml.safe_load(plugins["pluginsCustomConfig"]["plugins.yaml"])["schedulingProfiles"]
    assert [p["name"] for p in profiles] == ["prefill", "decode"]


def test_what_has_no_option_is_said() -> None:
    tiers = {"kv_tiers": [{"kind": "host", "bytes": 1e11}], "admission": {"queue_limit": 5}}
    text = files_of("replicas", "sglang", **tiers)["serve.sh"]
    assert "simulated as vllm: times of sglang are others" in text
    assert "kv_tiers: caches behind" in text and "admission: limits of the queue" in text
    split = {**QUESTIONS["wide pools"]["serve"]["pools"], "decode": {"ep": 32, "etp": 2, "attention_dp": 32, "tp": 2}}
    assert "vLLM spreads experts over all 64 ranks or none" in files_of("wide pools", "vllm", pools=split)["decode.sh"]
    ray = files_of("a pipeline", "vllm")["serve.sh"]
    assert "--distributed-executor-backend ray" in ray and "start a Ray cluster" in ray


@pytest.mark.parametrize(("version", "said"), [("0.11.0", True), ("0.12.0", False), (None, False)])
def test_the_version_of_a_scenario_stands_beside_that_of_the_options(version: str | None, said: bool) -> None:
    engine = {"name": "vllm", "max_batch": 128} | ({"version": version} if version else {})
    text = files_of("replicas", "vllm", engine=engine)["serve.sh"]
    assert "# options: vllm 0.12.0 (" in text
    assert (
        "the scenario says vllm 0.11.0; these options are those of the documentation of vllm 0.12.0" in text
    ) == said
    assert ("the scenario says" in text) == said
    assert "the scenario says" not in files_of("replicas", "sglang", engine=engine)["serve.sh"]


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("weights/qwen/config.json", "weights/qwen"),
        ("Qwen/Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B"),
        ("my-model.yaml", "MODEL"),
        ({"name": "mine"}, "mine"),
    ],
)
def test_a_model_is_named_as_engines_take_it(model: Any, named: str) -> None:
    scenario = parse_scenario(QUESTIONS["replicas"]).model_copy(update={"model": model})
    assert name_of(scenario) == named


def test_weights_of_a_folder_are_no_name_of_a_hub() -> None:
    (text,) = (t for n, t in emitted(resolved_of("replicas"), "/w/qwen", "llm-d").items() if n == "modelservice.yaml")
    assert "uri: pvc://VOLUME/w/qwen" in text


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_files({"a.sh": "x\n", "b.yaml": "y\n"}, tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.sh", "b.yaml"]
    with pytest.raises(OutputError, match="cannot write"):
        write_files({"a": "x"}, tmp_path / "no" / "such")


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = tmp_path / "job.yaml"
    scenario.write_text(yaml.safe_dump(QUESTIONS["replicas"]), encoding="utf-8")
    assert run(["serve", str(scenario), "--emit", "vllm"]) == 0
    assert "vllm serve" in capsys.readouterr().out
    assert run(["serve", str(scenario), "--emit", "llm-d", "--emit-out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "scheduler.yaml").is_file()
    assert run(["serve", str(scenario), "--emit", "vlm"]) == 2
    assert "'vlm' is not known; did you mean" in capsys.readouterr().err
