"""A config.json of a family that nobody has described: read as a plain stack if its fields say all there is to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import SequenceMatcher
from typing import Any

from moesim.sim.model.arch import ArchError
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import (
    Parts,
    attention,
    dense_ffn,
    experts,
    leading_dense_layers,
    mixers,
    num_layers,
    shared_experts,
    stack,
)
from moesim.sim.model.hf_unread import sort_out

_GATED = ("silu", "swish", "swiglu")  # an activation that stands for three matrices in every family that names it
_ALIKE = 0.75  # names below do not look like slips of each other


def plain(f: Fields) -> Parts:
    """Grouped-query attention, RMSNorm and gated blocks, or experts after leading dense layers; biases if named."""
    act = f.text("hidden_act", "")
    if act not in _GATED:
        raise f.fail("hidden_act", f"is {act or 'missing'}; only {', '.join(_GATED)} say that a block is gated")
    sparse = any(f.has(key) for key in ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk"))
    bias = f.flag("attention_bias", False)
    kinds = leading_dense_layers(f) if sparse else ["dense" for _ in range(num_layers(f))]
    width = f.first("moe_intermediate_size", "intermediate_size")
    f.said.append("the family is not known: read as a plain stack (RMSNorm, gated blocks) from fields that all are")
    return Parts(
        layers=stack(mixers(f), ["moe" if kind == "moe" else "dense" for kind in kinds]),
        attention=attention(f, bias=(bias, bias), qk_norm="head" if f.flag("use_qk_norm", False) else "none"),
        ffn=dense_ffn(f) if "dense" in kinds else None,
        moe=experts(f, width=width, shared=shared_experts(f) if f.has("n_shared_experts") else 0) if sparse else None,
    )


def akin(config: Mapping[Any, Any], families: Mapping[str, Callable[[Fields], Parts]], name: str = "") -> str | None:
    """The family whose reader finds each of its fields and uses most of these; None where none does.

    By fields: a name that is spelled alike says nothing about sizes. Spelling decides between families that use as
    many, and for one whose name differs by separators only.
    """
    telling = [key for names in sort_out({str(key): value for key, value in config.items()}) for key in names]
    best: tuple[bool, int, float, str] | None = None
    for family, read in families.items():
        f = Fields(config, family)
        try:
            read(f)
            f.pass_over("vocab_size", "hidden_size", "intermediate_size")  # read for every family alike
        except ArchError:
            continue
        unread = f.unread()
        if not sort_out(unread)[0]:
            used = sum(1 for key in telling if key not in unread)
            same = _letters(family) == _letters(name)  # a slip of separators only
            near = SequenceMatcher(None, _letters(family), _letters(name[:100])).ratio()
            near = near if near >= _ALIKE else 0.0
            if best is None or (same, used, near) > best[:3]:
                best = (same, used, near, family)
    return best[3] if best else None


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
