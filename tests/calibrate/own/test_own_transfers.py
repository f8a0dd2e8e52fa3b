"""What a log of one collective moves: that collective and the exchange that rests on it, to the log's own times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nccl_forms import SIZES, log, seconds_of

from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.factors import fit_factors
from moesim.calibrate.own.sources import from_nccl_logs
from moesim.calibrate.own.transfers import cluster_of
from moesim.hwmodels.cluster import build_cluster
from moesim.hwmodels.cost import KernelCostModel, Sustained
from moesim.hwmodels.machine import load_machine
from moesim.hwmodels.profile import Profile, load_profile
from moesim.hwmodels.work import Comm, CommKind, ExpertExchange, Group

KINDS: tuple[CommKind, ...] = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send")
INSIDE, ACROSS = Group(8, 8), Group(16, 8)


def profile_of(tmp_path: Path, text: str, system: str = "", name: str = "x.log") -> tuple[Profile, tuple[str, ...]]:
    (tmp_path / name).write_text(text)
    made = from_nccl_logs([tmp_path / name], system)
    (tmp_path / "own.json").write_text(json.dumps(made.raw))
    return load_machine(str(tmp_path / "own.json")), made.notes


def seconds(profile: Profile, work: Comm | ExpertExchange) -> float:
    return KernelCostModel(build_cluster("dgx-h100", 16), profile, Sustained()).cost(work).time_s


def exchange(kernel: str, group: Group) -> ExpertExchange:
    return ExpertExchange(
        stage="dispatch", kernel=kernel, tokens=4096.0, top_k=8, payload_bytes=8192.0, group=group, node_copies=1.8,
        rank_copies=5.0, imbalance=1.1, deduplicated=kernel != "all_to_all", experts=64,
    )  # fmt: skip


def test_the_measured_times_are_met(tmp_path: Path) -> None:
    own, notes = profile_of(tmp_path, log("all_reduce", ("a", "b")))
    assert any("16 ranks on 2 hosts of 8" in note for note in notes)
    for size in SIZES:
        measured = seconds_of("all_reduce", 16, size)
        assert seconds(own, Comm("all_reduce", float(size), ACROSS)) == pytest.approx(measured, rel=0.03)
    assert own.provenance["collectives/all_reduce across"].median_error < 0.03


@pytest.mark.parametrize(("test", "kind"), [("all_reduce", "all_reduce"), ("alltoall", "all_to_all")])
@pytest.mark.parametrize("hosts", [("a",), ("a", "b")], ids=["inside", "across"])
def test_one_collective_moves_and_no_other(tmp_path: Path, test: str, kind: CommKind, hosts: tuple[str, ...]) -> None:
    own, _ = profile_of(tmp_path, log(test, hosts, slower=1.5))
    shipped = load_profile("h100-sxm")
    measured = INSIDE if len(hosts) == 1 else ACROSS
    for group in (INSIDE, ACROSS):
        for each in KINDS:
            work = Comm(each, 2.0**26, group)
            same = seconds(own, work) == seconds(shipped, work)
            assert same == (each != kind or group != measured), (each, group)
        for kernel in ("all_to_all", "normal"):
            work_e = exchange(kernel, group)
            same = seconds(own, work_e) == seconds(shipped, work_e)
            assert same == (kind != "all_to_all" or kernel != "all_to_all" or group != measured), (kernel, group)
    assert own.gemms == shipped.gemms
    assert own.collectives == shipped.collectives


def test_the_exchange_follows_its_all_to_all(tmp_path: Path) -> None:
    own, _ = profile_of(tmp_path, log("alltoall"))
    shipped, work = load_profile("h100-sxm"), exchange("all_to_all", INSIDE)
    sent = Comm("all_to_all", 4096.0 * 8 * 1.1 * 8192.0, INSIDE)
    ratio = seconds(own, sent) / seconds(shipped, sent)
    assert seconds(own, work) == pytest.approx(ratio * seconds(shipped, work))


def test_larger_buffers_never_take_less_time(tmp_path: Path) -> None:
    own, _ = profile_of(tmp_path, log("all_reduce"))
    taken = [seconds(own, Comm("all_reduce", 2.0**i, INSIDE)) for i in range(8, 36)]
    assert taken == sorted(taken)


def test_racks_of_72_are_one_domain_over_hosts(tmp_path: Path) -> None:
    hosts = [f"gb{i}" for i in range(18)]
    own, notes = profile_of(tmp_path, log("all_reduce", hosts, 4, gpu="NVIDIA GB200"))
    assert list(own.transfers) == ["all_reduce inside"]
    assert any("72 ranks on 18 hosts of 4, one scale-up domain" in note for note in notes)
    assert cluster_of("h100-sxm", 16, 8)[0].domains == 2
    assert cluster_of("gb200", 144, 4)[0].domains == 2  # two whole racks
    assert cluster_of("gb200", 128, 4)[0].domains == 2  # 64 of each, as jobs take
    assert cluster_of("gb200", 8, 4)[1] == "8 ranks on 2 hosts of 4, one scale-up domain"


def test_gpus_without_a_profile_of_their_own_get_the_derived_one(tmp_path: Path) -> None:
    own, _ = profile_of(tmp_path, log("all_reduce", gpu="AMD Instinct MI300X"))
    assert (own.gpu, own.derived_from) == ("mi300x", "h100-sxm")
    assert own.gemms == load_profile("mi300x").gemms
    assert own.attentions == load_profile("mi300x").attentions


def test_what_contradicts_or_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match="which is h100-sxm, but --system says h200-sxm"):
        profile_of(tmp_path, log("all_reduce"), "h200_sxm")
    with pytest.raises(BadSource, match="names a GPU that the catalogue does not know"):
        profile_of(tmp_path, log("all_reduce", gpu="NVIDIA Graphics Device"))
    assert profile_of(tmp_path, log("all_reduce", gpu="NVIDIA Graphics Device"), "h100-sxm")[0].gpu == "h100-sxm"
    alone = "\n".join(line for line in log("all_reduce", ("a", "b")).splitlines() if "Rank" not in line)
    with pytest.raises(BadSource, match="nothing says how many a host holds"):
        profile_of(tmp_path, alone, "h100-sxm")
    (tmp_path / "x.log").write_text(alone)
    assert "16 ranks on 2 hosts of 8" in " ".join(from_nccl_logs([tmp_path / "x.log"], "h100-sxm", 8).notes)
    (tmp_path / "y.log").write_text(log("all_reduce", gpu="NVIDIA H200"))
    (tmp_path / "x.log").write_text(log("all_reduce"))
    with pytest.raises(BadSource, match="different GPUs"):
        from_nccl_logs([tmp_path / "x.log", tmp_path / "y.log"], "")
    one = log("all_reduce").splitlines()
    few = [line for line in one if "float" not in line] + [line for line in one if "float" in line][:1]
    with pytest.raises(BadSource, match="1 measured sizes are too few"):
        profile_of(tmp_path, "\n".join(few))


def test_a_scenario_with_the_profile_says_what_is_its_own(tmp_path: Path) -> None:
    from moesim.sim.train.predict import predict_train

    profile_of(tmp_path, log("all_reduce", slower=3.0))
    job: dict[str, Any] = {
        "model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": 8}, "layout": {"tp": 8},
        "train": {"global_batch": 8, "seq_len": 4096},
    }  # fmt: skip
    plain = predict_train(job, check_memory=False)
    ours = predict_train({**job, "profile": str(tmp_path / "own.json")}, check_memory=False)
    assert any("own logs or traces all_reduce inside a domain, 8 ranks" in note for note in ours.assumptions)
    assert plain.step_time_s > 0.0


def test_logs_need_no_scipy() -> None:
    code = (
        "import sys; sys.modules['scipy'] = None; from moesim.calibrate.own.factors import fit_factors; "
        "print(fit_factors([[1.0, 1.0], [1.0, 2.0], [1.0, 4.0]], [3.0, 4.0, 6.0], (1.0, 1.0)).samples)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_factors_are_exact_where_the_samples_tell_and_as_shipped_where_they_do_not() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    told = fit_factors([(1.0, s) for s in sizes], [2.0 + 3.0 * s for s in sizes], (1.0, 1.0))
    assert told.values == pytest.approx((2.0, 3.0), rel=0.02)
    silent = fit_factors([(1.0, 1e-9)] * 4, [2.0] * 4, (1.0, 1.0))
    assert silent.values == pytest.approx((2.0, 1.0), rel=0.01)
    never = fit_factors([(1.0, s) for s in sizes], [10.0 - 0.2 * s for s in sizes], (1.0, 1.0))
    assert min(never.values) >= 0.0


def test_small_sizes_tell_nothing_of_rates(tmp_path: Path) -> None:
    """A log of small buffers whose times do not grow: large ones still take at least half of what is shipped."""
    flat = [
        f"{2**i:>12} {2**i // 4:>12}     float     sum      -1    20.00 {2**i / 20e-6 / 1e9:7.4f} 0.00 0"
        for i in range(8, 15)
    ]
    lines = [line for line in log("all_reduce").splitlines() if " float " not in line]
    own, _ = profile_of(tmp_path, "\n".join([*lines[:-3], *flat]))
    shipped = load_profile("h100-sxm")
    large = Comm("all_reduce", 2.0**30, INSIDE)
    assert seconds(own, Comm("all_reduce", 2.0**12, INSIDE)) == pytest.approx(20e-6, rel=0.05)
    assert seconds(own, large) > 0.45 * seconds(shipped, large)


def test_a_transfer_by_itself_takes_the_profile(tmp_path: Path) -> None:
    from moesim.sim.question.scenario import ScenarioError
    from moesim.sim.transfer.predict import predict_comm

    profile_of(tmp_path, log("all_reduce", ("a", "b")))
    asked: dict[str, Any] = {"node": "dgx-h100", "op": "all_reduce", "ranks": 16, "size_bytes": float(SIZES[6])}
    own = {"profile": str(tmp_path / "own.json")}
    answer = predict_comm({**asked, **own})
    assert answer.prediction.time_s == pytest.approx(seconds_of("all_reduce", 16, SIZES[6]), rel=0.03)
    assert answer.prediction.sureness.band == "own log"
    assert answer.prediction.high_s < 1.1 * answer.prediction.time_s
    assert any("measured are all_reduce across 2 domains, 16 ranks" in line for line in answer.assumptions)
    for other in ({"op": "all_gather"}, {"ranks": 8}):  # another kind, another reach
        assert predict_comm({**asked, **other, **own}).prediction == predict_comm({**asked, **other}).prediction
    larger = predict_comm({**asked, "ranks": 32, **own}).prediction  # not measured: the factors, the wide interval
    assert larger.sureness.band != "own log"
    with pytest.raises(ScenarioError, match="is of h100-sxm, the cluster of h200-sxm"):
        predict_comm({**asked, "node": "dgx-h200", **own})


def test_an_engines_own_kernels_stay_and_its_large_buffers_go_by_the_library(tmp_path: Path) -> None:
    own, _ = profile_of(tmp_path, log("all_reduce", slower=3.0))
    shipped = load_profile("h100-sxm")
    small, large = (Comm("all_reduce", size, INSIDE, "custom") for size in (2.0**20, 2.0**26))
    assert seconds(own, small) == seconds(shipped, small)
    assert seconds(own, large) == seconds(own, Comm("all_reduce", 2.0**26, INSIDE))
    assert seconds(own, large) > 2.0 * seconds(shipped, large)


@pytest.mark.parametrize("hosts", [("a",), ("a", "b")], ids=["inside", "across"])
@pytest.mark.parametrize("test", ["all_reduce", "all_gather", "alltoall"])
def test_times_that_beat_the_wire_are_left_out_and_said(tmp_path: Path, hosts: tuple[str, ...], test: str) -> None:
    fast, slow = log(test, hosts, slower=0.01).splitlines(), log(test, hosts, slower=3.0).splitlines()
    at = next(i for i, line in enumerate(slow) if line.split()[:1] == [str(SIZES[-1])])
    slow[at] = fast[at]  # the largest size at a hundred times the rate
    own, notes = profile_of(tmp_path, "\n".join(slow))
    (said,) = [note for note in notes if "faster than" in note]
    assert said.startswith("1 measured size of ") and said.endswith("can be, left out")
    assert ("NICs of 50 GB/s a GPU" in said) == (len(hosts) > 1)
    (record,) = own.transfers.values()
    assert record.most_bytes == SIZES[-2]


def test_a_log_of_which_all_beats_the_wire_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text(log("all_reduce", slower=0.001))
    with pytest.raises(BadSource, match=r"11 measured sizes of all_reduce are faster than links .* nothing is left"):
        from_nccl_logs([tmp_path / "x.log"], "")
