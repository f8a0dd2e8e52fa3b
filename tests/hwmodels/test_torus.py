"""Transfers on a torus against links counted one by one, and what the torus leaves as it was."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.collectives import collective_s, load_fabric_fit
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.link_faults import LinkFault
from moesim.hwmodels.lower_bounds import collective_lower_bound_s
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.topology import build_topology
from moesim.hwmodels.torus import exchange_bytes_per_s, span_of, torus_collective_s, torus_note
from moesim.hwmodels.work import Comm

FIT = load_profile("tpu-v3").collectives
# a fit whose links are all that takes time
BARE = replace(
    FIT, base_s=0.0, hop_s=0.0, a2a_base_s=0.0, link_efficiency=1.0, a2a_efficiency=1.0, ramp_sqrt_s=0.0,
    a2a_ramp_sqrt_s=0.0,
)  # fmt: skip


def _busiest_link_bytes(side: int, axes: int, each: float) -> float:
    """Bytes on the busiest directed link when every chip sends `each` to every other one, axis by axis, the short way
    (both ways alike where they are equally long)."""
    load: dict[tuple[tuple[int, ...], int, int], float] = {}
    chips = list(product(range(side), repeat=axes))
    for source, target in product(chips, chips):
        at = list(source)
        for axis in range(axes):
            ahead = (target[axis] - at[axis]) % side
            ways = [(1, ahead)] if 2 * ahead < side else [(-1, side - ahead)]
            ways = [(1, ahead), (-1, ahead)] if 2 * ahead == side else ways
            for step, hops in ways:
                place = list(at)
                for _ in range(hops):
                    key = (tuple(place), axis, step)
                    load[key] = load.get(key, 0.0) + each / len(ways)
                    place[axis] = (place[axis] + step) % side
            at[axis] = target[axis]
    return max(load.values())


@pytest.mark.parametrize(("node", "side", "axes"), [("tpu-v3-pod", 4, 2), ("tpu-v3-pod", 8, 2), ("tpu-v4-pod", 4, 3)])
def test_an_all_to_all_takes_as_long_as_its_busiest_link(node: str, side: int, axes: int) -> None:
    ranks = side**axes
    cluster = build_cluster(node, ranks)
    span = span_of(cluster, ranks)
    assert span is not None and (span.rings, span.dimensions) == (True, pytest.approx(axes))
    size = 1e9
    busiest = _busiest_link_bytes(side, axes, size / ranks)
    seconds = torus_collective_s("all_to_all", ranks, size, span, BARE)
    assert seconds == pytest.approx(busiest / span.link_bytes_per_s)
    assert exchange_bytes_per_s(cluster, ranks) == pytest.approx(size * (ranks - 1) / ranks / seconds)


def test_rings_use_both_links_of_every_dimension() -> None:
    cluster = build_cluster("tpu-v4-pod", 512)  # 8 x 8 x 8, six links of 50 GB/s
    whole, plane, row = (span_of(cluster, n) for n in (512, 64, 8))
    assert whole is not None and plane is not None and row is not None
    assert [s.injected_bytes_per_s for s in (whole, plane, row)] == pytest.approx([300e9, 200e9, 100e9])
    gathered = torus_collective_s("all_gather", 8, 8e9, row, BARE)
    assert gathered == pytest.approx(7e9 / 100e9)
    assert torus_collective_s("all_reduce", 8, 8e9, row, BARE) == pytest.approx(2 * gathered)


def test_part_of_a_side_is_a_line_of_half_the_rate() -> None:
    cluster = build_cluster("tpu-v3-pod", 1024)  # 32 x 32, four links of 82 GB/s
    part, side = span_of(cluster, 8), span_of(cluster, 32)
    assert part is not None and side is not None
    assert (part.rings, side.rings) == (False, True)
    assert side.injected_bytes_per_s == pytest.approx(2 * part.injected_bytes_per_s)
    assert part.crossing_s(1.0) == pytest.approx(8 / 4 / 82e9) and part.hops == 7.0


def test_exchanges_of_a_pod_grow_with_the_root_of_its_chips() -> None:
    sizes = (64, 256, 1024)
    clusters = [build_cluster("tpu-v3-pod", n) for n in sizes]
    seconds = [
        collective_s(Comm("all_to_all", 1e9, c.group(n)), c, BARE, load_fabric_fit("a100"))
        for n, c in zip(sizes, clusters, strict=True)
    ]
    assert [b / a for a, b in pairwise(seconds)] == pytest.approx([2.0, 2.0])


@pytest.mark.parametrize("kind", ["all_to_all", "all_reduce", "all_gather", "broadcast", "send"])
@pytest.mark.parametrize("ranks", [2, 3, 8, 60, 1024])
def test_no_transfer_beats_the_links(kind: str, ranks: int) -> None:
    cluster = build_cluster("tpu-v3-pod", 1024)
    work = Comm(kind, 1e9, cluster.group(2 if kind == "send" else ranks))  # type: ignore[arg-type]  # names of COLLECTIVES
    assert collective_s(work, cluster, FIT, load_fabric_fit("a100")) >= collective_lower_bound_s(work, cluster)


def test_switched_domains_and_single_chips_have_no_torus() -> None:
    assert span_of(build_cluster("dgx-h100", 8), 8) is None
    assert span_of(build_cluster("tpu-v3-pod", 16), 1) is None
    one = span_of(build_cluster("tpu-v3-pod", 1), 2)  # more ranks than chips: asked of a cluster of one
    assert one is not None and one.dimensions == 1.0


def test_a_slow_link_of_a_torus_is_refused() -> None:
    cluster = build_cluster("tpu-v3-pod", 16, degraded=(LinkFault("gpu0", "switch0", 0.5),))
    with pytest.raises(FactError, match="without a switch"):
        build_topology(cluster)


def test_an_answer_says_how_a_job_lies_on_the_torus() -> None:
    assert "closed to rings" in torus_note(build_cluster("tpu-v3-pod", 16))
    assert torus_note(build_cluster("tpu-v3-pod", 1)) == torus_note(build_cluster("dgx-h100", 16)) == ""
