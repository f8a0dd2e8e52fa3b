"""Small jobs that several tests simulate: one per mechanism, each a fraction of a second."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import Tuning
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices

DENSE: dict[str, Any] = {
    "layers": 8, "hidden": 1024, "heads": 16, "kv_heads": 8, "vocab": 32000, "gated": True, "intermediate": 2816,
    "bias": False, "layernorm": False, "tied_embeddings": False, "learned_positions": 0,
}  # fmt: skip
MOE: dict[str, Any] = {
    "hidden": 1024, "layers": 8, "vocab": 32000, "tied_embeddings": False, "max_context": 4096,
    "attention": {"heads": 16, "kv_heads": 4, "head_dim": 64},
    "moe": {"experts": 16, "top_k": 2, "expert_intermediate": 1408, "gated": True, "shared_intermediate": 1408},
}  # fmt: skip


def job(model: dict[str, Any] | str, gpus: int, layout: dict[str, Any], **train: Any) -> dict[str, Any]:
    """A scenario mapping on H100 hosts; `train` overrides the batch of 64 sequences of 2,048 tokens."""
    top = {key: train.pop(key) for key in ("stack", "routing", "release") if key in train}
    return {
        "model": deepcopy(model),
        "cluster": {"node": "dgx-h100", "gpus": gpus},
        "layout": layout,
        "train": {"global_batch": 64, "seq_len": 2048, **train},
        **top,
    }


JOBS: dict[str, dict[str, Any]] = {
    "one GPU": job(DENSE, 1, {}, global_batch=4),
    "data parallel, ZeRO-1": job(DENSE, 8, {}),
    "FSDP": job(DENSE, 8, {"zero": 3}, stack="torchtitan"),
    "hybrid FSDP": job(DENSE, 16, {"zero": 3, "zero_group": 8}, stack="composer-fsdp"),
    "1F1B": job(DENSE, 8, {"pp": 4}),
    "GPipe": job(DENSE, 8, {"pp": 4, "schedule": "gpipe"}),
    "interleaved": job(DENSE, 8, {"pp": 4, "vpp": 2, "schedule": "interleaved"}),
    "ZB-V": job(DENSE, 8, {"pp": 4, "vpp": 2, "schedule": "zb-v"}),
    "ZB-H1": job(DENSE, 8, {"pp": 4, "schedule": "zb-h1"}),
    "host memory": job(DENSE, 8, {"pp": 4}, offload_activations=0.5, offload_optimizer=True),
    "TP with SP, 2021 stack": job(DENSE, 16, {"tp": 4, "pp": 2}, stack="megatron-2021", precision="fp16"),
    "TP without SP": job(DENSE, 16, {"tp": 4, "pp": 2, "sequence_parallel": False}, recompute="full"),
    "context parallel": job(DENSE, 8, {"tp": 2, "cp": 2}, precision="fp8"),
    "MoE with EP": job(MOE, 16, {"ep": 8, "pp": 2}),
    "MoE, experts split": job(MOE, 16, {"tp": 2, "ep": 4, "etp": 2, "pp": 2}),
    "MoE, skewed": job(MOE, 16, {"ep": 8, "pp": 2}, routing={"lognormal": 0.5}),
    "MoE, capacity": job(MOE, 16, {"ep": 8, "pp": 2}, capacity_factor=1.25, stack="megatron-core"),
    "MoE, DualPipe": job(MOE, 32, {"ep": 8, "pp": 4, "schedule": "dualpipe"}, stack="hai-llm", precision="fp8_block"),
    "MoE, two hosts": job(MOE, 32, {"ep": 16, "pp": 2}, stack="megatron-core"),
}  # fmt: skip


def prices_of(scenario: dict[str, Any], tuning: Tuning | None = None) -> StepPrices:
    """The scenario's step, ready to run."""
    resolved = resolve(parse_scenario(scenario))
    return StepPrices(resolved.job, resolved.kernels, tuning or Tuning())
