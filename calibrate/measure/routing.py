"""Record which experts each token takes in a live torch model, in the form that traces/ reads.

    with RoutingRecorder(model) as recorder:
        for batch in data:
            model(batch)
            recorder.end_step()
    recorder.save(Path("routing.npz"))          # then `routing: {counts: routing.npz}` in a scenario

Modules that hold a `gate` or `router` are watched, as in Hugging Face's MoE models; other models name a function that
says the experts of each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moesim.traces.routing import BadTrace, save_counts

NAMES = ("gate", "router")
_TOP_K = ("top_k", "num_experts_per_tok", "num_experts_per_token", "moe_top_k", "k")
_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "n_experts")

Choose = Callable[[Any, Any], Any]  # (block, what its router returned) -> experts of every token, [tokens, top_k]


class RoutingRecorder:
    """Counts token-expert pairs per step, layer and expert while it is entered. Layers are blocks in model order."""

    def __init__(self, model: Any, choose: Choose | None = None, names: tuple[str, ...] = NAMES) -> None:
        self._choose = choose or experts_chosen
        self._blocks = {name: block for name, block in model.named_modules() if _router_of(block, names) is not None}
        if not self._blocks:
            raise BadTrace(
                f"{type(model).__name__} holds no module with a {' or '.join(names)}; say names=(...) of its routers"
            )
        self._names = names
        self._handles: list[Any] = []
        self._now: dict[str, npt.NDArray[np.int64]] = {}
        self._steps: list[Mapping[str, npt.NDArray[np.int64]]] = []

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the watched blocks."""
        return tuple(self._blocks)

    def __enter__(self) -> RoutingRecorder:
        for name, block in self._blocks.items():
            self._handles.append(_router_of(block, self._names).register_forward_hook(self._hook(name, block)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, block: Any) -> Callable[[Any, Any, Any], None]:
        def count(_: Any, inputs: Any, output: Any) -> None:
            picks = self._choose(block, output).detach().reshape(-1).cpu().numpy()
            counted = np.bincount(picks, minlength=_experts_of(block, output))
            before = self._now.get(name)
            self._now[name] = counted if before is None else before + counted

        return count

    def end_step(self) -> None:
        """Close a step: what comes next is counted apart."""
        if self._now:
            self._steps.append(self._now)
            self._now = {}

    def counts(self) -> npt.NDArray[np.int64]:
        """Token-expert pairs, [steps, layers, experts]; an open step counts as one. BadTrace when nothing ran."""
        steps = [*self._steps, self._now] if self._now else self._steps
        if not steps:
            raise BadTrace("nothing was recorded; run the model while the recorder is entered")
        return np.array([[step[name] for name in self._blocks if name in step] for step in steps])

    def save(self, path: Path) -> None:
        """Write the counts for `routing: {counts: FILE}`."""
        save_counts(self.counts(), path)


def _router_of(block: Any, names: tuple[str, ...]) -> Any:
    """The router inside a block; None where there is none. A lone gate that is no block of experts does not count."""
    children = dict(block.named_children())
    if not any("expert" in child for child in children):
        return None
    return next((children[name] for name in names if name in children), None)


def _experts_of(block: Any, output: Any) -> int:
    """Experts in all: as the block says, or as many as the router scores."""
    for name in _EXPERTS:
        if isinstance(getattr(block, name, None), int):
            return int(getattr(block, name))
    return int(_scores(output).shape[-1])


def _tensors(output: Any) -> list[Any]:
    return list(output) if isinstance(output, list | tuple) else [output]


def _scores(output: Any) -> Any:
    """The router's scores: the first tensor of real numbers."""
    return next(t for t in _tensors(output) if hasattr(t, "dtype") and t.dtype.is_floating_point)


def experts_chosen(block: Any, output: Any) -> Any:
    """Experts of every token: the router's own whole numbers where it returns some, else the top-k of its scores."""
    whole = [t for t in _tensors(output) if hasattr(t, "dtype") and not t.dtype.is_floating_point]
    if whole:
        return whole[0]
    top_k = next((int(getattr(block, name)) for name in _TOP_K if isinstance(getattr(block, name, None), int)), None)
    if top_k is None:
        raise BadTrace(f"{type(block).__name__} does not say its top-k ({', '.join(_TOP_K)}); give choose=...")
    return _scores(output).topk(top_k, dim=-1).indices
