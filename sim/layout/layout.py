"""Layout: how many ways each dimension is split, and which ranks talk to each other (Megatron's rank order).

Dense parts: tensor (tp) fastest, then context (cp), data (dp), pipeline (pp) slowest. Expert parts fold over the same
GPUs: expert tensor (etp) fastest, then expert (ep), expert data (edp), pipeline slowest ("MoE parallel folding").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import gcd

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.work import Group
from moesim.refusal import Refusal
from moesim.sim.layout.pipeline import SCHEDULES, V_SHAPED
from moesim.sim.layout.v_shape import v_rank
from moesim.sim.model.arch import LayerKind, ModelArch
from moesim.sim.model.params import layer_params, mtp_params


class BadLayout(Refusal):
    """A layout that cannot be; the message says why and what would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Degrees of parallelism. zero: 0 none, 1 optimizer (distributed optimizer), 2 gradients, 3 parameters (FSDP)."""

    gpus: int
    tp: int = 1
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    zero: int = 1
    zero_group: int | None = None  # ranks that share one copy (HSDP); None: all of dp x cp
    schedule: str = "1f1b"
    sequence_parallel: bool = True
    duplicates: str = "drop"  # copies of a token inside a tensor group without sequence parallelism: drop or send
    stage_layers: tuple[int, ...] | None = None  # layers per virtual stage, in model order (pp x vpp numbers)

    dp: int = field(init=False)  # data-parallel replicas of the dense parts
    edp: int = field(init=False)  # data-parallel replicas of the experts
    chunks: int = field(init=False)  # virtual pipeline stages in all
    dispatch_split: int = field(init=False)  # parts of a tensor group's tokens before their dispatch to experts
    # GPUs over which ZeRO spreads one copy of the dense parts: all of dp x cp, or the sharding group (HSDP)
    dense_shards: int = field(init=False)
    expert_shards: int = field(init=False)  # the same of the experts; under HSDP those inside one sharding group

    def __post_init__(self) -> None:
        dp = self.gpus // max(1, self.tp * self.cp * self.pp)  # degrees below 1 are refused by check_layout
        edp = self.gpus // max(1, self.etp * self.ep * self.pp)
        inside = max(1, (self.zero_group or 0) * self.tp // max(1, self.ep * self.etp))
        derived = {
            "dp": dp,
            "edp": edp,
            "chunks": self.pp * self.vpp,
            "dispatch_split": self.tp if self.sequence_parallel or self.duplicates == "drop" else 1,
            "dense_shards": self.zero_group or dp * self.cp,
            "expert_shards": gcd(edp, inside) if self.zero_group else edp,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def group(self, kind: str, cluster: Cluster) -> Group:
        """A communicator: tp, cp, ep, etp; dp and edp, over which dense and expert gradients are reduced and their
        states sharded; dp_replicas and edp_replicas, the holders of equal shards (HSDP)."""
        dense, expert, each = self.dense_shards, self.expert_shards, self.etp * self.ep
        shapes = {
            "tp": (self.tp, 1),
            "cp": (self.cp, self.tp),
            "dp": (dense, self.tp),
            "dp_replicas": (self.dp * self.cp // dense, self.tp * dense),
            "etp": (self.etp, 1),
            "ep": (self.ep, self.etp),
            "edp": (expert, each),
            "edp_replicas": (self.edp // expert, each * expert),
        }
        return cluster.group(*shapes[kind])

    def rank_of(self, chunk: int) -> int:
        """The pipeline rank that runs virtual stage `chunk`."""
        return v_rank(chunk, self.pp) if self.schedule in V_SHAPED else chunk % self.pp

    @property
    def one_table(self) -> bool:
        """True where one rank embeds tokens and predicts them: tied tables are then one."""
        return self.pp == 1 or self.schedule in V_SHAPED

    def chunks_of(self, rank: int) -> tuple[int, ...]:
        """Virtual stages whose parameters a rank holds: its own, under DualPipe also those of its mirror image."""
        ranks = {rank, self.pp - 1 - rank} if self.schedule == "dualpipe" else {rank}
        return tuple(c for c in range(self.chunks) if self.rank_of(c) in ranks)

    def hop_crosses(self, cluster: Cluster, a: int, b: int) -> bool:
        """True when some GPU of pipeline rank `a` and its counterpart in rank `b` lie in different scale-up domains."""
        each, domain = self.gpus // self.pp, cluster.domain
        if each % domain and domain % each:
            return True  # stages lie across the borders of domains: some GPU always crosses
        return a != b and (each >= domain or a * each // domain != b * each // domain)


def _positive(layout: Layout) -> None:
    for name in ("gpus", "tp", "pp", "vpp", "cp", "ep", "etp"):
        if getattr(layout, name) < 1:
            raise BadLayout(f"layout.{name}={getattr(layout, name)} must be at least 1")
    if layout.zero not in (0, 1, 2, 3):
        raise BadLayout(f"layout.zero={layout.zero} is not a ZeRO stage; use 0, 1, 2 or 3")
    if layout.schedule not in SCHEDULES:
        raise BadLayout(f"layout.schedule={layout.schedule!r} is not known; use one of {', '.join(SCHEDULES)}")


def _divisors(n: int, limit: int) -> str:
    return ", ".join(str(d) for d in range(1, limit + 1) if n % d == 0)


def _check_degrees(layout: Layout) -> None:
    dense = layout.tp * layout.cp * layout.pp
    if layout.gpus % dense:
        raise BadLayout(
            f"dp is not whole: {layout.gpus} GPUs / (tp={layout.tp} x cp={layout.cp} x pp={layout.pp}) = "
            f"{layout.gpus / dense:.2f}; use a number of GPUs that {dense} divides"
        )
    expert = layout.etp * layout.ep * layout.pp
    if layout.gpus % expert:
        raise BadLayout(
            f"expert data parallel is not whole: {layout.gpus} GPUs / (etp={layout.etp} x ep={layout.ep} x "
            f"pp={layout.pp}) = {layout.gpus / expert:.2f}; ep x etp may be one of "
            f"{_divisors(layout.gpus // layout.pp, 512)}"
        )
    if layout.zero_group and (layout.dp * layout.cp) % layout.zero_group:
        raise BadLayout(f"zero_group={layout.zero_group} does not divide dp x cp = {layout.dp * layout.cp}")


def _check_model(layout: Layout, arch: ModelArch) -> None:
    if layout.chunks > arch.num_layers + arch.mtp_layers + 2:
        raise BadLayout(
            f"pp={layout.pp} x vpp={layout.vpp} asks for {layout.chunks} stages, but {arch.name} has "
            f"{arch.num_layers} layers; lower pp or vpp"
        )
    if layout.stage_layers and min(layout.stage_layers) < 0:
        raise BadLayout(
            f"stage_layers has a negative entry, {min(layout.stage_layers)}; use 0 for a stage without layers"
        )
    if layout.stage_layers and (
        len(layout.stage_layers) != layout.chunks or sum(layout.stage_layers) != arch.num_layers
    ):
        raise BadLayout(
            f"stage_layers has {len(layout.stage_layers)} entries that sum to {sum(layout.stage_layers)}; it needs "
            f"pp x vpp = {layout.chunks} entries that sum to {arch.num_layers}"
        )
    for heads in sorted({a.heads for a in (arch.attention, *(each.attention for each in arch.variants)) if a}):
        if heads % layout.tp:
            raise BadLayout(f"tp={layout.tp} does not divide {heads} attention heads; use {_divisors(heads, heads)}")
    if arch.moe is None:
        if layout.ep > 1 or layout.etp > 1:
            raise BadLayout(f"{arch.name} has no experts: ep={layout.ep}, etp={layout.etp} must be 1")
        return
    if layout.duplicates == "send" and (layout.sequence_parallel or layout.tp == 1 or layout.etp != layout.tp):
        raise BadLayout(
            "duplicates=send needs copies to send: tp above 1, sequence_parallel=false and etp = tp, not "
            f"tp={layout.tp}, sequence_parallel={str(layout.sequence_parallel).lower()}, etp={layout.etp}"
        )
    for experts in {layer.experts or arch.moe.experts for layer in arch.layers if layer.ffn in ("moe", "moe_residual")}:
        if experts % layout.ep:
            raise BadLayout(
                f"ep={layout.ep} does not divide {experts} experts of {arch.name}; use one of {_divisors(experts, 512)}"
            )


def _check_schedule(layout: Layout) -> None:
    if layout.vpp > 1 and layout.pp == 1:
        raise BadLayout(f"vpp={layout.vpp} needs pp > 1")
    if layout.schedule == "dualpipe" and (layout.pp % 2 or layout.pp < 2 or layout.vpp != 1):
        raise BadLayout(f"dualpipe needs an even pp of at least 2 and vpp=1, not pp={layout.pp}, vpp={layout.vpp}")
    if layout.schedule in V_SHAPED:
        if layout.pp < 2 or layout.vpp != 2:
            raise BadLayout(
                f"schedule={layout.schedule} runs two stages on every rank, down a V and up again: it needs vpp=2 and "
                f"pp of at least 2, not pp={layout.pp}, vpp={layout.vpp}"
            )
    elif layout.vpp > 1 and layout.schedule != "interleaved":
        raise BadLayout(f"schedule={layout.schedule} has no virtual stages; set vpp=1 or schedule=interleaved")
    if layout.schedule == "interleaved" and layout.vpp == 1:
        raise BadLayout("schedule=interleaved needs virtual stages: set vpp to 2 or more, or schedule=1f1b")


def check_layout(layout: Layout, arch: ModelArch) -> Layout:
    """The layout itself when it can be; BadLayout (what, why, what would do) otherwise."""
    _positive(layout)
    _check_degrees(layout)
    _check_model(layout, arch)
    _check_schedule(layout)
    return layout


@dataclass(frozen=True, slots=True)
class Chunk:
    """One virtual stage: layer numbers in order, and whether it embeds tokens, predicts them, or holds MTP modules."""

    index: int
    layers: tuple[int, ...]
    embedding: bool
    head: bool
    mtp: int = 0

    def blocks(self, arch: ModelArch) -> list[tuple[str, LayerKind | None]]:
        """Name and kind of layer of every block in forward order; embedding and head have no kind."""
        layers: list[tuple[str, LayerKind | None]] = [(f"L{i}", arch.layers[i]) for i in self.layers]
        before: list[tuple[str, LayerKind | None]] = [("embedding", None)] if self.embedding else []
        after: list[tuple[str, LayerKind | None]] = [("head", None)] if self.head else []
        return [*before, *layers, *after, *((f"mtp{module}", arch.layers[-1]) for module in range(self.mtp))]


def _chopped(arch: ModelArch, chunks: int, mtp: bool) -> list[int]:
    """Layers per chunk where they do not divide.

    With MTP modules (Megatron-Bridge's DeepSeek-V3 layouts): full chunks, the rest beside MTP and loss. Without:
    embedding and loss count as one layer each of a row that is cut into equal pieces.
    """
    full = -(-(arch.num_layers + (arch.mtp_layers if mtp else 0)) // chunks)
    if arch.mtp_layers and full * (chunks - 1) <= arch.num_layers:
        return [full] * (chunks - 1) + [arch.num_layers - full * (chunks - 1)]
    items = ["e", *["t"] * arch.num_layers, *["m"] * arch.mtp_layers, "l"]
    size = -(-len(items) // chunks)
    if size * (chunks - 1) >= len(items):  # equal pieces would leave stages empty: spread the remainder instead
        base, extra = divmod(arch.num_layers, chunks)
        return [base + (1 if 0 < i <= extra else 0) for i in range(chunks)]
    return [items[i * size : (i + 1) * size].count("t") for i in range(chunks)]


def layers_per_chunk(arch: ModelArch, layout: Layout, mtp: bool = True) -> tuple[int, ...]:
    """Layers of each virtual stage in model order (they sum to the model's layers)."""
    if layout.stage_layers:
        return layout.stage_layers
    chunks = layout.chunks
    if arch.num_layers % chunks == 0:
        return (arch.num_layers // chunks,) * chunks
    return tuple(_chopped(arch, chunks, mtp))


def plan_chunks(arch: ModelArch, layout: Layout, mtp: bool = True) -> tuple[Chunk, ...]:
    """The virtual stages of the whole model in its order; which pipeline rank runs them: `Layout.rank_of`."""
    counts = layers_per_chunk(arch, layout, mtp)
    chunks, start = [], 0
    for index, count in enumerate(counts):
        last = index == len(counts) - 1
        modules = arch.mtp_layers if last and mtp else 0
        chunks.append(Chunk(index, tuple(range(start, start + count)), index == 0, last, modules))
        start += count
    return tuple(chunks)


def held_params(arch: ModelArch, layout: Layout, name: str, kind: LayerKind | None) -> tuple[float, float]:
    """Parameters of one block (see `Chunk.blocks`) on one GPU before any sharding of ZeRO: (dense, expert)."""
    if kind is None:
        return arch.vocab * arch.hidden / layout.tp, 0.0
    counted = layer_params(arch, kind)
    total = mtp_params(arch) / arch.mtp_layers if name.startswith("mtp") else float(sum(counted))
    return (total - counted.experts) / layout.tp, counted.experts / (layout.ep * layout.etp)
