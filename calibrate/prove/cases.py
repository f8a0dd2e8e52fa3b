"""Cases: the programs that a profile is proved on, and each as the question that the simulator is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.calibrate.own.profile import STACK
from moesim.traces.assignments import Picks, sample_picks
from moesim.traces.rng import stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One program; `experts` 0: dense; `kv_len` 0: a training step of `batch` sequences a rank, else a decode step."""

    name: str
    ranks: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    inner: int  # of the dense feed-forward block, or of each expert
    vocab: int
    batch: int
    seq_len: int
    experts: int = 0
    top_k: int = 0
    sigma: float = 0.0  # of the lognormal popularity of experts
    kv_len: int = 0
    dtype: str = "fp32"

    @property
    def kind(self) -> str:
        """dense or MoE."""
        return "MoE" if self.experts else "dense"

    @property
    def mode(self) -> str:
        """train or decode."""
        return "decode" if self.kv_len else "train"

    @property
    def tokens(self) -> int:
        """Tokens of one rank and step."""
        return self.batch * self.seq_len

    def model(self) -> dict[str, Any]:
        """The architecture as a scenario says it."""
        head_dim = self.hidden // self.heads
        arch: dict[str, Any] = {
            "name": self.name,
            "hidden": self.hidden,
            "layers": self.layers,
            "pattern": "attention+moe" if self.experts else "attention+dense",
            "attention": {"heads": self.heads, "kv_heads": self.kv_heads, "head_dim": head_dim},
            "vocab": self.vocab,
            "tied_embeddings": False,
            "max_context": max(self.seq_len, self.kv_len),
        }
        if self.experts:
            arch["moe"] = {
                "experts": self.experts, "top_k": self.top_k, "expert_intermediate": self.inner, "gated": True,
                "router": "topk",
            }  # fmt: skip
        else:
            arch["ffn"] = {"intermediate": self.inner, "gated": True}
        return arch

    def picks(self, rank: int) -> Picks:
        """The experts of each token of a rank, [tokens, top_k]: drawn once, the same in every layer and step."""
        popularity = np.exp(self.sigma * stream(7, f"prove.{self.experts}").standard_normal(self.experts))
        return sample_picks(self.experts, self.top_k, self.tokens, seed=11 + rank, popularity=popularity)

    def counts(self) -> npt.NDArray[np.float64]:
        """Token-expert pairs per expert over all ranks, [1, experts]."""
        every = np.concatenate([self.picks(rank).reshape(-1) for rank in range(self.ranks)])
        return np.bincount(every, minlength=self.experts).astype(np.float64)[None, :]

    def scenario(self, profile: str, folder: Path) -> dict[str, Any]:
        """The question, as any user would ask it; routing counts are written into `folder`."""
        routing: Any = "balanced"
        if self.experts:
            file = folder / f"{self.name}.npy"
            np.save(file, self.counts())
            routing = {"counts": str(file)}
        return {
            "model": self.model(),
            "cluster": {"gpus": self.ranks},
            "layout": {"ep": self.ranks if self.experts else 1, "zero": 0},
            "train": {
                "global_batch": self.batch * self.ranks,
                "micro_batch": self.batch,
                "seq_len": self.seq_len,
                "precision": self.dtype,
            },
            "routing": routing,
            "stack": STACK,
            "profile": profile,
        }


# (hidden, heads, KV heads, inner, layers, batch, length): sizes that no plan measures
_DENSE_TRAIN = (
    (320, 5, 5, 896, 2, 2, 160),
    (448, 7, 7, 1216, 2, 1, 320),
    (576, 9, 3, 1536, 1, 2, 288),
    (640, 10, 5, 1728, 2, 1, 448),
    (832, 13, 13, 2240, 1, 1, 416),
    (384, 6, 2, 1024, 4, 4, 96),
    (704, 11, 11, 1856, 1, 4, 192),
    (896, 14, 7, 2432, 1, 1, 608),
)
_MOE_TRAIN = (
    (320, 5, 5, 448, 2, 2, 160),
    (448, 7, 7, 640, 2, 1, 320),
    (576, 9, 3, 704, 1, 2, 288),
    (640, 10, 5, 832, 1, 1, 448),
    (384, 6, 2, 576, 2, 4, 96),
    (704, 11, 11, 896, 1, 2, 192),
    (448, 7, 7, 320, 2, 2, 224),
    (576, 9, 9, 1152, 1, 1, 384),
)
_EXPERTS = ((8, 2, 0.0), (8, 2, 0.8), (16, 4, 0.5), (8, 2, 1.2), (16, 2, 0.0), (4, 1, 0.5), (16, 4, 1.0), (8, 3, 0.4))
# (hidden, heads, KV heads, inner, layers, batch, KV length)
_DECODE = (
    (448, 7, 7, 1216, 4, 1, 320),
    (640, 10, 5, 1728, 3, 6, 640),
    (832, 13, 13, 2240, 2, 12, 384),
    (576, 9, 3, 1536, 4, 24, 224),
)
_DENSE = (0, 0, 0.0)  # experts, top-k, sigma of a program without them


@dataclass(frozen=True, slots=True)
class Scale:
    """What all programs of a proof share."""

    ranks: int
    dtype: str = "fp32"
    grow: int = 1  # times the widths and lengths of a CPU's programs


def cases(scale: Scale, quick: bool = False) -> list[Case]:
    """All programs for one number of ranks."""
    programs = [_case("dense-train", number, scale, sizes, _DENSE) for number, sizes in enumerate(_DENSE_TRAIN)]
    programs += [_case("moe-train", n, scale, s, _EXPERTS[n]) for n, s in enumerate(_MOE_TRAIN)]
    for number, sizes in enumerate(_DECODE):
        programs.append(_case("dense-decode", number, scale, sizes, _DENSE))
        programs.append(_case("moe-decode", number, scale, sizes, _EXPERTS[number]))
    return programs[::5] if quick else programs


def _case(label: str, number: int, scale: Scale, sizes: tuple[int, ...], moe: tuple[int, int, float]) -> Case:
    hidden, heads, kv_heads, inner, layers, batch, length = sizes
    decode, grow = label.endswith("decode"), scale.grow
    return Case(
        name=f"{label}-{number + 1}x{scale.ranks}",
        ranks=scale.ranks,
        layers=layers,
        hidden=hidden * grow,
        heads=heads * grow,
        kv_heads=kv_heads * grow,
        inner=(inner // 2 if decode and moe[0] else inner) * grow,
        vocab=1536 * grow,
        batch=batch,
        seq_len=1 if decode else length * grow,
        experts=moe[0],
        top_k=moe[1],
        sigma=moe[2],
        kv_len=length * grow if decode else 0,
        dtype=scale.dtype,
    )
