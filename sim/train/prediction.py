"""Prediction: the whole answer to one training question, echoing the question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moesim.hwmodels.interval import Sureness
from moesim.sim.train.expert_view import ExpertView
from moesim.sim.train.host_memory import HostUse
from moesim.sim.train.job import Resolved
from moesim.sim.train.memory import RankMemory
from moesim.sim.train.step import StepResult
from moesim.sim.train.wire_load import WireView

# the order in which people read a breakdown: useful work first, then communication, then what is lost
CATEGORIES = (
    "gemm", "grouped_gemm", "lora", "attention", "ssm", "head", "embedding", "elementwise", "router", "permute", "cast",
    "grad_accumulate", "tp_comm", "cp_comm", "ep_comm", "pp_comm", "dp_comm", "overlap", "imbalance", "slow_gpu",
    "optimizer", "offload", "host", "bubble", "straggler", "step_constant", "correction",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One training step: seconds with an interval, what they were spent on, memory, money, and how it is known.

    Seconds are wall time of the whole job. Rates and money are of all GPUs unless the name says per GPU; memory is of
    one GPU. `cost` holds gpu_hours_per_step, gpu_hours_per_million_tokens, energy_joules_per_step (the GPUs alone),
    facility_energy_joules_per_step (at the meter) and energy_note (how they were counted); where the GPU has a price
    also usd_per_gpu_hour, usd_per_step, usd_per_million_tokens and price_source. `lost_s` has what was asked for of
    busiest_rank, slow_gpus, jitter and links: seconds by which the same step without it would be shorter.
    """

    step_time_s: float
    low_s: float  # 90 % interval
    high_s: float
    sureness: (
        Sureness  # its class, for example "moe,vendor,megatron-tuned,h100", what makes it wide, what would narrow it
    )
    tokens_per_step: float  # global batch x sequence length
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    model_flops_per_s_per_gpu: float  # that are asked for and executed, see sim/train/model_flops.py
    mfu: float  # those over the GPU's dense peak of the run's precision
    breakdown_s: dict[str, float]  # by CATEGORIES, mean over pipeline ranks; sums to step_time_s
    memory: tuple[RankMemory, ...]  # one GPU of every pipeline rank, in order
    memory_fits: bool
    usable_bytes: float  # of one GPU
    cost: dict[str, float | str]
    sources: dict[str, float]  # share of the busy seconds by evidence (which fit, which assumption); sums to 1
    assumptions: tuple[str, ...]  # what the scenario did not say, and constants that were not measured
    lower_bounds_s: dict[str, float]  # flops, hbm, nic, host_link: what no step beats by the data sheet, busiest rank
    dropped_share: float  # of the tokens' copies, mean over MoE layers; 0 without capacity_factor
    resolved: Resolved  # the job with everything decided
    step: StepResult  # with the timeline of all pipeline ranks
    wires: WireView  # how full NICs and scale-up links are
    experts: ExpertView | None = None  # who got the tokens; None for a model without routed experts
    host_memory: HostUse | None = None  # of one host; None where nothing is kept there
    lost_s: dict[str, float] = field(default_factory=dict)  # what would be won without it, see sim/train/lost.py

    @property
    def lost_usd(self) -> dict[str, float]:
        """US dollars per step of `lost_s`: all GPUs are paid while they wait. Empty without a price."""
        if "usd_per_step" not in self.cost:
            return {}
        usd_per_s = float(self.cost["usd_per_step"]) / self.step_time_s
        return {name: lost * usd_per_s for name, lost in self.lost_s.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the timeline, ready for JSON."""
        job = self.resolved.job
        return {
            "model": job.arch.name,
            "cluster": job.cluster.name,
            "layout": {
                key: getattr(job.layout, key)
                for key in ("gpus", "tp", "pp", "vpp", "cp", "ep", "etp", "dp", "edp", "zero", "schedule")
            },
            "stack": job.stack.name,
            "global_batch": job.global_batch,
            "micro_batch": job.micro_batch,
            "micro_batches": job.micro_batches,
            "seq_len": job.seq_len,
            "precision": job.precision,
            "step_time_s": self.step_time_s,
            "low_s": self.low_s,
            "high_s": self.high_s,
            **self.sureness.to_dict(),
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
            "model_flops_per_s_per_gpu": self.model_flops_per_s_per_gpu,
            "mfu": self.mfu,
            "breakdown_s": self.breakdown_s,
            "memory_bytes": {
                "per_stage": [{"stage": m.rank, "total": m.total, **m.by_kind()} for m in self.memory],
                "peak": max(m.total for m in self.memory),
                "usable": self.usable_bytes,
                "fits": self.memory_fits,
                "host": None if self.host_memory is None else self.host_memory.to_dict(),
            },
            "cost": self.cost,
            "sources": self.sources,
            "assumptions": list(self.assumptions),
            "lower_bounds_s": self.lower_bounds_s,
            "dropped_share": self.dropped_share,
            "wires": self.wires.to_dict(),
            "experts": None if self.experts is None else self.experts.to_dict(),
            "lost_s": self.lost_s,
            "lost_usd": self.lost_usd,
        }
