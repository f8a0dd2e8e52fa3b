"""LayerContext: everything a layer needs to know to say what it computes on one GPU for one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Group
from moesim.sim.layout.layout import Layout
from moesim.sim.layout.placement import ExpertLoad
from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.software.stack import Stack, Tuning


@dataclass(frozen=True, slots=True)
class LayerContext:
    """Inputs of the layer builders, and what follows from them; `load` is set for layers with experts.

    Fitted constants are looked up by the builder that needs them: an answer lists those that were used.
    """

    arch: ModelArch
    layout: Layout
    cluster: Cluster
    stack: Stack
    tuning: Tuning
    micro_batch: int
    seq_len: int
    precision: str
    dropless: bool = True
    lora_rank: int = 0  # 0: all weights train
    lora_attention_only: bool = False
    frozen_bytes: float = 2.0  # per frozen weight under LoRA; below 2 it is dequantised in every pass (QLoRA)
    age: str = "unknown"  # of the software release, see stack.release_age
    load: ExpertLoad | None = None  # of the layer at hand

    tokens: int = field(init=False)  # that one tensor-parallel group works on
    local_tokens: float = field(init=False)  # in the regions that sequence parallelism splits over the tensor group
    dispatched_tokens: float = field(init=False)  # that one GPU sends to experts: its share of its group's, or all
    half: str = field(init=False)  # the format of what is not quantised: 16 bits, or fp32 throughout
    width_bytes: float = field(init=False)  # bytes of one element of that format
    quantised: bool = field(init=False)  # linear layers run below 16 bits
    dequantise_bytes: float = field(init=False)  # moved per frozen weight and pass to widen it to 16 bits

    def __post_init__(self) -> None:
        """What follows from the inputs, once for all the builders that ask for it."""
        layout, precision = self.layout, self.precision
        tokens = max(1, self.micro_batch * self.seq_len // layout.cp)
        half = precision if precision in ("fp16", "fp32") else "bf16"
        widened = bool(self.lora_rank) and self.frozen_bytes < 2.0
        derived = {
            "tokens": tokens,
            "local_tokens": tokens / (layout.tp if layout.sequence_parallel else 1),
            "dispatched_tokens": tokens / layout.dispatch_split,
            "half": half,
            "width_bytes": bytes_per_element(half),
            "quantised": precision not in ("bf16", "fp16", "fp32"),
            "dequantise_bytes": 2.0 + self.frozen_bytes if widened else 0.0,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def at(self, kind: LayerKind) -> LayerContext:
        """The context with the sizes that this layer sees: itself, unless the layer has sizes of its own."""
        return self if kind.variant is None else replace(self, arch=self.arch.at(kind))

    def group(self, kind: str) -> Group:
        """The layout's communicator of this kind."""
        return self.layout.group(kind, self.cluster)
