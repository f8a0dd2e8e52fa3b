"""The dense twin: the model that a mixture of experts should be compared with.

Of equal active parameters: same hidden size, mixers, layers, vocabulary and MTP modules; every feed-forward block
becomes one dense block, all of the same width, chosen so that a token touches as many parameters as in the mixture. Of
any other size: hidden size, heads and depth grow together, as families of dense models do, before that width is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import lcm
from typing import Any

from moesim.sim.model.arch import ArchError, AttentionArch, Checkpoint, FfnArch, ModelArch, check
from moesim.sim.model.params import active_parameters
from moesim.sim.model.writing import as_mapping

_EXPERTS = ("moe", "moe_residual")
_IN_DENSE = {"moe_act": "mlp_act", "moe": "mlp", "shared_experts": "mlp"}  # words of recompute
_MULTIPLES = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # widths that tensor parallelism and tiles like, coarsest first
TOLERANCE = 0.005  # of the parameters; smaller steps are taken until the twin is within it
_SAME = 0.15  # sizes that near keep every shape but the width


def dense_twin(arch: ModelArch) -> ModelArch:
    """A dense model whose active parameters equal those of `arch` within 0.5 %; a dense model is its own twin.

    Experts with a gate become a gated block (three matrices), others an ungated one. Leading dense layers take the
    common width too, so that all feed-forward blocks of the twin are alike.
    """
    if not arch.is_moe or arch.moe is None:
        return arch
    return _of_width(_without_experts(arch), float(_active(arch)))


def dense_of_size(arch: ModelArch, size: float, name: str = "") -> ModelArch:
    """A dense model of `size` parameters (within 0.5 %) of the family of `arch`. ArchError where none is that small.

    Hidden size, heads and depth grow by the cube root of the ratio of sizes; widths of heads, keys and values of GQA
    and the latent of MLA stay. Models with state-space mixers keep their hidden size and grow in depth.
    """
    dense = _without_experts(arch) if arch.is_moe else arch
    growth = size / _active(arch)
    if abs(growth - 1.0) > _SAME:
        dense = _grown(dense, growth)
    return _of_width(replace(dense, name=name or f"{arch.name}-dense-{size / 1e9:.3g}b"), size)


def _without_experts(arch: ModelArch) -> ModelArch:
    assert arch.moe is not None
    gated = arch.moe.gated
    layers = tuple(replace(kind, ffn="dense", experts=None) if kind.ffn in _EXPERTS else kind for kind in arch.layers)
    ffn = FfnArch(intermediate=1, gated=gated, activation="silu" if gated else "gelu")
    dense = replace(arch, name=f"{arch.name}-dense-twin", layers=layers, ffn=ffn, moe=None)
    if arch.checkpoint is None:
        return dense
    own = _own_formats(arch.checkpoint, arch.name)
    in_blocks = "fp8_block" in (own.attention, own.dense)
    return replace(dense, checkpoint=own if in_blocks else replace(own, block=None), fp8_blocks=in_blocks)


def _own_formats(published: Checkpoint, name: str) -> Checkpoint:
    """A twin is published as the mixture is, its blocks in the format of the experts, which it has not."""
    method = f"as {name} is: {published.method}"
    return replace(published, method=method, dense=published.experts, experts="bf16", shared="bf16")


def _grown(arch: ModelArch, growth: float) -> ModelArch:
    """The family's member of about `growth` times as many parameters, its feed-forward width still open."""
    side = growth ** (1.0 / 3.0)
    old = arch.num_layers
    count = max(1, round(old * side))
    layers = tuple(arch.layers[i * old // count] for i in range(count))
    if arch.ssm is not None or arch.attention is None:
        return replace(arch, layers=layers)
    hidden = max(1, round(arch.hidden * side / 128)) * 128
    variants = tuple(replace(v, attention=v.attention and _more_heads(v.attention, side)) for v in arch.variants)
    attention = _more_heads(arch.attention, side)
    return replace(arch, layers=layers, hidden=hidden, attention=attention, variants=variants)


def _more_heads(a: AttentionArch, side: float) -> AttentionArch:
    each = lcm(8 if a.kv_heads == a.heads else lcm(8, a.kv_heads), a.o_groups or 1)
    heads = max(1, round(a.heads * side / each)) * each
    rank = a.q_lora_rank and max(1, round(a.q_lora_rank * side / 128)) * 128
    return replace(a, heads=heads, kv_heads=heads if a.kv_heads == a.heads else a.kv_heads, q_lora_rank=rank)


def _of_width(arch: ModelArch, wanted: float) -> ModelArch:
    """The model with the feed-forward width that brings it to `wanted` parameters."""

    def with_width(width: int) -> ModelArch:
        assert arch.ffn is not None
        return replace(arch, ffn=replace(arch.ffn, intermediate=width))

    if not any(kind.ffn == "dense" for kind in arch.layers):
        raise ArchError(f"{arch.name} has no feed-forward blocks whose width could make it {wanted / 1e9:.3g} B large")
    first, second = _active(with_width(1)), _active(with_width(2))
    width = 1.0 + (wanted - first) / (second - first)  # parameters are linear in the width
    if width < 1.0:
        raise ArchError(f"no dense model of the family of {arch.name} is as small as {wanted / 1e9:.3g} B parameters")
    twin = with_width(round(width))
    for multiple in _MULTIPLES:
        candidate = with_width(max(multiple, round(width / multiple) * multiple))
        if abs(_active(candidate) / wanted - 1.0) <= TOLERANCE:
            twin = candidate
            break
    check(twin)
    return twin


def _active(arch: ModelArch) -> int:
    return active_parameters(arch).with_input_embedding


def twin_scenario(scenario: Mapping[str, Any], arch: ModelArch, twin: ModelArch | None = None) -> dict[str, Any]:
    """The same question about a dense model: same cluster, batch and pipeline, no expert parallelism, same load.

    `twin`: the dense model; left out, that of equal active parameters. In serving the GPUs of a replica that held
    requests of their own (attention data parallelism) become one tensor group, as experts did over them.
    """
    question = {key: value for key, value in scenario.items() if key not in ("routing", "placement")}
    layout = {**scenario.get("layout", {}), "ep": 1, "etp": 1}
    question["model"] = as_mapping(twin or dense_twin(arch))
    if twin is not None and twin.num_layers != arch.num_layers:
        layout.pop("stage_layers", None)
    if "train" in scenario or "serve" not in scenario:
        train = scenario.get("train", {})
        question["train"] = {key: value for key, value in train.items() if key != "capacity_factor"}
        if "recompute" in train:
            question["train"]["recompute"] = _dense_words(train["recompute"])
    if "serve" in scenario:
        serve = scenario["serve"]
        layout["tp"] = layout.get("tp", 1) * serve.get("attention_dp", 1)
        question["serve"] = {k: v for k, v in serve.items() if k not in ("attention_dp", "expert_slots", "offload")}
        if serve.get("pools"):
            question["serve"]["pools"] = {name: _one_group(pool) for name, pool in serve["pools"].items()}
    return {**question, "layout": layout}


def _dense_words(words: Any) -> Any:
    """What was run again of experts is run again of the dense blocks that stand for them."""
    if isinstance(words, str):
        return _IN_DENSE.get(words, words)
    return list(dict.fromkeys(_IN_DENSE.get(word, word) for word in words)) if isinstance(words, list) else words


def _one_group(pool: Mapping[str, Any]) -> dict[str, Any]:
    width = pool.get("tp", 1) * pool.get("attention_dp", 1)
    return {key: value for key, value in pool.items() if key in ("workers", "pp")} | {"tp": width}
