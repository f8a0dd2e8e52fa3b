"""ServeJob: everything that decides the passes of one replica, resolved; and the number formats of its parts."""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.profile import Profile
from moesim.sim.layout.layout import Layout
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.serving_engine import Engine
from moesim.traces.routing import Routing

SERVE_PRECISIONS = ("bf16", "fp16", "fp8", "fp8_block", "fp4", "nvfp4", "int4")
_BLOCK_SCALED_EXPERTS = 32  # assumed: FP8 checkpoints with that many experts scale 128 x 128 blocks (DeepSeek, Qwen3)


@dataclass(frozen=True, slots=True)
class Formats:
    """Number formats of weights by part, and of the KV cache."""

    attention: str  # projections, dense FFN and shared experts of MoE models included
    experts: str
    head: str
    kv: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Draft `tokens` per pass with the model's own prediction modules; each is accepted with this probability."""

    tokens: int
    acceptance: float

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one pass yields: 1 + a + a^2 + ... (drafts after a rejection are lost)."""
        return sum(self.acceptance**i for i in range(self.tokens + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Experts that live in host memory: `resident` of them stay on the GPU, and `hit_rate` of the uses find theirs.

    The others travel to the GPU, or the host computes them as fast as it reads them from its memory.
    """

    resident: float  # share of all experts that the GPU holds
    hit_rate: float
    host_memory_bytes_per_s: float | None  # None: they travel


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA adapters that are served beside each other; sequences spread evenly over them."""

    count: int
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeJob:
    """Everything that decides what one pass of one replica costs and what its GPUs hold."""

    arch: ModelArch
    cluster: Cluster
    layout: Layout  # of one replica; its dp is the attention data parallelism
    engine: Engine
    formats: Formats
    kernels: Profile = field(repr=False)  # fits that its passes are priced with
    routing: Routing = field(default_factory=Routing)
    speculation: Speculation | None = None
    offload: Offload | None = None
    adapters: Adapters | None = None
    two_batch: bool = False
    expert_slots: int = 0  # expert copies beyond one each (EPLB), over the whole replica

    @property
    def attention_dp(self) -> int:
        """Ranks (tensor groups) that hold requests of their own."""
        return self.layout.dp


def formats_of(precision: str, kv: str | None, arch: ModelArch, gpu: GpuSpec, engine: Engine) -> Formats:
    """Formats of a published checkpoint in this precision on this GPU. ScenarioError when there is no such thing."""
    if precision not in SERVE_PRECISIONS:
        raise ScenarioError(f"serve.precision={precision!r} is not known; use one of {', '.join(SERVE_PRECISIONS)}")
    half = "bf16" if gpu.supports("bf16") else "fp16"
    many = arch.moe is not None and arch.moe.experts >= _BLOCK_SCALED_EXPERTS
    attention = experts = half
    if precision in ("fp8", "fp8_block"):
        blocks = many or arch.fp8_blocks or precision == "fp8_block"
        attention = experts = "fp8_block" if blocks else "fp8"
    elif precision in ("fp4", "nvfp4", "int4"):
        native = precision != "int4" and gpu.supports("nvfp4")
        experts = "nvfp4" if native else "int4"  # without a 4-bit tensor path: weight-only
        attention = half if arch.is_moe else experts  # MoE checkpoints quantise their experts only
    for name in (attention, experts):
        if not gpu.supports(name):
            raise ScenarioError(f"serve.precision={precision} has no tensor path on {gpu.name}; use bf16 or int4")
    cache = kv or engine.cache_dtype(gpu, precision, arch.moe.experts if arch.moe else 0)
    if cache == "fp8" and not gpu.supports("fp8"):
        cache = half
    return Formats(attention, experts, half, half if cache == "bf16" else cache)
