"""Transfers that a user measured, by hand: which wire bounds them, what four factors make of it, beyond the largest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.collectives import collective_s, load_fabric_fit
from moesim.hwmodels.libraries import borrowed_from, library_named
from moesim.hwmodels.measured_transfers import (
    MeasuredTransfer,
    as_all_to_all,
    exchange_ratio,
    measured_s,
    terms_s,
    transfer_key,
)
from moesim.hwmodels.profile import load_profile
from moesim.hwmodels.work import Comm, CommKind, ExpertExchange, Group

CLUSTER = build_cluster("dgx-h100", 32)
FIT, FABRIC = load_profile("h100-sxm").collective_fit, load_fabric_fit("hopper")
SIZE, LINK, NIC = 64e6, 450e9, 50e9
HOST, FOUR_HOSTS = Group(8, 8), Group(32, 8)


@pytest.mark.parametrize(
    ("kind", "group", "seconds"),
    [
        ("all_reduce", HOST, 2 * 7 / 8 * SIZE / LINK),  # everything goes in and out but the own eighth, twice
        ("all_gather", HOST, 7 / 8 * SIZE / LINK),
        ("reduce_scatter", HOST, 7 / 8 * SIZE / LINK),
        ("all_to_all", HOST, 7 / 8 * SIZE / LINK),
        ("all_gather", FOUR_HOSTS, 31 / 32 * SIZE / (8 * NIC)),  # eight rails carry it together
        ("all_reduce", FOUR_HOSTS, 2 * 31 / 32 * SIZE / (8 * NIC)),
        ("all_to_all", FOUR_HOSTS, 24 / 32 * SIZE / NIC),  # a rank's own NIC carries what leaves its host
        ("send", Group(2, 1), SIZE / NIC),  # from one to another: one NIC
    ],
)
def test_the_wire_that_bounds_a_transfer(kind: CommKind, group: Group, seconds: float) -> None:
    floor_s, size_s, wire_s, root = terms_s(Comm(kind, SIZE, group), CLUSTER, FIT, FABRIC)
    assert wire_s == pytest.approx(seconds) and root == pytest.approx(seconds**0.5)
    assert floor_s + size_s == pytest.approx(collective_s(Comm(kind, SIZE, group), CLUSTER, FIT, FABRIC))
    assert 0.0 < floor_s < floor_s + size_s


OWN = MeasuredTransfer(
    floor_factor=2.0, size_factor=0.5, wire_factor=0.25, ramp_sqrt_s=0.125, ranks=(8,), domains=(1,), least_bytes=1e3,
    most_bytes=SIZE,
)  # fmt: skip


def test_four_factors_up_to_the_largest_that_was_measured() -> None:
    work = Comm("all_gather", SIZE, HOST)
    floor_s, size_s, wire_s, root = terms_s(work, CLUSTER, FIT, FABRIC)
    known = {transfer_key("all_gather", HOST): OWN}
    assert list(known) == ["all_gather inside"] and transfer_key("all_gather", FOUR_HOSTS) == "all_gather across"
    seconds = measured_s(work, CLUSTER, FIT, FABRIC, known)
    assert seconds == pytest.approx(2.0 * floor_s + 0.5 * size_s + 0.25 * wire_s + 0.125 * root)
    for other in (replace(work, group=FOUR_HOSTS), replace(work, kind="all_reduce"), replace(work, bytes=0.0)):
        assert measured_s(other, CLUSTER, FIT, FABRIC, known) == collective_s(other, CLUSTER, FIT, FABRIC)


def test_beyond_it_bytes_take_at_least_half_of_what_the_shipped_constants_say() -> None:
    work, flat = Comm("all_gather", SIZE, HOST), replace(OWN, size_factor=0.0, wire_factor=0.0, ramp_sqrt_s=0.0)
    double = replace(work, bytes=2 * SIZE)
    key = transfer_key("all_gather", HOST)
    grown = collective_s(double, CLUSTER, FIT, FABRIC) - collective_s(work, CLUSTER, FIT, FABRIC)
    at_most, beyond = (measured_s(w, CLUSTER, FIT, FABRIC, {key: flat}) for w in (work, double))
    assert beyond - at_most == pytest.approx(0.5 * grown)
    steep = replace(flat, size_factor=3.0)
    at_most, beyond = (measured_s(w, CLUSTER, FIT, FABRIC, {key: steep}) for w in (work, double))
    assert beyond - at_most == pytest.approx(3.0 * grown, rel=1e-3)


def test_an_exchange_without_kernels_of_its_own_follows_the_measured_all_to_all() -> None:
    work = ExpertExchange(
        stage="dispatch", tokens=512.0, top_k=4, payload_bytes=2048.0, group=HOST, kernel="all_to_all", imbalance=1.5,
        node_copies=1.0, rank_copies=1.0,
    )  # fmt: skip
    sent = as_all_to_all(work)
    assert (sent.kind, sent.bytes, sent.group) == ("all_to_all", 512 * 4 * 1.5 * 2048, HOST)
    own = {transfer_key("all_to_all", HOST): OWN}
    wanted = measured_s(sent, CLUSTER, FIT, FABRIC, own) / collective_s(sent, CLUSTER, FIT, FABRIC)
    assert exchange_ratio(work, CLUSTER, FIT, FABRIC, own) == pytest.approx(wanted) and wanted != 1.0
    for other in (replace(work, kernel="normal"), replace(work, tokens=0.0), replace(work, group=Group(1, 1))):
        assert exchange_ratio(other, CLUSTER, FIT, FABRIC, own) == 1.0
    assert exchange_ratio(work, CLUSTER, FIT, FABRIC, {}) == 1.0


def test_a_library_that_was_stated_and_has_constants_of_its_own_needs_no_word() -> None:
    own = library_named("nccl", True)
    assert borrowed_from(own) == "" and borrowed_from(own, stated=False) == "library = nccl (not stated)"
