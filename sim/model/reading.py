"""Read a model out of an untrusted mapping in our own form; each wrong, missing or unknown field is an ArchError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

from moesim.sim.model.arch import (
    MAX_LAYERS,
    ArchError,
    AttentionArch,
    Checkpoint,
    FfnArch,
    ModelArch,
    MoeArch,
    RouterKind,
    SsmArch,
    Variant,
    check,
    short,
)
from moesim.sim.model.fields import Fields
from moesim.sim.model.pattern import parse_pattern

_ROUTERS = ("top1", "topk", "group_limited", "expert_choice")
_NORMS = ("none", "head", "full")
_FOR_PEOPLE = ("aliases", "published", "verified")  # read by the catalogue, not by the simulator


def from_mapping(record: Mapping[Any, Any], name: str = "inline") -> ModelArch:
    """The model that a full record in our format describes; ArchError when a field is wrong or unknown."""
    fields = _named(record, name)
    for key in _FOR_PEOPLE:
        fields.get(key)
    simulatable, reason = fields.flag("simulatable", True), fields.text("reason", "no reason given")
    if not simulatable:
        raise ArchError(f"{fields.where}: cannot be simulated: {reason}; choose a text model")
    bias = fields.flag("bias", False)
    hidden = fields.size("hidden")
    layers = fields.size("layers")
    if layers > MAX_LAYERS:
        raise fields.fail("layers", f"is {layers}; needs at most {MAX_LAYERS}")
    attention = _attention(fields.part("attention"), hidden, bias)
    ffn, moe, ssm = _ffn(fields.part("ffn")), _moe(fields.part("moe")), _ssm(fields.part("ssm"))
    vocab_unknown = "vocab" in record and record["vocab"] is None  # said in so many words: no tables are counted
    arch = ModelArch(
        name=fields.text("name", name),
        hidden=hidden,
        layers=parse_pattern(
            fields.text("pattern", "") or _default_pattern(fields, attention, ffn, moe), layers, fields.where
        ),
        attention=attention,
        ffn=ffn,
        moe=moe,
        ssm=ssm,
        variants=_variants(fields.part("variants"), hidden, bias),
        residual_streams=fields.size("residual_streams", 1),
        vocab=0 if vocab_unknown else fields.size("vocab"),
        tied_embeddings=fields.flag("tied_embeddings"),
        max_context=fields.size("max_context"),
        bias=bias,
        layernorm=fields.flag("layernorm", False),
        norms_per_layer=fields.count("norms_per_layer", 2),
        learned_positions=fields.count("learned_positions"),
        mtp_layers=fields.count("mtp_layers"),
        fp8_blocks=fields.flag("fp8_blocks", False),
        checkpoint=_checkpoint(fields.part("checkpoint")),
        source=fields.text("source", ""),
        notes=fields.text("notes", ""),
    )
    fields.get("vocab")
    fields.refuse_unknown()
    check(arch)
    return arch


def from_plain(record: Mapping[Any, Any], name: str = "inline") -> ModelArch:
    """A GPT by few numbers: {layers, hidden, heads, vocab} and, if wanted, kv_heads, intermediate, ...

    What is not given is as in GPT-2/3: multi-head attention, a GELU block of 4 x hidden, biases, LayerNorm,
    tied embeddings and learned positions.
    """
    fields = _named(record, name)
    hidden, heads = fields.size("hidden"), fields.size("heads")
    if not fields.has("head_dim") and hidden % heads:
        raise fields.fail("hidden", f"{hidden} is not a multiple of {heads} heads; needs one, or head_dim")
    seq = fields.size("seq", 2048)
    gated, bias = fields.flag("gated", False), fields.flag("bias", True)
    activation = fields.text("activation", "silu" if gated else "gelu")
    full: dict[str, Any] = {
        "name": fields.text("name", name),
        "hidden": hidden,
        "layers": fields.size("layers"),
        "attention": {
            "heads": heads,
            "kv_heads": fields.size("kv_heads", heads),
            "head_dim": fields.size("head_dim", hidden // heads or 1),
        },
        "vocab": fields.size("vocab"),
        "tied_embeddings": fields.flag("tied_embeddings", True),
        "max_context": fields.size("max_context", seq),
        "bias": bias,
        "layernorm": fields.flag("layernorm", True),
        "learned_positions": fields.count("learned_positions", seq),
    }
    experts_only = fields.has("moe") and not fields.has("intermediate")
    if not experts_only:
        width = fields.size("intermediate", 4 * hidden)
        full["ffn"] = {"intermediate": width, "gated": gated, "activation": activation}
    for key in ("moe", "pattern"):
        if fields.has(key):
            full[key] = fields.get(key)
    fields.refuse_unknown()
    return from_mapping(full, name)


def _named(record: Mapping[Any, Any], name: str) -> Fields:
    given = record.get("name")
    return Fields(record, f"model {short(given if isinstance(given, str) else name)}")


def _default_pattern(fields: Fields, a: AttentionArch | None, ffn: FfnArch | None, moe: MoeArch | None) -> str:
    """The pattern of a stack whose layers are all alike; anything else has to be spelled out."""
    if a is None or a.window is not None or fields.has("ssm"):
        raise fields.fail("pattern", "is missing; needs to say which layers are attention, window or state-space")
    if moe is not None and moe.residual_intermediate:
        return "attention+moe_residual"
    if moe is not None and ffn is not None:
        why = "is missing; needs to say which layers are dense, e.g. '3 x attention+dense, 58 x attention+moe'"
        raise fields.fail("pattern", why)
    if moe is None and ffn is None:
        raise fields.fail("ffn", "is missing; needs ffn: {intermediate, gated} or moe: {experts, top_k, ...}")
    return "attention+moe" if moe is not None else "attention+dense"


def _attention(f: Fields | None, hidden: int, bias: bool) -> AttentionArch | None:
    if f is None:
        return None
    heads = f.size("heads")
    nope, rope = f.size_or_none("qk_nope_head_dim"), f.size_or_none("qk_rope_head_dim")
    head_dim = f.size("head_dim", nope + rope if nope and rope else max(1, hidden // heads))
    arch = AttentionArch(
        heads=heads,
        kv_heads=f.size("kv_heads", heads),
        head_dim=head_dim,
        v_head_dim=f.size("v_head_dim", head_dim),
        q_lora_rank=f.size_or_none("q_lora_rank"),
        kv_lora_rank=f.size_or_none("kv_lora_rank"),
        qk_nope_head_dim=nope,
        qk_rope_head_dim=rope,
        window=f.size_or_none("window"),
        qkv_bias=f.flag("qkv_bias", bias),
        o_bias=f.flag("o_bias", bias),
        qk_norm=cast(Literal["none", "head", "full"], f.choice("qk_norm", _NORMS, "none")),
        output_gate=f.flag("output_gate", False),
        sinks=f.flag("sinks", False),
        index_heads=f.size_or_none("index_heads"),
        index_head_dim=f.size_or_none("index_head_dim"),
        index_top_k=f.size_or_none("index_top_k"),
        index_shared=f.flag("index_shared", False),
        head_gate=f.flag("head_gate", False),
        no_v_proj=f.flag("no_v_proj", False),
        shared_values=f.flag("shared_values", False),
        compress=f.size_or_none("compress"),
        o_lora_rank=f.size_or_none("o_lora_rank"),
        o_groups=f.size_or_none("o_groups"),
    )
    f.refuse_unknown()
    return arch


def _variants(f: Fields | None, hidden: int, bias: bool) -> tuple[Variant, ...]:
    """Sizes of layers that differ from the rest, by the names that the pattern gives them."""
    if f is None:
        return ()
    found = []
    for name in f.names():
        sizes = f.part(name)
        if sizes is None:
            raise f.fail(name, "is empty; needs attention: {...}, intermediate, or both")
        attention, width = _attention(sizes.part("attention"), hidden, bias), sizes.size_or_none("intermediate")
        sizes.refuse_unknown()
        found.append(Variant(name=name, attention=attention, intermediate=width))
    return tuple(found)


_WEIGHTS = ("bf16", "fp8", "fp8_block", "mxfp8", "int8", "w8a16", "int4", "mxfp4", "nvfp4")


def _checkpoint(f: Fields | None) -> Checkpoint | None:
    """Formats in which the weights are published, by part; 16 bits where nothing is said."""
    if f is None:
        return None
    parts = {name: f.choice(name, _WEIGHTS, "bf16") for name in ("attention", "dense", "experts", "shared", "head")}
    cache = f.choice("kv", ("bf16", "fp8"), "") if f.has("kv") else None
    block = (128, 128) if "fp8_block" in parts.values() else None
    sides = f.items("block")
    if sides is not None:
        if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in sides):
            raise f.fail("block", f"is {short(sides)}; needs two whole numbers, for example [128, 128]")
        rows, columns = (Fields({"block": side}, f.where).size("block") for side in sides)
        block = (rows, columns)
    found = Checkpoint(method=f.text("method", "published checkpoint"), kv=cache, block=block, **parts)
    f.refuse_unknown()
    return found


def _ffn(f: Fields | None) -> FfnArch | None:
    if f is None:
        return None
    gated = f.flag("gated")
    arch = FfnArch(
        intermediate=f.size("intermediate"),
        gated=gated,
        activation=f.text("activation", "silu" if gated else "gelu"),
    )
    f.refuse_unknown()
    return arch


def _moe(f: Fields | None) -> MoeArch | None:
    if f is None:
        return None
    top_k = f.size("top_k")
    arch = MoeArch(
        experts=f.size("experts"),
        top_k=top_k,
        expert_intermediate=f.size("expert_intermediate"),
        gated=f.flag("gated"),
        shared_intermediate=f.count("shared_intermediate"),
        router=cast(RouterKind, f.choice("router", _ROUTERS, "top1" if top_k == 1 else "topk")),
        groups=f.size("groups", 1),
        top_k_groups=f.size("top_k_groups", 1),
        latent=f.size_or_none("latent"),
        expert_bias=f.flag("expert_bias", False),
        router_bias=f.flag("router_bias", False),
        shared_gate=f.flag("shared_gate", False),
        residual_intermediate=f.count("residual_intermediate"),
        capacity_factor=f.number_or_none("capacity_factor"),
        zero_experts=f.count("zero_experts"),
    )
    f.refuse_unknown()
    return arch


def _ssm(f: Fields | None) -> SsmArch | None:
    if f is None:
        return None
    arch = SsmArch(
        d_state=f.size("d_state"),
        d_conv=f.whole("d_conv", 0),
        d_inner=f.size("d_inner"),
        heads=f.size("heads", 1),
        key_heads=f.size("key_heads", 1),
        key_dim=f.size("key_dim", 1),
        dt_rank=f.count("dt_rank"),
        gate_rank=f.count("gate_rank"),
    )
    f.refuse_unknown()
    return arch
