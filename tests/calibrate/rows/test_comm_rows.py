"""Rows of collectives and exchanges: spellings, payloads, and published figures that need no fit."""

from __future__ import annotations

import pytest

from moesim.calibrate.rows.comm import algorithm_of, comm_row, kernel_of
from moesim.calibrate.rows.predict_comm import family_of_comm, predict_comm_row
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import token_bytes
from moesim.hwmodels.libraries import library_named
from moesim.hwmodels.work import Comm, ExpertExchange
from moesim.sim.question.scenario import ScenarioError

RING = {"op": "all_reduce", "gpu": "H100 SXM", "gpus": "8", "bytes": "67108864", "library": "NCCL", "algorithm": ""}
MOE = {
    "op": "moe_dispatch", "gpu": "H800 SXM", "gpus": "64", "ranks_ep": "64", "tokens": "4096", "hidden": "7168",
    "top_k": "8", "experts": "256", "dtype": "fp8", "group_limit": "4", "library": "DeepEP V1",
    "algorithm": "normal kernel, NVLink+RDMA forwarding", "bandwidth_kind": "bottleneck_bandwidth_rdma",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NCCL default", "auto"),
        ("Ring (NVLS off)", "ring"),
        ("Tree_LL128", "tree"),
        ("NVLSTree_Simple", "nvls_tree"),
        ("NVLS", "nvls"),
        ("NCCL symmetric-memory kernels", "symmetric"),
        ("", "auto"),
    ],
)
def test_algorithms(text: str, name: str) -> None:
    assert algorithm_of(text) == name


@pytest.mark.parametrize(
    ("library", "algorithm", "kernel"),
    [
        ("DeepEP V1", "low-latency, NVLink only", "low_latency"),
        ("DeepEP (sglang)", "normal, 24 SMs", "normal"),
        ("DeepEP V2 (NCCL Gin)", "EPv2 ElasticBuffer", "elastic"),
        ("Hybrid-EP (NVIDIA)", "16 SMs", "hybrid"),
        ("TensorRT-LLM", "NVLinkOneSided", "one_sided"),
        ("TensorRT-LLM", "NVLinkTwoSided", "two_sided"),
    ],
)
def test_kernels(library: str, algorithm: str, kernel: str) -> None:
    assert kernel_of(library_named(library, False), algorithm) == kernel


def test_payloads_carry_their_scales() -> None:
    """DeepEP: 7,168 in 8 bits is 7,392 bytes with 56 scales; NVFP4 keeps one byte per 16."""
    assert token_bytes(7168, "fp8") == 7168 + 4 * 56
    assert token_bytes(7168, "nvfp4") == 4032
    assert token_bytes(7168, "bf16") == 14336


def test_a_collective_row() -> None:
    question = comm_row(RING)
    assert isinstance(question.work, Comm)
    assert (question.work.kind, question.work.bytes, question.work.group.ranks) == ("all_reduce", 2**26, 8)
    assert family_of_comm(question) == "NCCL 1 to 64 MiB"


def test_an_exchange_row() -> None:
    question = comm_row(MOE)
    work = question.work
    assert isinstance(work, ExpertExchange)
    assert (work.stage, work.kernel, work.group.domains, work.node_copies) == ("dispatch", "normal", 8, 4.0)
    result = predict_comm_row(MOE)
    assert result.bandwidth_bytes_per_s == pytest.approx(51e9, rel=0.08)  # published
    assert result.prediction.low_s < result.prediction.time_s < result.prediction.high_s


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"op": "all_redcue"}, "column op"),
        ({"bytes": "many"}, "column bytes"),
        ({"bytes": "nan"}, "column bytes"),
        ({"bytes": "0"}, "column bytes"),
        ({"gpus": "0"}, "column gpus"),
        ({"gpus": "8.7"}, "column gpus"),
        ({"gpus": "1e12"}, "column gpus"),
        ({"gpu": "H1000"}, "unknown GPU"),
        ({"algorithm": "nvls tree"}, "use ring, nvls"),
    ],
)
def test_bad_cells_are_named(change: dict[str, str], part: str) -> None:
    with pytest.raises((ScenarioError, FactError), match=part):
        predict_comm_row({**RING, **change})


def test_unknown_libraries_are_refused_with_the_nearest_three() -> None:
    with pytest.raises(
        ScenarioError, match=r"column library: library 'UCCLX' is not known; nearest are uccl-ep .consta"
    ):
        comm_row({**MOE, "library": "UCCLX", "algorithm": "normal"})
    with pytest.raises(ScenarioError, match="column library: library 'Acme' is not known"):
        comm_row({**RING, "library": "Acme"})
    with pytest.raises(ScenarioError, match=r"column library: an exchange needs one; write one of nccl, .*generic"):
        comm_row({**MOE, "library": ""})
    with pytest.raises(ScenarioError, match="deepep carries no collectives; nearest are"):
        comm_row({**RING, "library": "DeepEP"})


def test_a_library_has_its_own_kernels_and_a_generic_one_all_of_them() -> None:
    asked = {**MOE, "algorithm": "low-latency"}
    with pytest.raises(
        ScenarioError, match="library hybridep has no low-latency kernels; it has hybrid; or ask for gen"
    ):
        comm_row({**asked, "library": "Hybrid-EP"})
    generic, deepep = (comm_row({**asked, "library": name}) for name in ("generic", "DeepEP"))
    assert generic.work == deepep.work
    assert "library = generic (asked for)" in generic.assumptions[0] and deepep.assumptions == ()
    with pytest.raises(ScenarioError, match="algorithm 'generic' names no kernel"):
        comm_row({**asked, "library": "generic", "algorithm": ""})


def test_a_cpu_that_posts_messages_makes_low_latency_kernels_wait() -> None:
    """AWS on B300 over EFA, 32 ranks: 170 us by UCCL's threads, 677 by NVSHMEM's proxy, where DeepEP's form says 93."""
    small = {
        **MOE, "gpu": "B300", "gpus": "32", "ranks_ep": "32", "tokens": "128", "internode": "AWS EFA",
        "nic_gbps_per_gpu": "800", "algorithm": "low-latency",
    }  # fmt: skip
    names = ("DeepEP", "UCCL-EP (DeepEP interface)", "DeepEP over NVSHMEM-libfabric")
    alone, threads, proxy = (predict_comm_row({**small, "library": name}).prediction.time_s for name in names)
    assert 1.7 * alone < threads < 0.5 * proxy
    assert threads == pytest.approx(170e-6, rel=0.25) and proxy == pytest.approx(677e-6, rel=0.1)
    said = comm_row({**small, "library": "UCCL-EP"}).assumptions
    assert said == (
        "library = uccl-ep: constants of deepep, a CPU that posts messages besides (5 fit rows of AWS on B300)",
    )
    host = {**small, "gpus": "8", "ranks_ep": "8"}  # inside a host nobody posts
    assert len({predict_comm_row({**host, "library": name}).prediction.time_s for name in names}) == 1


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"tokens": "0"}, "column tokens"),
        ({"tokens": "1e308"}, "column tokens"),
        ({"hidden": "0"}, "column hidden"),
        ({"top_k": "0.5"}, "column top_k"),
        ({"top_k": "512"}, "column top_k"),
        ({"ranks_ep": "0"}, "column ranks_ep"),
        ({"ranks_ep": "128"}, "column ranks_ep"),
        ({"dtype": "garbage"}, "column dtype"),
    ],
)
def test_bad_cells_of_exchanges_are_named(change: dict[str, str], part: str) -> None:
    with pytest.raises((ScenarioError, FactError), match=part):
        predict_comm_row({**MOE, **change})


@pytest.mark.parametrize("column", ["hidden", "top_k", "tokens"])
def test_an_exchange_of_unknown_size_is_refused(column: str) -> None:
    with pytest.raises(ScenarioError, match=f"column {column}: is needed"):
        comm_row({**MOE, column: ""})


@pytest.mark.parametrize(("row", "library", "widest"), [(RING, "MSCCL++", "nccl"), (MOE, "NCCL EP", "exchange")])
def test_a_library_without_rows_borrows_and_has_the_widest_interval(
    row: dict[str, str], library: str, widest: str
) -> None:
    known, strange = (predict_comm_row({**row, "library": name}) for name in (row["library"], library))
    assert strange.prediction.time_s == pytest.approx(known.prediction.time_s)
    assert strange.prediction.sureness.band == widest != known.prediction.sureness.band
    assert "no fitted row of library" in strange.prediction.sureness.note
