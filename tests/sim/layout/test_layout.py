"""Layouts: rank arithmetic, communicators, and refusals that say what would do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moesim.hwmodels.cluster import build_cluster
from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.model.catalogue import load_model

MIXTRAL, DEEPSEEK, LLAMA = (load_model(name) for name in ("mixtral-8x7b", "deepseek-v3", "llama-3.1-70b"))
DEGREE = st.sampled_from([1, 2, 3, 4, 8])


@given(tp=DEGREE, cp=DEGREE, pp=DEGREE, dp=DEGREE, ep=DEGREE, etp=DEGREE)
def test_degrees_multiply_to_all_gpus(tp: int, cp: int, pp: int, dp: int, ep: int, etp: int) -> None:
    layout = Layout(gpus=tp * cp * pp * dp, tp=tp, cp=cp, pp=pp, ep=ep, etp=etp)
    assert layout.dp == dp
    assume(tp * cp * dp % (ep * etp) == 0)
    assert layout.edp * layout.ep * layout.etp * layout.pp == layout.gpus


@given(tp=DEGREE, cp=DEGREE, pp=DEGREE, dp=DEGREE)
def test_communicators_have_the_sizes_of_their_degrees(tp: int, cp: int, pp: int, dp: int) -> None:
    layout = Layout(gpus=tp * cp * pp * dp, tp=tp, cp=cp, pp=pp)
    cluster = build_cluster("dgx-h100", max(8, layout.gpus))
    for kind, size in (("tp", tp), ("cp", cp), ("dp", dp * cp), ("ep", 1), ("etp", 1), ("edp", dp * tp * cp)):
        group = layout.group(kind, cluster)
        assert group.ranks == size
        assert (group.domains - 1) * group.per_domain + group.fewest == size


def test_megatrons_rank_order_on_hosts_of_eight() -> None:
    cluster = build_cluster("dgx-h100", 64)
    layout = Layout(gpus=64, tp=4, pp=2, ep=8, etp=1)
    found = {kind: layout.group(kind, cluster) for kind in ("tp", "dp", "ep", "edp")}
    assert (found["tp"].ranks, found["tp"].per_domain) == (4, 4)
    assert (found["dp"].ranks, found["dp"].per_domain) == (8, 2)  # two tensor groups share a host
    assert (found["ep"].ranks, found["ep"].per_domain) == (8, 8)  # experts fold over tensor and data ranks
    assert (found["edp"].ranks, found["edp"].per_domain) == (4, 1)


def test_an_unknown_communicator_is_an_error() -> None:
    with pytest.raises(KeyError):
        Layout(gpus=8).group("xp", build_cluster("dgx-h100", 8))


@pytest.mark.parametrize(
    ("gpus", "pp", "hops"),
    [
        (8, 8, "........"),
        (16, 2, "XX"),
        (64, 8, "XXXXXXXX"),
        (8, 2, ".."),
        (16, 4, ".X.X"),
        (32, 8, ".X.X.X.X"),
        (24, 2, "XX"),
    ],
)
def test_each_hop_of_a_pipeline_knows_whether_it_leaves_the_host(gpus: int, pp: int, hops: str) -> None:
    """The last hop leads back to the first rank, as virtual stages do."""
    layout, cluster = Layout(gpus=gpus, pp=pp), build_cluster("dgx-h100", gpus)
    found = "".join("X" if layout.hop_crosses(cluster, a, (a + 1) % pp) else "." for a in range(pp))
    assert found == hops


def test_hybrid_sharding_keeps_a_copy_per_group() -> None:
    layout = Layout(gpus=64, zero=3, zero_group=8)
    cluster = build_cluster("dgx-h100", 64)
    assert layout.group("dp", cluster).ranks == 8
    assert layout.group("dp_replicas", cluster).ranks == 8


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (MIXTRAL, {"gpus": 12, "tp": 8}, r"dp is not whole: 12 GPUs / \(tp=8 x cp=1 x pp=1\) = 1.50; use a number of GPUs"),
    (MIXTRAL, {"gpus": 16, "ep": 3}, "expert data parallel is not whole: .* ep x etp may be one of 1, 2, 4, 8, 16"),
    (MIXTRAL, {"gpus": 48, "ep": 3}, "ep=3 does not divide 8 experts of .*; use one of 1, 2, 4, 8"),
    (MIXTRAL, {"gpus": 64, "ep": 16}, "ep=16 does not divide 8 experts"),
    (LLAMA, {"gpus": 8, "ep": 2}, "has no experts: ep=2, etp=1 must be 1"),
    (LLAMA, {"gpus": 8, "etp": 2}, "has no experts: ep=1, etp=2 must be 1"),
    (LLAMA, {"gpus": 128, "pp": 128}, "asks for 128 stages, but .* has 80 layers; lower pp or vpp"),
    (LLAMA, {"gpus": 16, "pp": 16, "vpp": 8}, "asks for 128 stages"),
    (LLAMA, {"gpus": 24, "tp": 24}, "tp=24 does not divide 64 attention heads; use 1, 2, 4, 8, 16, 32, 64"),
    (LLAMA, {"gpus": 8, "vpp": 2}, "vpp=2 needs pp > 1"),
    (LLAMA, {"gpus": 8, "pp": 4, "vpp": 2, "schedule": "zb-h1"}, "schedule=zb-h1 has no virtual stages"),
    (
        DEEPSEEK,
        {"gpus": 24, "pp": 3, "schedule": "dualpipe"},
        "dualpipe needs an even pp of at least 2 and vpp=1, not pp=3",
    ),
    (DEEPSEEK, {"gpus": 8, "pp": 1, "schedule": "dualpipe"}, "dualpipe needs an even pp"),
    (LLAMA, {"gpus": 8, "pp": 4, "schedule": "zb-v"}, "schedule=zb-v runs two stages on every rank.*needs vpp=2"),
    (LLAMA, {"gpus": 8, "pp": 4, "vpp": 4, "schedule": "v-min"}, "needs vpp=2 .* not pp=4, vpp=4"),
    (LLAMA, {"gpus": 8, "schedule": "v-half"}, "pp of at least 2, not pp=1, vpp=1"),
    (LLAMA, {"gpus": 8, "schedule": "zigzag"}, "layout.schedule='zigzag' is not known; use one of gpipe, 1f1b"),
    (LLAMA, {"gpus": 0}, "layout.gpus=0 must be at least 1"),
    (LLAMA, {"gpus": 8, "tp": -1}, "layout.tp=-1 must be at least 1"),
    (LLAMA, {"gpus": 8, "zero": 4}, "layout.zero=4 is not a ZeRO stage; use 0, 1, 2 or 3"),
    (LLAMA, {"gpus": 8, "zero": 3, "zero_group": 3}, "zero_group=3 does not divide dp x cp = 8"),
    (LLAMA, {"gpus": 8, "pp": 4, "stage_layers": (20, 20, 20, 19)}, "4 entries that sum to 79; it needs .* sum to 80"),
    (LLAMA, {"gpus": 8, "pp": 4, "stage_layers": (40, 40)}, "2 entries that sum to 80; it needs pp x vpp = 4 entries"),
    (LLAMA, {"gpus": 8, "pp": 4, "stage_layers": (100, -20, 0, 0)}, "stage_layers"),
]


@pytest.mark.parametrize(("arch", "degrees", "message"), BAD)
def test_a_layout_that_cannot_be_says_what_would_do(arch: Any, degrees: dict[str, Any], message: str) -> None:
    with pytest.raises(BadLayout, match=message) as caught:
        check_layout(Layout(**degrees), arch)
    assert "\n" not in str(caught.value)


def test_a_good_layout_is_handed_back() -> None:
    layout = Layout(gpus=2048, pp=16, ep=64, schedule="dualpipe")
    assert check_layout(layout, DEEPSEEK) is layout
    assert (layout.dp, layout.edp) == (128, 2)


def test_a_v_keeps_its_ends_and_its_turn_on_one_rank() -> None:
    layout = check_layout(Layout(gpus=8, pp=4, vpp=2, schedule="zb-v"), LLAMA)
    assert [layout.rank_of(stage) for stage in range(8)] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert [layout.chunks_of(rank) for rank in range(4)] == [(0, 7), (1, 6), (2, 5), (3, 4)]
    assert layout.one_table and not Layout(gpus=8, pp=4, vpp=2, schedule="interleaved").one_table
