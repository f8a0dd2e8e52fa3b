"""LayerContext: everything a layer needs to know to say what it computes on one GPU for one micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.dtypes import bytes_per_element
from moesim.hwmodels.work import Group
from moesim.sim.layout.layout import Layout
from moesim.sim.model.arch import ModelArch
from moesim.sim.software.stack import Stack, Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """What routing asks of the busiest expert-parallel rank, for one layer and micro-batch.

    `rows` per local expert of that rank; `imbalance` its received tokens over the mean; `node_copies` and
    `rank_copies` distinct scale-up domains and ranks that one token reaches; `dropped_share` tokens not served.
    """

    rows: tuple[int, ...]
    rank_rows: tuple[int, ...]  # rows of every rank of the expert group; one number when they are equal
    imbalance: float
    node_copies: float
    rank_copies: float
    dropped_share: float = 0.0


@dataclass(frozen=True, slots=True)
class LayerContext:
    """Inputs of the layer builders; `load` is set for layers with experts."""

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

    @property
    def tokens(self) -> int:
        """Tokens that one tensor-parallel group works on."""
        return max(1, self.micro_batch * self.seq_len // self.layout.cp)

    @property
    def local_tokens(self) -> float:
        """Tokens in the regions that sequence parallelism splits over the tensor group."""
        split = self.layout.tp if self.layout.sequence_parallel else 1
        return self.tokens / split

    @property
    def dispatched_tokens(self) -> float:
        """Tokens that one GPU sends to experts: its share of those of its tensor group, or all of them."""
        return self.tokens / self.layout.dispatch_split

    @property
    def half(self) -> str:
        """The format of everything that is not quantised: 16 bits, or fp32 throughout."""
        return self.precision if self.precision in ("fp16", "fp32") else "bf16"

    @property
    def width(self) -> float:
        """Bytes of one element of everything that is not quantised."""
        return bytes_per_element(self.half)

    @property
    def quantised(self) -> bool:
        """True when linear layers run below 16 bits."""
        return self.precision not in ("bf16", "fp16", "fp32")

    @property
    def dequantise_bytes(self) -> float:
        """Bytes moved per frozen weight and pass to widen it to 16 bits; 0 when nothing is stored below that."""
        return 2.0 + self.frozen_bytes if self.lora_rank and self.frozen_bytes < 2.0 else 0.0

    @property
    def generation(self) -> str:
        """GPU generation for constants."""
        return self.cluster.gpu.generation

    def traffic(self) -> float:
        """How much more elementwise work moves than perfectly fused kernels would."""
        name = self.stack.constants_of + ("+compile" if self.stack.compiled else "")
        return self.tuning.get("elementwise_traffic", name)

    def cast_bytes(self) -> float:
        """Bytes moved per quantised element (read 16 bits, write both layouts), times the stack's factor."""
        if not self.quantised:
            return 0.0
        return 4.0 * self.tuning.get("cast_traffic", self.precision, self.generation)

    def weight_cast_bytes(self) -> float:
        """Bytes moved per weight and micro-batch to quantise and transpose it; 0 in 16 bits."""
        if not self.quantised:
            return 0.0
        return self.tuning.get("weight_cast_bytes", self.precision, self.generation)

    def group(self, kind: str) -> Group:
        """The layout's communicator of this kind."""
        return self.layout.group(kind, self.cluster)
