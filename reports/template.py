"""What `moesim init` writes: a scenario and a file of hardware that run as they are and say what keys are for."""

SCENARIO = """\
# A moesim scenario: which model, on which cluster, laid out how, training what. Run it with
#   moesim train scenario.yaml            (add --json, --timeline step.json, --figure step.png)
# Bare numbers are SI units; quantities may carry units where noted. Keys behind a "#" show a default or an
# alternative. `moesim show` lists models, GPUs, nodes, fabrics and stacks; `moesim schema` prints the schema.

# A catalogue name, the path of a Hugging Face config.json, a few layers of a catalogue model
# ({base: deepseek-v3, layers: 8}), or a plain GPT ({layers: 24, hidden: 2048, heads: 16, vocab: 51200}).
model: qwen3-30b-a3b

cluster:
  node: dgx-h100                  # or gpu: H100, whose usual node is then taken; or what clouds rent, p5en.48xlarge
  gpus: 64
  fabric: rail-ib-400             # between nodes, or its kind: infiniband | roce | efa | slingshot; left out: what
                                  # the node's NICs usually plug into
  # hardware: my-hardware.yaml    # GPUs, nodes and fabrics of your own (moesim init --hardware); names mean those, too
  # gpus_per_node: 4              # where hosts hold fewer GPUs than the node of the catalogue
  # nic_bytes_per_s: 400 Gb/s     # per GPU and direction; overrides the node's
  # oversubscription: 1.0         # of the fabric's upper tiers
  # host_memory_bytes: 2 TiB      # of one host, for what is offloaded; overrides the node's

layout:
  tp: 1                           # tensor parallel
  pp: 2                           # pipeline parallel
  vpp: 2                          # virtual stages per pipeline rank (interleaved 1F1B)
  cp: 1                           # context parallel
  ep: 8                           # expert parallel
  etp: 1                          # tensor parallel inside experts
  # dp: 32                        # follows from the others; checked when given
  zero: 1                         # 0 none, 1 optimizer, 2 + gradients, 3 + parameters (FSDP)
  # zero_group: 8                 # ranks that share one copy of the parameters (hybrid sharding)
  schedule: interleaved           # gpipe | 1f1b | interleaved | zb-h1 | dualpipe | zb-v | v-half | v-min
  # sequence_parallel: true
  # duplicates: drop        # or send: copies of a token in a tensor group without sequence parallelism (TED)
  # stage_layers: [12, 12, 12, 12]  # layers per virtual stage; left out: as even as possible

train:
  global_batch: 512               # sequences per optimizer step
  micro_batch: 1                  # sequences per forward pass and replica
  seq_len: 4096
  precision: bf16                 # bf16 | fp16 | fp8 | fp8_block | mxfp8 | nvfp4
  recompute: [moe_act, layernorm] # none | selective | full, or modules: core_attention, mlp, mlp_act, moe,
                                  # moe_act, layernorm, mla_up_proj, shared_experts, ssm
  # capacity_factor: 1.0          # drop tokens beyond it; left out: dropless
  # mtp: true                     # train multi-token-prediction modules where the model has them
  # lora: {rank: 16, targets: all, base_dtype: bf16}   # adapters on frozen weights
  # offload_optimizer: false      # optimizer state in host memory
  # offload_activations: 0.0      # share of the activations

# serve:                          # the same model under requests: moesim serve scenario.yaml
#   engine: vllm                  # vllm | sglang | trtllm, or {name: vllm, token_budget: 4096, max_batch: 256, ...}
#   precision: fp8                # bf16 | fp8 | fp8_block | fp4 | nvfp4 | mxfp4 | int4 (awq, gptq)
#   layout: {tp: 8}                # of a replica, where the layout above is of the training in this file
#   attention_dp: 1               # ranks with requests of their own; experts see all ranks' tokens
#   requests: {kind: closed, concurrency: 64, input_tokens: 1024, output_tokens: 1024, jitter: 0.2}
#                                 # or poisson and gamma (rate_per_s, cv), offline, trace (file), azure-conversation,
#                                 # azure-code, mooncake-conversation, reuse (prompts that share beginnings) and
#                                 # sessions: {turns: 6, think_s: 20, ...} (docs/requests.md)
#   slo: {ttft_s: 1.0, tpot_s: 0.05}
#   pools: {prefill: {workers: 2, tp: 4}, decode: {workers: 1, tp: 8}}   # instead of layout
#   speculative: {tokens: 3, acceptance: 0.7}   # method: mtp | eagle | eagle3 | ngram | draft_model (and its model)
#   adapters: {count: 4, rank: 16}              # LoRA; targets: all | attention
#   sampling: {kind: top_p, logprobs: 0, structured: json}
#   offload: {resident: 0.5, hit_rate: 0.6}     # experts in host memory

# Which experts tokens pick: balanced, or a process with {lognormal: 0.65} (spread of popularity) or {counts: file.npz}
# (tokens per layer and expert), and beside either of them what is left out of {group_sigma: 0.36, topic: 0.65,
# group_topic: 0.36, drift: 0.9995, sampling: true, seed: 0}. Left out: docs/routing.md says what then holds.
routing: balanced
# slow: {share: 0.01, factor: 0.8}   # GPUs at a part of the others' speed; or ids: [17]. Training only, as the next two
# jitter: 0.02                        # standard deviation of a stretch of compute over its mean
# links: {degraded: {nic17: 0.5}, failed: {nic3: 1.5}}   # rate that is left; the second at which it goes dead
# placement: {slots: 320, plan_age_steps: 100}   # slots of experts by a plan; or spare_slots: 64, or replicas: 2;
#                                                # rebalance_every_steps: 5000 in serving

# Software: megatron-tuned | megatron-bridge | megatron-core | megatron-2021 | composer-fsdp | torchtitan | hai-llm;
# or a mapping with changed settings, {name: megatron-tuned, ep_overlap: yes, dispatcher: deepep, cuda_graphs: none}
stack: megatron-tuned
# release: "26.04"                # of that software, year.month
# profile: h100-sxm               # fitted kernel times, or my-machine.json; left out: the GPU's own
# corrections: corrections.json   # what own runs taught: moesim calibrate --from rows
# price_usd_per_gpu_hour: 2.5     # left out: the middle of published rental prices
"""

HARDWARE = """\
# Hardware of your own, beside the catalogue's. Name the file in a scenario, and use its names there, for any verb:
#   cluster: {hardware: my-hardware.yaml, node: my-pod, gpus: 64}
# `moesim show my-hardware.yaml` prints every record as it is used, with what was taken for what it does not say.
# Bare numbers are SI units; quantities may carry units. Keys behind a "#" show what may be added.

gpus:
  my-gpu:
    like: h100-sxm                # whose measured kernels and fitted constants it borrows, at its own peaks and rates
    peak_flops_per_s: {bf16: 1.2 PFLOP/s, fp8: 2.4 PFLOP/s}   # dense, without structured sparsity; fp4, int8 ...
    hbm_bytes: 192 GB
    hbm_bytes_per_s: 6 TB/s
    tdp_w: 900 W
    # usable_bytes: 188 GB        # what the driver reports; left out: all of hbm_bytes
    # scale_up_bytes_per_s: 600 GB/s   # per GPU and direction; a node may say it instead
    # pcie_bytes_per_s: 63 GB/s   # left out, as l2_bytes and sm_count: those of the GPU that it is like
    price_usd_per_hour: 3.5
    source: our vendor's data sheet of 2026-11

nodes:
  my-pod:
    gpu: my-gpu                   # one of above, or of the catalogue
    gpus: 8                       # in a rack-scale domain: gpus_per_domain: 72, gpus_per_host: 4
    scale_up_bytes_per_s: 600 GB/s
    # torus_dimensions: 3           # neighbours joined, two links a dimension: all of the rate above
    nics_per_host: 8
    nic_bytes_per_s: 400 Gb/s     # one NIC, one direction
    fabric: my-fabric             # that its NICs plug into; left out: by their rate
    # host_memory_bytes: 2 TiB
    # host_cpu: x86               # or grace | arm

fabrics:
  my-fabric:
    kind: roce                    # infiniband | roce | efa | slingshot
    link_bytes_per_s: 400 Gb/s
    latency_s: 5 us
    topology: rail-optimised      # fat-tree | three-tier | multi-plane | dragonfly
    oversubscription: 2.0

# servers:                        # what fleets buy (moesim plan --traffic), by the name of the node
#   my-pod: {gpus: 8, kw: 12, rack_units: 8, usd: {low: 300000, high: 350000, date: "2026-11"}}
# instances:                      # what is rented: a node, and what is not as the node's
#   my-rented: {node: my-pod, usd_per_hour: 30}
"""
