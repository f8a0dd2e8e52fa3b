"""A model made of another: fewer layers, other leading dense layers, or any field of its record changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from moesim.hwmodels.facts import did_you_mean
from moesim.sim.model.arch import ArchError, AttentionArch, FfnArch, LayerKind, ModelArch, MoeArch, SsmArch, short
from moesim.sim.model.fields import Fields
from moesim.sim.model.reading import from_mapping
from moesim.sim.model.writing import as_mapping

_PARTS = {
    "attention": tuple(field.name for field in dataclass_fields(AttentionArch)),
    "ffn": tuple(field.name for field in dataclass_fields(FfnArch)),
    "moe": tuple(field.name for field in dataclass_fields(MoeArch)),
    "ssm": tuple(field.name for field in dataclass_fields(SsmArch)),
}
_WHOLE = (
    "hidden", "pattern", "vocab", "tied_embeddings", "max_context", "bias", "layernorm", "norms_per_layer",
    "learned_positions", "mtp_layers", "fp8_blocks", "residual_streams", "variants", "checkpoint", "notes", "source",
)  # fmt: skip
_BRACKETED = ("layers", "first_dense_layers", "kv_heads")  # of proxies: a name like mixtral-8x7b[layers=4]
_OWN = ("base", "name", "layers", "first_dense_layers")


def derived(base: ModelArch, record: Mapping[Any, Any]) -> ModelArch:
    """`base` with what the record changes: {base: ..., layers: 8}, {base: ..., top_k: 4}, {base: ..., moe: {...}}.

    A field of a part (attention, ffn, moe, ssm) may stand by itself where one part only has it. What comes out is
    checked as a whole model of our own form is. ArchError for what does not exist or cannot be.
    """
    fields = Fields(record, f"model with base {base.name!r}")
    cut = _cut(base, fields, "pattern" in record)
    changes = {str(key): value for key, value in record.items() if key not in _OWN}
    places = {key: _place(base, fields, key, value) for key, value in changes.items()}
    inside = ", ".join(f"{key}={record[key]}" for key in _BRACKETED if key in record)
    words = ", ".join(f"{key}={short(value)}" for key, value in changes.items() if key not in _BRACKETED)
    name = f"{base.name}[{inside}]" if inside else base.name
    name = fields.text("name", f"{name} with {words}" if words else name)
    if not changes:
        return replace(cut, name=name)
    arch = from_mapping(_changed(cut, changes, places, fields), name)
    return replace(arch, name=name, said=base.said)


def _cut(base: ModelArch, fields: Fields, own_pattern: bool) -> ModelArch:
    """The first layers of the base; with a pattern of its own the number of layers is the pattern's."""
    layers = fields.size("layers", base.num_layers)
    if own_pattern:
        return base
    if layers > base.num_layers:
        raise fields.fail("layers", f"is {layers}, but {base.name} has {base.num_layers}; needs at most that")
    arch = base.with_layers(base.layers[:layers])
    if fields.has("first_dense_layers"):
        arch = arch.with_layers(_with_dense(base, fields.count("first_dense_layers"), layers, fields))
    return arch


def _place(base: ModelArch, fields: Fields, key: str, value: Any) -> str | None:
    """The part that a changed field belongs to; None for a field of the whole model, or a part as a mapping."""
    if key in _WHOLE:
        return None
    if key in _PARTS:
        if not isinstance(value, Mapping):
            raise fields.fail(key, f"is {short(value)}; needs a mapping of the fields to change")
        return None
    having = [part for part, names in _PARTS.items() if key in names]
    own = [part for part in having if getattr(base, part) is not None]
    if len(own) == 1:
        return own[0]
    if len(own) > 1:
        raise fields.fail(key, f"is of {' and '.join(own)}; write {own[-1]}: {{{key}: ...}}")
    if having:
        raise fields.fail(key, f"cannot be set: {base.name} has no {having[0]}; leave it out")
    known = sorted({*_OWN, *_WHOLE, *_PARTS, *(name for names in _PARTS.values() for name in names)})
    raise ArchError(f"{fields.where}: unknown key {short(key)}; {did_you_mean(key, known)}")


def _changed(
    arch: ModelArch, changes: Mapping[str, Any], places: Mapping[str, str | None], fields: Fields
) -> dict[str, Any]:
    """The record of the model with its changes; what followed from a changed size follows again."""
    record = as_mapping(arch)
    record.pop("name")
    for key, value in changes.items():
        part = places[key]
        if part is not None:
            _set(record, part, {key: value})
        elif key in _PARTS:
            _set(record, key, value)
        else:
            record[key] = value
    if "pattern" in changes:
        record["layers"] = fields.size("layers", arch.num_layers)
    return record


def _set(record: dict[str, Any], part: str, values: Mapping[Any, Any]) -> None:
    given = record.setdefault(part, {})
    mla = given.get("kv_lora_rank") is not None
    for key in values:
        if key in ("qk_nope_head_dim", "qk_rope_head_dim") and "head_dim" not in values:
            given.pop("head_dim", None)
        if key == "head_dim" and given.get("v_head_dim") == given.get("head_dim") and not mla:
            given.pop("v_head_dim", None)
        if key == "heads" and (mla or given.get("kv_heads") == given.get("heads")) and "kv_heads" not in values:
            given.pop("kv_heads", None)
        if key == "top_k" and given.get("router") in ("top1", "topk"):
            given.pop("router")
    given.update(values)


def _with_dense(base: ModelArch, dense: int, layers: int, fields: Fields) -> tuple[LayerKind, ...]:
    """`dense` dense layers, then MoE layers: for models that are built so."""
    own = next((i for i, kind in enumerate(base.layers) if kind.ffn != "dense"), base.num_layers)
    moe = set(base.layers[own:])
    if len(moe) != 1 or any(kind.mixer != next(iter(moe)).mixer for kind in base.layers):
        why = f"cannot be set: {base.name} is not dense layers followed by MoE layers; write out a pattern"
        raise fields.fail("first_dense_layers", why)
    if dense > layers:
        raise fields.fail("first_dense_layers", f"is {dense}; needs at most {layers} (layers)")
    expert_layer = moe.pop()
    return (replace(expert_layer, ffn="dense", experts=None),) * dense + (expert_layer,) * (layers - dense)
