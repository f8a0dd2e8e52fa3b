"""Transfers of a segment that meet on a wire move as max-min flows on that wire do."""

from __future__ import annotations

import pytest
from checks import check_segment
from hypothesis import given
from hypothesis import strategies as st

from moesim.hwmodels.work import Comm, ExpertExchange, Gemm, Group
from moesim.sim.clock.flows import Transfer, run_transfers
from moesim.sim.layers.graph import HostBlock, Op, Segment
from moesim.sim.train.segment_time import flows_on_wire, shared_seconds

FAR, NEAR = Group(64, 8), Group(8, 8)
RING = Comm("reduce_scatter", 1e9, FAR)
ALL = Comm("all_to_all", 1e9, FAR)
DISPATCH = ExpertExchange(
    "dispatch", tokens=4096.0, top_k=8, payload_bytes=7168.0, group=FAR, node_copies=4.0, rank_copies=7.0
)
GEMM = Gemm(4096, 4096, 4096)


def _segment(*ops: Op) -> Segment:
    segment = Segment("B0", ops)
    check_segment(segment)
    return segment


@given(
    reduction_s=st.floats(1e-4, 1e-2), exchange_s=st.floats(1e-4, 1e-2), compute_s=st.floats(1e-4, 1e-2),
    work=st.sampled_from([ALL, DISPATCH]),
)  # fmt: skip
def test_a_reduction_beside_an_exchange_ends_when_flows_do(
    reduction_s: float, exchange_s: float, compute_s: float, work: Comm | ExpertExchange
) -> None:
    segment = _segment(
        Op("reduce", RING, "dp_comm", "dp"),
        Op("up", GEMM, "gemm"),
        Op("exchange", work, "ep_comm"),
    )
    found = shared_seconds(segment, [reduction_s, compute_s, exchange_s])
    flows = {name: flows_on_wire(op) for name, op in zip(("reduce", "up", "exchange"), segment.ops, strict=True)}
    done = run_transfers(
        [
            Transfer("reduce", {"nic": reduction_s}, {"nic": float(flows["reduce"][1])}),
            Transfer("exchange", {"nic": exchange_s}, {"nic": float(flows["exchange"][1])}, start_s=compute_s),
        ],
        {"nic": 1.0},
    )
    assert found[1] == pytest.approx(compute_s)
    assert found[0] == pytest.approx(done["reduce"], rel=1e-9)
    assert compute_s + found[2] == pytest.approx(done["exchange"], rel=1e-9)


def test_rings_count_once_and_exchanges_by_peer() -> None:
    assert flows_on_wire(Op("r", RING, "dp_comm", "dp")) == ("nic", 1)
    assert flows_on_wire(Op("a", ALL, "ep_comm")) == ("nic", 56)
    assert flows_on_wire(Op("d", DISPATCH, "ep_comm")) == ("nic", 7)
    assert flows_on_wire(Op("n", Comm("all_gather", 1e6, NEAR), "tp_comm")) == ("link", 1)
    assert flows_on_wire(Op("g", GEMM, "gemm")) is None


def test_different_wires_do_not_meet() -> None:
    near = Comm("all_gather", 1e9, NEAR)
    segment = _segment(Op("reduce", RING, "dp_comm", "dp"), Op("gather", near, "tp_comm"))
    assert shared_seconds(segment, [2e-3, 1e-3]) == [2e-3, 1e-3]


def test_parts_of_one_transfer_do_not_slow_each_other() -> None:
    near = Comm("all_gather", 1e9, NEAR)
    segment = _segment(Op("gather.hidden", near, "tp_comm", "comm", kernels=0), Op("gather", near, "tp_comm"))
    assert shared_seconds(segment, [2e-3, 1e-3]) == [2e-3, 1e-3]


def test_bytes_are_conserved_while_the_host_holds_up_compute() -> None:
    ops = (
        Op("reduce", RING, "dp_comm", "dp"),
        Op("up", GEMM, "gemm"),
        Op("exchange", ALL, "ep_comm"),
        Op("down", GEMM, "gemm"),
        Op("again", ALL, "ep_comm"),
    )
    segment = Segment("B0", ops, blocks=(HostBlock(1, 1, 5e-3),))
    found = shared_seconds(segment, [4e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    # the CPU lets the exchange start at 5 ms only: the reduction has been alone and is over
    assert found == pytest.approx([4e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    late = shared_seconds(segment, [6e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    assert late[0] + late[2] > 6e-3 + 1e-3
    assert late[2] == pytest.approx(1e-3 * 57 / 56)
