"""How large a dense model of equal quality would be, by published scaling laws: one value per law, and their spread.

A law gives the loss of a mixture after D tokens; the dense model whose loss is the same after as many tokens is its
equal. All laws were fitted on models far smaller than those of today: what lies outside is said, never hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from math import inf, log10
from pathlib import Path
from statistics import fmean
from typing import Any

from moesim.hwmodels.facts import read_yaml
from moesim.sim.model.arch import ModelArch
from moesim.sim.model.params import active_parameters, embedding_params, head_params, parameters

_LAWS = Path(__file__).parent / "scaling.yaml"
# assumed: a law that fixes the expansion speaks about mixtures within this factor of it, others it is not asked about
_NEAR = 2.0
DEFAULT_TOKENS = 130e9  # where no tokens are given: what most of the laws were fitted at


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What scaling laws know about a model: numbers of weights, experts and tokens, and a share of experts."""

    active: float
    total: float
    outside: float  # embeddings and head: laws that leave them out subtract these
    experts: float  # expansion: experts per expert visited
    granularity: float  # experts visited: each is that fraction of a feed-forward block
    sparsity: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LawValue:
    """Parameters of the dense model of equal loss by one law, low and high by its own error; where it was stretched."""

    law: str
    source: str
    parameters: float
    low: float
    high: float
    outside: tuple[str, ...]  # what lies outside the fitted range; empty: nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseEqual:
    """Parameters of the dense model of equal quality: middle (geometric mean, one vote per paper), lowest, highest."""

    parameters: float
    low: float
    high: float
    tokens: float
    laws: tuple[LawValue, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def mixture_of(arch: ModelArch, tokens: float) -> Mixture:
    """The sizes of an MoE model that scaling laws read."""
    assert arch.moe is not None
    top_k = arch.moe.top_k
    return Mixture(
        active=float(active_parameters(arch).without_input_embedding),
        total=float(parameters(arch)),
        outside=float(embedding_params(arch) + head_params(arch)),
        experts=arch.moe.experts / top_k,
        granularity=float(top_k),
        sparsity=1.0 - top_k / arch.moe.experts,
        tokens=tokens,
    )


def _clark(k: Mapping[str, float], m: Mixture, _: float) -> float:
    """Closed form of L(N', 1) = L(N, E); the law's error is not printed."""

    def saturated(experts: float) -> float:
        return 1.0 / (1.0 / (experts - 1.0 + 1.0 / (1.0 / k["e_start"] - 1.0 / k["e_max"])) + 1.0 / k["e_max"])

    n, e, one = log10(m.active), log10(saturated(m.experts)), log10(saturated(1.0))
    return float(10.0 ** ((k["a"] * n + k["b"] * (e - one) + k["c"] * n * e) / (k["a"] + k["c"] * one)))


def _krajewski(k: Mapping[str, float], m: Mixture, shift: float) -> float:
    own = (k["g"] / m.granularity ** k["gamma"] + k["a"]) / (m.total - m.outside) ** k["alpha"]
    loss = k["c"] + own + k["b"] / m.tokens ** k["beta"] + shift
    left = loss - k["dense_c"] - k["dense_b"] / m.tokens ** k["dense_beta"]
    return m.outside + float((k["dense_a"] / left) ** (1.0 / k["dense_alpha"])) if left > 0.0 else inf


def _abnar(k: Mapping[str, float], m: Mixture, shift: float) -> float:
    def without_tokens(n: float, sparsity: float) -> float:
        held = 1.0 - sparsity
        own = k["a"] / n ** k["alpha"] + k["c"] / held ** k["lambda"]
        return float(own + k["d"] / (held ** k["delta"] * n ** k["gamma"]))

    wanted = without_tokens(m.total, m.sparsity) + shift
    low, high = 6.0, 15.0  # decimal logarithms; the loss falls with the size
    if without_tokens(10.0**high, 0.0) > wanted:
        return inf
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        low, high = (middle, high) if without_tokens(10.0**middle, 0.0) > wanted else (low, middle)
    return float(10.0**high)


_FORMS: dict[str, Callable[[Mapping[str, float], Mixture, float], float]] = {
    "clark": _clark, "krajewski": _krajewski, "abnar": _abnar,
}  # fmt: skip


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = read_yaml(_LAWS)
    return records


def law_value(name: str, mixture: Mixture) -> LawValue | None:
    """What one law says; None where it knows only other expansions. Never below the active, never above all weights."""
    record = _records()[name]
    ranges = record["range"]
    low, high = ranges.get("experts", (1.0, inf))
    if not low / _NEAR <= mixture.experts <= high * _NEAR:
        return None
    error = float(record.get("loss_error", 0.0))
    raw = [_FORMS[record["form"]](record["constants"], mixture, shift) for shift in (0.0, error, -error)]
    outside = [
        f"{key} {getattr(mixture, key):.3g} (fitted {span[0]:.3g} to {span[1]:.3g})"
        for key, span in ranges.items()
        if not span[0] <= getattr(mixture, key) <= span[1]
    ]
    if not mixture.active <= raw[0] <= mixture.total:
        outside.append(f"its value of {_billions(raw[0])}, kept between active and all parameters")
    kept = [min(mixture.total, max(mixture.active, value)) for value in raw]
    return LawValue(
        law=name, source=record["source"], parameters=kept[0], low=min(kept), high=max(kept), outside=tuple(outside)
    )


def dense_equal(arch: ModelArch, tokens: float | None = None) -> DenseEqual:
    """The dense model of equal quality after equally many tokens, over all laws that speak about such mixtures."""
    mixture = mixture_of(arch, tokens or DEFAULT_TOKENS)
    asked = [(name, law_value(name, mixture)) for name in _records()]
    laws = [value for _, value in asked if value is not None]
    papers: dict[str, list[float]] = {}
    for value in laws:
        papers.setdefault(_records()[value.law]["form"], []).append(log10(value.parameters))
    middle = 10.0 ** fmean(fmean(votes) for votes in papers.values())
    stretched: dict[str, list[str]] = {}
    for value in laws:
        if value.outside:
            stretched.setdefault(", ".join(value.outside), []).append(value.law)
    warnings = [f"{', '.join(names)}: outside the fitted range: {what}" for what, names in stretched.items()]
    warnings += [
        f"{name}: not asked, it was fitted at another expansion than {mixture.experts:g} experts per visit"
        for name, value in asked
        if value is None
    ]
    if tokens is None:
        warnings.append(f"no tokens given: {DEFAULT_TOKENS:.3g} taken, at which most laws were fitted")
    return DenseEqual(
        parameters=middle,
        low=min(v.low for v in laws),
        high=max(v.high for v in laws),
        tokens=mixture.tokens,
        laws=tuple(laws),
        warnings=tuple(warnings),
    )


def _billions(value: float) -> str:
    return "no dense model of any size" if value == inf else f"{value / 1e9:.3g} B"
