"""What a published recompute cell says, as modules to run again."""

from __future__ import annotations

import re

from moesim.sim.question.scenario import ScenarioError


def recompute_of(text: str) -> list[str]:
    """Module names from a published recompute cell; empty means none."""
    t = text.lower()
    if not t or t == "none":
        return ["none"]
    if t.startswith("full"):
        return ["full"]
    if t.startswith("selective"):
        return ["selective"]
    names = [_module(part.strip()) for part in re.sub(r"\(.*?\)", "", t).split(",")]
    return list(dict.fromkeys(names))


_MODULES = (
    (r"mla[_ ]?up([_ ]?proj)?", "mla_up_proj"),
    (r"moe[_ ]?act", "moe_act"),
    (r"mlp[_ ]?act", "mlp_act"),
    (r"(layer|rms)?[_ ]?norm", "layernorm"),
    (r"mlp", "mlp"),
    (r"core[_ ]?(attn|attention)", "core_attention"),
    (r"shared[_ ]?experts?", "shared_experts"),
    (r"moe", "moe"),
    (r"ssm|mamba", "ssm"),
)


def _module(text: str) -> str:
    for pattern, module in _MODULES:
        if re.fullmatch(pattern, text):
            return module
    known = ", ".join(module for _, module in _MODULES)
    raise ScenarioError(f"column recompute: {text!r} is not known; write none, full, selective, or some of {known}")
