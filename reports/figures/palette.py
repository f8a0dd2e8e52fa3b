"""Colours that colour-blind readers can tell apart (Okabe and Ito 2008), by what they stand for."""

from __future__ import annotations

PHASES = {
    "F": "#0072B2",  # blue
    "B": "#E69F00",  # orange
    "I": "#F0E442",  # yellow
    "W": "#009E73",  # green
    "FB": "#CC79A7",  # pink
}
BUBBLE = "#E4E4E4"
BACKGROUND = "#56B4E9"  # gradient and weight exchange beside compute
HOST = "#7F7F7F"
END = "#3C3C3C"  # after the pipeline: optimizer, stragglers, constants
INK = "#222222"
LIMIT = "#D55E00"  # vermilion: a limit that must not be crossed
MORE, LESS = "#D55E00", "#0072B2"  # ends of a scale around a mean: above it, below it

# what a category of the breakdown is, and its colour
CLASSES = {
    "tensor-core work": "#0072B2",
    "memory-bound work": "#56B4E9",
    "communication (exposed)": "#D55E00",
    "optimizer, fixed costs": "#3C3C3C",
    "waiting": "#BDBDBD",
}
CLASS_OF = {
    "gemm": "tensor-core work",
    "grouped_gemm": "tensor-core work",
    "lora": "tensor-core work",
    "attention": "tensor-core work",
    "ssm": "tensor-core work",
    "head": "tensor-core work",
    "embedding": "memory-bound work",
    "elementwise": "memory-bound work",
    "router": "memory-bound work",
    "permute": "memory-bound work",
    "cast": "memory-bound work",
    "grad_accumulate": "memory-bound work",
    "tp_comm": "communication (exposed)",
    "cp_comm": "communication (exposed)",
    "ep_comm": "communication (exposed)",
    "pp_comm": "communication (exposed)",
    "dp_comm": "communication (exposed)",
    "overlap": "communication (exposed)",
    "offload": "communication (exposed)",
    "optimizer": "optimizer, fixed costs",
    "step_constant": "optimizer, fixed costs",
    "correction": "optimizer, fixed costs",
    "host": "waiting",
    "bubble": "waiting",
    "imbalance": "waiting",
    "slow_gpu": "waiting",
    "straggler": "waiting",
}
MEMORY = {
    "weights": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer": "#009E73",
    "activations": "#E69F00",
    "logits": "#F0E442",
    "buffers": "#CC79A7",
    "reserve": "#BDBDBD",
}
PHASE_LABELS = {
    "F": "forward",
    "B": "backward",
    "I": "input gradient",
    "W": "weight gradient",
    "FB": "overlapped forward + backward",
}
