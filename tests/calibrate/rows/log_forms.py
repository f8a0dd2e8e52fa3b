"""Training logs as Megatron-LM, NeMo, torchtitan and DeepSpeed print them, a few lines each, made by hand."""

from __future__ import annotations

from collections.abc import Iterable

# the arguments of a Mixtral 8x7B on 64 GPUs, as Megatron-LM dumps them
ARGUMENTS = {
    "bf16": "True", "context_parallel_size": "1", "expert_model_parallel_size": "8", "expert_tensor_parallel_size": "1",
    "ffn_hidden_size": "14336", "fp16": "False", "fp8": "None", "global_batch_size": "256",
    "group_query_attention": "True",
    "hidden_size": "4096", "micro_batch_size": "1", "moe_ffn_hidden_size": "None", "moe_router_topk": "2",
    "moe_router_force_load_balancing": "True", "moe_token_dispatcher_type": "alltoall", "num_attention_heads": "32",
    "num_experts": "8", "num_layers": "32", "num_layers_per_virtual_pipeline_stage": "None", "num_query_groups": "8",
    "pipeline_model_parallel_size": "4", "recompute_granularity": "None", "seq_length": "4096",
    "sequence_parallel": "True", "swiglu": "True", "tensor_model_parallel_size": "1",
    "use_distributed_optimizer": "True",
    "virtual_pipeline_model_parallel_size": "8", "world_size": "64",
}  # fmt: skip


def megatron(
    times_ms: Iterable[float], batch: int = 256, arguments: dict[str, str] | None = None, first: int = 1
) -> str:
    """A log: the dump of arguments, iterations of these times from 10 x `first` on, memory after the second: 40 GiB."""
    held = ARGUMENTS if arguments is None else arguments
    lines = ["using world size: 64, data-parallel size: 16, context-parallel size: 1"] if held else []
    if held:
        lines.append("------------------------ arguments ------------------------")
        lines += [f"  {name} {'.' * (48 - len(name))} {value}" for name, value in held.items()]
        lines.append("-------------------- end of arguments ---------------------")
    for i, time in enumerate(times_ms, first):
        lines.append(
            f" [2026-03-04 05:06:07] iteration {i * 10:>8}/    1000 | consumed samples: {i * 10 * batch:>12} | "
            f"elapsed time per iteration (ms): {time:.1f} | throughput per GPU (TFLOP/s/GPU): 412.3 | "
            f"learning rate: 3.0E-05 | global batch size: {batch:>5} | lm loss: 2.1E+00 | loss scale: 1.0 | "
            "number of skipped iterations:   0 | number of nan iterations:   0 |"
        )
        if i == 2:
            lines.append(
                "[Rank 0] (after 20 iterations) memory (MB) | allocated: 20480.5 | max allocated: 40960.0 | "
                "reserved: 45056.0 | max reserved: 45056.0"
            )
    return "\n".join(lines) + "\n"


def nemo(times_s: Iterable[float], bar: bool = False) -> str:
    """Progress of NeMo 2, or of Lightning's bar."""
    lines = ["All distributed processes registered. Starting with 64 processes", "  tensor_model_parallel_size: 1"]
    lines += [
        "  pipeline_model_parallel_size: 4",
        "  expert_model_parallel_size: 8",
        "  seq_length: 4096",
        "micro_batch_size: 1",
    ]
    for i, time in enumerate(times_s):
        if bar:
            lines.append(
                f"Epoch 0: :  {i}%| | {i + 1}/100 [00:10<01:00, reduced_train_loss=10.0, global_step={i:.1f}, "
                f"consumed_samples=256.0, train_step_timing in s={time}]"
            )
        else:
            lines.append(
                f"Training epoch 0, iteration {i}/99 | lr: 2.7e-06 | global_batch_size: 256 | global_step: {i} | "
                f"reduced_train_loss: 11.03 | train_step_timing in s: {time} | consumed_samples: {256 * (i + 1)}"
            )
    return "\n".join(lines) + "\n"


def torchtitan(rates: Iterable[float]) -> str:
    """torchtitan on 64 H100, coloured as it prints: tokens per second of a GPU at each step."""
    head = "[titan] 2026-02-03 04:05:06,789 - root - INFO - "
    lines = [
        head + "CUDA capacity: NVIDIA H100 80GB HBM3 with 79.10GiB memory",
        head + "Building 2-D device mesh with ['dp_shard', 'tp'], [8, 8]",
        head + "\x1b[34mModel llama3 70B \x1b[31msize: 70,553,706,496 total parameters\x1b[39m",
        head + "Applied full activation checkpointing to the model",
        head + "Trainer is initialized with local batch size 8, global batch size 64, gradient accumulation steps 1, "
        "sequence length 8192, total steps 1000 (warmup 200)",
    ]
    for i, rate in enumerate(rates, 1):
        lines.append(
            f"{head}\x1b[31mstep: {i * 10:>2}  \x1b[32mloss:  5.6  \x1b[38;2;180;60;0mgrad_norm: 1.2  "
            f"\x1b[33mmemory: 43.45GiB(45.70%)  \x1b[34mtps: {rate:,.0f}  \x1b[36mtflops: 426.11  "
            "\x1b[35mmfu: 43.08%\x1b[39m"
        )
    return "\n".join(lines) + "\n"


def deepspeed(rates: Iterable[float], old: bool = False) -> str:
    """DeepSpeed's timer and the print of its config: ZeRO-3 on 8 GPUs."""
    head = "[2026-01-02 03:04:05,678] [INFO] "
    lines = [
        head + "[config.py:1001:print]   train_batch_size ............. 64",
        head + "[config.py:1001:print]   train_micro_batch_size_per_gpu  8",
        head + "[config.py:1001:print]   world_size ................... 8",
        head + "[config.py:1001:print]   bfloat16_enabled ............. True",
        head
        + "[config.py:1001:print]   zero_config .................. stage=<ZeroStageEnum.weights: 3> overlap_comm=True",
    ]
    for i, rate in enumerate(rates, 1):
        if old:
            lines.append(
                head
                + f"[timer.py:199:stop] 0/{i * 10}, SamplesPerSec={rate}, MemAllocated=10.0GB, MaxMemAllocated=35.25GB"
            )
        else:
            lines.append(
                head
                + f"[timer.py:260:stop] epoch=0/micro_step={i * 10}/global_step={i * 10}, RunningAvgSamplesPerSec=9.9, "
                f"CurrSamplesPerSec={rate}, MemAllocated=10.0GB, MaxMemAllocated=35.25GB"
            )
    return "\n".join(lines) + "\n"
