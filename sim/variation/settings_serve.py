"""What users of a deployment can change without buying anything: one function per knob, as keys of a scenario.

Whether a change can run is not asked here: the changed scenario is read like any other, and refused like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.weight_formats import SERVE_PRECISIONS
from moesim.sim.variation.knobs_serve import said_rate, says_lengths
from moesim.sim.variation.settings import Setting

_SKEWS = (0.5, 1.0)  # sigma of the popularity of experts (assumed: usual, a router with favourites)
_DRAFTS = 2  # of the model's own modules (assumed: between what vLLM and SGLang publish runs with)


def _engine(asked: ResolvedServe) -> Iterator[Setting]:
    engine, ask = asked.deployment.job.engine, asked.ask.engine
    if isinstance(ask, dict) and "args" in ask:  # the command line says it: the key would be its second name
        return
    for factor in (0.5, 2.0):
        for key, title, now in (
            ("token_budget", "tokens of a pass", engine.token_budget),
            ("max_batch", "running sequences", engine.max_batch),
        ):
            yield Setting(title, f"{int(now * factor):,}", {f"serve.engine.{key}": int(now * factor)})


def _tensor_parallel(asked: ResolvedServe) -> Iterator[Setting]:
    """Wider or narrower replicas, as many experts a rank as before where that can be."""
    lay, keeps = asked.deployment.job.layout, asked.deployment.prefill is None
    for tp in (lay.tp // 2, lay.tp * 2) if keeps else ():
        if tp:
            ep = max(1, lay.ep * tp // lay.tp)
            keys: dict[str, Any] = {"layout.tp": tp, "layout.etp": None}
            yield Setting("tensor parallel", f"tp {tp}", keys | ({"layout.ep": ep} if lay.ep > 1 else {}))


def _expert_parallel(asked: ResolvedServe) -> Iterator[Setting]:
    job, keeps = asked.deployment.job, asked.deployment.prefill is None
    for ep in (job.layout.ep // 2, job.layout.ep * 2) if keeps and job.arch.is_moe else ():
        if ep:
            yield Setting("expert parallel", f"ep {ep}", {"layout.ep": ep, "layout.etp": None})


def _attention(asked: ResolvedServe) -> Iterator[Setting]:
    """A replica's GPUs as ranks that hold requests of their own, or as one tensor group."""
    job, keeps = asked.deployment.job, asked.deployment.prefill is None
    width = job.layout.tp * job.attention_dp
    if not keeps or not job.arch.is_moe or width == 1:
        return
    rest: dict[str, Any] = {"layout.etp": None}
    if job.attention_dp < width:
        keys = {"layout.tp": 1, "layout.ep": width, "serve.attention_dp": width, **rest}
        yield Setting("attention", f"data parallel, dp {width} x ep {width}", keys)
    if job.attention_dp > 1:
        keys = {"layout.tp": width, "layout.ep": 1, "serve.attention_dp": 1, **rest}
        yield Setting("attention", f"tensor parallel, tp {width}", keys)


def _cache(asked: ResolvedServe) -> Iterator[Setting]:
    for dtype in ("bf16", "fp8"):
        if dtype == "bf16" or asked.deployment.job.cluster.gpu.supports("fp8"):
            yield Setting("KV cache", dtype, {"serve.kv_dtype": dtype})


def _speculative(asked: ResolvedServe) -> Iterator[Setting]:
    if asked.deployment.job.speculation is not None:
        yield Setting("speculative", "off", {"serve.speculative": None})
    elif asked.deployment.job.arch.mtp_layers:
        keys = {"serve.speculative": {"method": "mtp", "tokens": _DRAFTS}}
        yield Setting("speculative", f"{_DRAFTS} drafts of its modules", keys)


def _two_batches(asked: ResolvedServe) -> Iterator[Setting]:
    job = asked.deployment.job
    if job.arch.is_moe and (job.attention_dp > 1 or job.two_batch):
        keys = {"serve.two_batch_overlap": not job.two_batch}
        yield Setting("two batches overlapped", "off" if job.two_batch else "on", keys)


def _expert_slots(asked: ResolvedServe) -> Iterator[Setting]:
    """None, and one more on every rank of the widest pool."""
    d = asked.deployment
    ranks = max(group.job.layout.ep for group in d.groups)
    if ranks == 1 or not d.job.arch.is_moe:
        return
    key = "serve.expert_slots" if asked.ask.expert_slots or not d.job.placement.planned else "placement.spare_slots"
    away = {} if key.startswith("serve") else {"placement.slots": None, "placement.replicas": None}
    for spare in (0, d.job.expert_slots + ranks):
        yield Setting("spare expert slots", f"{spare}", {**away, key: spare})


def _precision(asked: ResolvedServe) -> Iterator[Setting]:
    for precision in SERVE_PRECISIONS:
        if precision != "fp16":
            yield Setting("precision", precision, {"serve.precision": precision})


def _routing(asked: ResolvedServe) -> Iterator[Setting]:
    for sigma in _SKEWS if asked.deployment.job.arch.is_moe else ():
        yield Setting("expert imbalance", f"lognormal {sigma:g}", {"routing": {"lognormal": sigma}}, "question")
    if asked.deployment.job.arch.is_moe:
        yield Setting("expert imbalance", "balanced", {"routing": "balanced"}, "question")


def _load(asked: ResolvedServe) -> Iterator[Setting]:
    said = said_rate(asked)
    for factor in (0.5, 2.0) if said is not None else ():
        assert said is not None  # asked above
        key, now = said
        other = max(1, round(now * factor)) if key == "concurrency" else now * factor
        title = "clients" if key == "concurrency" else "request rate"
        yield Setting(title, f"x{factor:g}", {f"serve.requests.{key}": other}, "question")


def _prompts(asked: ResolvedServe) -> Iterator[Setting]:
    now = asked.ask.requests.input_tokens
    for factor in (0.5, 2.0) if says_lengths(asked) else ():
        keys = {"serve.requests.input_tokens": max(1, round(now * factor))}
        yield Setting("prompt length", f"x{factor:g}", keys, "question")


_KNOBS: tuple[Callable[[ResolvedServe], Iterator[Setting]], ...] = (
    _engine, _tensor_parallel, _expert_parallel, _attention, _cache, _speculative, _two_batches, _expert_slots,
    _precision, _routing, _load, _prompts,
)  # fmt: skip


def serve_settings(asked: ResolvedServe) -> Iterator[Setting]:
    """Every change to try of a deployment; those that change nothing about it are among them."""
    for knob in _KNOBS:
        yield from knob(asked)
