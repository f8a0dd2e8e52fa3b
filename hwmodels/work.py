"""Work: one piece of what a GPU or a network is asked to do, as hashable records with their FLOPs and bytes.

Nothing here knows a transformer or a second. All sizes are per GPU unless the field says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from moesim.hwmodels.gpu import GpuSpec, bytes_per_element

CommKind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast"]
COLLECTIVES: tuple[CommKind, ...] = get_args(CommKind)
AttentionPhase = Literal["forward", "backward", "decode"]


@dataclass(frozen=True, slots=True)
class Gemm:
    """C[m, n] = A[m, k] @ B[k, n], `count` times back to back; operands in `dtype`, output in `out_dtype`."""

    m: int
    n: int
    k: int
    dtype: str = "bf16"
    out_dtype: str = "bf16"
    count: int = 1

    @property
    def flops(self) -> float:
        """2 m n k, for all repetitions."""
        return 2.0 * self.m * self.n * self.k * self.count

    @property
    def bytes(self) -> float:
        """Operands once, output once."""
        operands = (self.m * self.k + self.k * self.n) * bytes_per_element(self.dtype)
        output = self.m * self.n * bytes_per_element(self.out_dtype)
        return (operands + output) * self.count


@dataclass(frozen=True, slots=True)
class GroupedGemm:
    """One GEMM per group in one launch: C_g[rows_g, n] = A_g[rows_g, k] @ B_g[k, n]; rows differ between groups.

    With `weight_gradient` the groups are reduced over their rows instead: C_g[k, n] = A_g.T @ D_g.
    """

    rows: tuple[int, ...]
    n: int
    k: int
    dtype: str = "bf16"
    out_dtype: str = "bf16"
    weight_gradient: bool = False

    @property
    def total_rows(self) -> int:
        """Rows over all groups."""
        return sum(self.rows)

    @property
    def active_groups(self) -> int:
        """Groups with at least one row."""
        return sum(1 for r in self.rows if r)

    @property
    def flops(self) -> float:
        """2 n k per row."""
        return 2.0 * self.total_rows * self.n * self.k

    @property
    def bytes(self) -> float:
        """Rows in and out once, weights (or weight gradients) of every touched group once."""
        weight = self.n * self.k * self.active_groups
        if self.weight_gradient:
            rows_in = self.total_rows * (self.n + self.k) * bytes_per_element(self.dtype)
            return rows_in + weight * bytes_per_element(self.out_dtype)
        rows_in = self.total_rows * self.k * bytes_per_element(self.dtype)
        rows_out = self.total_rows * self.n * bytes_per_element(self.out_dtype)
        return rows_in + rows_out + weight * bytes_per_element(self.dtype)


@dataclass(frozen=True, slots=True)
class Attention:
    """Fused softmax attention over `batch` sequences, heads local to this GPU.

    `q_len` queries against `kv_len` keys per sequence; with `causal` only keys up to the query's own position,
    with `window` only the last `window` of those.
    """

    batch: int
    q_len: int
    kv_len: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    causal: bool = True
    window: int | None = None
    dtype: str = "bf16"
    phase: AttentionPhase = "forward"
    shared_values: bool = False  # values are the first part of the keys (the latent of MLA): one cache holds both
    cache_write: bool = False  # K and V also go into a paged cache (prefill of a serving engine)

    @property
    def cache_width(self) -> int:
        """Elements that one key head keeps per token."""
        return self.qk_dim if self.shared_values else self.qk_dim + self.v_dim

    @property
    def score_elements(self) -> float:
        """Query-key pairs that the mask leaves, per head, over the batch."""
        q, kv = self.q_len, self.kv_len
        offset = kv - q
        if not self.causal:
            pairs = float(q * kv)
        elif self.window is None or self.window >= kv:
            pairs = q * offset + q * (q + 1) / 2.0
        else:
            ramp = max(0, min(q, self.window - offset))  # queries that still see fewer keys than the window
            pairs = ramp * offset + ramp * (ramp + 1) / 2.0 + (q - ramp) * self.window
        return self.batch * pairs

    @property
    def flops(self) -> float:
        """Two GEMMs forward, five backward (scores recomputed), on unmasked pairs."""
        forward = 2.0 * self.score_elements * self.heads * (self.qk_dim + self.v_dim)
        return forward * (2.5 if self.phase == "backward" else 1.0)

    @property
    def bytes(self) -> float:
        """Q, K, V in and O out once; about twice that plus their gradients backward."""
        q = self.batch * self.q_len * self.heads
        kv = self.batch * self.kv_len * self.kv_heads
        elements = q * (self.qk_dim + self.v_dim) + kv * self.cache_width
        return elements * bytes_per_element(self.dtype) * (2.5 if self.phase == "backward" else 1.0)


@dataclass(frozen=True, slots=True)
class Stream:
    """Memory-bound work: `bytes` read and written in `kernels` launches, with no arithmetic worth counting.

    `kind` names the family whose measured efficiency applies: "elementwise", "norm", "residual", "rope", "act",
    "gated_act", "softmax", "router", "permute", "unpermute", "cast", "accumulate", "embedding", "loss", "copy".
    """

    bytes: float
    kind: str = "elementwise"
    kernels: int = 1
    backward: bool = False

    @property
    def flops(self) -> float:
        """Counted as zero."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """Shape of a communicator: `ranks` in all, `per_domain` of them inside one scale-up (NVLink) domain.

    Domains are filled one after the other, so that the last may hold fewer (`fewest`): its NICs are the busiest.
    `apart`: the next domain of the group is that many domains further, as in groups of a large stride.
    """

    ranks: int
    per_domain: int
    apart: int = 1
    domains: int = field(init=False, repr=False, compare=False)  # scale-up domains that the group touches
    fewest: int = field(init=False, repr=False, compare=False)  # ranks in the domain that holds the fewest

    def __post_init__(self) -> None:
        domains = -(-self.ranks // self.per_domain)
        object.__setattr__(self, "domains", domains)
        object.__setattr__(self, "fewest", self.ranks - (domains - 1) * self.per_domain)


@dataclass(frozen=True, slots=True)
class Comm:
    """One collective or point-to-point transfer.

    `bytes` is the buffer of the whole operation per rank: all_reduce the buffer; all_gather and reduce_scatter
    the full (gathered) buffer; all_to_all what one rank sends in total, itself included; send the message.
    """

    kind: CommKind
    bytes: float
    group: Group
    algorithm: str = "auto"  # or one of hwmodels.collectives.algorithms

    @property
    def flops(self) -> float:
        """Counted as zero."""
        return 0.0


@dataclass(frozen=True, slots=True)
class ExpertExchange:
    """Dispatch of tokens to experts, or combine of their results, over an expert-parallel group.

    `tokens` is what the busiest rank sends; `node_copies` and `rank_copies` how many distinct remote-or-own
    domains and ranks one token reaches on average (de-duplicated); `payload_bytes` one token's vector.
    `deduplicated=False` sends `top_k` copies (plain all-to-all). `imbalance` is busiest/mean received tokens.
    `nic_share` is what the library keeps of the NIC inside a step: 1 where it is timed alone.
    """

    stage: Literal["prepare", "dispatch", "combine"]
    tokens: float
    top_k: int
    payload_bytes: float
    group: Group
    node_copies: float
    rank_copies: float
    deduplicated: bool = True
    imbalance: float = 1.0
    kernel: str = "normal"  # see hwmodels.exchange_kernels
    sms: int = 0  # multiprocessors given to it; 0: as many as it needs
    experts: int = 0  # in all; 0: not known
    low_precision: bool = False  # a combine that quantises what it sends
    scaled: bool = False  # payload in 8 bits or fewer, with scales beside it
    host_call: bool = False  # the framework's call around the kernel belongs to the measured time
    nic_share: float = 1.0  # of the rate at which the kernel alone drives the NIC
    copy_s: float = 0.0  # of the CPU that posts the messages, per copy of a token that leaves its domain

    @property
    def flops(self) -> float:
        """Counted as zero."""
        return 0.0


Compute = Gemm | GroupedGemm | Attention | Stream
Transfer = Comm | ExpertExchange
Work = Compute | Transfer


Computation = Gemm | GroupedGemm | Attention | Stream


def compute_floor_s(work: Computation, gpu: GpuSpec) -> float:
    """FLOPs over the peak of the work's dtype; 0 for memory-bound streams."""
    if isinstance(work, Stream):
        return 0.0
    return work.flops / gpu.peak(work.dtype)


def memory_floor_s(work: Computation, gpu: GpuSpec) -> float:
    """Bytes over HBM bandwidth; operands that fit the L2 cache together are taken as resident."""
    if not isinstance(work, Stream) and work.bytes < gpu.l2_bytes:
        return 0.0
    return work.bytes / gpu.hbm_bytes_per_s


def floor_s(work: Computation, gpu: GpuSpec) -> float:
    """The larger of both floors, in seconds."""
    return max(compute_floor_s(work, gpu), memory_floor_s(work, gpu))


def bound_of(work: Computation, gpu: GpuSpec) -> str:
    """ "compute" or "memory", whichever floor is higher."""
    return "compute" if compute_floor_s(work, gpu) >= memory_floor_s(work, gpu) else "memory"
