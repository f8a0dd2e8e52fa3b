"""`moesim comm`: what it prints, draws and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run

BASE = ["comm", "--cluster", "hgx-h800", "--ranks", "64"]
MOE = [*BASE, "--op", "moe_dispatch", "--tokens", "4096", "--hidden", "7168", "--top-k", "8", "--experts", "256",
       "--groups", "8", "--dtype", "fp8"]  # fmt: skip


def _json(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_json_has_what_scripts_need(capsys: pytest.CaptureFixture[str]) -> None:
    answer = _json(capsys, [*BASE, "--op", "all_to_all", "--bytes", "64MiB"])
    for key in ("time_s", "low_s", "high_s", "algorithm", "algbw_bytes_per_s", "busbw_bytes_per_s", "bytes_per_rank"):
        assert answer[key]
    assert answer["bottleneck_link"].endswith("nic0")
    assert answer["fluid_s"] == pytest.approx(1.174e-3, rel=1e-3)
    assert answer["time_s"] >= answer["fluid_s"]
    assert answer["link_load"]["NIC out"]["busy_s"] == pytest.approx(answer["fluid_s"])


def test_every_collective_names_its_busiest_link(capsys: pytest.CaptureFixture[str]) -> None:
    for op in ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "send"):
        answer = _json(capsys, [*BASE, "--op", op, "--bytes", "1GiB"])
        assert answer["bottleneck_link"] and answer["link_load"]["NIC out"]["busy_s"] > 0.0, op
    ring = _json(capsys, ["comm", "--cluster", "dgx-a100", "--ranks", "8", "--op", "all_reduce", "--bytes", "1GiB"])
    assert ring["algorithm"] == "ring" and ring["time_s"] >= ring["fluid_s"]
    assert ring["fluid_s"] == pytest.approx(2.0 * 7 / 8 * 2**30 / 300e9)


def test_hot_experts_make_hot_links(capsys: pytest.CaptureFixture[str]) -> None:
    even, skewed = (_json(capsys, [*MOE, "--skew", skew]) for skew in ("0", "1.0"))
    assert even["node_copies"] == pytest.approx(3.97, abs=0.02)  # DeepSeek-V3's router on eight nodes
    assert even["imbalance"] == 1.0 and skewed["imbalance"] > 1.5
    assert skewed["rows_imbalance"] > skewed["imbalance"]  # the links of a node share what its hottest GPU receives
    assert skewed["time_s"] > 1.3 * even["time_s"]


def test_the_same_seed_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (_json(capsys, [*MOE, "--skew", "0.5", "--seed", seed]) for seed in ("1", "1", "2"))
    assert first == again != other


def test_auto_is_never_worse_than_what_can_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    for size in ("32KiB", "8MiB", "1GiB"):
        ask = [*BASE, "--op", "all_reduce", "--bytes", size]
        chosen = _json(capsys, ask)["time_s"]
        forced = [_json(capsys, [*ask, "--algorithm", name])["time_s"] for name in ("ring", "tree", "nvls_tree")]
        assert chosen <= min(forced)


def test_tables_and_figures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "comm.png"
    assert run([*MOE, "--sweep", "--figure", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "copies per token" in out and "low_latency" in out and "NIC in" in out
    assert picture.stat().st_size > 20_000
    graph = tmp_path / "graph.svg"
    assert run(["show", "dgx-h100", "--figure", str(graph), "--gpus", "32"]) == 0
    assert "rail-optimised" in graph.read_text() or graph.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*BASE, "--op", "all_redcue", "--bytes", "1MiB"], "did you mean 'all_reduce'"),
        ([*BASE, "--op", "all_reduce"], "needs bytes"),
        ([*BASE, "--op", "all_reduce", "--bytes", "many"], "many"),
        ([*BASE, "--op", "all_reduce", "--bytes", "1MiB", "--algorithm", "fast"], "use ring, tree"),
        ([*BASE[:-1], "1", "--op", "all_reduce", "--bytes", "1MiB"], "ranks=1 must be between"),
        ([*BASE[:-1], "100000", "--op", "all_reduce", "--bytes", "1MiB"], "must be between"),
        (["comm", "--cluster", "dgx-h10", "--ranks", "8", "--op", "send", "--bytes", "1"], "unknown node"),
        ([*MOE[:-4], "--groups", "7"], "groups of 256 experts"),
        ([*MOE, "--dtype", "fp7"], "did you mean"),
        ([*MOE, "--algorithm", "one_sided"], "one scale-up domain"),
        (["comm", "--cluster", "hgx-h800", "--ranks", "48", *MOE[5:]], "do not divide"),
        (["show", "--figure", "x.png"], "name a node"),
    ],
)
def test_bad_questions_are_one_line(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: ") and "\n" not in err
    assert part in err


def test_results_come_back_the_way_tokens_went(capsys: pytest.CaptureFixture[str]) -> None:
    out = _json(capsys, [*MOE, "--skew", "1"])
    back = _json(capsys, [*("moe_combine" if word == "moe_dispatch" else word for word in MOE), "--skew", "1"])
    for there, here in (("NVLink out", "NVLink in"), ("NIC in", "NIC out")):
        assert out["link_load"][there]["busiest_bytes"] == pytest.approx(back["link_load"][here]["busiest_bytes"])
    assert out["bottleneck_link"].split(" -> ") == back["bottleneck_link"].split(" -> ")[::-1]


@pytest.mark.parametrize("seed", ["0", "7", "22"])
def test_few_tokens_and_hot_experts_divide_by_nothing(capsys: pytest.CaptureFixture[str], seed: str) -> None:
    tiny = ["comm", "--cluster", "hgx-h800", "--op", "moe_dispatch", "--ranks", "2", "--tokens", "1", "--hidden", "8"]
    answer = _json(capsys, [*tiny, "--top-k", "1", "--experts", "2", "--skew", "1", "--seed", seed])
    assert 0.0 < answer["time_s"] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([*BASE, "--op", "all_reduce", "--bytes", "1MiB", "--oversubscription", "nan"], "oversubscription"),
        ([*BASE, "--op", "all_reduce", "--bytes", "1MiB", "--oversubscription", "0"], "1 or more"),
        ([*BASE, "--op", "all_reduce", "--bytes", "1MiB", "--top-k", "8", "--dtype", "garbage"], "drop top-k, dtype"),
        ([*MOE, "--bytes", "1MiB"], "either bytes or tokens"),
        ([*MOE, "--seed", "-1"], "seed=-1"),
        ([*MOE, "--skew", "nan"], "skew"),
        ([*MOE, "--skew", "1000"], "skew"),
        ([*MOE, "--sms", "-4"], "sms=-4"),
        ([*MOE, "--top-groups", "9"], "top-groups=9"),
        ([*MOE, "--dtype", "fp9"], "fp8"),
    ],
)
def test_senseless_options_are_refused(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert part in capsys.readouterr().err


def test_a_gpu_stands_for_its_node(capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--op", "all_reduce", "--ranks", "8", "--bytes", "64MiB"]
    by_gpu, by_node = (_json(capsys, ["comm", "--cluster", name, *ask]) for name in ("h100-sxm", "dgx-h100"))
    assert by_gpu == by_node


@pytest.mark.parametrize(("short", "long"), [("64Mi", "64MiB"), ("1M", "1MB"), ("1G", "1GB")])
def test_sizes_with_a_prefix_alone_are_bytes(capsys: pytest.CaptureFixture[str], short: str, long: str) -> None:
    first, second = (_json(capsys, [*BASE, "--op", "all_reduce", "--bytes", size]) for size in (short, long))
    assert first == second
