"""Scaling laws: what their papers say about themselves, and what makers say about their models."""

from __future__ import annotations

import pytest

from moesim.sim.comparison.scaling import Mixture, dense_equal, law_value, mixture_of
from moesim.sim.model.catalogue import load_model


def mixture(**changes: float) -> Mixture:
    sizes = {"active": 5e6, "total": 2e8, "outside": 0.0, "experts": 128.0, "granularity": 1.0, "sparsity": 127 / 128}
    return Mixture(**{**sizes, "tokens": 130e9, **changes})


def test_clark_gives_the_effective_parameters_that_the_paper_names() -> None:
    value = law_value("clark-s-base", mixture())
    assert value is not None and value.parameters == pytest.approx(55e6, rel=0.1)  # section 6: 5M with 128 experts


@pytest.mark.parametrize(("law", "cutoff"), [("clark-s-base", 937e9), ("clark-rl-r", 85e9), ("clark-hash", 83e9)])
def test_routing_stops_helping_at_the_printed_cutoff(law: str, cutoff: float) -> None:
    small, large = (law_value(law, mixture(active=n, total=1e3 * n, experts=256.0)) for n in (cutoff / 10, cutoff * 10))
    assert small is not None and large is not None
    assert small.parameters > 1.05 * cutoff / 10  # a tenth of it: experts help
    assert large.parameters == cutoff * 10  # ten times: the law says less than the active ones, which is kept


@pytest.mark.parametrize("law", ["clark-s-base", "krajewski", "abnar"])
def test_more_experts_of_the_same_active_size_never_equal_a_smaller_model(law: str) -> None:
    found = []
    for experts in (32.0, 64.0, 128.0):
        sizes = mixture(active=1e8, total=7e7 * experts + 3e7, experts=experts, sparsity=1 - 1 / experts)
        value = law_value(law, sizes)
        assert value is not None
        found.append(value.parameters)
        assert sizes.active <= value.low <= value.parameters <= value.high <= sizes.total
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("model", "dense"),
    [("deepspeed-1.3b-moe-128", 6.7e9), ("deepspeed-350m-moe-128", 1.3e9), ("deepseek-moe-16b", 7e9)],
)
def test_makers_say_the_same_of_their_models(model: str, dense: float) -> None:
    """DeepSpeed-MoE: quality of 6.7B and 1.3B dense; DeepSeekMoE: of a 7B. Left out of every law's fit."""
    found = dense_equal(load_model(model), 300e9)
    assert found.low < dense < found.high
    assert found.parameters == pytest.approx(dense, rel=0.35)


def test_what_is_stretched_is_said() -> None:
    arch = load_model("mixtral-8x7b")
    found = dense_equal(arch)
    assert any("outside the fitted range" in w and "active" in w for w in found.warnings)
    assert any("krajewski: not asked" in w for w in found.warnings)
    assert any("no tokens given" in w for w in found.warnings)
    assert {v.law for v in found.laws} == {"clark-s-base", "clark-rl-r", "clark-hash", "abnar"}
    assert all("arXiv" in v.source for v in found.laws)
    inside = law_value("clark-s-base", mixture(active=1e9, total=3e10, experts=64.0))
    assert inside is not None and inside.outside == ()


def test_sizes_that_laws_read() -> None:
    sizes = mixture_of(load_model("deepseek-v3"), 1e12)
    assert (sizes.experts, sizes.granularity) == (32.0, 8.0)
    assert sizes.sparsity == pytest.approx(1 - 8 / 256)
