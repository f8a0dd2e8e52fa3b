"""Rows of published training runs as scenarios: column spellings, and what an expert assumes where a cell is empty.

Only workload columns are read: never id, source, notes or a measured value. Every assumption is a rule on those
columns and is applied to every row alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import log
from typing import Any

from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.calibrate.rows.kinds import TRAINING
from moesim.calibrate.rows.recipes import Recipe, find_recipe
from moesim.calibrate.rows.recomputed import recompute_of
from moesim.calibrate.rows.routed import routing_of, set_capacity
from moesim.calibrate.rows.stated import cluster_of, settings_of, stack_of_software, yes_no
from moesim.calibrate.rows.under_scenario import training_under
from moesim.hwmodels.profile import is_profile_file
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.software.stack import parse_release, stack_named

_FOLDING = "25.02"  # assumed: first release whose experts may leave the tensor groups of attention by default
# zero-bubble schedules as their authors and Primus name them; other words follow from stack and virtual stages
_SCHEDULES = {"zero-bubble": "zb-h1", "zb1p": "zb-h1", "zbv": "zb-v", "zbv-formatted": "zb-v"} | {
    name: name for name in ("zb-h1", "zb-v", "v-half", "v-min")
}
_LAYERS_PER_CHUNK = 4.0  # NVIDIA's recipes: Llama-70B pp4 vpp5, Qwen3-235B pp8 vpp3, DeepSeek-V3 pp16 vpp1


def _whole(row: Row, key: str, default: int | None = None) -> int | None:
    value = whole_of(row, key)
    return default if value is None else value


def precision_of(text: str) -> str:
    """Our name of a published precision: BF16, amp_bf16, FP16 mixed, FP8, MXFP8, FP8-block, NVFP4 and variants."""
    t = text.lower()
    if "nvfp4" in t or t == "fp4":
        return "nvfp4"
    if "mxfp8" in t or "fp8-mx" in t or "fp8_mx" in t:
        return "mxfp8"
    if "block" in t or "128x128" in t or "1x128" in t or "subchannel" in t:
        return "fp8_block"
    if "fp8" in t:
        return "fp8"
    if t == "half" or re.search(r"(?<!b)(fp16|float16)", t):
        return "fp16"
    if not t or "bf16" in t or "bfloat16" in t:
        return "bf16"
    if t in ("fp32", "float32"):
        return "fp32"
    known = "BF16, FP16, FP32, FP8, FP8-block, MXFP8 or NVFP4"
    raise ScenarioError(f"column precision: {text!r} is not known; write {known}")


def stack_of(row: Row) -> tuple[str, str]:
    """The software stack a row most likely ran on, and the rule that says so."""
    zero, precision, release = text_of(row, "zero").upper(), text_of(row, "precision"), text_of(row, "release")
    if text_of(row, "stack"):
        return text_of(row, "stack"), "stack column"
    if text_of(row, "software"):
        return stack_of_software(text_of(row, "software"))
    if "FSDP2" in zero or "TORCHTITAN" in release.upper():
        return "torchtitan", "FSDP2"
    if zero in ("FULL_SHARD", "SHARD_GRAD_OP", "HYBRID_SHARD") or precision.lower().startswith("amp_"):
        return "composer-fsdp", "FSDP with PyTorch's own sharding names"
    if "DUALPIPE" in text_of(row, "schedule").upper() or "128X128" in precision.upper():
        return "hai-llm", "DualPipe, or FP8 with 1x128 / 128x128 tiles"
    named = stack_named(release) if release and not parse_release(release) else None
    if named:
        return named, f"release without a month: {release}"
    if release:
        return "megatron-tuned", "a vendor's software release is named"
    if precision_of(precision) == "fp16":
        return "megatron-2021", "FP16 mixed precision without a release: Megatron-LM of the A100 years"
    if text_of(row, "schedule"):
        return "megatron-core", "schedule stated, no release: research run on plain Megatron-LM"
    if text_of(row, "gpu").upper().startswith(("A100", "A800", "V100")):
        return "megatron-2021", "Ampere or older, no release"
    return "megatron-tuned", "no release: tuned Megatron-Core"


def _zero(row: Row, stack: str) -> tuple[int, int | None]:
    text = text_of(row, "zero").upper()
    shard = re.search(r"SHARD\s+(\d+)", text)
    if "FSDP" in text or text in ("FULL_SHARD", "HYBRID_SHARD"):
        return 3, int(shard.group(1)) if shard else None
    if text == "SHARD_GRAD_OP":
        return 2, None
    digits = re.search(r"(?:ZERO-?|^)(\d)", text)
    if digits:
        return int(digits.group(1)), None
    if "DISTRIBUTED" in text:
        return 1, None
    return (0 if stack == "megatron-2021" else 1), None


def _model(row: Row) -> Any:
    name = text_of(row, "model")
    layers, dense, kv = _whole(row, "layers"), _whole(row, "first_dense_layers"), _whole(row, "kv_heads")
    if text_of(row, "hidden"):
        inline: dict[str, Any] = {
            "layers": layers,
            "hidden": _whole(row, "hidden"),
            "heads": _whole(row, "heads"),
            "vocab": _whole(row, "vocab", 51200),
        }
        if kv is not None:
            inline["kv_heads"] = kv
        return inline
    if layers is None and dense is None and kv is None:
        return name
    proxy: dict[str, Any] = {"base": name}
    for key, value in (("layers", layers), ("first_dense_layers", dense), ("kv_heads", kv)):
        if value is not None:
            proxy[key] = value
    return proxy


def _cluster(row: Row) -> tuple[dict[str, Any], list[str]]:
    if is_profile_file(text_of(row, "gpu")):  # a machine of one's own, as its profile describes it
        return {"gpus": _whole(row, "gpus")}, []
    said, assumed = cluster_of(row)
    return {"gpu": text_of(row, "gpu"), "gpus": _whole(row, "gpus"), **said}, assumed


def _micro_batch(row: Row, stack: str) -> tuple[int, str | None]:
    stated = _whole(row, "mbs")
    if stated:
        return stated, None
    if stack == "megatron-2021" and precision_of(text_of(row, "precision")) == "fp16":
        return 4, "micro_batch = 4 (not stated; usual in the A100 years with full recompute)"
    return 1, "micro_batch = 1 (not stated)"


def _expert_tensor(row: Row, layout: dict[str, Any]) -> int:
    """Blank means 1, but tp where only that fits the GPUs, or where the release predates folding (its default)."""
    stated = _whole(row, "etp")
    if stated:
        return stated
    per_stage = int(_whole(row, "gpus") or 1) // layout["pp"]
    if per_stage % layout["ep"] and per_stage % (layout["ep"] * layout["tp"]) == 0:
        return int(layout["tp"])
    release = parse_release(text_of(row, "release"))
    if layout["ep"] > 1 and release and release < _FOLDING:
        return int(layout["tp"])
    return 1


def _pipeline(row: Row) -> int:
    """Blank pp follows from dp when that is given; otherwise it cannot be known."""
    stated = _whole(row, "pp")
    if stated:
        return stated
    dp, gpus = _whole(row, "dp"), _whole(row, "gpus")
    if dp and gpus:
        return max(1, gpus // (dp * (_whole(row, "tp", 1) or 1) * (_whole(row, "cp", 1) or 1)))
    raise ScenarioError("pp is not stated and dp is not either: the layout cannot be known; state pp")


def _virtual_stages(row: Row, pp: int, stack: str, recipe: Recipe | None) -> int:
    """Blank vpp: the recipe's; plain stacks do not interleave; tuned ones do, about four layers per virtual stage.

    Megatron-Bridge takes the fewest with which Megatron-Core hides exchanges in a pipeline, and else none.
    """
    stated = _whole(row, "vpp")
    if pp == 1:
        return 1
    if stated or recipe:
        return stated or (recipe.vpp if recipe else 1)
    if stack != "megatron-tuned":
        hides = stack == "megatron-bridge" and settings_of(row).get("ep_overlap") == "hidden"
        return 2 if hides else 1
    arch = load_model(_model(row))
    layers = arch.num_layers if arch.num_layers % pp == 0 else arch.num_layers + arch.mtp_layers + 2
    per_rank = -(-layers // pp)
    divisors = [v for v in range(1, per_rank + 1) if per_rank % v == 0]
    return min(divisors, key=lambda v: abs(log(per_rank / v / _LAYERS_PER_CHUNK)))


def _recompute(row: Row, stack: str, recipe: Recipe | None) -> tuple[list[str], str]:
    """Modules to run again, and why these where the row does not say. ScenarioError for a word that nobody knows."""
    if text_of(row, "recompute"):
        return recompute_of(text_of(row, "recompute")), ""
    if recipe:
        return list(recipe.recompute), f"recipe of release {recipe.release}"
    if stack == "megatron-bridge" and settings_of(row).get("ep_overlap") != "hidden":
        # awslabs/awsome-distributed-ai, Megatron-Bridge case of Kimi-K2: full; none where Megatron-Core hides exchanges
        return ["full"], "not stated: as users of Megatron-Bridge run large MoE models, where exchanges are not hidden"
    return ["none"], "not stated"


def _schedule(row: Row) -> dict[str, str]:
    schedule = _SCHEDULES.get(text_of(row, "schedule").lower())
    return {"schedule": schedule} if schedule else {}


def _recipe(row: Row, layout: Mapping[str, Any], micro: int) -> Recipe | None:
    """The published recipe that the row's release has for this job."""
    shape = {k: int(layout[k]) for k in ("tp", "pp", "cp", "ep")}
    shape |= {"gpus": _whole(row, "gpus") or 0, "gbs": _whole(row, "gbs") or 0, "mbs": micro}
    precision = precision_of(text_of(row, "precision"))
    return find_recipe(_model(row), text_of(row, "gpu"), precision, text_of(row, "release"), shape)


def _sequence_parallel(row: Row, stack: str, recompute: list[str], layout: dict[str, Any]) -> list[str]:
    """Sets what a row states of sequence parallelism, or guesses: Megatron-LM had none before Korthikanti et al."""
    stated = yes_no(row, "sequence_parallel")
    if stated is not None:
        layout["sequence_parallel"] = stated
    elif stack == "megatron-2021" and (recompute == ["full"] or not text_of(row, "recompute")):
        layout["sequence_parallel"] = False
        why = "before Korthikanti et al.; column sequence_parallel states it"
        return [f"sequence_parallel = False (guess 'Megatron-LM of the A100 years': {why})"]
    return []


def _guessed(row: Row, layout: Mapping[str, Any], recipe: Recipe | None) -> list[str]:
    """What rules put where cells are empty, besides what is said elsewhere."""
    said = []
    if not text_of(row, "zero"):
        said.append(f"zero = {layout['zero']} (not stated)")
    if layout["ep"] > 1 and not text_of(row, "etp"):
        said.append(f"etp = {layout['etp']} (not stated)")
    if recipe:
        said.append(f"unstated settings as in the recipe of release {recipe.release} (guess 'followed its recipe')")
    return said


def _mtp(row: Row, train: dict[str, Any]) -> list[str]:
    """Sets what a row states of multi-token prediction, or guesses."""
    mtp = yes_no(row, "mtp")
    if mtp is not None:
        train["mtp"] = mtp
    elif text_of(row, "gpu").upper().startswith(("GB200", "GB300")):
        train["mtp"] = False
        return ["mtp = False (guess 'vendor recipe on NVL72': they leave the MTP module out; column mtp states it)"]
    return []


def scenario_of(row: Row) -> tuple[dict[str, Any], list[str]]:
    """The scenario mapping of one row and the assumptions it took. ScenarioError when a needed cell is unusable."""
    if text_of(row, "scenario"):
        return training_under(row)
    for key in TRAINING.needed:
        if not text_of(row, key):
            raise ScenarioError(f"column {key} is empty; a row needs {', '.join(TRAINING.needed)}")
    stack, rule = stack_of(row)
    cluster, about_cluster = _cluster(row)
    assumed = [f"stack = {stack} ({rule})", *about_cluster]
    zero, shard = _zero(row, stack)
    layout: dict[str, Any] = {
        "tp": _whole(row, "tp", 1) or 1,
        "pp": _pipeline(row),
        "cp": _whole(row, "cp", 1) or 1,
        "ep": _whole(row, "ep", 1) or 1,
        "zero": zero,
        "zero_group": shard,
    }
    layout["etp"] = _expert_tensor(row, layout)
    micro, note = _micro_batch(row, stack)
    recipe = _recipe(row, layout, micro)
    recompute, said = _recompute(row, stack, recipe)
    assumed += _sequence_parallel(row, stack, recompute, layout)
    assumed += _guessed(row, layout, recipe)
    if note:
        assumed.append(note)
    if said:
        assumed.append(f"recompute = {', '.join(recompute)} ({said})")
    train: dict[str, Any] = {
        "global_batch": _whole(row, "gbs"),
        "micro_batch": micro,
        "seq_len": _whole(row, "seq_len"),
        "precision": precision_of(text_of(row, "precision")),
        "recompute": recompute,
    }
    assumed += _mtp(row, train)
    if recipe is not None and recipe.offload_activations:
        train["offload_activations"] = recipe.offload_activations
    layout["vpp"] = _virtual_stages(row, layout["pp"], stack, recipe)
    if layout["pp"] > 1 and not text_of(row, "vpp"):
        assumed.append(f"vpp = {layout['vpp']} (not stated)")
    layout |= _schedule(row)
    set_capacity(row, train)
    scenario: dict[str, Any] = {
        "model": _model(row),
        "cluster": cluster,
        "layout": layout,
        "train": train,
        "stack": {"name": stack, **(recipe.stack if recipe else {}), **settings_of(row)},
    }
    release = parse_release(text_of(row, "release"))
    if release:
        scenario["release"] = release
    return scenario | _own_machine(row), assumed


def left_open(row: Row, raw: Mapping[str, Any]) -> frozenset[str]:
    """What a row leaves open of the settings that save memory; `raw` is its scenario.

    A recipe closes them, unless it is for another micro-batch than the row's: then its authors ran something else.
    """
    micro = raw["train"]["micro_batch"]
    recipe = _recipe(row, raw["layout"], micro)
    closed = recipe is not None and recipe.layout["mbs"] == micro
    stated = {"zero": "zero", "vpp": "vpp", "recompute": "recompute", "offload_activations": ""}
    return frozenset(key for key, column in stated.items() if not closed and not (column and text_of(row, column)))


def _own_machine(row: Row) -> dict[str, Any]:
    """What rows of one's own machine say besides: its profile in place of a GPU, a file of counted routing."""
    own = routing_of(text_of(row, "routing"))
    if is_profile_file(text_of(row, "gpu")):
        own["profile"] = text_of(row, "gpu")
    return own
