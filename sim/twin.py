"""The dense twin: the model that a mixture of experts should be compared with, at equal active parameters.

Same hidden size, mixers, layers, vocabulary and MTP modules; every feed-forward block becomes one dense block, all of
the same width, chosen so that a token touches as many parameters as in the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from sim.arch import FfnArch, LayerKind, ModelArch
from sim.arch_check import check
from sim.params import active_parameters

_EXPERTS = ("moe", "moe_residual")
_MULTIPLES = (256, 128, 64, 32, 16, 8, 4, 2, 1)  # widths that tensor parallelism and tiles like, coarsest first
TOLERANCE = 0.005  # of the active parameters; smaller steps are taken until the twin is within it


def dense_twin(arch: ModelArch) -> ModelArch:
    """A dense model whose active parameters equal those of `arch` within 0.5 %; a dense model is its own twin.

    Experts with a gate become a gated block (three matrices), others an ungated one. Leading dense layers take the
    common width too, so that all feed-forward blocks of the twin are alike.
    """
    if not arch.is_moe or arch.moe is None:
        return arch
    gated = arch.moe.gated
    layers = tuple(replace(kind, ffn="dense", experts=None) if kind.ffn in _EXPERTS else kind for kind in arch.layers)

    def with_width(width: int) -> ModelArch:
        ffn = FfnArch(intermediate=width, gated=gated, activation="silu" if gated else "gelu")
        return replace(arch, name=f"{arch.name}-dense-twin", layers=layers, ffn=ffn, moe=None)

    wanted = _active(arch)
    first, second = _active(with_width(1)), _active(with_width(2))
    width = 1.0 + (wanted - first) / (second - first)  # parameters are linear in the width
    twin = with_width(max(1, round(width)))
    for multiple in _MULTIPLES:
        candidate = with_width(max(multiple, round(width / multiple) * multiple))
        if abs(_active(candidate) / wanted - 1.0) <= TOLERANCE:
            twin = candidate
            break
    check(twin)
    return twin


def _active(arch: ModelArch) -> int:
    return active_parameters(arch).with_input_embedding


def as_mapping(arch: ModelArch) -> dict[str, Any]:
    """`arch` as the inline mapping that a scenario takes as its model; reading it back gives an equal record."""
    record: dict[str, Any] = {
        name: value
        for name, value in asdict(replace(arch, layers=())).items()
        if value is not None and name not in ("layers", "vocab")
    }
    for part in ("attention", "ffn", "moe", "ssm"):
        if part in record:
            record[part] = {key: value for key, value in record[part].items() if value is not None}
    record["layers"] = arch.num_layers
    record["pattern"] = pattern_of(arch.layers)
    record["vocab"] = arch.vocab or None
    return record


def pattern_of(layers: tuple[LayerKind, ...]) -> str:
    """The layers as one line of text, for example '3 x attention+dense, 58 x attention+moe'."""
    return ", ".join(f"{len(list(run))} x {_spelled(kind)}" for kind, run in groupby(layers))


def _spelled(kind: LayerKind) -> str:
    experts = f"[{kind.experts}]" if kind.experts is not None else ""
    return f"{'encoder ' if kind.encoder else ''}{kind.mixer}+{kind.ffn}{experts}"


def twin_scenario(scenario: Mapping[str, Any], arch: ModelArch) -> dict[str, Any]:
    """The same question about the dense twin of `arch`: same cluster, batch and pipeline, no expert parallelism."""
    layout = {**scenario.get("layout", {}), "ep": 1, "etp": 1}
    train = {key: value for key, value in scenario.get("train", {}).items() if key != "capacity_factor"}
    kept = {key: value for key, value in scenario.items() if key != "routing"}
    return {**kept, "model": as_mapping(dense_twin(arch)), "layout": layout, "train": train}
