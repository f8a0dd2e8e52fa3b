"""Small valid questions and files of every kind: what hostile inputs are made from."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from moesim.calibrate.measure.samples import COLUMNS
from moesim.reports.template import HARDWARE
from tests.calibrate.rows.log_forms import deepspeed, megatron, nemo, torchtitan
from tests.calibrate.rows.result_forms import AIPERF, GENAI_PERF, GUIDELLM, INFERENCEMAX, SGLANG, VLLM

_TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(_TESTS / "calibrate" / "own"), str(_TESTS / "calibrate")]  # forms that stand beside their tests

MODEL = {
    "name": "small",
    "hidden": 256,
    "layers": 2,
    "pattern": "attention+moe",
    "attention": {"heads": 4, "kv_heads": 2},
    "moe": {"experts": 8, "top_k": 2, "expert_intermediate": 128, "gated": True},
    "vocab": 1000,
    "tied_embeddings": False,
    "max_context": 4096,
}
CONFIG = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 512,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "sliding_window": None,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "torch_dtype": "bfloat16",
}
TRAIN: dict[str, Any] = {
    "model": MODEL,
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"ep": 8},
    "train": {"global_batch": 16, "seq_len": 512},
    "routing": {"lognormal": 0.5},
}
TRAIN_MORE: dict[str, Any] = {
    **TRAIN,
    "model": "mixtral-8x7b",
    "cluster": {"gpu": "H100", "gpus": 16, "fabric": "infiniband"},
    "layout": {"pp": 2, "ep": 8, "schedule": "1f1b", "zero": 1},
    "train": {"global_batch": 32, "micro_batch": 1, "seq_len": 1024, "precision": "bf16", "recompute": "full"},
    "placement": {"spare_slots": 8},
    "jitter": 0.02,
    "slow": {"ids": [3], "factor": 0.8},
    "stack": {"name": "megatron-core"},
    "links": {"degraded": {"nic3": 0.5}, "failed": {}},
    "price_usd_per_gpu_hour": 2.5,
    "release": "26.04",
}
SERVE: dict[str, Any] = {
    "model": MODEL,
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {
        "engine": "vllm",
        "precision": "bf16",
        "slo": {"ttft_s": 1.0, "tpot_s": 0.05},
        "requests": {"kind": "closed", "concurrency": 4, "count": 12, "input_tokens": 128, "output_tokens": 8},
    },
}
SERVE_MORE: dict[str, Any] = {
    "model": MODEL,
    "cluster": {"gpu": "H100", "gpus": 4},
    "serve": {
        "engine": {"name": "sglang", "max_batch": 16},
        "precision": "fp8",
        "kv_dtype": "fp8",
        "pools": {"prefill": {"workers": 2, "tp": 1}, "decode": {"workers": 1, "tp": 2}},
        "requests": {
            "kind": "poisson",
            "rate_per_s": 5,
            "count": 20,
            "input_tokens": 100,
            "output_tokens": 6,
            "jitter": 0.2,
        },
        "speculative": {"tokens": 2, "acceptance": 0.6},
        "router": {"kind": "prefix"},
        "kv_tiers": [{"kind": "host", "bytes": "10 GB"}],
        "admission": {"queue_limit": 10},
        "sampling": {"kind": "top_p", "logprobs": 3},
    },
}
DAY: dict[str, Any] = {
    **SERVE,
    "cluster": {"node": "dgx-h100", "gpus": 6},
    "serve": {
        **SERVE["serve"],
        "autoscale": {"most": 3, "failures_per_day": 1},
        "requests": {"kind": "poisson", "rate_per_s": 1, "input_tokens": 64, "output_tokens": 4},
    },
}
SCENARIOS = {"train": TRAIN, "train more": TRAIN_MORE, "serve": SERVE, "serve more": SERVE_MORE, "day": DAY}


def text(tree: Any) -> bytes:
    """A tree as YAML."""
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=False).encode()


def _jsons() -> dict[str, Any]:
    from synthetic import MACHINE
    from trace_forms import of_gemms

    results = {
        "vllm": VLLM,
        "sglang": SGLANG,
        "genai-perf": GENAI_PERF,
        "aiperf": AIPERF,
        "guidellm": GUIDELLM,
        "inferencemax": INFERENCEMAX,
    }
    return {
        "machine": asdict(MACHINE),
        "config": CONFIG,
        "kineto": of_gemms().trace(),
        **{f"result {name}": value for name, value in results.items()},
    }


@cache
def trees() -> dict[str, Any]:
    """Files that are trees, by kind: broken in their values."""
    found = {"model": MODEL, "hardware": yaml.safe_load(HARDWARE), **_jsons(), **_made()}
    return {kind: json.loads(json.dumps(value)) for kind, value in found.items()}


@cache
def texts() -> dict[str, bytes]:
    """Files that are lines, by kind."""
    from nccl_forms import log
    from synthetic import samples

    table = [",".join(COLUMNS), *(",".join(row.cells()) for row in samples(1, True)[::4])]
    found = {
        "samples": "\n".join(table) + "\n",
        "log megatron": megatron([1000.0, 900.0, 901.0, 902.0, 905.0]),
        "log nemo": nemo([1.0, 1.1, 1.0, 1.2, 1.1]),
        "log torchtitan": torchtitan([900, 1000, 1001, 1002]),
        "log deepspeed": deepspeed([30.0, 31.0, 31.1, 31.2]),
        "nccl": log("all_reduce"),
        "nccl alltoall": log("alltoall", ("a", "b")),
        "rows": "model,gpu,gpus,seq_len,gbs,mbs,tp,pp,cp,stack,release,step_time_s\n"
        "llama-3.1-8b,H100,8,4096,128,1,1,1,1,megatron-tuned,26.02,5.1\n"
        "llama-3.1-8b,H100,8,4096,128,1,2,1,1,megatron-tuned,26.02,5.3\n",
        "requests": "arrival_s,input_tokens,output_tokens\n"
        + "".join(f"{i * 0.5},{100 + i},{4 + i}\n" for i in range(9)),
        "requests mooncake": "".join(
            json.dumps({"timestamp": 500 * i, "input_length": 1024 + i, "output_length": 5, "hash_ids": [0, i]}) + "\n"
            for i in range(8)
        ),
        "traffic": "hour,requests_per_s,input_tokens,output_tokens\n"
        + "".join(f"{h},{0.02 * (1 + h % 5)},64,4\n" for h in range(24)),
        "counts": "\n".join(",".join(str(1 + (i * j) % 7) for j in range(8)) for i in range(2)) + "\n",
    }
    return {kind: value.encode() for kind, value in found.items()}


@cache
def binaries() -> dict[str, bytes]:
    """Files that are neither."""
    from nsight_forms import export, ranges

    counts = np.arange(1, 17, dtype=np.int64).reshape(2, 8)
    plain, packed = io.BytesIO(), io.BytesIO()
    np.save(plain, counts)
    np.savez_compressed(packed, counts=np.stack([counts, counts]))
    with TemporaryDirectory() as folder:
        nsight = export(Path(folder) / "n.sqlite", ranges()).read_bytes()
    return {"counts npy": plain.getvalue(), "counts npz": packed.getvalue(), "nsight": nsight}


def _made() -> dict[str, Any]:
    """Files that moesim writes itself: a profile from logs, corrections from runs."""
    from nccl_forms import log

    from moesim.calibrate.own.deployments import learn
    from moesim.calibrate.own.sources import from_nccl_logs
    from moesim.calibrate.rows.files import load_rows
    from moesim.sim.train.own_runs import write_own_runs

    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.log").write_text(log("all_reduce"), encoding="utf-8")
        profile = from_nccl_logs([folder / "a.log"], "", 0).raw
        (folder / "rows.csv").write_bytes(texts()["rows"])
        write_own_runs(learn([load_rows(folder / "rows.csv")]), folder / "c.json")
        corrections = json.loads((folder / "c.json").read_text(encoding="utf-8"))
    return {"profile": profile, "corrections": corrections}


ENDINGS = {
    "config": ".json",
    "model": ".yaml",
    "hardware": ".yaml",
    "kineto": ".json",
    "profile": ".json",
    "corrections": ".json",
    "nsight": ".sqlite",
    "counts npy": ".npy",
    "counts npz": ".npz",
    "requests mooncake": ".jsonl",
}


def ending(kind: str) -> str:
    """Of a file's name."""
    return ENDINGS.get(
        kind, ".json" if kind.startswith("result") else ".log" if kind.startswith(("log", "nccl")) else ".csv"
    )
