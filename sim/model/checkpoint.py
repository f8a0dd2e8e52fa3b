"""The formats of published weights: what a `quantization_config` says of attention, dense blocks, experts and head.

A part counts as left out of quantisation when its large matrices are named in half of the layers that hold them and
more (`quantised_modules.py`); what is named in some is said. Routers, norms and tables of words stay in 16 bits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from moesim.sim.model.arch import ArchError, Checkpoint, short
from moesim.sim.model.quantised_modules import Modules

PARTS = ("attention", "dense", "experts", "shared", "head")
_IGNORED = ("ignore", "ignored_layers", "modules_to_not_convert", "exclude_modules", "exclude", "llm_int8_skip_modules")
_ALGOS = {
    "fp8": "fp8", "fp8_pb_wo": "fp8_block", "fp8_per_channel_per_token": "fp8", "mxfp8": "mxfp8", "nvfp4": "nvfp4",
    "w4a16_nvfp4": "nvfp4", "nvfp4_awq": "nvfp4", "mxfp4": "mxfp4", "w4a8_mxfp4_fp8": "mxfp4", "w4a16_awq": "int4",
    "int4_awq": "int4", "w4a8_awq": "int4", "w8a16": "w8a16", "int8_sq": "int8", "w8a8_sq_per_channel": "int8",
}  # fmt: skip
_USUAL_BLOCK = (128, 128)
_LARGEST_BLOCK = 65_536
_BITS = {4: "int4", 8: "w8a16"}  # of integers that kernels widen to 16 bits: AWQ, GPTQ, AutoRound


def checkpoint_of(config: Mapping[Any, Any], text: Mapping[Any, Any], modules: Modules) -> Checkpoint | None:
    """Formats of the weights that a config.json describes; None where it says nothing of quantisation.

    ArchError for a method or a number of bits that is not known, by its name. A sibling hf_quant_config.json counts
    under `quantization`. What had to be assumed is added to `modules.said`.
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
    formats = dict.fromkeys(PARTS, "bf16") | _READERS[method](found, modules)
    expert = text.get("expert_dtype")  # DeepSeek-V4: experts in 4 bits beside 8-bit blocks
    if expert is not None and method == "fp8" and found.get("moe_quant_algo") is None:
        if expert not in ("fp4", "fp8"):
            raise ArchError(f"expert_dtype is {short(expert)}; needs fp4 or fp8")
        formats["experts"] = "mxfp4" if expert == "fp4" else formats["experts"]
    block = _block(found) if "fp8_block" in formats.values() else None
    if block is not None and block != _USUAL_BLOCK:
        modules.said.append(
            f"weight_block_size = {block[0]} x {block[1]}: time and bytes are those of blocks of 128 x 128"
        )
    return Checkpoint(method=f"quantization_config {method}", kv=_cache(found), block=block, **formats)


def _block(found: Mapping[Any, Any]) -> tuple[int, int]:
    """Rows and columns of weights that share a scale; 128 x 128 where a file says blocks and not of which size."""
    given = found.get("weight_block_size")
    groups = found.get("config_groups")
    for group in groups.values() if given is None and isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        given = given or (weights.get("block_structure") if isinstance(weights, Mapping) else None)
    if given is None:
        return _USUAL_BLOCK
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,6}x[0-9]{1,6}", given):
        given = [int(side) for side in given.split("x")]
    whole = isinstance(given, list) and all(isinstance(side, int) and not isinstance(side, bool) for side in given)
    if not whole or len(given) != 2 or not all(1 <= side <= _LARGEST_BLOCK for side in given):
        raise ArchError(
            f"quantization_config: weight_block_size is {short(given)}; needs two whole numbers, for example [128, 128]"
        )
    return given[0], given[1]


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


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ArchError(f"quantization_config: list of modules is {short(value)}; needs a list of names")
    return [str(entry) for entry in value]


def _everywhere(
    found: Mapping[Any, Any], fmt: str, modules: Modules, keys: tuple[str, ...] = _IGNORED
) -> dict[str, str]:
    """One format in all parts but the head and what the file leaves out under these keys."""
    ignored = modules.covered([name for key in keys for name in _names(found.get(key))], fmt)
    return {part: "bf16" if part in ignored or part == "head" else fmt for part in PARTS}


def _fp8(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    """8 bits; `ignore` beside it is of a tool that converted the experts once more (DeepSeek-V4 in NVFP4)."""
    own = ("modules_to_not_convert", "ignored_layers")
    formats = _everywhere(found, "fp8_block" if found.get("weight_block_size") else "fp8", modules, own)
    again = found.get("moe_quant_algo")
    return formats if again is None else {**formats, "experts": _algo(again)}


def _mxfp4(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    return _everywhere(found, "mxfp4", modules)


def _integers(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    """AWQ, GPTQ and AutoRound: integers of so many bits, widened in the kernels."""
    bits = found.get("bits", found.get("w_bit", 4))
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in _BITS:
        raise ArchError(f"quantization_config: bits {short(bits)} is not known; needs 4 or 8")
    return _everywhere(found, _BITS[bits], modules)


def _bitsandbytes(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    four = found.get("load_in_4bit", found.get("_load_in_4bit"))
    eight = found.get("load_in_8bit", found.get("_load_in_8bit"))
    if not four and not eight:
        raise ArchError("quantization_config: bitsandbytes says neither load_in_4bit nor load_in_8bit; needs one")
    return _everywhere(found, "int4" if four else "w8a16", modules)


def _modelopt(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    """NVIDIA ModelOpt: one algorithm, one for experts, groups, or an algorithm per module."""
    listed = found.get("quantized_layers")
    if isinstance(listed, Mapping) and listed:
        return _by_module({str(name): _algo(value) for name, value in listed.items()}, modules)
    base = _fp8(found, modules) if found.get("weight_block_size") else {}
    if found.get("moe_quant_algo") is not None:
        return {**base, "experts": _algo({"quant_algo": found["moe_quant_algo"]})}
    if found.get("quant_algo") in (None, "MIXED_PRECISION"):
        return {**base, **_groups(found, modules)}
    return _everywhere(found, _algo(found), modules)


def _algo(value: Any) -> str:
    name = value.get("quant_algo") if isinstance(value, Mapping) else value
    fmt = _ALGOS.get(name.lower()) if isinstance(name, str) else None
    if fmt is None:
        raise ArchError(f"quantization_config: quant_algo {short(name)} is not known; known: {', '.join(_ALGOS)}")
    return fmt


def _by_module(formats: Mapping[str, str], modules: Modules) -> dict[str, str]:
    """The format that most modules of each part have."""
    votes: dict[str, Counter[str]] = {}
    seen: dict[str, set[int]] = {}
    for name, fmt in formats.items():
        for part, where in modules.named([name]).items():
            votes.setdefault(part, Counter())[fmt] += 1
            seen.setdefault(part, set()).update(where)
    taken = {part: max(sorted(count), key=count.__getitem__) for part, count in votes.items()}
    for part, fmt in taken.items():
        modules.mixed(part, votes[part], seen[part], fmt)
    return taken


def _groups(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
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
            formats = _everywhere(found, fmt, modules) | formats
        else:
            formats |= _by_module(dict.fromkeys(targets, fmt), modules)
    words = " or ".join(sorted(set(formats.values()) - {"bf16"})) or "bf16"
    ignored = modules.covered([entry for key in _IGNORED for entry in _names(found.get(key))], words)
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


def _quark(found: Mapping[Any, Any], modules: Modules) -> dict[str, str]:
    """AMD Quark: one format for all modules, others for named ones."""
    whole = found.get("global_quant_config")
    if not isinstance(whole, Mapping):
        raise ArchError("quantization_config: global_quant_config is missing; needs a weight with a dtype")
    formats = _everywhere(found, _quark_weight(whole), modules)
    layered = found.get("layer_quant_config") or {}
    if not isinstance(layered, Mapping):
        raise ArchError(f"quantization_config: layer_quant_config is {short(layered)}; needs a mapping")
    return formats | _by_module({str(name): _quark_weight(value) for name, value in layered.items()}, modules)


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
