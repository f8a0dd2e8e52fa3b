"""Puzzle models of NVIDIA (model_type nemotron-nas): each block with or without attention, and a width of its own."""

from __future__ import annotations

from dataclasses import replace

from moesim.sim.model.arch import AttentionArch, LayerKind, Variant
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import Parts, dense_ffn, hidden_size, num_layers


def nemotron_nas(f: Fields) -> Parts:
    """Puzzle models (Llama-3.3-Nemotron-Super): blocks without attention, and dense blocks of many widths."""
    n, hidden, heads = num_layers(f), hidden_size(f), f.size("num_attention_heads")
    blocks = f.items("block_configs", n)
    if blocks is None:
        raise f.fail("block_configs", "is missing; needs attention and ffn for every layer")
    bias, shapes, layers = f.flag("attention_bias", False), {}, []
    for number, block in enumerate(blocks):
        own = Fields(block, f"{f.where}: block_configs[{number}]")
        attn, ffn = own.part("attention"), own.part("ffn")
        if attn is None or ffn is None:
            raise own.fail("attention" if attn is None else "ffn", "is missing")
        for part in (attn, ffn):
            for key in ("replace_with_linear", "sparsify", "num_sink_tokens", "window_length"):
                if part.get(key):
                    raise part.fail(key, "changes what the block computes, which moesim does not price")
        none = attn.flag("no_op", False)
        group = None if none else attn.size("n_heads_in_group")
        width = None if ffn.flag("no_op", False) else _puzzle_width(ffn, hidden)
        name = f"g{group or 0}-w{width or 0}"
        shapes[name] = (group, width)
        if none and width is None:
            raise own.fail("attention", "and ffn are both no_op: a layer that does nothing")
        layers.append(LayerKind(mixer="none" if none else "attention", ffn="dense" if width else "none", variant=name))
    dim = f.size("head_dim", hidden // heads or 1)
    if not f.has("head_dim"):
        f.assume(f"head_dim = {dim} (hidden_size / heads: not in config.json)")
    variants = tuple(
        Variant(name=name, intermediate=width, attention=_grouped(heads, group, dim, bias) if group else None)
        for name, (group, width) in sorted(shapes.items())
    )
    f.pass_over("num_key_value_heads", "intermediate_size")
    main = next((v.attention for v in variants if v.attention), _grouped(heads, 1, dim, bias))
    widest = max((v.intermediate or 0 for v in variants), default=0)
    ffn_sizes = replace(dense_ffn(Fields({"intermediate_size": widest or 1}, f.where)), activation="silu")
    return Parts(layers=tuple(layers), attention=main, ffn=ffn_sizes, variants=variants)


def _grouped(heads: int, group: int, dim: int, bias: bool) -> AttentionArch:
    return AttentionArch(
        heads=heads, kv_heads=max(1, heads // group), head_dim=dim, v_head_dim=dim, qkv_bias=bias, o_bias=bias
    )


def _puzzle_width(ffn: Fields, hidden: int) -> int:
    """Width of a block from its multiple of the hidden size: two thirds of it, up to the next 256."""
    multiple = ffn.number_or_none("ffn_mult")
    if multiple is None:
        raise ffn.fail("ffn_mult", "is missing; needs a multiple of the hidden size")
    return -(-int(2 * multiple * hidden / 3) // 256) * 256
