"""Read a Hugging Face config.json as it is: find the family, take the sizes, check them, say what was not used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moesim.sim.model.arch import ArchError, ModelArch, check, short
from moesim.sim.model.checkpoint import checkpoint_of
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_families import BY_CLASS, FAMILIES, REFUSED
from moesim.sim.model.hf_generic import akin, plain
from moesim.sim.model.hf_parts import Parts, hidden_size
from moesim.sim.model.hf_unread import listed, named, sort_out, towers
from moesim.sim.model.quantised_modules import Modules

_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")  # where multi-modal files keep the text
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_chunk_size")
WAY_OUT = "write its sizes as a YAML model (`moesim init --model`, docs/models.md)"


def supported_families() -> tuple[str, ...]:
    """All values of `model_type` that can be read, sorted."""
    return tuple(sorted(FAMILIES))


def from_hf(config: Mapping[Any, Any], name: str = "") -> ModelArch:
    """The model that a Hugging Face config describes; ArchError for an unknown family or a wrong field.

    Where released files leave a field out (biases, tying), the default of the family's configuration class
    counts; every size must be there. A field that was not used is listed in `said`; one that may change sizes refuses.
    """
    text, beside = _text_config(config)
    family = _family(config, text)
    known = family in FAMILIES
    f = Fields(text, f"Hugging Face config of type {family}" if known else "Hugging Face config")
    parts = FAMILIES[family](f) if known else _plain(f, family)
    given = config.get("_name_or_path")
    arch = _arch(f, parts, config, name or (given if isinstance(given, str) and given else family))
    if arch.ffn is None:
        f.pass_over("intermediate_size")  # released files keep it where no layer is dense
    suspects, others = sort_out(f.unread())
    if not known and (suspects or others):
        raise _unknown(f, family, f"nothing is known of {named([*suspects, *others])}")
    if suspects:
        raise ArchError(f"{f.where}: {named(suspects)} may change sizes, and this family is read without; {WAY_OUT}")
    outer = [name for names in sort_out(beside) for name in names]
    said = (*f.said, *_window_said(text, arch), *listed([*others, *outer]), *towers(config), *_modules(arch))
    arch = replace(arch, said=said)
    check(arch)
    return arch


def _arch(f: Fields, parts: Parts, config: Mapping[Any, Any], name: str) -> ModelArch:
    modules = Modules(parts.layers)
    checkpoint = checkpoint_of(config, f.record, modules)
    f.said += modules.said
    ffns = {kind.ffn for kind in parts.layers}
    return ModelArch(
        name=name,
        hidden=hidden_size(f),
        layers=parts.layers,
        attention=parts.attention,
        ffn=parts.ffn if "dense" in ffns else None,
        moe=parts.moe if ffns & {"moe", "moe_residual"} else None,
        ssm=parts.ssm,
        vocab=f.size("vocab_size", parts.vocab_default),
        tied_embeddings=f.flag("tie_word_embeddings", parts.tied_default),
        max_context=f.size(
            f.first("max_position_embeddings", "max_seq_len", "model_max_length"), parts.context_default
        ),
        bias=parts.bias,
        layernorm=parts.layernorm,
        norms_per_layer=parts.norms_per_layer,
        mtp_layers=parts.mtp_layers,
        fp8_blocks=checkpoint is not None and "fp8_block" in (checkpoint.attention, checkpoint.experts),
        variants=parts.variants,
        residual_streams=parts.residual_streams,
        checkpoint=checkpoint,
        source=f"Hugging Face config.json, model_type {f.record.get('model_type')}",
    )


def _window_said(text: Mapping[Any, Any], arch: ModelArch) -> list[str]:
    """What became of a window that a file names, where the file does not list the layers that have it."""
    key = next((key for key in _WINDOWS if type(text.get(key)) is int and text[key] > 0), None)
    windowed = sum(kind.mixer == "window_attention" for kind in arch.layers)
    if key is None:
        own = arch.attention.window if arch.attention is not None else None
        return [f"sliding_window = {own} (of the family: not in config.json)"] if windowed and own else []
    if not any("attention" in kind.mixer for kind in arch.layers):
        return []
    if not windowed:
        off = ", use_sliding_window is not true" if "use_sliding_window" in text else ""
        return [f"{key} = {text[key]}: not used{off}: every attention layer sees all tokens"]
    if isinstance(text.get("layer_types"), list):
        return []
    return [f"{key} = {text[key]}: taken for {windowed} of {arch.num_layers} layers (config.json has no layer_types)"]


def _modules(arch: ModelArch) -> list[str]:
    return [f"{arch.mtp_layers} MTP module(s): beside the counts"] if arch.mtp_layers else []


def _family(config: Mapping[Any, Any], text: Mapping[Any, Any]) -> str:
    """The family of the text model: its model_type, or what the class that runs it is known by."""
    given = text.get("model_type")
    if isinstance(given, str) and given in FAMILIES:
        return given
    inner, outer = (record.get("architectures") for record in (text, config))
    for name in [*(inner if isinstance(inner, list) else []), *(outer if isinstance(outer, list) else [])]:
        if isinstance(name, str) and name in BY_CLASS:
            return BY_CLASS[name]
    kind = given if isinstance(given, str) else config.get("model_type")
    if isinstance(kind, str) and (alias := kind.lower()) in FAMILIES:
        return alias
    return kind if isinstance(kind, str) else ""


def _plain(f: Fields, family: str) -> Parts:
    """A family that nobody has described, read from its fields alone; ArchError where they do not say enough."""
    if family in REFUSED:
        field, why = REFUSED[family]
        raise ArchError(f"Hugging Face config: model_type {short(family)} cannot be read: {field} {why}; {WAY_OUT}")
    try:
        return plain(f)
    except ArchError as error:
        raise _unknown(f, family, str(error).removeprefix(f"{f.where}: ")) from error


def _unknown(f: Fields, family: str, why: str) -> ArchError:
    """The refusal of an unknown family: what stands in the way, and a family that has the same fields."""
    near = akin(f.record, FAMILIES, family)
    hint = f"its fields are those of {near!r}: write that as model_type if it is built so, or " if near else ""
    return ArchError(
        f"Hugging Face config: model_type {short(family)} is not supported and no plain stack: {why}; {hint}{WAY_OUT}"
    )


def _text_config(config: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """(the text model of a multi-modal config or the config itself, what else the outer mapping holds)."""
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping) and inner:
            beside = {str(k): v for k, v in config.items() if k != key and not isinstance(v, Mapping)}
            tie = config.get("tie_word_embeddings")  # some files say this on the outside only
            text = {"tie_word_embeddings": tie, **inner} if tie is not None else inner
            deeper = _text_config(text)[0]
            return deeper, beside
    return config, {}
