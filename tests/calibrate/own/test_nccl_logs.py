"""nccl-tests and rccl-tests: launchers' prefixes, releases' columns, hosts from rank lines, what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from nccl_forms import SIZES, log, rank_lines, rows, seconds_of

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.nccl_logs import NcclTest, read_nccl_log

TWO = ("node0", "node1")


def read(tmp_path: Path, text: str, name: str = "x.log") -> list[NcclTest]:
    path = tmp_path / name
    path.write_text(text)
    return read_nccl_log(path)


def times(test: NcclTest) -> list[float]:
    return [row.seconds for row in test.rows]


PREFIXES = {
    "none": "",
    "mpirun --tag-output": "[1,0]<stdout>:",
    "mpirun of Open MPI 5": "[prterun-head-77@1,0]<stdout>: ",
    "srun --label": " 0: ",
    "srun --label of many": "000: ",
    "kubectl logs --prefix --timestamps": "[pod/nccl-launcher-x7/launcher] 2026-05-04T10:11:12.123456789Z ",
    "kubectl timestamps": "2026-05-04T10:11:12.123456789Z ",
    "docker compose": "worker-1  | ",
    "date in brackets": "[2026-05-04 10:11:12] ",
    "colours": "\x1b[32m",
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES)
def test_a_launchers_prefix_changes_nothing(tmp_path: Path, prefix: str) -> None:
    plain = log("all_reduce", TWO)
    [test] = read(tmp_path, "".join(prefix + line for line in plain.splitlines(keepends=True)))
    assert (test.kind, test.where.ranks, test.where.per_host, test.where.hosts) == ("all_reduce", 16, 8, 2)
    assert [row.size_bytes for row in test.rows] == list(SIZES)
    assert times(test) == pytest.approx([seconds_of("all_reduce", 16, size) for size in SIZES], rel=1e-3)
    assert test.notes == ()


@pytest.mark.parametrize("columns", ["redop root", "redop", ""])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_old_and_new_columns_are_told_by_what_agrees(tmp_path: Path, columns: str, ends: str) -> None:
    lines = [*rank_lines(["a"], 8), *rows("alltoall", 8, columns)]
    [test] = read(tmp_path, ends.join(["alltoall_perf -b 1M", *lines, "# Avg bus bandwidth : 1", ""]))
    assert times(test) == pytest.approx([seconds_of("alltoall", 8, size) for size in SIZES], rel=1e-3)


def test_the_oldest_form_counts_milliseconds_and_has_no_hashes(tmp_path: Path) -> None:
    lines = ["all_reduce_perf", "Using devices"]
    lines += [
        f"   Rank {r:>2} Pid 77 on host{r // 4} device {r % 4} [0x0{r % 4}] Tesla V100-SXM2-16GB" for r in range(8)
    ]
    for size in SIZES:
        seconds = seconds_of("all_reduce", 8, size)
        lines.append(f"{size} {size // 4} float sum {seconds * 1e3:.5f} {size / seconds / 1e9:.2f} 1.75 5e-07")
    [test] = read(tmp_path, "\n".join(lines))
    assert times(test) == pytest.approx([seconds_of("all_reduce", 8, size) for size in SIZES], rel=1e-3)
    assert (test.where.ranks, test.where.per_host, test.where.gpu) == (8, 4, "Tesla V100-SXM2-16GB")


def test_rccl_on_mi300x(tmp_path: Path) -> None:
    [test] = read(tmp_path, log("all_reduce", gpu="AMD Instinct MI300X"))
    assert test.where.gpu == "AMD Instinct MI300X"


def test_several_tests_in_one_file_keep_their_own_ranks(tmp_path: Path) -> None:
    both = log("all_reduce", TWO) + log("alltoall")
    first, second = read(tmp_path, both)
    assert (first.kind, first.where.ranks) == ("all_reduce", 16)
    assert (second.kind, second.where.ranks) == ("all_to_all", 8)
    assert times(second) == pytest.approx([seconds_of("alltoall", 8, size) for size in SIZES], rel=1e-3)


def test_a_second_table_without_rank_lines_has_those_of_the_first(tmp_path: Path) -> None:
    text = log("all_reduce") + "\n".join(["./all_gather_perf -g 8", *rows("all_gather", 8)])
    assert [test.where.ranks for test in read(tmp_path, text)] == [8, 8]


def test_missing_rank_lines_are_made_up_for_by_bandwidths_and_command_line(tmp_path: Path) -> None:
    command = "mpirun -np 16 --map-by ppr:8:node ./build/all_reduce_perf -b 1M -e 1G -f 2 -g 1"
    [test] = read(tmp_path, "\n".join([command, *rows("all_reduce", 16)]))
    assert (test.where.ranks, test.where.per_host) == (16, 8)
    assert any("no rank lines; 16 ranks" in note for note in test.notes)
    [one] = read(tmp_path, "\n".join(["./all_reduce_perf -b 1M -g 8", *rows("all_reduce", 8)]))
    assert (one.where.ranks, one.where.per_host) == (8, 8)


def test_a_list_of_ranks_that_is_cut_is_said(tmp_path: Path) -> None:
    text = "\n".join(["all_reduce_perf", *rank_lines(("a", "b"), 8)[5:], *rows("all_reduce", 16)])
    [test] = read(tmp_path, text)
    assert test.where.ranks == 16
    assert any("11 of 16 rank lines are there" in note for note in test.notes)


def test_hosts_that_share_a_name_are_told_apart_by_devices(tmp_path: Path) -> None:
    [test] = read(tmp_path, log("all_reduce", ("localhost", "localhost")))
    assert (test.where.ranks, test.where.per_host, test.where.hosts) == (16, 8, 2)


def test_ranks_dealt_in_turn_and_split_groups_are_said(tmp_path: Path) -> None:
    dealt = rank_lines(("a", "b"), 4)
    lines = [line.replace(line.split()[2], str(r), 1) for r, line in enumerate(dealt)]
    order = [lines[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    turned = []
    for rank, line in enumerate(order):
        head, rest = line.split(" Group", 1)
        turned.append(f"#  Rank {rank} Group{rest}")
        assert head
    [test] = read(tmp_path, "\n".join(["all_reduce_perf", *turned, *rows("all_reduce", 8)]))
    assert (test.where.per_host, test.where.hosts) == (4, 2)
    assert any("in turn" in note for note in test.notes)
    halves = [line.replace("Group  0", f"Group  {r % 2}") for r, line in enumerate(rank_lines(("a", "b"), 8))]
    [test] = read(tmp_path, "\n".join(["all_reduce_perf", *halves, *rows("all_reduce", 8)]))
    assert test.where.ranks == 8
    assert any("2 groups ran at once" in note for note in test.notes)


def test_a_log_that_ends_early_says_so(tmp_path: Path) -> None:
    whole = log("all_reduce")
    cut = whole[: whole.index("# Out of bounds") - 20]
    [test] = read(tmp_path, cut)
    assert len(test.rows) == len(SIZES)  # out of place is whole
    [test] = read(tmp_path, whole[: whole.index("# Out of bounds") - 70])
    assert len(test.rows) == len(SIZES) - 1
    assert any("cut off" in note for note in test.notes)


def test_wrong_results_are_refused_and_old_rounding_errors_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=rf"{len(SIZES)} of {len(SIZES)} sizes have wrong results"):
        read(tmp_path, log("all_reduce", wrong=131072))
    first = read(tmp_path, log("all_gather", wrong=3) + log("alltoall"))
    assert [test.kind for test in first] == ["all_to_all"]
    assert any("all_gather_perf: wrong results" in note for note in first[0].notes)
    old = log("all_reduce").replace("      0 ", "  5e-07 ")
    assert len(read(tmp_path, old)[0].rows) == len(SIZES)


def test_other_tests_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="holds only scatter, which have no closed form here; moesim reads all_reduce"):
        read(tmp_path, log("scatter"))
    tests = read(tmp_path, log("reduce") + log("broadcast"))
    assert [test.kind for test in tests] == ["broadcast"]
    assert any("reduce_perf: no closed form" in note for note in tests[0].notes)


def test_bandwidths_of_other_ranks_are_said(tmp_path: Path) -> None:
    [test] = read(tmp_path, "\n".join(["all_reduce_perf", *rank_lines(["a"], 8), *rows("all_reduce", 16)]))
    assert any("1.875, but 1.750 for 8 ranks" in note for note in test.notes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("all_reduce_perf\n#  Rank  0 a\n", "any line of times"),
        (
            "all_reduce_perf\n#  Rank  0 a\n 1048576 262144 float sum -1",
            "none with a usable time .1 with too few numbers",
        ),
        ("\n".join(rows("all_reduce", 8)), "which test it is"),
        ("sendrecv_perf\n" + "\n".join(rows("sendrecv", 8)), "two ranks or more"),
        ("\0\1\2", "binary file"),
        ("all_reduce_perf\n 99 24 float sum -1 nan nan nan 0\n", "1 with times or bandwidths of inf or nan"),
        ("all_reduce_perf\n 99 24 float sum -1 1.0 500.0 1.0 0\n", "1 with times and bandwidths that do not agree"),
    ],
)
def test_logs_that_say_too_little_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadSource, match=said) as refused:
        read(tmp_path, text)
    assert len(str(refused.value)) < 500


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="cannot read"):
        read_nccl_log(tmp_path / "none.log")
    with pytest.raises(BadSource, match="is a folder"):
        read_nccl_log(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadSource, match="no plain file"):
        read_nccl_log(tmp_path / "pipe")


def test_names_packing_and_encodings(tmp_path: Path) -> None:
    packed = tmp_path / "a.log.gz"
    packed.write_bytes(gzip.compress(log("all_reduce").encode()))
    assert len(read_nccl_log(packed)[0].rows) == len(SIZES)
    (tmp_path / "b.log").write_bytes(log("all_reduce").encode("utf-16"))
    assert len(read_nccl_log(tmp_path / "b.log")[0].rows) == len(SIZES)
    (tmp_path / "c.log").write_bytes(b"caf\xe9\n" + log("all_reduce").encode())
    assert any("no UTF-8" in note for note in read_nccl_log(tmp_path / "c.log")[0].notes)
    untitled = "\n".join([*rank_lines(["a"], 8), *rows("all_reduce", 8)])
    assert read(tmp_path, untitled, "allreduce-8.log")[0].kind == "all_reduce"
    packed.write_bytes(gzip.compress(log("all_reduce").encode())[:-20])
    with pytest.raises(BadSource, match="ends too early"):
        read_nccl_log(packed)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("inf 0.00 0.00", "times or bandwidths of inf or nan"),
        ("20.10 nan nan", "times or bandwidths of inf or nan"),
        ("-20.10 -52.2 -91.3", "negative times or bandwidths"),
        ("20.10 0.00 0.00", "a time or bandwidth of 0"),
        ("20.10 990.00 1.00", "times and bandwidths that do not agree"),
    ],
)
def test_a_line_without_a_time_is_counted_and_said(tmp_path: Path, broken: str, said: str) -> None:
    lines = log("all_reduce").splitlines()
    at = next(i for i, line in enumerate(lines) if line.split()[:1] == [str(SIZES[3])])
    lines[at] = f"{SIZES[3]:>12} {SIZES[3] // 4:>13}     float     sum      -1 {broken} 0 {broken} 0"
    [test] = read(tmp_path, "\n".join(lines))
    assert len(test.rows) == len(SIZES) - 1
    (note,) = test.notes
    assert note.startswith(f"all_reduce_perf: 1 line with {said}") and note.endswith("left out")
