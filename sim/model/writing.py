"""Write a model as the mapping in our own form that a scenario takes; reading it back gives an equal record."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from moesim.sim.model.arch import LayerKind, ModelArch, Variant


def as_mapping(arch: ModelArch) -> dict[str, Any]:
    """`arch` as the inline mapping that a scenario takes as its model; reading it back gives an equal record."""
    record: dict[str, Any] = {
        name: value
        for name, value in asdict(replace(arch, layers=())).items()
        if value is not None and name not in ("layers", "num_layers", "vocab")
    }
    del record["said"]  # of the file that it was read from
    record["variants"] = {each.name: _variant_mapping(each) for each in arch.variants}
    if not arch.variants:
        del record["variants"]
    for part in ("attention", "ffn", "moe", "ssm", "checkpoint"):
        if part in record:
            record[part] = {key: value for key, value in record[part].items() if value is not None}
    if arch.moe is None and "checkpoint" in record:  # formats are of parts that the model has
        record["checkpoint"] = {k: v for k, v in record["checkpoint"].items() if k not in ("experts", "shared")}
    if arch.checkpoint is not None and arch.checkpoint.block is not None:
        record["checkpoint"]["block"] = list(arch.checkpoint.block)  # YAML has no tuples
    record["layers"] = arch.num_layers
    record["pattern"] = pattern_of(arch.layers)
    record["vocab"] = arch.vocab or None
    return record


def _variant_mapping(variant: Variant) -> dict[str, Any]:
    sizes = asdict(variant)
    if variant.attention is not None:
        sizes["attention"] = {key: value for key, value in sizes["attention"].items() if value is not None}
    return {key: value for key, value in sizes.items() if key != "name" and value is not None}


def pattern_of(layers: tuple[LayerKind, ...]) -> str:
    """The layers as one line of text, for example '3 x attention+dense, 58 x attention+moe'."""
    return ", ".join(f"{len(list(run))} x {_spelled(kind)}" for kind, run in groupby(layers))


def _spelled(kind: LayerKind) -> str:
    experts = f"[{kind.experts}]" if kind.experts is not None else ""
    own = f"@{kind.variant}" if kind.variant is not None else ""
    return f"{'encoder ' if kind.encoder else ''}{kind.mixer}+{kind.ffn}{experts}{own}"
