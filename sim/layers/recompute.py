"""Recompute: which steps of a layer each word of a scenario runs again in the backward, and which words a model knows.

Words as in Megatron-Core (`recompute_modules`), and two of our own: mlp_act and ssm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

from moesim.hwmodels.work import Comm
from moesim.sim.layers.steps import Exchange, GroupedLinear, Linear, Pointwise, Step
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.params import EXPERT_FFN, SOFTMAX
from moesim.sim.question.scenario import ScenarioError

# word -> modules of steps that run again: a part runs again with everything inside it
_PARTS: dict[str, tuple[str, ...]] = {
    "core_attention": ("core_attention",),
    "mla_up_proj": ("mla_up_proj",),
    "layernorm": ("layernorm",),
    "mlp": ("mlp", "mlp_act"),  # dense feed-forward blocks, and the one beside experts (Arctic)
    "mlp_act": ("mlp_act", "shared_act"),  # activations of dense blocks and of shared experts
    "moe": ("moe", "moe_act", "shared_experts", "shared_act"),  # router, exchange, routed and shared experts
    "moe_act": ("moe_act",),  # activations of routed experts
    "shared_experts": ("shared_experts", "shared_act"),
    "ssm": ("ssm",),  # convolution, scan and gate of a state-space mixer; its projections are kept
}


# PyTorch's operator-wise checkpointing as torchtitan sets it: every second matrix product, cores of attention and what
# transfers brought back are kept, the rest runs again (torchtitan, selective_ac_option "op")
OPERATORS = "operators"


@lru_cache(maxsize=256)
def run_again(words: frozenset[str]) -> frozenset[str]:
    """Modules of the steps that these words run again; "full" is everything and not listed."""
    return frozenset(module for word in words for module in _PARTS.get(word, ()))


def recomputed(steps: Sequence[Step], words: frozenset[str]) -> tuple[Step, ...]:
    """The steps that a backward pass runs again when what these words name is not kept ("full": everything).

    "keep_collectives": what transfers brought was kept and is not sent again (TED's CAC).
    """
    modules = run_again(words)
    again = tuple(s for s in steps if "full" in words or s.module in modules)
    if OPERATORS in words and "full" not in words:
        again = _operators(steps)
    return tuple(s for s in again if not isinstance(s, Exchange)) if "keep_collectives" in words else again


def _operators(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps that run again where single operators are chosen: of q, k, v, out, gate, up, down every second."""
    widths = {s.name.removesuffix(".down"): s.k for s in steps if isinstance(s, Linear) and s.name.endswith(".down")}
    again: list[Step] = []
    for step in steps:
        if isinstance(step, Linear):
            block, _, matrix = step.name.rpartition(".")
            if matrix == "up" and step.n == 2 * widths.get(block, 0):
                again.append(replace(step, n=step.n // 2))
            elif matrix in ("out", "q_up", "kv_up"):
                again.append(step)
        elif isinstance(step, GroupedLinear):
            again += [step] if step.name.endswith(".up") else []
        elif isinstance(step, Exchange):
            gathers = isinstance(step.forward, Comm) and step.forward.kind == "all_gather"
            again += [step] if gathers else []
        elif isinstance(step, Pointwise):
            again += [step] if step.part == "body" else []
    return tuple(again)


def words_of(arch: ModelArch) -> tuple[str, ...]:
    """The words that name a part of this model."""
    mixers, ffns = {kind.mixer for kind in arch.layers}, {kind.ffn for kind in arch.layers}
    experts = any(ffn in EXPERT_FFN for ffn in ffns)
    shared = experts and arch.moe is not None and arch.moe.shared_intermediate > 0
    has = {
        "core_attention": any(mixer in SOFTMAX for mixer in mixers),
        "mla_up_proj": arch.attention is not None and arch.attention.is_mla,
        "layernorm": True,
        "mlp": "dense" in ffns or "moe_residual" in ffns,
        "mlp_act": "dense" in ffns or "moe_residual" in ffns or shared,
        "moe": experts,
        "moe_act": experts,
        "shared_experts": shared,
        "ssm": any(mixer not in (*SOFTMAX, "none") for mixer in mixers),
    }
    return tuple(word for word in _PARTS if has[word])


def check_words(words: Iterable[str], arch: ModelArch) -> None:
    """ScenarioError for a word that names a part which the model does not have."""
    have = words_of(arch)
    for word in words:
        if word in _PARTS and word not in have:
            raise ScenarioError(
                f"recompute: {arch.name} has no part that {word} would run again; use none, full, or some of "
                f"{', '.join(have)}"
            )
