"""Which layers each virtual pipeline stage holds: even where they divide, else chopped as vendors' recipes do."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.sim.layout.layout import Layout
from moesim.sim.model.arch import LayerKind, ModelArch


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
    """The virtual stages of the whole model; chunk c runs on pipeline rank c mod pp."""
    counts = layers_per_chunk(arch, layout, mtp)
    chunks, start = [], 0
    for index, count in enumerate(counts):
        last = index == len(counts) - 1
        modules = arch.mtp_layers if last and mtp else 0
        chunks.append(Chunk(index, tuple(range(start, start + count)), index == 0, last, modules))
        start += count
    return tuple(chunks)
