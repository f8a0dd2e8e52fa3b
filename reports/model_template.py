"""The model that `moesim init --model` writes: a mixture of experts that runs as it is, every field explained."""

MODEL = """\
# A model of your own: sizes in elements, lengths in tokens. Look at it with `moesim show model.yaml`, and write
# `model: model.yaml` in a scenario. Lines behind a "#" show what else there is; docs/models.md explains all of it.
# A model that is nearly one of the catalogue is shorter as  model: {base: qwen3-30b-a3b, top_k: 4}

name: my-mixture
hidden: 2048                      # width of the residual stream
layers: 24
# What is in each layer: mixer+block, in order; a shorter pattern is repeated. Mixers: attention, window_attention,
# cross_attention, mamba1, mamba2, gated_deltanet, kda, lightning, short_conv, none. Blocks: dense, moe, moe_residual
# (experts beside a dense block), none.
pattern: attention+dense, 23 x attention+moe
# pattern: 3 x gated_deltanet+moe, attention+moe  # a hybrid: softmax attention every fourth layer
# pattern: 5 x window_attention+moe, attention+moe@wide          # "wide" is one of the variants below

attention:
  heads: 32
  kv_heads: 4                     # left out: as many as heads
  head_dim: 128                   # left out: hidden / heads
  # v_head_dim: 128               # of values, where another
  # window: 4096                  # tokens that window_attention layers see
  qk_norm: head                   # none | head (a norm per head) | full (over all heads)
  # qkv_bias: false
  # o_bias: false
  # sinks: false                  # one learned logit per head
  # output_gate: false            # a gate as wide as the core's output; head_gate: one per head
  # Latent attention (MLA): these instead of kv_heads and head_dim
  # q_lora_rank: 1536
  # kv_lora_rank: 512
  # qk_nope_head_dim: 128
  # qk_rope_head_dim: 64
  # Sparse attention: an indexer picks the keys
  # index_heads: 64
  # index_head_dim: 128
  # index_top_k: 2048

ffn:                              # dense blocks
  intermediate: 6144
  gated: true                     # three matrices; false: two

moe:
  experts: 64
  top_k: 4                        # experts that compute for a token
  expert_intermediate: 1024
  gated: true
  shared_intermediate: 1024       # all shared experts together; 0: none
  # router: topk                  # top1 | topk | group_limited | expert_choice
  # groups: 8                     # of experts, of which top_k_groups are picked first (group_limited)
  # top_k_groups: 4
  # latent: 1024                  # experts work on a projection of this width
  # residual_intermediate: 0      # the dense block beside the experts, in moe_residual layers
  # zero_experts: 0               # identities that the router may pick, too; top_k counts what computes on average
  # router_bias: false
  # expert_bias: false
  # shared_gate: false

# ssm:                            # state-space and linear-attention layers: see docs/models.md for each kind
#   d_state: 128
#   d_conv: 4
#   d_inner: 4096
#   heads: 32
#   key_heads: 16
#   key_dim: 128

# variants:                       # sizes of layers that differ from the rest, by the name that the pattern gives
#   wide: {attention: {heads: 16, kv_heads: 2, head_dim: 256}}

vocab: 151936                     # rows of the table of words
tied_embeddings: false            # true: the output head is that table
max_context: 32768
# mtp_layers: 1                   # modules that predict further tokens: beside the counts
# norms_per_layer: 2
# checkpoint: {method: fp8, attention: fp8_block, dense: fp8_block, experts: fp8_block}   # formats as published
"""
