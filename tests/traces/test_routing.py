"""Expert popularity: shares sum to one, draws depend on seed and shape only, and bad files say what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.traces.rng import stream
from moesim.traces.routing import BadTrace, Routing, ar1_path, load_counts


@given(
    kind=st.sampled_from(["balanced", "lognormal"]),
    sigma=st.floats(0.0, 5.0),
    seed=st.integers(0, 2**31),
    layers=st.integers(1, 8),
    experts=st.integers(1, 300),
)
def test_shares_are_a_distribution(kind: str, sigma: float, seed: int, layers: int, experts: int) -> None:
    shares = Routing(kind=kind, sigma=sigma, seed=seed).popularity(layers, experts)
    assert shares.shape == (layers, experts)
    assert (shares >= 0.0).all() and np.isfinite(shares).all()
    assert np.allclose(shares.sum(axis=1), 1.0, rtol=1e-12)


def test_draws_depend_on_the_seed_only() -> None:
    one, two, other = (Routing(kind="lognormal", sigma=0.65, seed=seed).popularity(4, 16) for seed in (1, 1, 2))
    assert (one == two).all() and (one != other).any()


def test_sigma_zero_is_balanced() -> None:
    flat = Routing(kind="lognormal", sigma=0.0, seed=9).popularity(3, 7)
    assert np.allclose(flat, Routing().popularity(3, 7), rtol=1e-15)


def test_popularity_is_lognormal() -> None:
    shares = Routing(kind="lognormal", sigma=0.65, seed=0).popularity(200, 256)
    assert np.log(shares).std(axis=1).mean() == pytest.approx(0.65, rel=0.01)


def test_streams_with_other_names_are_independent() -> None:
    a, b = stream(1, "routing").standard_normal(2000), stream(1, "arrivals").standard_normal(2000)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.08
    assert (stream(1, "routing").standard_normal(5) == a[:5]).all()


@pytest.fixture
def counts() -> np.ndarray:
    return np.array([[1.0, 3.0, 0.0, 4.0], [2.0, 2.0, 2.0, 2.0]])


def test_counts_from_npz_npy_and_csv(tmp_path: Path, counts: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", counts=counts)
    np.save(tmp_path / "b.npy", counts)
    np.savetxt(tmp_path / "c.csv", counts, delimiter=",")
    for name in ("a.npz", "b.npy", "c.csv"):
        shares = Routing(kind="counts", counts_file=str(tmp_path / name)).popularity(2, 4)
        assert np.allclose(shares[0], [0.125, 0.375, 0.0, 0.5])
    np.save(tmp_path / "one.npy", counts[:1])
    assert (Routing(kind="counts", counts_file=str(tmp_path / "one.npy")).popularity(3, 4) == shares[0]).all()


@pytest.mark.parametrize(("layers", "experts"), [(3, 4), (1, 4), (2, 5)])
def test_counts_of_another_shape_are_refused(tmp_path: Path, counts: np.ndarray, layers: int, experts: int) -> None:
    np.save(tmp_path / "b.npy", counts)
    with pytest.raises(BadTrace, match=rf"shape \[2 layers, 4 experts\].*use shape \[{layers}, {experts}\]"):
        Routing(kind="counts", counts_file=str(tmp_path / "b.npy")).popularity(layers, experts)


def test_recorded_steps_are_gone_through_and_a_load_is_all_of_them(tmp_path: Path, counts: np.ndarray) -> None:
    steps = np.stack([counts, counts[:, ::-1], counts * 2.0 + 1.0])
    np.savez(tmp_path / "steps.npz", counts=steps)
    process = Routing(kind="counts", counts_file=str(tmp_path / "steps.npz"))
    for number in range(-3, 7):
        at = steps[number % 3]
        assert np.allclose(process.popularity(2, 4, step=number), at / at.sum(axis=1, keepdims=True))
    whole = steps.sum(axis=0)
    assert np.allclose(process.load_popularity(2, 4), whole / whole.sum(axis=1, keepdims=True))
    with pytest.raises(BadTrace, match="counts of 3 steps, which move by themselves"):
        Routing(kind="counts", counts_file=str(tmp_path / "steps.npz"), drift=0.99).popularity(2, 4)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npz", None, "does not exist"),
        ("text.npz", b"hello", "is not a table of counts"),
        ("empty.npz", b"", "is not a table of counts"),
        ("cut.npz", b"PK\x03\x04 cut off", "is not a table of counts"),
        ("cut.npy", b"\x93NUMPY\x01\x00", "is not a table of counts"),
        ("words.csv", b"a,b\nc,d\n", "is not a table of counts"),
        ("ragged.csv", b"1,2\n3\n", "is not a table of counts"),
        ("minus.csv", b"1,-2\n3,4\n", "finite, non-negative"),
        ("nan.csv", b"1,nan\n3,4\n", "finite, non-negative"),
        ("inf.csv", b"1,inf\n3,4\n", "finite, non-negative"),
        ("huge.csv", b"1e308,1e308\n3,4\n", "below 1e\\+100"),  # their sum is no number
        ("binary.csv", b"\xff\xfe\x00\x01", "is a binary file"),
        ("zero.csv", b"0,0,0,0\n1,1,1,1\n", "a layer has no routed tokens"),
        ("width.csv", b"1,2,3\n", r"use shape \[2, 4\]"),
        ("nothing.csv", b"", "is not a table of counts|finite, non-negative|use shape"),
    ],
)
def test_bad_counts_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadTrace, match=message):
        Routing(kind="counts", counts_file=str(tmp_path / name)).popularity(2, 4)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(BadTrace):
        load_counts(tmp_path / "objects.npy")


def test_an_archive_without_a_table_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "line.npz", counts=np.ones(4))
    with pytest.raises(BadTrace, match="holds no array of shape"):
        load_counts(tmp_path / "line.npz")


def test_counts_need_a_file() -> None:
    with pytest.raises(BadTrace, match="need a file"):
        Routing(kind="counts").popularity(2, 4)


def test_router_groups_share_a_part_of_their_popularity() -> None:
    routing = Routing(kind="lognormal", sigma=0.65, group_sigma=0.36)
    log = np.log(routing.popularity(400, 256, 8)).reshape(400, 8, 32)
    inside = log.std(axis=2, ddof=1).mean()
    between = np.sqrt((log.mean(axis=2).var(axis=1, ddof=1)).mean() - 0.65**2 / 32)
    assert inside == pytest.approx(0.65, rel=0.02) and between == pytest.approx(0.36, rel=0.05)
    alone = Routing(kind="lognormal", sigma=0.65).popularity(400, 256, 8)
    assert (routing.popularity(400, 256) == alone).all()  # a model without groups has none of it


@pytest.mark.parametrize(("drift", "moved"), [(0.9999, 0.10), (0.9995, 0.21), (0.999, 0.30)])
def test_drift_moves_log_popularity(drift: float, moved: float) -> None:
    """Two points k steps apart differ by sigma sqrt(2 (1 - rho^k)), as published workloads differ from each other."""
    routing = Routing(kind="lognormal", sigma=0.65, group_sigma=0.36, drift=drift)
    early, late = (np.log(routing.popularity(58, 256, 8, step)) for step in (0, 100))
    expected = np.hypot(0.65, 0.36) * np.sqrt(2.0 * (1.0 - drift**100))
    assert (late - early).std() == pytest.approx(expected, rel=0.05) == pytest.approx(moved, abs=0.03)
    still = Routing(kind="lognormal", sigma=0.65)
    assert (still.popularity(4, 8, 1, 100) == still.popularity(4, 8)).all()


@pytest.mark.parametrize(("one", "other"), [(0, 1), (3, 7), (64, 64 + 9), (-40, -20), (-5, 6), (1000, 1040), (8, 16)])
def test_the_path_is_a_stationary_first_order_process(one: int, other: int) -> None:
    """Whichever two steps are asked for, in whatever order: unit variance, correlation rho^distance."""
    start = stream(1, "start").standard_normal((200, 500))
    first, second = (ar1_path(start, 0.98, step, 7, "path") for step in (one, other))
    assert first.std() == pytest.approx(1.0, abs=0.02) and second.std() == pytest.approx(1.0, abs=0.02)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert correlation == pytest.approx(0.98 ** abs(one - other), abs=0.02)
    assert (ar1_path(start, 0.98, one, 7, "path") == first).all()


def test_the_path_has_no_memory_beside_its_last_step() -> None:
    """Given step 5, step 6 does not depend on step 4: the increments' correlation is the process's own."""
    start = stream(2, "start").standard_normal((200, 500))
    four, five, six = (ar1_path(start, 0.9, step, 3, "path") for step in (4, 5, 6))
    left, right = five - 0.9 * four, six - 0.9 * five
    assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.015


def test_counted_shares_drift_from_what_was_counted(tmp_path: Path) -> None:
    table = np.exp(0.6 * stream(5, "counted").standard_normal((30, 256)))
    table[:, 3] = 0.0
    np.save(tmp_path / "c.npy", table)
    routing = Routing(kind="counts", counts_file=str(tmp_path / "c.npy"), drift=0.999)
    now, later, much_later = (routing.popularity(30, 256, 1, step) for step in (0, 100, 1_000_000))
    assert np.allclose(now, table / table.sum(axis=1, keepdims=True))
    assert (later[:, 3] == 0.0).all() and np.allclose(later.sum(axis=1), 1.0)
    seen = np.arange(256) != 3
    moved = np.log(later[:, seen]) - np.log(now[:, seen])
    assert moved.std() == pytest.approx(0.6 * np.sqrt(2.0 * (1.0 - 0.999**100)), rel=0.1)
    assert np.log(much_later[:, seen]).std(axis=1).mean() == pytest.approx(0.6, rel=0.05)


def test_a_load_of_one_topic_spreads_as_one_sequence_does() -> None:
    """What evens out over the mix is as uneven as recorded loads are where all sequences are of one topic."""
    routing = Routing(kind="lognormal", topic=0.65, group_topic=0.36)
    assert routing.even and np.allclose(routing.popularity(4, 256, 8), 1.0 / 256)
    log = np.log(routing.load_popularity(400, 256, 8)).reshape(400, 8, 32)
    between = np.sqrt(log.mean(axis=2).var(axis=1, ddof=1).mean() - 0.65**2 / 32)
    assert log.std(axis=2, ddof=1).mean() == pytest.approx(0.65, rel=0.02) and between == pytest.approx(0.36, rel=0.05)
    lasting = Routing(kind="lognormal", sigma=0.65)
    assert (lasting.load_popularity(2, 64) == lasting.popularity(2, 64)).all()
