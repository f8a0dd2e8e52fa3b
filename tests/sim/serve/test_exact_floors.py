"""Floors under decode passes, what tiers are taken to move at, and waits for what they bring, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.question.serving_sections import TierAsk
from moesim.sim.serve.kv_cache import token_bytes
from moesim.sim.serve.kv_tiers import tiers_said
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.serve.simulate import Machine, machine_of


def machine(**serve: Any) -> Machine:
    load = {"kind": "closed", "concurrency": 4, "count": 8}
    asked = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 2}, "layout": {"tp": 2},
             "serve": {"engine": "vllm", "requests": load, **serve}}  # fmt: skip
    found = resolve_serve(parse_scenario(asked))
    return machine_of(found.deployment.job, found.workload, found.tuning())


def test_floors_of_a_pass_are_shared_out_over_the_tokens_that_it_gives() -> None:
    """Two sequences that check three drafts each compute what eight without do; what they keep is read once a pass."""
    plain, drafts = machine(), machine(speculative={"tokens": 3, "acceptance": 0.6})
    gives = 1.0 + 0.6 + 0.6**2 + 0.6**3
    alone, each = plain.costs.decode_floors(8, 4000.0), drafts.costs.decode_floors(2, 4000.0)
    read_s = token_bytes(plain.job) * 4000.0 / plain.job.cluster.gpu.hbm_bytes_per_s
    assert alone["attention"] == pytest.approx(read_s) and each["attention"] == pytest.approx(read_s / gives)
    for part in ("gemm", "head", "experts"):
        assert each[part] == pytest.approx(alone[part] / gives), part


def test_what_tiers_move_at_is_said() -> None:
    job = machine().job
    said = tiers_said(job, [TierAsk(kind=kind, bytes=1e9) for kind in ("host", "disk", "remote")])
    assert [line.split(" GB/s of ")[1][:12] for line in said[:3]] == ["every GPU's ", "a node's dis", "every GPU's "]
    host, remote = job.cluster.gpu.host_link_bytes_per_s / 1e9, job.cluster.nic_bytes_per_s / 1e9
    assert said[0].startswith(f"kv_tiers host: {host:g} GB/s") and said[0].endswith("link to its host")
    assert said[2].startswith(f"kv_tiers remote: {remote:g} GB/s") and said[2].endswith("NIC")
    assert tiers_said(job, [TierAsk(kind="host", bytes=1e9, bytes_per_s=1e9)]) == said[3:]


@pytest.mark.parametrize("pp", [1, 2])
def test_what_a_pass_waits_for_tiers_is_counted_up(pp: int) -> None:
    """Conversations whose prompts come back from the host's memory over a slow link."""

    def waited(rate: str) -> float:
        talk = {"kind": "sessions", "rate_per_s": 2.0, "count": 60,
                "sessions": {"turns": 4, "think_s": 0.5, "first_tokens": 3000, "added_tokens": 50}}  # fmt: skip
        asked = {"model": "llama-3.1-8b", "cluster": {"node": "dgx-h100", "gpus": pp}, "layout": {"pp": pp},
                 "serve": {"engine": "vllm", "requests": talk, "kv_blocks": 800,
                           "kv_tiers": [{"kind": "host", "bytes": "200 GB", "bytes_per_s": rate}]}}  # fmt: skip
        run = predict_serve(asked).run
        return sum(replica.load_wait_s for replica in run.replicas)

    slow, fast = waited("0.5 GB/s"), waited("50 GB/s")
    assert slow > 10.0 * abs(fast) and slow > 0.0 <= fast
