"""What a published run that does not say how it saved memory set at least: it ran, so it fitted.

Each rung is something that people do, in the order in which they do it, tried only where the row leaves it open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from moesim.sim.layers.recompute import OPERATORS, words_of
from moesim.sim.train.job import TrainJob

Raw = dict[str, Any]  # a scenario's mapping
Rung = tuple[str, Any]  # (setting, value)

# modules that vendors' MoE recipes recompute, in the order in which they give memory back for little time
_MODULES = (
    ("moe_act", "layernorm", "mla_up_proj"),
    ("moe_act", "layernorm", "mla_up_proj", "mlp", "shared_experts", "core_attention"),
    ("moe", "layernorm", "mla_up_proj", "mlp", "core_attention"),
)
_SHARES = (0.25, 0.5, 0.75, 1.0)  # of the activations, as NVIDIA's recipes on Grace hosts offload whole layers
_MOMENTS_BYTES = 4.0  # what two moments of a parameter take less in 16 bits (Megatron-Core's precision-aware optimizer)
_SECTION = {"zero": "layout", "vpp": "layout", "recompute": "train", "offload_activations": "train"}


def fitted(raw: Raw, job: TrainJob, open_keys: frozenset[str], fits: Callable[[Raw], bool]) -> tuple[Raw, list[str]]:
    """The scenario with the fewest further settings with which it fits, and what was assumed, in words.

    `job`: what `raw` resolves to; `open_keys`: settings that the row does not state. Where all of them together are not
    enough the scenario stays what it was, and the note says so.
    """
    taken: dict[str, Any] = {}
    for needed, value in _rungs(job, open_keys):
        taken[needed] = value
        if fits(_with(raw, taken)):
            return _fewest(raw, taken, needed, fits)
    return raw, ["it would not fit, whatever is assumed of what is not stated: something that saves memory is missing"]


def _fewest(raw: Raw, taken: Mapping[str, Any], needed: str, fits: Callable[[Raw], bool]) -> tuple[Raw, list[str]]:
    """Without what the last setting, `needed`, made superfluous: the later ones first."""
    for key in reversed(list(taken)):
        fewer = {name: value for name, value in taken.items() if name != key}
        if key != needed and fits(_with(raw, fewer)):
            taken = fewer
    return _with(raw, taken), [f"{key} = {_text(value)} (not stated; needed to fit)" for key, value in taken.items()]


def _rungs(job: TrainJob, open_keys: frozenset[str]) -> Iterator[Rung]:
    """What to try, one after the other and each on top of the ones before it; a later value of a key replaces it."""
    dense, hosts = not job.arch.is_moe, job.cluster.host_cpu == "grace" and "offload_activations" in open_keys
    again = "recompute" in open_keys and "full" not in job.recompute
    shares = [("offload_activations", share) for share in _SHARES if share > job.offload_activations]
    if "zero" in open_keys and job.layout.zero == 0:
        yield "zero", 1
    if dense and hosts:  # the link to Grace is quick: NVIDIA's dense recipes offload there and recompute nothing
        yield from shares
    if again:
        have = words_of(job.arch)
        own = (
            "selective" if job.stack.selective == OPERATORS else job.stack.selective
        )  # a scenario has no word for those
        words = ((own,),) if dense else _MODULES
        yield from (("recompute", [word for word in each if word in have or word == "selective"]) for each in words)
    if "vpp" in open_keys and job.layout.vpp > 1:
        yield "vpp", 1
    if hosts and not dense:
        yield from shares
    if job.stack.master_dtype_bytes == 3 * _MOMENTS_BYTES:
        yield "master_dtype_bytes", job.stack.master_dtype_bytes - _MOMENTS_BYTES
    if again:
        yield "recompute", ["full"]


def _with(raw: Raw, settings: Mapping[str, Any]) -> Raw:
    """The scenario with these settings. An optimizer that keeps its state in fewer bits is a setting of the stack."""
    changed: Raw = {**raw, "layout": {**raw["layout"]}, "train": {**raw["train"]}, "stack": {**raw["stack"]}}
    for key, value in settings.items():
        changed[_SECTION.get(key, "stack")][key] = value
    return changed


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:g}"
