"""Dispatch by multiplication: one-hot masks [tokens, experts, capacity] pick rows by einsum, as GShard introduced it.

Tokens are routed in groups. Each group owns `capacity` slots of every expert, empty ones too, so that a product of
masks and tokens fills them: 2 x slots x group x width FLOPs where a copy moves bytes, and nothing that is computed or
sent afterwards knows which slots are empty. Mesh TensorFlow (transformer/moe.py: groups of 1,024 tokens, at least 4
slots, masks built in float32), lingvo (core/gshard_layers.py: slots in multiples of 4), Fairseq and DeepSpeed
(top2gate.py, sharded_moe.py: one group of all tokens of a rank) share the algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.layers.context import LayerContext
from moesim.sim.layers.steps import Linear, Pointwise, Step
from moesim.sim.model.arch import MoeArch
from moesim.sim.software.stack import Stack, Tuning

EINSUM = "einsum"  # the dispatcher's name
DEFAULT_FACTOR = 1.25  # assumed where nothing is said: what Mesh TensorFlow trains with (capacity_factor_train)


@dataclass(frozen=True, slots=True)
class Masks:
    """`tokens` of one group, and the `capacity` that it has of every expert, in rows."""

    tokens: int
    capacity: int
    experts: int

    @property
    def slots(self) -> int:
        """Rows that a group sends to all experts, filled or not."""
        return self.capacity * self.experts

    def factor(self, top_k: int) -> float:
        """Slots over the copies of tokens that could fill them: the capacity factor that results."""
        return self.slots / (self.tokens * top_k)


def masks_of(tokens: int, experts: int, top_k: int, factor: float, stack: Stack) -> Masks:
    """The masks of a rank with so many tokens: groups as large as the software makes them, and their capacity."""
    tuning = Tuning()
    group = group_of(tokens, stack, tuning)
    least, multiple = (int(tuning.get(name, stack.name)) for name in ("mask_least_capacity", "mask_capacity_multiple"))
    rows = max(least, int(group * top_k * factor / experts))
    return Masks(group, -(-rows // multiple) * multiple, experts)


def group_of(tokens: int, stack: Stack, tuning: Tuning) -> int:
    """Tokens that are routed together, of a rank with so many."""
    group = int(tuning.get("mask_group_tokens", stack.name))
    return min(group, tokens) if group else tokens


def built_bytes(tokens: float, masks: Masks, top_k: int, software: str, tuning: Tuning) -> float:
    """Traffic of building the masks of so many tokens: [tokens, experts, capacity] in 32 bits, and before that, per
    choice of a token, which expert [tokens, experts] and which row of it [tokens, capacity]."""
    whole = 4.0 * masks.slots * tuning.get("mask_passes", software)
    expert = masks.experts * tuning.get("mask_expert_bytes", software)
    return tokens * (whole + top_k * (expert + masks.capacity * tuning.get("mask_row_bytes", software)))


def mask_steps(ctx: LayerContext, moe: MoeArch, slots: float, width: int) -> tuple[list[Step], list[Step]]:
    """(before the exchange, after it): masks built and multiplied with tokens; results multiplied back.

    `slots` of the rank, of all its groups. Backward, the gradient of tokens costs one product, those of results and of
    the combining weights one each; the mask of the dispatch has no gradient.
    """
    tokens = max(1, round(ctx.dispatched_tokens))
    group = group_of(tokens, ctx.stack, ctx.tuning)
    masks = Masks(group, max(1, round(slots / tokens * group / moe.experts)), moe.experts)
    built = Pointwise(
        name="moe.masks",
        forward_bytes=built_bytes(tokens, masks, moe.top_k, ctx.stack.name, ctx.tuning),
        backward_bytes=4.0 * tokens * masks.slots * ctx.tuning.get("mask_backward_passes", ctx.stack.name),
        category="permute",
        module="moe",
        kernels=4,
    )

    def product(name: str, gradient: bool) -> Linear:
        rows = max(1, round(slots))
        return Linear(
            name=name, m=rows, n=width, k=group, dtype=ctx.half, category="permute", module="moe", trainable=gradient
        )

    return [built, product("moe.mask_dispatch", False)], [product("moe.mask_combine", True)]
