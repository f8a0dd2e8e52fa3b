"""What must hold between the sizes of one model before anything may be computed from them."""

from __future__ import annotations

from moesim.sim.model.arch import AttentionArch, ModelArch, MoeArch, SsmArch
from moesim.sim.model.fields import ArchError

_SOFTMAX = ("attention", "window_attention", "cross_attention")
_STATE_SPACE = ("mamba1", "mamba2", "gated_deltanet")


def check(arch: ModelArch) -> None:
    """Raise ArchError for the first pair of sizes that cannot both be true."""
    where = f"model {arch.name!r}"
    _check_layers(arch, where)
    if arch.attention is not None:
        _check_attention(arch.attention, where)
    if arch.moe is not None:
        _check_moe(arch, arch.moe, where)
    if arch.ssm is not None:
        _check_ssm(arch, arch.ssm, where)


def _need(true: bool, where: str, why: str) -> None:
    if not true:
        raise ArchError(f"{where}: {why}")


def _check_layers(arch: ModelArch, where: str) -> None:
    mixers = {kind.mixer for kind in arch.layers}
    ffns = {kind.ffn for kind in arch.layers}
    window = arch.attention.window if arch.attention else None
    residual = arch.moe.residual_intermediate if arch.moe else 0
    encoders = [kind.encoder for kind in arch.layers]
    has_attention, has_ssm = arch.attention is not None, arch.ssm is not None
    _need(not mixers & set(_SOFTMAX) or has_attention, where, "attention layers need attention: {heads}")
    _need("window_attention" not in mixers or window is not None, where, "window layers need a window")
    _need(not mixers & set(_STATE_SPACE) or has_ssm, where, "state-space layers need ssm: {d_state}")
    _need("dense" not in ffns or arch.ffn is not None, where, "dense layers need ffn: {intermediate, gated}")
    _need(not arch.is_moe or arch.moe is not None, where, "MoE layers need moe: {experts, top_k, ...}")
    _need("moe_residual" not in ffns or residual > 0, where, "moe_residual layers need residual_intermediate")
    _need(encoders == sorted(encoders, reverse=True), where, "encoder layers must come before decoder layers")
    _need("cross_attention" not in mixers or any(encoders), where, "cross_attention needs encoder layers")


def _check_attention(a: AttentionArch, where: str) -> None:
    _need(a.heads % a.kv_heads == 0, where, f"{a.heads} heads are not a multiple of {a.kv_heads} kv_heads")
    latent = (a.kv_lora_rank, a.qk_nope_head_dim, a.qk_rope_head_dim)
    _need(
        all(latent) or not (any(latent) or a.q_lora_rank),
        where,
        "MLA needs kv_lora_rank, qk_nope_head_dim and qk_rope_head_dim together",
    )
    if a.is_mla:
        split = (a.qk_nope_head_dim or 0) + (a.qk_rope_head_dim or 0)
        _need(a.head_dim == split, where, f"head_dim {a.head_dim} is not qk_nope + qk_rope = {split}")
        _need(a.kv_heads == a.heads, where, f"MLA has no kv_heads of its own; needs {a.heads} or none")
    index = (a.index_heads, a.index_head_dim, a.index_top_k)
    why = "an indexer needs index_heads, index_head_dim and index_top_k together"
    _need(all(index) or not any(index), where, why)
    _need(a.is_mla or not any(index), where, "an indexer needs MLA (kv_lora_rank)")


def _check_moe(arch: ModelArch, moe: MoeArch, where: str) -> None:
    fewest = min([moe.experts, *(kind.experts for kind in arch.layers if kind.experts is not None)])
    _need(moe.top_k <= fewest, where, f"top_k {moe.top_k} is more than {fewest} experts")
    _need(moe.router != "top1" or moe.top_k == 1, where, f"router top1 needs top_k 1, not {moe.top_k}")
    _need(moe.experts % moe.groups == 0, where, f"{moe.experts} experts do not fill {moe.groups} groups")
    why = f"top_k_groups {moe.top_k_groups} is more than {moe.groups} groups"
    _need(moe.top_k_groups <= moe.groups, where, why)
    reachable = moe.experts // moe.groups * moe.top_k_groups
    why = f"top_k {moe.top_k} is more than the {reachable} experts of {moe.top_k_groups} groups"
    _need(moe.top_k <= reachable or moe.groups == 1, where, why)


def _check_ssm(arch: ModelArch, s: SsmArch, where: str) -> None:
    mixers = {kind.mixer for kind in arch.layers}
    _need(s.d_inner % s.heads == 0, where, f"ssm.d_inner {s.d_inner} is not a multiple of {s.heads} heads")
    _need(s.heads % s.key_heads == 0, where, f"{s.heads} heads are no multiple of {s.key_heads} key_heads")
    _need("mamba1" not in mixers or s.dt_rank > 0, where, "mamba1 layers need ssm.dt_rank")
    _need("gated_deltanet" not in mixers or s.key_dim > 1, where, "gated_deltanet layers need ssm.key_dim")
