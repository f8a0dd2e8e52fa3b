"""Hugging Face families: which reader reads which `model_type`, and which are known and cannot be read."""

from __future__ import annotations

from collections.abc import Callable

from moesim.sim.model import hf_dense, hf_experts, hf_hybrids, hf_latent, hf_puzzle, hf_windows
from moesim.sim.model.fields import Fields
from moesim.sim.model.hf_parts import Parts

FAMILIES: dict[str, Callable[[Fields], Parts]] = {
    # dense, full attention
    **dict.fromkeys(
        ("llama", "mistral", "ministral", "ministral3", "phi3", "smollm3", "granite", "solar"),
        hf_dense.llama,
    ),
    **dict.fromkeys(
        ("qwen2", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text", "mimo", "dream"), hf_dense.qwen2
    ),
    **dict.fromkeys(("qwen3", "qwen3_vl_text"), hf_dense.qwen3),
    "seed_oss": hf_dense.qkv_out_bias,
    "hunyuan_v1_dense": hf_dense.qk_normed,
    "ernie4_5": hf_dense.ernie,
    "apertus": hf_dense.apertus,
    "glm4": hf_dense.glm4,
    "internlm3": hf_dense.internlm3,
    "nemotron": hf_dense.nemotron,
    "internlm2": hf_dense.internlm2,
    "minicpm": hf_dense.minicpm,
    **dict.fromkeys(("minicpm3", "youtu_llm"), hf_dense.dense_latent),
    "starcoder2": hf_dense.starcoder2,
    "arcee": hf_dense.arcee,
    "llada": hf_dense.llada,
    "nemotron-nas": hf_puzzle.nemotron_nas,
    # dense, windows
    "gemma": hf_windows.gemma,
    "gemma2": hf_windows.gemma2,
    "gemma3_text": hf_windows.gemma3,
    "gemma4_text": hf_windows.gemma4,
    "cohere": hf_windows.cohere,
    "cohere2": hf_windows.cohere2,
    **dict.fromkeys(("olmo2", "olmo3"), hf_windows.olmo2),
    "exaone4": hf_windows.exaone4,
    # experts, full attention
    "mixtral": hf_experts.mixtral,
    "qwen2_moe": hf_experts.qwen2_moe,
    **dict.fromkeys(("qwen3_moe", "qwen3_vl_moe_text"), hf_experts.qwen3_moe),
    "glm4_moe": hf_experts.glm4_moe,
    "glm4v_moe_text": hf_experts.glm4_moe,
    "solar_open": hf_experts.glm4_moe,
    "gpt_oss": hf_experts.gpt_oss,
    "dbrx": hf_experts.dbrx,
    "minimax_m2": hf_experts.minimax_m2,
    **dict.fromkeys(("grok-1", "grok_1"), hf_experts.grok),
    "grok_2": hf_experts.grok_2,
    "olmoe": hf_experts.olmoe,
    "Klear": hf_experts.klear,
    "flex_olmo": hf_experts.flex_olmo,
    "llama4_text": hf_experts.llama4,
    "hunyuan_v1_moe": hf_experts.hunyuan_moe,
    "ernie4_5_moe": hf_experts.ernie_moe,
    **dict.fromkeys(("bailing_moe", "bailing_moe_v2"), hf_experts.bailing),
    "dots1": hf_experts.dots,
    "exaone_moe": hf_experts.exaone_moe,
    **dict.fromkeys(("granitemoe", "granitemoeshared"), hf_experts.granite_moe),
    "phimoe": hf_experts.phi_moe,
    "aria_text": hf_experts.aria,
    "arctic": hf_experts.arctic,
    **dict.fromkeys(("step3_text", "step3"), hf_experts.step3),
    # experts, windows
    "mimo_v2_flash": hf_windows.mimo_v2,
    **dict.fromkeys(("step3p5", "step3p7"), hf_windows.step3p5),
    **dict.fromkeys(("minimax_m3", "minimax_m3_vl_text"), hf_windows.minimax_m3),
    "afmoe": hf_windows.afmoe,
    # latent attention
    "deepseek": hf_latent.deepseek_moe,
    "deepseek_v2": hf_latent.deepseek_v2,
    **dict.fromkeys(
        ("deepseek_v3", "deepseek_v32", "kimi_k2", "glm_moe_dsa", "glm4_moe_lite", "mistral4"), hf_latent.deepseek
    ),
    "deepseek_v4": hf_latent.deepseek_v4,
    "longcat_flash": hf_latent.longcat,
    "kimi_linear": hf_latent.kimi_linear,
    # recurrent mixers
    "qwen3_next": hf_hybrids.qwen_hybrid_moe,
    "qwen3_5_text": hf_hybrids.qwen_hybrid_dense,
    "qwen3_5_moe_text": hf_hybrids.qwen_hybrid_moe,
    "jamba": hf_hybrids.jamba,
    "nemotron_h": hf_hybrids.nemotron_h,
    "granitemoehybrid": hf_hybrids.granite_hybrid,
    "bamba": hf_hybrids.bamba,
    "falcon_h1": hf_hybrids.falcon_h1,
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), hf_hybrids.minimax_lightning),
    **dict.fromkeys(("bailing_moe_linear", "bailing_moe_linear_v2"), hf_hybrids.bailing_linear),
    **dict.fromkeys(("lfm2", "lfm2_moe"), hf_hybrids.lfm2),
}

# files whose model_type says nothing, or is an outer name, by the class that runs them
BY_CLASS = {
    "Grok1ForCausalLM": "grok_2",
    "DeepseekV4ForCausalLM": "deepseek_v4",
    "MiniMaxM3SparseForCausalLM": "minimax_m3",
    "LongcatFlashForCausalLM": "longcat_flash",
    "MiniMaxM1ForCausalLM": "minimax_m1",
    "MiniMaxText01ForCausalLM": "minimax_text_01",
    "BailingMoeV2ForCausalLM": "bailing_moe_v2",
    "BailingMoeLinearV2ForCausalLM": "bailing_moe_linear_v2",
    "SolarForCausalLM": "solar",
}

# known, and refused: what stands in the way
REFUSED = {
    "zamba2": ("num_mem_blocks", "shares blocks between layers and adds adapters to them"),
    "jetmoe": ("num_local_experts", "routes attention to experts, too"),
    "gemma3n_text": ("altup_num_inputs", "has alternating updates and inputs per layer"),
    "mamba2": ("num_heads", "has no feed-forward blocks under usual names; write a pattern mamba2+none"),
    "rwkv7": ("head_dim", "has a mixer that moesim does not price"),
    "openelm": ("num_query_heads", "differs from layer to layer in ways that are not read"),
}
