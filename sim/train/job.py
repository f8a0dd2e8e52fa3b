"""TrainJob: everything that decides one training step, resolved; no None is left to guess."""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.hwmodels.cluster import Cluster
from moesim.sim.layout.layout import Layout
from moesim.sim.model.arch import ModelArch
from moesim.sim.software.stack import Stack
from moesim.traces.routing import Routing


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Everything that decides one training step, resolved (no None left to guess)."""

    arch: ModelArch
    cluster: Cluster
    layout: Layout
    stack: Stack
    global_batch: int  # sequences per step
    micro_batch: int
    seq_len: int
    precision: str
    recompute: frozenset[str] = frozenset()
    routing: Routing = field(default_factory=Routing)
    capacity_factor: float | None = None
    mtp: bool = True
    lora_rank: int = 0
    lora_attention_only: bool = False
    base_bytes: float = 2.0  # bytes per frozen weight (QLoRA: 0.5)
    offload_optimizer: bool = False
    offload_activations: float = 0.0  # share of the kept activations that moves to host memory
    release: str = ""  # software release "YY.MM", empty when unknown

    width_bytes: float = field(init=False)  # bytes of one weight or activation that is not quantised
    micro_batches: int = field(init=False)  # per data-parallel replica and step

    def __post_init__(self) -> None:
        object.__setattr__(self, "width_bytes", 4.0 if self.precision == "fp32" else 2.0)
        object.__setattr__(self, "micro_batches", self.global_batch // (self.micro_batch * self.layout.dp))
