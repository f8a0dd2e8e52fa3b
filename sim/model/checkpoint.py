"""The formats of published weights: what a `quantization_config` says of attention, dense blocks, experts and head.

Modules that a file leaves out of quantisation are classed by their names; a part counts as left out when its large
matrices are named for all layers, or for half of them and more. Routers, norms and tables of words stay in 16 bits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from moesim.sim.model.arch import ArchError, Checkpoint, short

PARTS = ("attention", "dense", "experts", "shared", "head")
_IGNORED = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude", "llm_int8_skip_modules")
_ALGOS = {
    "fp8": "fp8", "fp8_pb_wo": "fp8_block", "fp8_per_channel_per_token": "fp8", "mxfp8": "mxfp8", "nvfp4": "nvfp4",
    "w4a16_nvfp4": "nvfp4", "nvfp4_awq": "nvfp4", "mxfp4": "mxfp4", "w4a8_mxfp4_fp8": "mxfp4", "w4a16_awq": "int4",
    "int4_awq": "int4", "w4a8_awq": "int4", "w8a16": "w8a16", "int8_sq": "int8", "w8a8_sq_per_channel": "int8",
}  # fmt: skip
_BITS = {4: "int4", 8: "w8a16"}  # of integers that kernels widen to 16 bits: AWQ, GPTQ, AutoRound
_LAYER = re.compile(r"(?:layers|blocks|h)\.(\d+)(?=[.*]|$)")
_MATRIX = re.compile(
    r"(self_attn|attention|attn|linear_attn|mixer|temporal_block)\*?(\.\*|\.\.\*|\*)?$"
    r"|(q_proj|q_b_proj|qkv|qkv_proj|in_proj|in_proj_qkv|in_proj_qkvz|o_proj|out_proj|c_attn|query_key_value|wqkv)"
)


def checkpoint_of(config: Mapping[Any, Any], text: Mapping[Any, Any], layers: int) -> Checkpoint | None:
    """Formats of the weights that a config.json describes; None where it says nothing of quantisation.

    ArchError for a method or a number of bits that is not known, by its name. A sibling hf_quant_config.json counts
    under `quantization`.
    """
    found = next(
        (
            given
            for given in (
                config.get("quantization_config"), text.get("quantization_config"), config.get("compression_config"),
                config.get("quantization"),
            )
            if given
        ),
        None,
    )  # fmt: skip
    if found is None:
        return None
    if not isinstance(found, Mapping):
        raise ArchError(f"quantization_config is {short(found)}; needs a mapping with quant_method")
    method = _method(found)
    formats = dict.fromkeys(PARTS, "bf16") | _READERS[method](found, layers)
    expert = text.get("expert_dtype")  # DeepSeek-V4: experts in 4 bits beside 8-bit blocks
    if expert is not None and method == "fp8" and found.get("moe_quant_algo") is None:
        if expert not in ("fp4", "fp8"):
            raise ArchError(f"expert_dtype is {short(expert)}; needs fp4 or fp8")
        formats["experts"] = "mxfp4" if expert == "fp4" else formats["experts"]
    return Checkpoint(method=f"quantization_config {method}", kv=_cache(found), **formats)


def _method(found: Mapping[Any, Any]) -> str:
    name = found.get("quant_method")
    if name is None and any(found.get(key) is not None for key in ("quant_algo", "quantized_layers")):
        name = "modelopt"
    known = _SAME.get(name, name) if isinstance(name, str) else None
    if known not in _READERS:
        raise ArchError(
            f"quantization_config: quant_method {short(name)} is not known; known: {', '.join(sorted(_READERS))}; "
            "leave quantization_config out and state serve.precision"
        )
    return known


def _cache(found: Mapping[Any, Any]) -> str | None:
    """The format of keys and values that the checkpoint has scales for."""
    scheme = found.get("kv_cache_scheme") or found.get("kv_cache_quant_algo")
    if isinstance(scheme, Mapping):
        return "fp8" if scheme.get("num_bits") == 8 and scheme.get("type") == "float" else None
    return "fp8" if isinstance(scheme, str) and scheme.upper() == "FP8" else None


def part_of(name: str) -> str | None:
    """The part of a model that a module's name (or pattern of names) belongs to; None for what is never quantised."""
    text = name.lower().removeprefix("re:")
    if re.search(r"norm|conv1d|indexer|e_score|embed|vision|visual|projector|mtp|rotary|shared_expert_gate", text):
        return None
    if re.search(r"lm_head|(^|[.*])head\b|output_layer", text):
        return "head"
    if "shared_expert" in text or "share_expert" in text:
        return "shared"
    if "expert" in text:
        return "experts"
    if re.search(r"router|(mlp|moe|block_sparse_moe|feed_forward|mixer|ffn)\.gate(\.|\*|$)|^gate$", text):
        return None
    if re.search(r"attn|attention|mixer|mamba", text):
        return "attention" if _MATRIX.search(text) else None
    return "dense" if re.search(r"mlp|ffn|feed_forward|(gate|up|down)_proj", text) else None


def _covered(names: Iterable[str], layers: int) -> set[str]:
    """Parts that a list of modules names for all layers, or for half of them and more."""
    seen: dict[str, set[str]] = {}
    for name in names:
        part = part_of(name)
        if part is not None:
            place = _LAYER.search(name)
            seen.setdefault(part, set()).add(place[1] if place else "*")
    return {part for part, where in seen.items() if "*" in where or 2 * len(where) >= layers}


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ArchError(f"quantization_config: list of modules is {short(value)}; needs a list of names")
    return [str(entry) for entry in value]


def _everywhere(found: Mapping[Any, Any], fmt: str, layers: int, keys: tuple[str, ...] = _IGNORED) -> dict[str, str]:
    """One format in all parts but the head and what the file leaves out under these keys."""
    ignored = _covered([name for key in keys for name in _names(found.get(key))], layers)
    return {part: "bf16" if part in ignored or part == "head" else fmt for part in PARTS}


def _fp8(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    """8 bits; `ignore` beside it is of a tool that converted the experts once more (DeepSeek-V4 in NVFP4)."""
    own = ("modules_to_not_convert", "ignored_layers")
    formats = _everywhere(found, "fp8_block" if found.get("weight_block_size") else "fp8", layers, own)
    again = found.get("moe_quant_algo")
    return formats if again is None else {**formats, "experts": _algo(again)}


def _mxfp4(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    return _everywhere(found, "mxfp4", layers)


def _integers(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    """AWQ, GPTQ and AutoRound: integers of so many bits, widened in the kernels."""
    bits = found.get("bits", found.get("w_bit", 4))
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in _BITS:
        raise ArchError(f"quantization_config: bits {short(bits)} is not known; needs 4 or 8")
    return _everywhere(found, _BITS[bits], layers)


def _bitsandbytes(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    four = found.get("load_in_4bit", found.get("_load_in_4bit"))
    eight = found.get("load_in_8bit", found.get("_load_in_8bit"))
    if not four and not eight:
        raise ArchError("quantization_config: bitsandbytes says neither load_in_4bit nor load_in_8bit; needs one")
    return _everywhere(found, "int4" if four else "w8a16", layers)


def _modelopt(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    """NVIDIA ModelOpt: one algorithm, one for experts, groups, or an algorithm per module."""
    listed = found.get("quantized_layers")
    if isinstance(listed, Mapping) and listed:
        return _by_module({str(name): _algo(value) for name, value in listed.items()})
    base = _fp8(found, layers) if found.get("weight_block_size") else {}
    if found.get("moe_quant_algo") is not None:
        return {**base, "experts": _algo({"quant_algo": found["moe_quant_algo"]})}
    if found.get("quant_algo") in (None, "MIXED_PRECISION"):
        return {**base, **_groups(found, layers)}
    return _everywhere(found, _algo(found), layers)


def _algo(value: Any) -> str:
    name = value.get("quant_algo") if isinstance(value, Mapping) else value
    fmt = _ALGOS.get(name.lower()) if isinstance(name, str) else None
    if fmt is None:
        raise ArchError(f"quantization_config: quant_algo {short(name)} is not known; known: {', '.join(_ALGOS)}")
    return fmt


def _by_module(formats: Mapping[str, str]) -> dict[str, str]:
    """The format that most modules of each part have."""
    votes: dict[str, Counter[str]] = {}
    for name, fmt in formats.items():
        part = part_of(name)
        if part is not None:
            votes.setdefault(part, Counter())[fmt] += 1
    return {part: max(sorted(count), key=count.__getitem__) for part, count in votes.items()}


def _groups(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    """compressed-tensors: groups of modules with a format each; `Linear` stands for all of them."""
    groups = found.get("config_groups")
    if not isinstance(groups, Mapping) or not groups:
        raise ArchError("quantization_config: config_groups is missing; needs groups with weights and targets")
    formats: dict[str, str] = {}
    for name, group in groups.items():
        if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
            raise ArchError(f"quantization_config: {short(name)} has no weights; needs num_bits and type")
        fmt = _weights(group)
        targets = _names(group.get("targets")) or ["Linear"]
        if any(target in ("Linear", "re:.*") for target in targets):
            formats = _everywhere(found, fmt, layers) | formats
        else:
            formats |= _by_module(dict.fromkeys(targets, fmt))
    ignored = _covered([entry for key in _IGNORED for entry in _names(found.get(key))], layers)
    return {part: fmt for part, fmt in formats.items() if part not in ignored}


def _weights(group: Mapping[Any, Any]) -> str:
    """The format of one group's weights, from their bits, type and the length of a scale's group."""
    weights = group["weights"]
    bits, kind, size = weights.get("num_bits"), weights.get("type"), weights.get("group_size")
    widened = not group.get("input_activations")
    if kind == "float" and bits == 8:
        blocks = weights.get("strategy") == "block" or bool(weights.get("block_structure"))
        return "w8a16" if widened else "mxfp8" if size == 32 else "fp8_block" if blocks else "fp8"
    if kind == "float" and bits == 4:
        return "mxfp4" if size == 32 else "nvfp4"
    if kind == "int" and isinstance(bits, int) and bits in _BITS:
        return "int4" if bits == 4 else "w8a16" if widened else "int8"
    raise ArchError(f"quantization_config: weights of {short(bits)} bits, type {short(kind)}: not known; needs 4 or 8")


def _quark(found: Mapping[Any, Any], layers: int) -> dict[str, str]:
    """AMD Quark: one format for all modules, others for named ones."""
    whole = found.get("global_quant_config")
    if not isinstance(whole, Mapping):
        raise ArchError("quantization_config: global_quant_config is missing; needs a weight with a dtype")
    formats = _everywhere(found, _quark_weight(whole), layers)
    layered = found.get("layer_quant_config") or {}
    if not isinstance(layered, Mapping):
        raise ArchError(f"quantization_config: layer_quant_config is {short(layered)}; needs a mapping")
    return formats | _by_module({str(name): _quark_weight(value) for name, value in layered.items()})


def _quark_weight(config: Any) -> str:
    weight = config.get("weight") if isinstance(config, Mapping) else None
    weight = weight[0] if isinstance(weight, list) and weight else weight
    name = weight.get("dtype") if isinstance(weight, Mapping) else None
    known = {"fp8_e4m3": "fp8", "fp4": "mxfp4", "int4": "int4", "uint4": "int4", "int8": "int8", "mx": "mxfp4"}
    if not isinstance(name, str) or name not in known:
        raise ArchError(f"quantization_config: quark dtype {short(name)} is not known; known: {', '.join(known)}")
    return known[name]


_READERS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "modelopt": _modelopt,
    "awq": _integers,
    "gptq": _integers,
    "auto-round": _integers,
    "compressed-tensors": _groups,
    "bitsandbytes": _bitsandbytes,
    "quark": _quark,
}
_SAME = {
    "modelopt_fp4": "modelopt", "modelopt_mixed": "modelopt", "nvfp4": "modelopt", "awq_marlin": "awq",
    "gptq_marlin": "gptq", "intel/auto-round": "auto-round", "auto_round": "auto-round", "gpt_oss_mxfp4": "mxfp4",
    "compressed_tensors": "compressed-tensors", "bnb": "bitsandbytes",
}  # fmt: skip
