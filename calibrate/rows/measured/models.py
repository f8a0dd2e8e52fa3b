"""Which model of the catalogue a file is of: by a published name, or by the sizes that a log prints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from moesim.sim.model.arch import ArchError, ModelArch
from moesim.sim.model.catalogue import load_model, model_names

# endings of published names that change weights or their format, never the sizes
_ENDINGS = re.compile(
    r"-(instruct|chat|base|it|hf|thinking|preview|dynamic|fp8|fp4|nvfp4|mxfp4|mxfp8|bf16|w8a8|w4a16|int4|int8|awq|gptq|"
    r"v\d+(\.\d+)?|\d{4})$"
)
_SAME_SIZES = {"llama-3.3-70b": "llama-3.1-70b", "llama-3.1-70b-instruct": "llama-3.1-70b"}
_PRECISIONS = (("nvfp4", "nvfp4"), ("fp4", "nvfp4"), ("fp8", "fp8"), ("w8a8", "fp8"), ("awq", "int4"), ("gptq", "int4"))


def model_named(published: str) -> str:
    """Our name of 'deepseek-ai/DeepSeek-R1-0528'; the text itself where the catalogue knows none like it."""
    name = published.strip().rstrip("/").rpartition("/")[2].lower().removeprefix("meta-").replace("_", "-")
    while name:
        for known in (name, _SAME_SIZES.get(name, "")):
            try:
                if known:
                    load_model(known)
                    return known
            except ArchError:
                continue
        shorter = _ENDINGS.sub("", name)
        if shorter == name:
            break
        name = shorter
    return published.strip()


def precision_in_name(published: str) -> str:
    """The format of the weights, where a published name ends in one; "" otherwise."""
    lower = published.lower()
    return next((ours for word, ours in _PRECISIONS if re.search(rf"[-_]{word}\b", lower)), "")


def models_of_sizes(sizes: Mapping[str, int]) -> list[str]:
    """Catalogue models that have all of these sizes: layers, hidden, heads, kv_heads, ffn, experts, top_k, expert_ffn.

    Sizes that are 0 say nothing.
    """
    return [name for name in model_names() if _fits(load_model(name), sizes)]


def _fits(arch: ModelArch, sizes: Mapping[str, int]) -> bool:
    moe, attention = arch.moe, arch.attention
    own = {
        "layers": arch.num_layers,
        "hidden": arch.hidden,
        "heads": attention.heads if attention else 0,
        "kv_heads": attention.kv_heads if attention and not attention.is_mla else 0,
        "ffn": arch.ffn.intermediate if arch.ffn else 0,
        "experts": moe.experts if moe and arch.is_moe else 0,
        "top_k": moe.top_k if moe and arch.is_moe else 0,
        "expert_ffn": moe.expert_intermediate if moe and arch.is_moe else 0,
    }
    if bool(sizes.get("experts")) != arch.is_moe:
        return False
    return all(not asked or not own[name] or own[name] == asked for name, asked in sizes.items())
