"""Formats of weights: those that a scenario asks for, or else those of the published checkpoint, on this GPU."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.gpu import GpuSpec
from moesim.sim.model.arch import Checkpoint, ModelArch
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import ServeAsk
from moesim.sim.software.serving_engine import Engine

SERVE_PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "fp4", "nvfp4", "mxfp4", "int4")
_SAME_AS = {"awq": "int4", "gptq": "int4", "w4a16": "int4"}  # ways to make a checkpoint of 4-bit weights
WEIGHT_ONLY = "w8a16"
_BLOCK_SCALED_EXPERTS = 32  # assumed: FP8 checkpoints with that many experts scale 128 x 128 blocks (DeepSeek, Qwen3)


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats of weights by part, and of the KV cache."""

    attention: str  # projections of mixers
    experts: str
    head: str
    kv: str
    blocks: str = ""  # dense blocks and shared experts; "": as attention

    @property
    def dense(self) -> str:
        """The format of dense blocks and shared experts."""
        return self.blocks or self.attention


def formats_of(precision: str, kv: str | None, arch: ModelArch, gpu: GpuSpec, engine: Engine) -> Formats:
    """Formats of a published checkpoint in this precision on this GPU. ScenarioError when there is no such thing."""
    precision = _SAME_AS.get(precision, precision)
    if precision not in SERVE_PRECISIONS:
        known = ", ".join((*SERVE_PRECISIONS, *_SAME_AS))
        raise ScenarioError(f"serve.precision={precision!r} is not known; use one of {known}")
    half = "bf16" if gpu.supports("bf16") else "fp16"
    many = arch.moe is not None and arch.moe.experts >= _BLOCK_SCALED_EXPERTS
    attention = experts = half
    if precision in ("fp8", "fp8_block"):
        blocks = many or arch.fp8_blocks or precision == "fp8_block"
        attention = experts = "fp8_block" if blocks else "fp8"
        if not gpu.supports(attention):  # 8-bit weights without an 8-bit tensor path: widened in the kernels
            attention = experts = WEIGHT_ONLY
    elif precision in ("fp4", "nvfp4", "mxfp4", "int4"):
        tried = {"int4": (), "mxfp4": ("mxfp4",)}.get(precision, ("nvfp4", "mxfp4"))
        native = [name for name in tried if gpu.supports(name)]
        if precision == "nvfp4" and native == ["mxfp4"]:
            raise ScenarioError(
                f"serve.precision=nvfp4: {gpu.name} multiplies MXFP4 and no NVFP4; use fp4, fp8 or bf16"
            )
        experts = native[0] if native else "int4"  # without a 4-bit tensor path: weight-only
        attention = half if arch.is_moe else experts  # MoE checkpoints quantise their experts only
    narrow = "bf16 or int4" if gpu.supports("int4") else "bf16"
    for name in (attention, experts):
        if not gpu.supports(name):
            raise ScenarioError(f"serve.precision={precision} has no tensor path on {gpu.name}; use {narrow}")
    cache = kv or engine.cache_dtype(gpu, precision, arch.moe.experts if arch.moe else 0)
    if cache == "fp8" and not gpu.supports("fp8"):
        cache = half
    return Formats(attention, experts, half, half if cache == "bf16" else cache)


def formats_asked(
    ask: ServeAsk, kv: str | None, arch: ModelArch, gpu: GpuSpec, engine: Engine
) -> tuple[Formats, list[str]]:
    """(formats, what was assumed): as the scenario says, or as the checkpoint has them where it does not say."""
    if "precision" in ask.model_fields_set or arch.checkpoint is None:
        return formats_of(ask.precision, kv, arch, gpu, engine), []
    return _as_published(arch.checkpoint, kv, arch, gpu, engine)


def _as_published(
    checkpoint: Checkpoint, kv: str | None, arch: ModelArch, gpu: GpuSpec, engine: Engine
) -> tuple[Formats, list[str]]:
    """Each part in the checkpoint's format; what this GPU cannot multiply is widened in the kernels, and said."""
    half = "bf16" if gpu.supports("bf16") else "fp16"
    shared = arch.moe is not None and arch.moe.shared_intermediate > 0
    published = {"attention": checkpoint.attention, "experts": checkpoint.experts if arch.is_moe else half}
    dense = any(kind.ffn in ("dense", "moe_residual") for kind in arch.layers)
    published["blocks"] = checkpoint.shared if shared else checkpoint.dense if dense else checkpoint.attention
    run = {part: _on(gpu, fmt, half) for part, fmt in published.items()}
    if not arch.is_moe:
        run["experts"] = run["blocks"]
    words = [f"attention {checkpoint.attention}"]
    words += [f"dense and shared blocks {published['blocks']}"] if shared or dense else []
    words += [f"experts {checkpoint.experts}"] if arch.is_moe else []
    said = [f"weights = as published ({checkpoint.method}): {', '.join(words)}"]
    widened = sorted({published[part] for part in run if part in published and run[part] != published[part] != "bf16"})
    if widened:
        said.append(f"{', '.join(widened)} weights have no tensor path on {gpu.name}: read narrow, computed in 16 bits")
    narrowest = "fp8" if run["experts"].startswith(("fp8", "mxfp8")) else run["experts"]
    cache = kv or checkpoint.kv or engine.cache_dtype(gpu, narrowest, arch.moe.experts if arch.moe else 0)
    if cache == "fp8" and not gpu.supports("fp8"):
        cache = half
    if kv is None and checkpoint.kv == cache:
        said.append(f"kv_dtype = {cache} (the checkpoint has scales for it)")
    blocks = run["blocks"] if run["blocks"] != run["attention"] else ""
    return Formats(run["attention"], run["experts"], half, half if cache == "bf16" else cache, blocks), said


def _on(gpu: GpuSpec, fmt: str, half: str) -> str:
    """The format in which this GPU runs weights that are published in `fmt`."""
    if fmt == "bf16":
        return half
    if gpu.supports(fmt):
        return fmt
    if fmt == "nvfp4" and gpu.supports("mxfp4"):
        raise ScenarioError(
            f"the checkpoint is in NVFP4, and {gpu.name} multiplies MXFP4 only; state serve.precision: fp4, fp8 or bf16"
        )
    narrow = "int4" if fmt in ("nvfp4", "mxfp4") else WEIGHT_ONLY
    if not gpu.supports(narrow):
        raise ScenarioError(f"the checkpoint is in {fmt}: no path on {gpu.name}; state serve.precision: bf16")
    return narrow
