"""What is started: workers of one or two pools, and what a scenario says that no option of an engine can."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from moesim.files.words import counted
from moesim.sim.serve.job import ResolvedServe, ServeJob
from moesim.sim.software.engine_options import check_option

_ROUND = 1024  # tokens: the longest request is rounded up to a multiple of it


@dataclass(frozen=True, slots=True)
class Worker:
    """One kind of server: how many of it, and the job that each runs."""

    role: str  # serve, prefill or decode
    count: int
    job: ServeJob
    number: int = 1  # of the pools of its role

    @property
    def name(self) -> str:
        """'prefill', or 'prefill-2' of a second pool."""
        return self.role if self.number == 1 else f"{self.role}-{self.number}"

    @property
    def tp(self) -> int:
        """Tensor group of attention."""
        return self.job.layout.tp

    @property
    def ranks(self) -> int:
        """GPUs of one pipeline stage: tensor groups of all attention ranks."""
        return self.job.layout.tp * self.job.attention_dp

    @property
    def hosts(self) -> int:
        """That one worker spreads over."""
        return -(-self.job.layout.gpus // self.job.cluster.gpus_per_host)

    @property
    def title(self) -> str:
        """'6 prefill workers of 8 GPUs'."""
        what = {"serve": "replica"}.get(self.role, f"{self.role} worker")
        return f"{self.count} {what}{'s' if self.count > 1 else ''} of {counted(self.job.layout.gpus, 'GPU')}"


@dataclass(frozen=True, slots=True)
class Deployed:
    """All workers of a deployment, and what is said about it once."""

    workers: tuple[Worker, ...]
    resolved: ResolvedServe
    model: str  # the name or path that the scenario gives
    assumed: tuple[str, ...]

    @property
    def pools(self) -> bool:
        """Whether prompts have workers of their own."""
        return len(self.workers) > 1

    @property
    def longest(self) -> int:
        """Tokens of the longest request of the load, rounded up, at most what the model takes."""
        arch = self.resolved.deployment.job.arch
        return min(arch.max_context, -(-self.resolved.workload.longest // _ROUND) * _ROUND)

    @property
    def family(self) -> str:
        """The engine that was simulated."""
        return self.resolved.deployment.job.engine.family


def deployed(resolved: ResolvedServe, model: str) -> Deployed:
    """Workers of a resolved deployment, prefill workers first."""
    seen: Counter[str] = Counter()
    workers = []
    for group in resolved.deployment.groups:
        seen[group.role] += 1
        workers.append(Worker(group.role, group.workers, group.job, seen[group.role]))
    return Deployed(tuple(workers), resolved, model, resolved.assumptions)


Flag = tuple[str, Any]  # a name without dashes, and a value: None for a switch


@dataclass(slots=True)
class Flags:
    """Options of one worker, and what has none."""

    target: str  # whose options they are
    flags: list[Flag]
    notes: list[str]

    def add(self, name: str, value: Any = None) -> None:
        """An option; StackError where the engine has none of that name."""
        check_option(self.target, name)
        self.flags.append((name, value))


def unsaid(d: Deployed, engine: str) -> list[str]:
    """What was simulated and no option of any engine says, as comments; `engine`: what runs it."""
    ask, job = d.resolved.ask, d.resolved.deployment.job
    said = []
    if engine != d.family:
        said.append(f"simulated as {d.family}: times of {engine} are others; simulate it with engine: {engine}")
    if ask.kv_tiers:
        said.append("kv_tiers: caches behind the GPUs' need an offloading connector; not written here")
    if job.offload is not None:
        said.append("offload: experts in host memory have no option here")
    if ask.admission.queue_limit is not None or ask.admission.timeout_s is not None:
        said.append("admission: limits of the queue are set at the gateway; not written here")
    deployment = d.resolved.deployment
    if deployment.local_tokens or deployment.changes:
        said.append(
            "pools: prompts that stay with decode workers, and workers that change pools, are the router's to do"
        )
    if job.apart is not None:
        said.append("experts_apart: no option here; attention and experts run on the same GPUs")
    if d.resolved.deployment.idle_gpus:
        said.append(f"{d.resolved.deployment.idle_gpus} GPUs of the cluster belong to no worker")
    if job.placement.planned:
        said.append("expert slots: simulated as placed by the load of each layer; the engine has to learn it first")
    if job.speculation is not None:
        kept = ", ".join(f"{p:.2f}" for p in job.speculation.kept)
        said.append(f"drafts: each kept with probability {kept} when those before it were; it depends on the text")
    return said
