"""Every second in the answer comes from a rate or a latency of the inputs: slow all of them down fourfold, and every
output is exactly four times as long, bit for bit. One test that finds every hidden time constant. (Four and not two,
because ramps carry square roots of seconds.)"""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

import pytest
from jobs import JOBS, prices_of

from moesim.hwmodels.cluster import Cluster, build_cluster
from moesim.hwmodels.collectives import collective_s, load_fabric_fit
from moesim.hwmodels.domain_collectives import CollectiveFit
from moesim.hwmodels.exchange_kernels import exchange_kernels, exchange_s, load_exchange_fit
from moesim.hwmodels.profile import Profile, load_profile
from moesim.hwmodels.work import Comm, CommKind, ExpertExchange, Group
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import Tuning, constants
from moesim.sim.train.job import resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

SLOWER = 4.0


def slow_record(record: Any) -> Any:
    """A fit whose seconds are four times as long; its efficiencies and sizes stay."""
    assert is_dataclass(record)
    changes = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if not isinstance(value, float):
            continue
        if field.name.endswith("sqrt_s"):  # seconds^0.5
            changes[field.name] = value * SLOWER**0.5
        elif (field.name.endswith("_s") and not field.name.endswith("_per_s")) or "_s_per_" in field.name:
            changes[field.name] = value * SLOWER
        elif field.name.endswith("bytes_per_s"):
            changes[field.name] = value / SLOWER
    return replace(record, **changes)


def slow_cluster(cluster: Cluster) -> Cluster:
    """Every rate of the data sheets divided by four, every latency times four."""
    gpu = cluster.gpu
    gpu = replace(
        gpu,
        peak_flops_per_s={k: v / SLOWER for k, v in gpu.peak_flops_per_s.items()},
        hbm_bytes_per_s=gpu.hbm_bytes_per_s / SLOWER,
        scale_up_bytes_per_s=gpu.scale_up_bytes_per_s / SLOWER,
        pcie_bytes_per_s=gpu.pcie_bytes_per_s / SLOWER,
        host_link_bytes_per_s=gpu.host_link_bytes_per_s / SLOWER,
    )
    nic, latency = cluster.nic_bytes_per_s / SLOWER, cluster.fabric_latency_s * SLOWER
    return replace(cluster, gpu=gpu, nic_bytes_per_s=nic, fabric_latency_s=latency)


def slow_profile(profile: Profile) -> Profile:
    """All fitted seconds of a profile times four."""
    return replace(
        profile,
        gemms={k: slow_record(v) for k, v in profile.gemms.items()},
        grouped_gemms={k: slow_record(v) for k, v in profile.grouped_gemms.items()},
        attentions={k: slow_record(v) for k, v in profile.attentions.items()},
        collective_fit=slow_record(profile.collectives),
    )


def slow_tuning() -> Tuning:
    """All constants in seconds times four, all rates a fourth."""
    timed = {key: float(r["value"]) for key, r in constants().items() if key.partition("[")[0].endswith("_s")}
    rates = {key for key in timed if key.partition("[")[0].endswith("_per_s")}
    return Tuning({key: value / SLOWER if key in rates else value * SLOWER for key, value in timed.items()})


@pytest.mark.parametrize("name", JOBS)
def test_a_step_on_fourfold_slower_hardware_takes_exactly_four_times_as_long(name: str) -> None:
    resolved = resolve(parse_scenario(JOBS[name]))
    profile, job = resolved.kernels, resolved.job
    slow_job = replace(job, cluster=slow_cluster(job.cluster))
    before = simulate_step(prices_of(JOBS[name]))
    exchange = slow_record(load_exchange_fit(job.cluster.gpu.generation))
    slow = StepPrices(slow_job, slow_profile(profile), slow_tuning(), slow_record(load_fabric_fit()), exchange)
    after = simulate_step(slow)
    assert after.step_time_s == SLOWER * before.step_time_s
    assert after.breakdown_s == {key: SLOWER * seconds for key, seconds in before.breakdown_s.items()}
    assert after.timeline.end_s == [SLOWER * t for t in before.timeline.end_s]


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send"])
@pytest.mark.parametrize("group", [Group(2, 2), Group(8, 8), Group(16, 8), Group(64, 8), Group(4, 1)])
@pytest.mark.parametrize("size_bytes", [1.0, 3e5, 1e9])
def test_collectives_scale(kind: CommKind, group: Group, size_bytes: float) -> None:
    cluster, fit = build_cluster("dgx-h100", 64), load_profile("h100-sxm").collectives
    comm = Comm(kind, size_bytes, group)
    before = collective_s(comm, cluster, fit, load_fabric_fit())
    assert before > 0.0
    slow: CollectiveFit = slow_record(fit)
    assert collective_s(comm, slow_cluster(cluster), slow, slow_record(load_fabric_fit())) == SLOWER * before


@pytest.mark.parametrize("group", [Group(8, 8), Group(64, 8)])
@pytest.mark.parametrize("kernel", exchange_kernels())
def test_expert_exchanges_scale(group: Group, kernel: str) -> None:
    if group.domains > 1 and kernel.endswith("_sided"):
        group = Group(64, 64)
    cluster, fit = build_cluster("hgx-h800", 64), load_exchange_fit("hopper")
    work = ExpertExchange("dispatch", 4096.0, 8, 7168.0, group, 3.5, 7.0, kernel=kernel, sms=8, host_call=True)
    before = exchange_s(work, cluster, fit)
    assert exchange_s(work, slow_cluster(cluster), slow_record(fit)) == pytest.approx(SLOWER * before, rel=1e-14)


def test_the_slow_records_differ_in_seconds_only() -> None:
    profile = load_profile("h100-sxm")
    fit = profile.fit_of(profile.gemms, "gemm", "bf16")
    changed = {k for k, v in asdict(slow_record(fit)).items() if v != asdict(fit)[k]}
    assert changed <= {"launch_s", "decline_scale_s", "serial_s_per_k"}
