"""Vendors' published recipes: what a row leaves out (virtual stages, recompute, graphs, dispatcher) where they say it.

`published/recipes.csv` holds facts compiled from NVIDIA Megatron-Bridge's performance configurations by release. A row
that names such a release takes its unstated settings from the recipe of its model, GPU, precision and layout.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import load_gpu

_LAYOUT = ("gpus", "tp", "pp", "cp", "ep")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one published configuration; `layout` maps gpus, tp, pp, cp, ep, mbs and gbs to numbers."""

    release: str
    layout: Mapping[str, int]
    vpp: int
    recompute: tuple[str, ...]
    stack: Mapping[str, Any]  # settings of sim.stack.Stack
    offload_activations: float


def _read(line: Mapping[str, str]) -> Recipe:
    return Recipe(
        release=line["release"],
        layout={k: int(line[k]) for k in (*_LAYOUT, "mbs", "gbs")},
        vpp=int(line["vpp"]),
        recompute=tuple(line["recompute"].split()),
        stack={
            "cuda_graphs": line["cuda_graphs"],
            "dispatcher": line["dispatcher"],
            "ep_overlap": "hidden" if line["a2a_overlap"] == "1" else "none",
            "fused_experts": line["fused_experts"] == "1",
            "fp8_attention": line["fp8_attention"] == "1",
        },
        offload_activations=float(line["offload_activations"] or 0.0),
    )


@cache
def _recipes() -> dict[tuple[str, str, str], list[Recipe]]:
    """Recipes by (model, GPU, precision), oldest first."""
    text = files("moesim.calibrate").joinpath("published", "recipes.csv").read_text(encoding="utf-8")
    table: dict[tuple[str, str, str], list[Recipe]] = {}
    for line in csv.DictReader(io.StringIO(text)):
        key = (line["model"], load_gpu(line["gpu"]).name, line["precision"])
        table.setdefault(key, []).append(_read(line))
    return {key: sorted(recipes, key=lambda r: r.release) for key, recipes in table.items()}


def find_recipe(model: Any, gpu: str, precision: str, release: str, layout: Mapping[str, int]) -> Recipe | None:
    """The recipe that a run of this release most likely followed, or None.

    Same model, GPU, precision and layout; of several releases the newest that is not younger than the run, else the
    oldest; then the one whose micro-batch and global batch agree.
    """
    version = re.search(r"Megatron-Bridge\s+(\d\d\.\d\d(?:\.\d\d)?)", release)
    if version is None or not isinstance(model, str):
        return None
    try:
        key = (model, load_gpu(gpu).name, precision)
    except FactError:
        return None  # said where the GPU itself is looked up
    alike = [r for r in _recipes().get(key, []) if all(r.layout[k] == layout[k] for k in _LAYOUT)]
    earlier = [r for r in alike if r.release <= version.group(1)]
    if earlier:
        alike = [r for r in earlier if r.release == earlier[-1].release]
    return max(alike[: len(alike) if earlier else 1], key=lambda r: _agreement(r, layout), default=None)


def _agreement(recipe: Recipe, layout: Mapping[str, int]) -> int:
    return 2 * (recipe.layout["mbs"] == layout["mbs"]) + (recipe.layout["gbs"] == layout["gbs"])
