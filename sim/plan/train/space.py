"""Candidate layouts of one training job: every combination of degrees that divides what it has to divide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product

from moesim.sim.layout.layout import BadLayout, Layout, check_layout
from moesim.sim.layout.pipeline import V_SHAPED
from moesim.sim.model.arch import ModelArch
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.train.job import MAX_SLOTS, TrainJob

RECOMPUTE = ("none", "light", "full")  # light: what costs little to run again
_CP_TOKENS = 4096  # assumed: shorter pieces of a sequence are not worth an exchange in every layer
_MOST_TP, _MOST_VPP = 16, 12  # assumed: nobody splits a layer or a stage further


@dataclass(frozen=True, slots=True)
class Space:
    """Values that each axis may take; those of an axis that is not given follow from the job."""

    tp: tuple[int, ...]
    pp: tuple[int, ...]
    vpp: tuple[int, ...]
    cp: tuple[int, ...]
    ep: tuple[int, ...]
    etp: tuple[int, ...]  # 0: as tp
    zero: tuple[int, ...]
    micro_batch: tuple[int, ...]
    recompute: tuple[str, ...]
    schedule: tuple[str, ...]
    dispatcher: tuple[str, ...]


AXES = tuple(f.name for f in fields(Space))


@dataclass(frozen=True, slots=True)
class Candidate:
    """One layout with the batch and memory settings that go with it."""

    layout: Layout
    micro_batch: int
    recompute: str
    dispatcher: str

    @property
    def title(self) -> str:
        """'tp1 pp16 vpp1 cp1 ep64 dp128 zero1 mbs1 dualpipe', and what is not the default."""
        lay = self.layout
        etp = f" etp{lay.etp}" if lay.etp > 1 else ""
        parts = f"tp{lay.tp} pp{lay.pp} vpp{lay.vpp} cp{lay.cp} ep{lay.ep}{etp} dp{lay.dp} zero{lay.zero}"
        extra = "" if self.recompute == "none" else f" recompute={self.recompute}"
        return f"{parts} mbs{self.micro_batch} {lay.schedule}{extra}" + (
            f" {self.dispatcher}" if lay.ep > 1 and self.dispatcher != "auto" else ""
        )


def _powers(most: int) -> tuple[int, ...]:
    return tuple(2**i for i in range(max(1, most).bit_length()) if 2**i <= most)


def _divisors(n: int) -> tuple[int, ...]:
    return tuple(d for d in range(1, n + 1) if n % d == 0)


def default_space(job: TrainJob, stack_dispatcher: str, given: Mapping[str, Iterable[object]]) -> Space:
    """All axes for a job; `given` replaces those a user fixed. ScenarioError for axes that do not exist."""
    unknown = [name for name in given if name not in AXES]
    if unknown:
        raise ScenarioError(f"{unknown[0]} is not searched; axes are {', '.join(AXES)}")
    arch, cluster = job.arch, job.cluster
    experts = arch.moe.experts if arch.moe is not None else 1
    axes: dict[str, tuple[object, ...]] = {
        "tp": _powers(min(_MOST_TP, cluster.domain)),
        "pp": tuple(d for d in _divisors(cluster.gpus) if d <= arch.num_layers),
        "vpp": tuple(range(1, _MOST_VPP + 1)),
        "cp": _powers(max(1, job.seq_len // _CP_TOKENS)),
        "ep": tuple(d for d in _divisors(experts) if d & (d - 1) == 0 or d == experts),
        "etp": (1, 0) if arch.is_moe else (1,),
        "zero": (1, 3),
        "micro_batch": (1, 2, 4, 8),
        "recompute": RECOMPUTE,
        "schedule": ("dualpipe", "1f1b") if job.stack.ep_overlap == "dualpipe" else ("interleaved", "1f1b"),
        "dispatcher": ("auto", "alltoall") if stack_dispatcher == "auto" and arch.is_moe else (stack_dispatcher,),
    }
    axes |= {name: tuple(values) for name, values in given.items()}
    return Space(**axes)  # type: ignore[arg-type]  # values of every axis were read for that axis


def _stages_of(schedule: str, vpp: int) -> bool:
    """Whether a schedule runs that many virtual stages per rank."""
    return vpp == 2 if schedule in V_SHAPED else (vpp > 1) == (schedule == "interleaved")


def _interleaves(arch: ModelArch, pp: int, vpp: int) -> bool:
    """Whether virtual stages of that number make sense: they divide the layers, or nearly all hold as many."""
    if vpp == 1:
        return True
    if pp == 1:
        return False
    layers = arch.num_layers
    return layers % (pp * vpp) == 0 or (layers % pp != 0 and layers // (pp * vpp) >= 1 and vpp in (2, 4))


def candidates(job: TrainJob, space: Space) -> Iterator[Candidate]:
    """Every candidate that the model, the GPUs and the batch allow, in a fixed order."""
    gpus = job.cluster.gpus
    for tp, pp, cp in product(space.tp, space.pp, space.cp):
        if gpus % (tp * pp * cp) or job.seq_len % cp:
            continue
        batches = [m for m in space.micro_batch if job.global_batch % (m * (gpus // (tp * pp * cp))) == 0]
        if not batches:
            continue
        experts = {(e, t or tp) for e, t in product(space.ep, space.etp) if gpus % (e * (t or tp) * pp) == 0}
        for vpp, schedule, zero in product(space.vpp, space.schedule, space.zero):
            if not _stages_of(schedule, vpp) or not _interleaves(job.arch, pp, vpp):
                continue
            if zero == 3 and pp > 1:  # parameters would be gathered again for every micro-batch
                continue
            for ep, etp in sorted(experts):
                layout = replace(
                    job.layout, tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, etp=etp, zero=zero, schedule=schedule,
                    stage_layers=None, zero_group=None, gpus=gpus,
                )  # fmt: skip
                if _possible(layout, job.arch):
                    yield from _variants(job, layout, batches, space)


def _possible(layout: Layout, arch: ModelArch) -> bool:
    try:
        check_layout(layout, arch)
    except BadLayout:
        return False
    return True


def _variants(job: TrainJob, layout: Layout, batches: list[int], space: Space) -> Iterator[Candidate]:
    dispatchers = space.dispatcher if layout.ep > 1 else space.dispatcher[:1]
    for micro_batch, recompute, dispatcher in product(batches, space.recompute, dispatchers):
        count = job.global_batch // (micro_batch * layout.dp)
        if layout.schedule == "dualpipe" and (count % 2 or count < 2 * layout.pp):
            continue
        if count * layout.chunks <= MAX_SLOTS:
            yield Candidate(layout, micro_batch, recompute, dispatcher)
