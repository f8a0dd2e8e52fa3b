"""Fields of a config.json that no reader asked for: harmless ones, ones to list, and ones that may change sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# bookkeeping, generation, scales and rates: none of them changes a size or what is computed per token
_HARMLESS = re.compile(
    r"^(model_type|architectures|auto_map|_name_or_path|name_or_path|transformers_version|torch_dtype|dtype|use_cache"
    r"|.*_token_ids?|.*_token|.*_token_index|.*_token_type_ids?|.*_placeholder|initializer_range|initializer_factor"
    r"|.*initializer.*|init_method.*|init_std|.*dropout.*|.*_eps|.*epsilon|eps|rope_.*|.*rope_theta.*|.*_rope|rotary_.*"
    r"|use_rope|no_rope_.*|mm_tokens_.*|partial_rotary_factors?|.*rotary_emb.*|.*aux_loss.*|.*_loss_coef|.*z_loss.*|output_.*|.*jitter.*"
    r"|pretraining_tp|ep_size|problem_type|id2label|label2id|num_beams|num_beam_groups|num_return_sequences|num_labels"
    r"|min_length|max_length|temperature|top_k|top_p|typical_p|do_sample|diversity_penalty|early_stopping"
    r"|repetition_penalty|length_penalty|no_repeat_ngram_size|encoder_no_repeat_ngram_size|return_dict.*"
    r"|remove_invalid_values|chunk_size.*|is_decoder|is_encoder_decoder|tie_encoder_decoder|tokenizer_class"
    r"|task_specific_params|torchscript|use_bfloat16|tf_legacy_loss|attn_implementation|_attn_implementation.*"
    r"|use_flash_attn.*|ignore_index|scoring_func|score_func|score_function|norm_topk_prob|.*routed_scaling.*"
    r"|route_norm|route_scale|moe_renormalize|moe_router_.*|norm_softmax|norm_head|use_grouped_topk|seq_aux|topk_method"
    r"|.*softcap.*|.*_multipliers?|logit_scale|logits_scaling|swiglu_limit.*|swiglu_alpha|.*_situ_.*"
    r"|hidden_act|hidden_activation|mlp_hidden_act|activation|quantization_config|compression_config|expert_dtype"
    r"|mamba_ssm_dtype|mamba_ssm_cache_dtype|residual_in_fp32|rescale_.*|time_step_.*|use_mamba_kernels"
    r"|mamba_hidden_act|max_window_layers|layer_?norm_type|use_rmsnorm|use_bias_norm|mup_.*|.*_cap"
    r"|tie_word_embeddings|bos|eos|long_factor|short_factor|attn_temperature.*|floor_scale|scale_.*|moe_shared_expert_overlap"
    r"|num_logits_to_keep|max_sequence_length|seq_length|model_max_length|initial_context_length|mla_use_nope|use_conv_bias|expand|vision_.*|video_.*|image_.*|use_unified_vision_chunk|original_max_position_embeddings"
    r"|moe_dropless|use_qk_l2norm|cross_attention_hidden_size|norm_type|mlp_type|mtp_layers_block_type"
    r"|mtp_use_dedicated_embeddings|mtp_loss_.*|moe_shared_expert_rank|scale_depth|lm_head_scale.*|cache_implementation"
    r"|position_embedding_type|moe_norm_.*|moe_gate|moe_gate_act|moe_token_.*|layer_norm_eps.*|use_mtp|init_.*|layer_norm_.*|router_dtype|normalization_function)$"
)
_SUSPECT = re.compile(
    r"(_size$|^num_|^n_|_dim$|_dims$|expert|layer|_rank$|freq|interval|^moe_|moe$|^mlp_|_heads?$|window|sparse|latent"
    r"|compress|_ratio|shared?_|pattern|period|_width|stride|_groups?$|depth|index_)"
)
_LISTED = 12  # names that an answer lists
_NAMED = 6  # names in a refusal
_TEXT = ("text_config", "llm_config", "language_config", "thinker_config", "quantization_config")
_SIZES = {
    "hidden_size",
    "num_hidden_layers",
    "depth",
    "d_model",
    "text_config",
}  # what has one of these is a model of its own
_TOWERS = ("vision_config", "audio_config", "visual", "vision_tower_config", "speech_config", "sound_config")


def _idle(value: Any) -> bool:
    """A value that switches its field off."""
    return value is None or value is False or value == 0 or value == "" or value == [] or value == {}


def sort_out(unread: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(fields that may change sizes, fields to list) among those not asked for; idle and harmless ones drop."""
    names = sorted(
        name for name, value in unread.items() if not _HARMLESS.match(name.rpartition(".")[2]) and not _idle(value)
    )
    suspects = [name for name in names if _SUSPECT.search(name.rpartition(".")[2].lower())]
    return suspects, [name for name in names if name not in suspects]


def _plainly(name: str) -> str:
    """A name from a foreign file, short and without what a terminal would obey."""
    plain = name if name.isascii() and name.isprintable() else ascii(name)
    return plain if len(plain) <= 40 else plain[:37] + "..."


def named(names: list[str]) -> str:
    """Some of these names, for a sentence."""
    shown = ", ".join(_plainly(name) for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def listed(names: list[str]) -> list[str]:
    """The line that an answer carries about fields that were not used; none where all were."""
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    shown = ", ".join(_plainly(name) for name in names[:_LISTED])
    return [f"config.json fields not used: {shown}{more}"]


def towers(config: Mapping[Any, Any]) -> list[str]:
    """What stands beside the text model: counted where the file gives its sizes, and left out."""
    said = []
    for key, tower in ((str(key), value) for key, value in config.items()):
        if (
            key in _TEXT
            or not isinstance(tower, Mapping)
            or not (key in _TOWERS or _SIZES & {str(name) for name in tower})
        ):
            continue
        count = _blocks(tower)
        size = f"about {count / 1e9:.2f} B parameters in its blocks" if count else "of unknown size"
        said.append(f"{_plainly(key)}: {size}, not in the counts and not simulated (text only)")
    return said


def _blocks(tower: Mapping[Any, Any]) -> int:
    """Parameters of a transformer tower: four square matrices and two of the dense block per layer; 0 if unknown."""

    def first(*keys: str) -> int:
        values = (tower.get(key) for key in keys)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < 10**6), 0)

    depth = first("depth", "num_hidden_layers", "vt_num_hidden_layers", "layers")
    width = first("hidden_size", "vt_hidden_size", "embed_dim", "width")
    inner = first("intermediate_size", "vt_intermediate_size", "mlp_dim")
    return depth * width * (4 * width + 2 * (inner or 4 * width)) if depth and width else 0
