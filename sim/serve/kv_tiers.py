"""Tiers of a deployment: what hosts, disks and a remote pool hold of prompts, and how fast it comes back to a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from moesim.hwmodels.units import GIB
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.question.serving_sections import TierAsk
from moesim.sim.serve.host_memory import on_host_bytes
from moesim.sim.serve.job import Deployment, ServeJob
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.prefix_cache import Link, PrefixCache, Shelf, Tier
from moesim.sim.serve.workload import Workload
from moesim.sim.software.stack import Tuning

DISK_BYTES_PER_S = 25e9  # assumed: four NVMe drives of PCIe 4 in a node, 6.4 GB/s each


def block_bytes(job: ServeJob, cache: KvCache) -> float:
    """Bytes of one block outside the GPUs: what all GPUs of its tensor group and stages hold of it.

    The latent vector that all heads share (MLA) is the same on every rank and kept once.
    """
    a = job.arch.attention
    copies = 1 if a is not None and a.is_mla else job.layout.tp
    return cache.block_tokens * cache.bytes_per_token * copies * job.layout.pp


def check_tiers(job: ServeJob, asks: Sequence[TierAsk], tuning: Tuning) -> None:
    """ScenarioError for tiers without a link, and for more than a host has."""
    for ask in asks:
        what = f"serve.kv_tiers: kind {ask.kind}"
        if ask.kind == "host" and not (ask.bytes_per_s or job.cluster.gpu.host_link_bytes_per_s):
            raise ScenarioError(
                f"{what}: the data sheet of {job.cluster.gpu.name} says nothing of a link to the host's memory; give "
                "its bytes_per_s"
            )
        if ask.kind == "remote" and not (ask.bytes_per_s or job.cluster.nic_bytes_per_s):
            raise ScenarioError(
                f"{what}: {job.cluster.name} has no NIC; give bytes_per_s of one GPU's link to the pool"
            )
        has = job.cluster.host_memory_bytes
        if ask.kind == "host" and has:
            room = has * tuning.get("host_memory_share") - on_host_bytes(job)
            if ask.bytes > room:
                raise ScenarioError(
                    f"{what}: bytes={ask.bytes / GIB:,.0f} GiB are more than the {max(0.0, room) / GIB:,.0f} GiB that "
                    f"a host has for it ({job.cluster.host_memory_source}); give less, or say what a host has in "
                    "cluster.host_memory_bytes"
                )


def tiers_said(job: ServeJob, asks: Sequence[TierAsk]) -> list[str]:
    """What was taken where a scenario does not say it."""
    said = []
    for ask in asks:
        if ask.bytes_per_s is not None:
            continue
        if ask.kind == "host":
            rate = f"{job.cluster.gpu.host_link_bytes_per_s / 1e9:g} GB/s of every GPU's link to its host"
        elif ask.kind == "disk":
            rate = f"{DISK_BYTES_PER_S / 1e9:g} GB/s of a node's disks together (assumed: four NVMe drives)"
        else:
            rate = f"{job.cluster.nic_bytes_per_s / 1e9:g} GB/s of every GPU's NIC"
        said.append(f"kv_tiers {ask.kind}: {rate}")
    if asks:
        said.append("kv_tiers: layers are loaded while others are computed; what is written costs no time of a pass")
    return said


def caching_said(deployment: Deployment, load: Workload) -> list[str]:
    """What prompts find: blocks that workers keep, or what the trace says that an earlier request had."""
    job, said = deployment.prefill or deployment.job, []
    if load.runs is None:
        if deployment.tiers:
            said.append("kv_tiers: not used, these requests do not say which parts of prompts are equal")
        if deployment.router.kind == "prefix":
            said.append("router prefix: these requests do not say which parts of prompts are equal: least loaded")
        if any(load.requests.prefix) and job.engine.prefix_cache:
            said.append("prefix cache: every prompt finds what its prefix column says (a cache without limit)")
        return said
    if not job.engine.prefix_cache:
        return ["prefix cache: off (serve.engine.prefix_cache)"]
    said = tiers_said(job, deployment.tiers)
    if deployment.prefill is not None:
        said.append("prefix cache: prefill workers keep prompts, not answers; decode workers keep nothing for others")
    if job.attention_dp > 1:
        said.append("prefix cache: attention ranks of a worker share one; requests go to the rank with their prompt")
    if job.arch.ssm is not None or any(kind.mixer == "window_attention" for kind in job.arch.layers):
        said.append("prefix cache: states and windows are taken to be kept at every block")
    return said


def slow_said(cache: PrefixCache | None, cost_s: float) -> list[str]:
    """Tiers that were read although their link is slower than computing, which takes `cost_s` a token.

    Engines bring what is there, whatever it takes.
    """
    tiers = cache.tiers if cache is not None else ()
    said = []
    for tier, tokens in zip(tiers, cache.tier_tokens if cache is not None else (), strict=True):
        bring_s = tier.read_block_s * tier.read / max(1, tokens)
        if tokens and bring_s > cost_s:
            said.append(
                f"kv_tiers {tier.name}: bringing a token takes {bring_s * 1e6:.3g} us, computing it {cost_s * 1e6:.3g} "
                "us: prompts would be there sooner without this tier; engines bring what is there"
            )
    return said


class TierMaker:
    """Makes the tiers of one worker after the other: those of a node share its disks, all share a remote pool."""

    def __init__(self, asks: Sequence[TierAsk], link_efficiency: float) -> None:
        """`link_efficiency`: share of a link's rate that copies of blocks reach."""
        self._asks, self._efficiency = tuple(asks), link_efficiency
        self._disks: dict[int, Link] = {}
        self._remote: Shelf | None = None

    def tiers_of(self, job: ServeJob, cache: KvCache) -> list[Tier]:
        """Those of a worker whose GPUs begin at `job.first_gpu`. Blocks of one pass come over all its ranks' links."""
        size, per_host = block_bytes(job, cache), job.cluster.gpus_per_host
        share = job.layout.gpus / per_host  # of a node's bytes; of several nodes' above 1
        on_gpu = cache.block_tokens * cache.bytes_per_token
        made = []
        for ask in self._asks:
            through, room = ask.write == "through", int(ask.bytes * share // size)
            if ask.kind == "host":
                rate = (ask.bytes_per_s or job.cluster.gpu.host_link_bytes_per_s) * self._efficiency
                seconds = on_gpu / rate / job.attention_dp
                made.append(Tier("host", Shelf(room), Link(), seconds, through))
            elif ask.kind == "disk":
                link = self._disks.setdefault(job.first_gpu // per_host, Link())
                seconds = size / (ask.bytes_per_s or DISK_BYTES_PER_S) / max(1.0, share)
                made.append(Tier("disk", Shelf(room), link, seconds, through))
            else:
                made.append(self._pool(ask, job, size, on_gpu))
        return made

    def _pool(self, ask: TierAsk, job: ServeJob, size: float, on_gpu: float) -> Tier:
        rate = (ask.bytes_per_s or job.cluster.nic_bytes_per_s) * self._efficiency
        seconds = on_gpu / rate / job.attention_dp
        if self._remote is None:
            self._remote = Shelf(int(ask.bytes // size))
        return Tier("remote", self._remote, Link(), seconds, ask.write == "through")
