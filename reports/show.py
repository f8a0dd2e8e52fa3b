"""Catalogue entries as plain mappings: what we know of a model, GPU, node, stack or engine, and from where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moesim.hwmodels.cluster import build_cluster, fabric_names, node_for_gpu, node_names
from moesim.hwmodels.facts import FactError, catalogue, did_you_mean, gpu_spellings
from moesim.hwmodels.gpu import GpuSpec, gpu_names, load_gpu
from moesim.hwmodels.hardware import SHIPPED, hardware_of, holds_hardware
from moesim.hwmodels.libraries import libraries
from moesim.hwmodels.profile import load_profile, measured_gpus
from moesim.sim.model.arch import ModelArch, Variant
from moesim.sim.model.catalogue import ArchError, load_model, model_names, model_record, published
from moesim.sim.model.flops import flops_per_token, kv_bytes_per_token
from moesim.sim.model.params import active_parameters, mtp_params, parameters
from moesim.sim.model.unpriced import unpriced
from moesim.sim.software.serving_engine import engine_constants, engine_names, load_engine
from moesim.sim.software.stack import constants, load_stack, setting_names, stack_names

Entry = dict[str, Any]
_SEQ_LEN = 4096  # tokens, for FLOPs that depend on the context


def show_all() -> Entry:
    """Names of everything the catalogues hold, with the one or two numbers that tell entries apart."""
    return {
        "models": {name: _model_line(load_model(name)) for name in model_names()},
        "gpus": {name: _gpu_line(name) for name in gpu_names()},
        "nodes": {n: {k: r[k] for k in ("gpu", "gpus_per_domain")} for n, r in catalogue("nodes").items()},
        "fabrics": {n: {k: r[k] for k in ("link_bytes_per_s", "latency_s")} for n, r in catalogue("fabrics").items()},
        "instances": {n: {k: r.get(k) for k in ("cloud", "node")} for n, r in catalogue("instances").items()},
        "stacks": {name: {"title": _stack(name)["title"]} for name in stack_names()},
        "engines": {name: {"title": load_engine(name).title} for name in engine_names()},
        "libraries": {name: {"title": library.title} for name, library in libraries().items()},
        "profiles": {name: {"measured": True} for name in measured_gpus()},
    }


def show_one(name: str) -> list[Entry]:
    """Entries called `name`; a GPU comes with its profile, `kind:name` asks for one. FactError if unknown."""
    kind, _, rest = name.partition(":")
    if kind in _KINDS and rest:
        found = _KINDS[kind](rest)
        return found if isinstance(found, list) else [found]
    for names, entry in (
        (node_names(), _node), (fabric_names(), _fabric), (stack_names(), _stack), (engine_names(), _engine),
        (libraries(), _library),
    ):  # fmt: skip
        if name in names:
            return [entry(name)]
    if name in gpu_spellings():
        return [_gpu(name), _profile(name)]
    rented = SHIPPED.instance_called(name)
    if rented is not None:
        return [_record("instances", "instance", rented)]
    if holds_hardware(name):
        return _own_hardware(name)
    try:
        return [_model(name)]
    except ArchError as error:
        if Path(name).exists():
            raise
        software = [*stack_names(), *engine_names(), *libraries()]
        known = [*node_names(), *fabric_names(), *software, *gpu_spellings(), *model_names()]
        hint = did_you_mean(name, known)
        if hint.startswith("known"):
            raise FactError(f"nothing is called {name!r}; `moesim show` lists all names") from error
        raise FactError(f"nothing is called {name!r}; {hint}") from error


def _model_line(arch: ModelArch) -> Entry:
    return {
        "parameters": parameters(arch),
        "active_parameters": active_parameters(arch).with_input_embedding,
        "layers": arch.num_layers,
        "moe": arch.is_moe,
    }


def _gpu_line(name: str) -> Entry:
    gpu = load_gpu(name)
    return {
        "peak_bf16_flops_per_s": gpu.peak_flops_per_s.get("bf16") or gpu.peak_flops_per_s.get("fp16"),
        "hbm_bytes": gpu.hbm_bytes,
        "hbm_bytes_per_s": gpu.hbm_bytes_per_s,
        "scale_up_bytes_per_s": gpu.scale_up_bytes_per_s,
    }


def _model(name: str) -> Entry:
    arch = load_model(name)
    entry: Entry = {
        "kind": "model",
        "name": arch.name,
        **_model_line(arch),
        "active_parameters_without_input_embedding": active_parameters(arch).without_input_embedding,
        "mtp_parameters": mtp_params(arch),
        "hidden": arch.hidden,
        "vocab": arch.vocab,
        "moe_layers": arch.moe_layers,
        "forward_flops_per_token": flops_per_token(arch, _SEQ_LEN),
        "train_flops_per_token": 3.0 * flops_per_token(arch, _SEQ_LEN),
        "flops_seq_len": _SEQ_LEN,
        "kv_bytes_per_token": kv_bytes_per_token(arch, "bf16"),
        "kv_dtype": "bf16",
    }
    for part in ("attention", "ffn", "moe", "ssm"):
        record = getattr(arch, part)
        if record is not None:
            key = "experts" if part == "moe" else part
            entry[key] = {k: v for k, v in asdict(record).items() if v not in (None, False, "none")}
    if arch.variants:
        entry["variants"] = {each.name: _variant(each) for each in arch.variants}
    if arch.checkpoint is not None:
        entry["checkpoint"] = asdict(arch.checkpoint)
    if said := [*arch.said, *unpriced(arch)]:
        entry["assumptions"] = said
    entry |= {"source": arch.source, "notes": arch.notes}
    try:
        entry["aliases"] = list(model_record(name).get("aliases", []))
        entry["published"] = asdict(published(name))
    except ArchError:
        pass  # a model from a file has no catalogue record
    return entry


def _variant(variant: Variant) -> Entry:
    """Sizes of layers that differ from the rest."""
    sizes = {} if variant.attention is None else {k: v for k, v in asdict(variant.attention).items() if v}
    return {"attention": sizes, "intermediate": variant.intermediate}


def _gpu(name: str) -> Entry:
    gpu = load_gpu(name)
    record = catalogue("gpus")[gpu.name]
    return {
        "kind": "gpu",
        **_gpu_facts(gpu),
        "aliases": list(record.get("aliases", [])),
        "verified": bool(record.get("verified", True)),
    }


def _gpu_facts(gpu: GpuSpec) -> Entry:
    """Formats that its tensor cores multiply are told from those that it only reads."""
    return {**asdict(gpu), "weight_only_formats": list(gpu.weight_only)}


def _node(name: str) -> Entry:
    return _record("nodes", "node", name)


def _fabric(name: str) -> Entry:
    return _record("fabrics", "fabric", name)


def _instance(name: str) -> Entry:
    return _record("instances", "instance", SHIPPED.instance_called(name) or name)


def _own_hardware(path: str) -> list[Entry]:
    """Every record of a hardware file, completed as it is used, with what was assumed for it."""
    hardware = hardware_of(path)
    entries = []
    for section, records in hardware.own.items():
        for name, record in records.items():
            facts = _gpu_facts(load_gpu(name, hardware)) if section == "gpus" else {"name": name, **record}
            entry: Entry = {"kind": section.removesuffix("s"), **facts}
            entries.append(entry | {"assumed": "; ".join(hardware.assumed((section, name)))})
    return entries


def _library(name: str) -> Entry:
    return _record("libraries", "library", name)


def _record(catalogue_name: str, kind: str, name: str) -> Entry:
    records = catalogue(catalogue_name)
    if name not in records:
        raise FactError(f"unknown {kind} {name!r}; {did_you_mean(name, list(records))}")
    return {"kind": kind, "name": name, **records[name]}


def _stack(name: str) -> Entry:
    plain, _ = load_stack(name, build_cluster("dgx-h100", 8))
    grace, _ = load_stack(name, build_cluster(node_for_gpu("gb200"), 8))
    settings = {key: getattr(plain, key) for key in setting_names()}
    if plain.cuda_graphs != grace.cuda_graphs:
        settings["cuda_graphs"] = f"auto ({grace.cuda_graphs} with Grace hosts, {plain.cuda_graphs} with x86 hosts)"
    return {
        "kind": "stack",
        "name": name,
        "title": plain.title,
        "settings": settings,
        "source": plain.source,
        "author": plain.author,
        "constants_of": plain.constants_of,
        "constants": _constants_of(dict.fromkeys((name, plain.constants_of)), settings),
    }


def _engine(name: str) -> Entry:
    """A serving engine: its settings, and the constants that may enter a prediction with it."""
    settings = asdict(load_engine(name))
    title, source = settings.pop("title"), settings.pop("source")
    settings["kv_dtype"] = ", ".join(f"{gpu}: {dtype}" for gpu, dtype in settings["kv_dtype"].items())
    for stated in ("name", "given", "version", "month", "family"):  # by a scenario, or by the record's own name
        del settings[stated]
    settings["defaults"] = "; ".join(
        f"{', '.join(f'{key} {value}' for key, value in rule['set'].items())}: {rule['why']}"
        for rule in settings["defaults"]
    )
    others = set(engine_names()) - {name}
    constants = {
        key: dict(record)
        for key, record in engine_constants().items()
        if not others & set(key.partition("[")[2].rstrip("]").split(","))
    }
    return {
        "kind": "engine", "name": name, "title": title, "settings": settings, "source": source, "constants": constants,
    }  # fmt: skip


def _constants_of(stacks: Iterable[str], settings: Entry) -> dict[str, Entry]:
    """Constants that may enter a prediction with these stacks: other stacks' and other settings' left out."""
    own = [spelling for s in stacks for spelling in ((s, f"{s}+compile") if settings["compiled"] else (s,))]
    strangers = {spelling for s in stack_names() for spelling in (s, f"{s}+compile")} - set(own)
    choices = {
        "attention_factor": (settings["attention_kernel"], "*"),
        "loss_bytes_per_logit": ("fused" if settings["fused_loss"] else "plain", "*"),
    }
    entries: dict[str, Entry] = {}
    for key, record in constants().items():
        name, _, inside = key.partition("[")
        qualifiers = inside.rstrip("]").split(",")
        if strangers & set(qualifiers):
            continue
        if name in choices and qualifiers[0] not in choices[name]:
            continue
        entries[key] = dict(record)
    general = {k for k in entries if "*" in k and any(k.replace("*", o, 1) in entries for o in own)}
    return {k: v for k, v in entries.items() if k not in general}


def _profile(name: str) -> Entry:
    profile = load_profile(name)
    return {
        "kind": "profile",
        "gpu": profile.gpu,
        "derived_from": profile.derived_from,
        "derived_note": profile.derived_note,
        "fits": {key: asdict(p) for key, p in profile.provenance.items()},
    }


_KINDS: dict[str, Callable[[str], Entry | list[Entry]]] = {
    "model": _model,
    "gpu": _gpu,
    "node": _node,
    "fabric": _fabric,
    "stack": _stack,
    "engine": _engine,
    "library": _library,
    "profile": _profile,
    "instance": _instance,
    "hardware": _own_hardware,
}
