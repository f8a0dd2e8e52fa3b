"""A whole command line of an engine as what a scenario says: layout of a worker, settings of the engine, features.

engine_arguments.py reads what stands in `serve.engine.args`, where other keys say the layout; here the command is all
there is. `max-running-requests` and `chunked-prefill-size` of SGLang are of all attention ranks of a server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from moesim.sim.software.engine_arguments import arguments_of, pairs_of
from moesim.sim.software.stack import StackError

_PER_RANK = ("max_batch", "token_budget")
_METHODS = {"NEXTN": "mtp", "EAGLE": "eagle", "EAGLE3": "eagle3", "NGRAM": "ngram", "STANDALONE": "draft_model"}


@dataclass(slots=True)
class Command:
    """What a command line starts: degrees of one worker, settings of the engine by rank, keys of a serve section."""

    layout: dict[str, int]
    settings: dict[str, Any]
    serve: dict[str, Any] = field(default_factory=dict)
    role: str = "serve"  # or prefill, decode


def command_of(family: str, text: str) -> Command:
    """A command line, from its first option on. StackError for options that are unknown."""
    said = dict(pairs_of(text))
    own = _VLLM if family == "vllm" else _SGLANG
    rest = " ".join(_spelled(word, value) for word, value in said.items() if word not in own)
    plain = arguments_of(family, rest)
    layout = {"tp": 1, "pp": 1, "ep": 1, "attention_dp": 1, **plain.layout}
    read = Command(layout, plain.settings)
    (_vllm if family == "vllm" else _sglang)(read, said)
    return read


def _spelled(word: str, value: str | None) -> str:
    return f"--{word}" if value is None else f"--{word} {value}"


_VLLM = (
    "data-parallel-size", "data-parallel-size-local", "data-parallel-address", "data-parallel-rpc-port",
    "data-parallel-start-rank", "data-parallel-hybrid-lb", "headless", "enable-expert-parallel", "all2all-backend",
    "enable-eplb", "eplb-config", "enable-dbo", "kv-cache-dtype", "quantization", "speculative-config",
    "kv-transfer-config", "enable-lora", "max-loras", "max-lora-rank",
)  # fmt: skip


def _vllm(read: Command, said: dict[str, str | None]) -> None:
    layout = read.layout
    layout["attention_dp"] = int(said.get("data-parallel-size") or 1)
    if "enable-expert-parallel" in said:
        layout["ep"] = layout["tp"] * layout["attention_dp"]
    if "enable-eplb" in said:
        read.serve["expert_slots"] = _json(said.get("eplb-config")).get("num_redundant_experts", 0)
    if "enable-dbo" in said:
        read.serve["two_batch_overlap"] = True
    _cache(read, said.get("kv-cache-dtype"))
    drafts = _json(said.get("speculative-config"))
    if drafts:
        read.serve["speculative"] = {"method": drafts["method"], "tokens": drafts["num_speculative_tokens"]}
    _lora(read, said, "max-loras")


_SGLANG = (
    "dp-size", "enable-dp-attention", "moe-a2a-backend", "moe-dense-tp-size",
    "ep-num-redundant-experts", "enable-eplb", "enable-two-batch-overlap", "kv-cache-dtype", "quantization",
    "speculative-algorithm", "speculative-num-steps", "speculative-eagle-topk", "speculative-num-draft-tokens",
    "speculative-draft-model-path", "disaggregation-mode", "disaggregation-transfer-backend", "enable-lora",
    "max-loras-per-batch", "max-lora-rank", "nnodes", "node-rank", "dist-init-addr",
)  # fmt: skip


def _sglang(read: Command, said: dict[str, str | None]) -> None:
    layout = read.layout  # the degrees with all names that the engine has for them
    ranks = layout["tp"]
    dp = int(said.get("dp-size") or 1) if "enable-dp-attention" in said else 1
    if ranks % dp:
        raise StackError(f"--dp-size {dp} does not divide --tp-size {ranks}; with attention ranks of their own it must")
    layout["tp"], layout["attention_dp"] = ranks // dp, dp
    for key in _PER_RANK:
        if key in read.settings:
            read.settings[key] /= dp
    if said.get("ep-num-redundant-experts"):
        read.serve["expert_slots"] = int(said["ep-num-redundant-experts"] or 0)
    if "enable-two-batch-overlap" in said:
        read.serve["two_batch_overlap"] = True
    _cache(read, said.get("kv-cache-dtype"))
    if said.get("speculative-algorithm"):
        method = _METHODS[said["speculative-algorithm"] or ""]
        method = "mtp" if method == "eagle" and "speculative-draft-model-path" not in said else method
        read.serve["speculative"] = {"method": method, "tokens": int(said.get("speculative-num-steps") or 1)}
    read.role = said.get("disaggregation-mode") or "serve"
    _lora(read, said, "max-loras-per-batch")


def _cache(read: Command, dtype: str | None) -> None:
    if dtype and dtype != "auto":
        read.serve["kv_dtype"] = "fp8" if dtype.startswith("fp8") else "bf16"


def _lora(read: Command, said: dict[str, str | None], count: str) -> None:
    if "enable-lora" in said:
        read.serve["adapters"] = {"count": int(said.get(count) or 1), "rank": int(said.get("max-lora-rank") or 16)}


def _json(text: str | None) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise StackError(f"{text!r} is no JSON: {error.msg}") from None
    return found
