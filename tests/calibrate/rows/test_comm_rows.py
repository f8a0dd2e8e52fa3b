"""Rows of collectives and exchanges: spellings, payloads, and published figures that need no fit."""

from __future__ import annotations

import pytest

from moesim.calibrate.rows.comm import algorithm_of, comm_row, kernel_of
from moesim.calibrate.rows.predict_comm import family_of_comm, predict_comm_row
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.gpu import token_bytes
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
    assert kernel_of(library, algorithm) == kernel


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


def test_unknown_libraries_are_refused() -> None:
    with pytest.raises(ScenarioError, match="no exchange kernel of ours"):
        comm_row({**MOE, "library": "Acme", "algorithm": "fast"})


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
