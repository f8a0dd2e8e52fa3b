"""Read a Hugging Face config.json as it is: find the family, take the sizes, check them."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from moesim.sim.model.arch import ArchError, ModelArch, check, short
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_families import FAMILIES
from moesim.sim.model.hf_parts import hidden_size

_NESTED = ("text_config", "llm_config", "language_config")  # where multi-modal configs keep the text model


def supported_families() -> tuple[str, ...]:
    """All values of `model_type` that can be read, sorted."""
    return tuple(sorted(FAMILIES))


def from_hf(config: Mapping[Any, Any], name: str = "") -> ModelArch:
    """The model that a Hugging Face config describes; ArchError for an unknown family or a wrong field.

    Where released files leave a field out (biases, tying), the default of the family's configuration class
    counts; every size must be there.
    """
    text = _text_config(config)
    model_type = text.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        close = get_close_matches(model_type, FAMILIES, n=1) if isinstance(model_type, str) else []
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ArchError(
            f"Hugging Face config: model_type {short(model_type)} is not supported; {hint}"
            f"supported: {', '.join(supported_families())}"
        )
    f = Fields(text, f"Hugging Face config of type {model_type}")
    parts = FAMILIES[model_type](f)
    given = config.get("_name_or_path")
    arch = ModelArch(
        name=name or (given if isinstance(given, str) and given else model_type),
        hidden=hidden_size(f),
        layers=parts.layers,
        attention=parts.attention,
        ffn=parts.ffn if any(kind.ffn == "dense" for kind in parts.layers) else None,
        moe=parts.moe if any(kind.ffn == "moe" for kind in parts.layers) else None,
        ssm=parts.ssm,
        vocab=f.size("vocab_size"),
        tied_embeddings=f.flag("tie_word_embeddings", parts.tied_default),
        max_context=f.size(f.first("max_position_embeddings", "max_seq_len")),
        norms_per_layer=parts.norms_per_layer,
        mtp_layers=parts.mtp_layers,
        fp8_blocks=_scales_blocks(config),
        source=f"Hugging Face config.json, model_type {model_type}",
    )
    check(arch)
    return arch


def _scales_blocks(config: Mapping[Any, Any]) -> bool:
    """True for an 8-bit checkpoint with one scale per block of weights."""
    quantisation = config.get("quantization_config")
    return isinstance(quantisation, Mapping) and bool(quantisation.get("weight_block_size"))


def _text_config(config: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The text model of a multi-modal config, or the config itself."""
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            tie = config.get("tie_word_embeddings")  # some files say this on the outside only
            return {"tie_word_embeddings": tie, **inner} if tie is not None else inner
    return config
