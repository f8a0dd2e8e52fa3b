"""Which layers each virtual pipeline stage holds: even where they divide, else chopped as vendors' recipes do."""

from __future__ import annotations

from dataclasses import dataclass

from sim.arch import ModelArch
from sim.layout import Layout


@dataclass(frozen=True, slots=True)
class Chunk:
    """One virtual stage: layer numbers in order, and whether it embeds tokens, predicts them, or holds MTP modules."""

    index: int
    layers: tuple[int, ...]
    embedding: bool
    head: bool
    mtp: int = 0


def _chopped(arch: ModelArch, chunks: int) -> list[int]:
    """Layers per chunk when embedding, MTP and loss each count as a layer of a row cut into equal pieces."""
    items = ["e", *["t"] * arch.num_layers, *["m"] * arch.mtp_layers, "l"]
    size = -(-len(items) // chunks)
    if size * (chunks - 1) >= len(items):  # equal pieces would leave stages empty: spread the remainder instead
        base, extra = divmod(arch.num_layers, chunks)
        return [base + (1 if 0 < i <= extra else 0) for i in range(chunks)]
    return [items[i * size : (i + 1) * size].count("t") for i in range(chunks)]


def layers_per_chunk(arch: ModelArch, layout: Layout) -> tuple[int, ...]:
    """Layers of each virtual stage in model order (they sum to the model's layers)."""
    if layout.stage_layers:
        return layout.stage_layers
    chunks = layout.chunks
    if arch.num_layers % chunks == 0:
        return (arch.num_layers // chunks,) * chunks
    return tuple(_chopped(arch, chunks))


def plan_chunks(arch: ModelArch, layout: Layout, mtp: bool = True) -> tuple[Chunk, ...]:
    """The virtual stages of the whole model; chunk c runs on pipeline rank c mod pp."""
    counts = layers_per_chunk(arch, layout)
    chunks, start = [], 0
    for index, count in enumerate(counts):
        last = index == len(counts) - 1
        modules = arch.mtp_layers if last and mtp else 0
        chunks.append(Chunk(index, tuple(range(start, start + count)), index == 0, last, modules))
        start += count
    return tuple(chunks)
