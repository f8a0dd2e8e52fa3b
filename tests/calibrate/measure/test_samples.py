"""The sample table: what is written is read, what no clock gives is refused, interruptions lose nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from synthetic import MACHINE, sample

from moesim.calibrate.measure.asks import ask, work_of
from moesim.calibrate.measure.clock import longest_wait_s, summary, waits_s
from moesim.calibrate.measure.plan import CPU, CUDA, default_plan, far_apart, spread_rows, unmeasured
from moesim.calibrate.measure.samples import COLUMNS, BadSamples, append, calmest, load_samples, mend
from moesim.calibrate.measure.session import known_samples
from moesim.hwmodels.work import Stream
from moesim.sim.layers.dense import PASSES

GEMM = sample(ask("gemm", "forward", "fp32", m=4, n=8, k=16))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    append(table, [GEMM])
    append(table, [replace(GEMM, ranks=2)])
    assert load_samples(table) == [GEMM, replace(GEMM, ranks=2)]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("seconds", "0", "no measured time"),
        ("seconds", "nan", "no measured time"),
        ("seconds", "-1e-3", "no measured time"),
        ("seconds", "inf", "no measured time"),
        ("seconds", "fast", "is no number"),
        ("threads", "0", "from 1 to"),
        ("repeats", "9" * 5000, "is no number"),
        ("disturbed_share", "nan", "no measured time"),
        ("sizes", "m=4;n=4", "sizes are not those of gemm"),
        ("sizes", "m=4;n=4;k=0", "must be 1 or more"),
        ("op", "gem", "is none of"),
        ("sizes", "m=4;n", "are not name=number"),
        ("spread", "nan", "no measured time"),
    ],
)
def test_numbers_that_no_clock_gives_are_refused(tmp_path: Path, column: str, value: str, said: str) -> None:
    table = tmp_path / "s.csv"
    cells = dict(zip(COLUMNS, GEMM.cells(), strict=True)) | {column: value}
    table.write_text(",".join(COLUMNS) + "\n" + ",".join(cells.values()) + "\n")
    with pytest.raises(BadSamples, match="line 2") as refusal:
        load_samples(table)
    assert said in str(refusal.value)


def test_other_tables_and_empty_ones_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(BadSamples, match="header must be"):
        load_samples(table)
    table.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(BadSamples, match="no samples"):
        load_samples(table)
    assert known_samples(table, MACHINE) == []
    with pytest.raises(BadSamples, match="cannot read"):
        load_samples(tmp_path / "none.csv")


def test_a_line_that_was_cut_off_is_dropped_and_the_rest_kept(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    append(table, [GEMM, replace(GEMM, ranks=2)])
    whole = table.read_bytes()
    table.write_bytes(whole[:-20])
    mend(table)
    assert load_samples(table) == [GEMM]


def test_samples_of_another_machine_are_not_mixed_in(tmp_path: Path) -> None:
    table = tmp_path / "s.csv"
    append(table, [replace(GEMM, machine="cpu-other-8")])
    with pytest.raises(BadSamples, match="holds samples of cpu-other-8, this machine is cpu-test-2"):
        known_samples(table, MACHINE)


def test_the_calmest_round_counts() -> None:
    slow = replace(GEMM, seconds=2 * GEMM.seconds)
    assert calmest([slow, GEMM, replace(slow, ranks=2)]) == [GEMM, replace(slow, ranks=2)]


def test_calm_repeats_count_and_the_rest_is_told() -> None:
    """Half of the repeats waited: they are set aside; the lower quartile of the calm ones counts, or the fastest."""
    calm, waited = [(1.0, 0.0), (1.0, 0.0), (1.0, 0.01), (1.2, 0.0)], [(2.0, 1.0)] * 4
    assert summary([*calm, *waited]).seconds == 1.0
    assert summary([*calm, *waited]).disturbed_share == 0.5
    assert summary([*calm, *waited, (0.5, 0.0)], "together").seconds == 0.5
    assert summary([*calm, *waited], "own").seconds == 1.6  # nobody else is there: the median of all
    assert summary([(3.0, 0.0)]).spread == 0.0


def test_without_calm_repeats_the_wait_is_taken_off() -> None:
    assert summary([(2.0, 1.0), (3.0, 2.25), (4.0, 2.75), (9.0, 9.0)]).seconds == pytest.approx(0.875)


def test_a_plan_asks_each_question_once_and_only_what_is_left() -> None:
    plan = default_plan("cpu", 2, quick=False)
    assert len(set(plan)) == len({a.key for a in plan})
    first = unmeasured(plan, {}, 2, 1)
    done = {(a.key, 2): 1 for a in first[:10]}
    assert unmeasured(plan, done, 2, 1) == first[10:]
    assert unmeasured(plan, done, 2, 2) == first
    assert len(default_plan("cpu", 1, quick=True)) < len(first) / 2


def test_every_kind_of_work_that_layers_count_is_measured() -> None:
    """A fit per byte needs the same bytes on both sides: each kind of sim.traffic has samples, forward and backward."""
    for device in ("cpu", "cuda"):
        works = [work_of(a) for a in default_plan(device, 1, quick=False) if a.op == "stream"]
        seen = {(w.kind, w.backward) for w in works if isinstance(w, Stream)}
        kinds = (set(PASSES) | {"router", "loss"}) - {"act"}  # without a gate: only GPT-2 and models like it
        assert seen == {(kind, back) for kind in kinds for back in (False, True)}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 33])
def test_a_plan_cut_short_still_spans_its_range(count: int) -> None:
    """Every question once, the ends first, and no gap twice as wide as another after 3, 5, 9, ... of them."""
    asks = [ask("copy", "copy", "fp32", bytes=i + 1) for i in range(count)]
    order = [a.number("bytes") for a in far_apart(asks)]
    assert sorted(order) == list(range(1, count + 1))
    assert order[:2] == [1, count][: len(order)] or count == 1
    if count == 33:
        for taken in (3, 5, 9, 17):
            kept = sorted(order[:taken])
            assert max(b - a for a, b in pairwise(kept)) == 32 // (taken - 1)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize(("total", "experts"), [(0, 4), (7, 4), (1000, 8), (33, 64)])
def test_spread_rows_conserve_tokens(total: int, experts: int, sigma: float) -> None:
    rows = spread_rows(total, experts, sigma)
    assert sum(rows) == total and len(rows) == experts and min(rows) >= 0
    if sigma == 0.0:
        assert max(rows) - min(rows) <= 1


def test_grids_stay_within_their_limit() -> None:
    for grid in (CPU, CUDA):
        for a in default_plan("cpu" if grid is CPU else "cuda", 1, quick=False):
            work = work_of(a)
            if a.op in ("gemm", "grouped_gemm"):
                assert work is not None and work.flops <= grid.most_flops


def test_waiting_counts_for_the_thread_that_waited_longest() -> None:
    assert longest_wait_s({"1": 1.0, "2": 2.0}, {"1": 1.5, "2": 2.25, "3": 0.125}) == 0.5
    assert longest_wait_s({}, {}) == 0.0
    assert all(wait >= 0.0 for wait in waits_s().values())
