"""Serving and the memory of hosts: experts that live there need room and a link; a chip without a link serves."""

from __future__ import annotations

from typing import Any

import pytest

from moesim import DoesNotFit, predict_serve
from moesim.hwmodels.units import GIB
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError, parse_scenario
from moesim.sim.serve.host_memory import check_host_memory, on_host_bytes
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.offload import reachable
from moesim.sim.serve.resolve import resolve_serve
from moesim.traces.routing import Routing

FEW = {"kind": "closed", "concurrency": 1, "count": 2, "input_tokens": 64, "output_tokens": 8}
ENGINE = {"name": "vllm", "max_batch": 8, "token_budget": 2048}


def asked(model: str, cluster: dict[str, Any], **serve: Any) -> dict[str, Any]:
    serve = {"engine": ENGINE, "precision": "bf16", "requests": FEW, **serve}
    return {"model": model, "cluster": cluster, "layout": {"tp": serve.pop("tp", 1)}, "serve": serve}


def resolved(scenario: dict[str, Any]) -> ResolvedServe:
    return resolve_serve(parse_scenario(scenario))


def offloaded(host_gib: float, gpus: int = 1, resident: float = 0.25) -> dict[str, Any]:
    cluster = {"node": "dgx-h100", "gpus": gpus, "host_memory_bytes": host_gib * GIB}
    return asked("mixtral-8x7b", cluster, offload={"resident": resident, "hit_rate": 0.5})


def test_experts_on_hosts_are_counted_per_gpu() -> None:
    experts = 32 * 8 * 3 * 4096 * 14336 * 2.0
    for gpus, resident in ((1, 0.25), (4, 0.25), (1, 0.5)):
        job = resolved(offloaded(2048, gpus, resident)).deployment.job
        assert on_host_bytes(job) == pytest.approx(experts * (1 - resident) * gpus)


def test_a_host_without_room_is_refused_with_its_numbers() -> None:
    fitting = resolved(offloaded(100.0))
    check_host_memory(fitting.deployment.job, fitting.tuning())  # 63 GiB of 90
    with pytest.raises(DoesNotFit, match=r"a host of 1 h100-sxm would keep 63 GiB of experts .* has 54 of 60 GiB"):
        predict_serve(offloaded(60.0))
    with pytest.raises(DoesNotFit, match=r"a host of 4 h100-sxm would keep 252 GiB"):
        predict_serve(offloaded(100.0, gpus=4))


def test_weights_that_are_nowhere_are_not_found() -> None:
    """Hits need room: at most the most popular experts' share, and what a cache of the last used finds beyond it."""
    arch, even = load_model("mixtral-8x7b"), Routing()
    assert reachable(0.0, arch, even) == reachable(1 / 256, arch, even) == 0.0
    assert reachable(0.5, arch, even) == pytest.approx(0.5 + 0.4 * 0.5) and reachable(1.0, arch, even) == 1.0
    skewed = Routing(kind="lognormal", sigma=1.0)
    shares = [reachable(n / 8, arch, skewed) for n in range(9)]
    assert shares == sorted(shares) and shares[2] > reachable(0.25, arch, even)
    for resident, rate, says in (
        (0.0, 1.0, r"hit_rate=1 with resident=0: experts that are nowhere .* resident of at least 1.00"),
        (0.25, 0.9, r"hit_rate=0.9 with resident=0.25: .* use hit_rate of at most 0\.\d+, or resident of at least 0\."),
    ):
        with pytest.raises(ScenarioError, match=says):
            resolved(asked("mixtral-8x7b", {"node": "dgx-h100", "gpus": 1}, offload={
                "resident": resident, "hit_rate": rate}))  # fmt: skip
    slow = predict_serve(asked("mixtral-8x7b", {"node": "dgx-h100", "gpus": 1}, offload={"resident": 0.0}))
    assert slow.tpot_s.mean > 0.05  # 2 of 8 experts in 32 layers over PCIe


def test_a_chip_without_a_known_link_to_its_host_serves() -> None:
    small = asked("llama-3.1-8b", {"gpu": "tpu-v4", "gpus": 1})
    job = resolved(small).deployment.job
    assert job.cluster.gpu.host_link_bytes_per_s == 0.0
    assert predict_serve(small).tpot_s.mean > 0.0


def test_what_needs_that_link_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"serve.offload cannot be timed: the data sheet of tpu-v4 says nothing"):
        predict_serve(asked("olmoe-1b-7b", {"gpu": "tpu-v4", "gpus": 1}, offload={"resident": 0.5}))
    swap = asked("llama-3.1-8b", {"gpu": "tpu-v4", "gpus": 1}, engine={**ENGINE, "preemption": "swap"})
    with pytest.raises(ScenarioError, match=r"preemption=swap cannot be timed"):
        predict_serve(swap)


def test_four_bits_are_those_that_a_gpu_multiplies() -> None:
    """CDNA 4 has MXFP4, Blackwell both, Hopper none: there 4-bit experts are widened."""
    for gpu, experts in (("mi355x", "mxfp4"), ("b200-hgx", "nvfp4"), ("h100-sxm", "int4")):
        job = resolved(asked("gpt-oss-120b", {"gpu": gpu, "gpus": 1}, precision="fp4")).deployment.job
        assert job.formats.experts == experts
    with pytest.raises(ScenarioError, match=r"nvfp4: mi355x multiplies MXFP4 and no NVFP4; use fp4, fp8 or bf16"):
        resolved(asked("gpt-oss-120b", {"gpu": "mi355x", "gpus": 1}, precision="nvfp4"))


def test_half_the_experts_of_mixtral_are_found_by_as_many_uses_as_was_published() -> None:
    """4 of 8 experts cached: 0.6 to 0.7 of all uses hit (arXiv:2312.17238, figure 2)."""
    mixtral = load_model("mixtral-8x7b")
    assert 0.6 <= reachable(0.5, mixtral, Routing()) <= 0.7
    assert reachable(0.0, mixtral, Routing()) == 0.0 and reachable(1.0, mixtral, Routing()) == 1.0
