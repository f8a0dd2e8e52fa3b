"""What of a model is counted and not priced, or taken as a mean: said with every answer about it."""

from __future__ import annotations

from moesim.sim.model.arch import ModelArch


def unpriced(arch: ModelArch) -> list[str]:
    """One line for each part of the model whose time is left out, or stands for a distribution."""
    said = []
    if arch.residual_streams > 1:
        said.append(f"{arch.residual_streams} residual streams: weights counted, the traffic of mixing them not priced")
    if any(a is not None and a.compress for a in (arch.attention, *(each.attention for each in arch.variants))):
        said.append("compressed keys: a query is priced with the mean number of entries that it sees")
    if arch.moe is not None and arch.moe.zero_experts:
        said.append(
            f"zero-compute experts: {arch.moe.zero_experts} identities beside {arch.moe.experts} experts, of which "
            f"{arch.moe.top_k} compute for a token on average (routing as even over identities as over experts)"
        )
    return said
