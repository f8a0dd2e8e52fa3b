"""Words that rows state about dispatcher, overlap, graphs, hosts, network and software; what a wrong one is told."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from moesim.calibrate.rows.files import blinded, load_rows
from moesim.calibrate.rows.kinds import COMM, SERVING, TRAINING
from moesim.calibrate.rows.outcomes import predict_workload
from moesim.calibrate.rows.predict_training import simulate_row
from moesim.calibrate.rows.stated import fabric_word, network_of, settings_of
from moesim.calibrate.rows.training import scenario_of, stack_of
from moesim.hwmodels.cluster import fabric_kinds
from moesim.hwmodels.libraries import libraries
from moesim.refusal import Refusal
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.software.dispatchers import DISPATCHERS
from moesim.sim.software.stack import stack_names
from moesim.sim.train.job import TrainJob, resolve

ROW = {
    "model": "qwen3-30b-a3b", "gpu": "B300", "gpus": "32", "seq_len": "4096", "gbs": "64", "mbs": "1", "pp": "2",
    "vpp": "2", "ep": "16", "recompute": "none", "routing": "force_balanced", "software": "Megatron-Bridge",
    "release": "Megatron-Bridge 26.04.01",
}  # fmt: skip


def job_of(**cells: str) -> TrainJob:
    scenario, _ = scenario_of({**ROW, **cells})
    return resolve(parse_scenario(scenario)).job


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("alltoall", "alltoall"),
        ("All-to-All", "alltoall"),
        ("NCCL", "alltoall"),
        ("deepep", "deepep"),
        ("DeepEP", "deepep"),
        ("deepep-uccl", "deepep-uccl"),
        ("UCCL-EP", "deepep-uccl"),
        ("deepep_nvshmem", "deepep-nvshmem"),
        ("Hybrid-EP", "hybridep"),
        ("MoRI-EP", "mori"),
    ],
)
def test_dispatchers(text: str, word: str) -> None:
    assert job_of(dispatcher=text).stack.dispatcher == word


def test_a_dispatcher_that_nobody_knows_is_refused_with_the_nearest_three() -> None:
    with pytest.raises(ScenarioError) as refusal:
        scenario_of({**ROW, "dispatcher": "uccl-ep-v2"})
    said = str(refusal.value)
    assert "column dispatcher: 'uccl-ep-v2' is not known; nearest are deepep-uccl (kernel normal" in said
    assert sum(f"{word} (" in said for word in DISPATCHERS) == 3


@pytest.mark.parametrize(
    ("text", "hidden"), [("yes", True), ("Yes", True), ("on", True), ("no", False), ("off", False)]
)
def test_overlap_runs_pairs_or_does_not(text: str, hidden: bool) -> None:
    assert job_of(ep_overlap=text).hides_exchanges is hidden


@pytest.mark.parametrize("word", ["none", "partial", "full"])
def test_graphs(word: str) -> None:
    assert job_of(cuda_graphs=word).stack.cuda_graphs == word


@pytest.mark.parametrize(
    ("column", "known"),
    [("ep_overlap", "yes or no"), ("cuda_graphs", "none, partial, full"), ("software", "nearest are")],
)
def test_wrong_words_are_refused_by_their_column(column: str, known: str) -> None:
    with pytest.raises(ScenarioError, match=f"column {column}: 'maybe'.*{known}"):
        scenario_of({**ROW, column: "maybe"})


def test_empty_cells_state_nothing() -> None:
    assert settings_of({"dispatcher": "", "ep_overlap": " ", "cuda_graphs": ""}) == {}


def test_graphs_take_time_off_the_host() -> None:
    """One micro-batch at a time keeps an eager CPU busy: the words must reach the step."""
    eager, graphs = (simulate_row({**ROW, "cuda_graphs": word}).step.step_time_s for word in ("none", "full"))
    assert graphs < 0.8 * eager


@pytest.mark.parametrize(
    ("text", "kind", "rate_gb_per_s"),
    [
        ("AWS EFA 800 Gb/s per GPU", "efa", 100.0),
        ("RoCE 1600 Gb/s per node", "roce", 25.0),
        ("800 Gb/s per node", "", 12.5),
        ("RDMA, Tomahawk-4, 200G NICs (secondary source)", "", 25.0),
        ("8x 400G IB NIC per node, MRFT (multi-rail fat tree)", "infiniband", 50.0),
        ("4 x 200G NICs", "", 12.5),
        ("HPE Slingshot-11, 200 Gb/s per GPU", "slingshot", 25.0),
        ("InfiniBand (rate not stated)", "infiniband", None),
        ("Selene supercomputer", "", None),
        ("", "", None),
    ],
)
def test_networks(text: str, kind: str, rate_gb_per_s: float | None) -> None:
    network = network_of(text, 8)
    assert network.kind == kind
    assert network.nic_bytes_per_s == (None if rate_gb_per_s is None else pytest.approx(rate_gb_per_s * 1e9))
    assert kind in ("", *fabric_kinds())


def test_no_word_for_a_fabric_is_found_inside_another_word() -> None:
    assert fabric_word("Fibre, hdrx, ibex") == ""


def test_the_network_reaches_the_cluster() -> None:
    cluster = job_of(internode="AWS EFA 800 Gb/s per GPU").cluster
    assert (cluster.fabric_kind, cluster.fabric, cluster.nic_bytes_per_s) == ("efa", "efa-v4-800", 1e11)


def test_what_a_network_does_not_say_is_assumed_aloud() -> None:
    scenario, assumed = scenario_of({**ROW, "internode": "Selene supercomputer"})
    said = " ".join(assumed)
    assert "names none of infiniband, roce, efa, slingshot; infiniband assumed" in said
    assert "says no rate" in said
    assert resolve(parse_scenario(scenario)).job.cluster.fabric_kind == "infiniband"
    unsaid = resolve(parse_scenario(scenario_of(ROW)[0]))
    assert any("(infiniband: node's NICs)" in note for note in unsaid.assumptions)


def test_hosts_may_hold_fewer_gpus_and_no_more() -> None:
    small = job_of(gpus_per_node="4").cluster
    assert (small.domain, small.gpus_per_host, small.nic_bytes_per_s) == (4, 4, job_of().cluster.nic_bytes_per_s)
    with pytest.raises(Refusal, match=r"gpus_per_node = 16, but a host of .* holds 8; use 1 to 8"):
        job_of(gpus_per_node="16")


def test_trays_of_a_rack_keep_its_domain() -> None:
    cluster = job_of(gpu="GB200", gpus="64", gpus_per_node="4").cluster
    assert (cluster.domain, cluster.gpus_per_host) == (72, 4)


@pytest.mark.parametrize(
    ("software", "stack"),
    [
        ("Megatron-Bridge", "megatron-bridge"),
        ("Pai-Megatron-Patch", "pai-megatron"),
        ("Primus (Megatron-LM, ROCm)", "primus"),
        ("FSDP2 (KempnerForge)", "fsdp2"),
        ("Megatron-LM 0.12", "megatron-core"),
        ("NeMo AutoModel", "automodel"),
        ("TRL 0.21, SFT", "hf-eager"),
        ("MaxText (JAX)", "maxtext-gpu"),
        ("NeMo", "megatron-tuned"),
        ("", "megatron-tuned"),
    ],
)
def test_software(software: str, stack: str) -> None:
    assert stack_of({**ROW, "software": software})[0] == stack


def test_pai_hides_no_exchange_unless_told_to() -> None:
    named = {**ROW, "software": "Pai-Megatron-Patch", "release": "", "gpu": "H800"}
    assert resolve(parse_scenario(scenario_of({**named, "software": ""})[0])).job.hides_exchanges
    assert not resolve(parse_scenario(scenario_of(named)[0])).job.hides_exchanges
    assert resolve(parse_scenario(scenario_of({**named, "ep_overlap": "yes"})[0])).job.hides_exchanges


def test_borrowed_constants_of_an_exchange_are_said() -> None:
    def said(**cells: str) -> list[str]:
        notes = resolve(parse_scenario(scenario_of({**ROW, **cells})[0])).assumptions
        return [note for note in notes if note.startswith("exchange by")]

    assert said(dispatcher="alltoall", internode="AWS EFA 800 Gb/s per GPU") == []
    assert said(dispatcher="alltoall", ep="8", internode="RoCE 400 Gb/s per GPU") == []
    (note,) = said(dispatcher="alltoall", internode="RoCE 400 Gb/s per GPU")
    assert "constants of alltoall over infiniband" in note


def test_a_schedule_does_not_choose_the_stack_where_software_is_named() -> None:
    named = {stack_of({**ROW, "software": "Primus", "schedule": s})[0] for s in ("", "v-half")}
    assert named == {"primus"}


def test_megatron_bridge_recomputes_unless_exchanges_hide() -> None:
    blank = {**ROW, "recompute": "", "vpp": ""}
    off, on = (scenario_of({**blank, "ep_overlap": word})[0] for word in ("no", "yes"))
    assert (off["train"]["recompute"], off["layout"]["vpp"]) == (["full"], 1)
    assert (on["train"]["recompute"], on["layout"]["vpp"]) == (["none"], 2)


def test_the_words_are_read_from_files_and_a_wrong_one_refuses_its_row_alone(tmp_path: Path) -> None:
    rows = [{**ROW, "dispatcher": word, "step_time_s": "1"} for word in ("alltoall", "deepep-uccl", "pigeon")]
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    read = load_rows(file)
    assert read.unknown == ()
    outcomes = [predict_workload(blinded(row)) for row in read.rows]
    assert [bool(outcome.refusal) for outcome in outcomes] == [False, False, True]
    assert outcomes[0].estimates["step_time_s"].value != outcomes[1].estimates["step_time_s"].value


def test_scenarios_say_the_same_words() -> None:
    scenario = {
        "model": "qwen3-30b-a3b",
        "cluster": {"gpu": "B300", "gpus": 32, "gpus_per_node": 4, "fabric": "efa", "nic_bytes_per_s": "800 Gb/s"},
        "layout": {"pp": 2, "vpp": 2, "ep": 16},
        "train": {"global_batch": 64, "seq_len": 4096},
        "stack": {"name": "megatron-bridge", "dispatcher": "deepep-uccl", "ep_overlap": True, "cuda_graphs": "partial"},
    }
    job = resolve(parse_scenario(scenario)).job
    assert (job.cluster.domain, job.cluster.fabric_kind, job.cluster.nic_bytes_per_s) == (4, "efa", 1e11)
    assert (job.stack.dispatcher, job.hides_exchanges, job.stack.cuda_graphs) == ("deepep-uccl", True, "partial")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("stack", "dispatcher", "pigeon", "nearest are deepep (kernel normal, constants of deepep over infiniband)"),
        ("stack", "ep_overlap", "maybe", "none, hidden, dualpipe"),
        ("stack", "name", "megatron-brigde", "megatron-bridge"),
        ("cluster", "fabric", "efaa", "did you mean 'efa'"),
    ],
)
def test_scenarios_are_told_what_is_known(section: str, key: str, value: str, said: str) -> None:
    scenario = {
        "model": "qwen3-30b-a3b",
        "cluster": {"gpu": "B300", "gpus": 32},
        "layout": {"ep": 16},
        "train": {"global_batch": 64, "seq_len": 4096},
        "stack": {"name": "megatron-bridge"},
    }
    asked = {**scenario, section: {**scenario[section], key: value}}  # type: ignore[dict-item]  # sections are mappings
    with pytest.raises(Refusal) as refusal:
        resolve(parse_scenario(asked))
    assert said in str(refusal.value)


def test_overlap_that_no_schedule_can_run_is_said() -> None:
    scenario, _ = scenario_of({**ROW, "schedule": "v-half", "ep_overlap": "yes"})
    assert any("ep_overlap = hidden has no effect" in note for note in resolve(parse_scenario(scenario)).assumptions)


def test_a_row_states_what_is_else_guessed_from_its_gpu_and_age() -> None:
    rack = {**ROW, "gpu": "GB200", "gpus": "64", "gpus_per_node": "", "internode": ""}
    scenario, assumed = scenario_of(rack)
    assert scenario["train"]["mtp"] is False and any("guess 'vendor recipe on NVL72'" in note for note in assumed)
    scenario, assumed = scenario_of({**rack, "mtp": "yes"})
    assert scenario["train"]["mtp"] is True and not any("NVL72" in note for note in assumed)
    old = {**ROW, "stack": "megatron-2021", "recompute": "full"}
    scenario, assumed = scenario_of(old)
    assert scenario["layout"]["sequence_parallel"] is False
    assert any("guess 'Megatron-LM of the A100 years'" in note for note in assumed)
    assert scenario_of({**old, "sequence_parallel": "yes"})[0]["layout"]["sequence_parallel"] is True
    with pytest.raises(ScenarioError, match=r"column mtp: 'likely'.*yes or no"):
        scenario_of({**ROW, "mtp": "likely"})


def test_the_page_about_rows_names_every_column_and_word() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rows.md").read_text(encoding="utf-8")
    for word in (*TRAINING.workload, *SERVING.workload, *COMM.workload, *DISPATCHERS, *stack_names(), *libraries()):
        if re.match("prefill_|decode_", word):
            continue  # named by their beginnings
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page), word
