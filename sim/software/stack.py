"""Stack: the software that runs the model, as named settings; Tuning: the numbers that its fits attach to them.

Settings are choices (overlap, graphs, kernels); a scenario may name any of them, the stack fills in the rest and the
prediction lists what was assumed. Numbers come from stacks/constants.yaml, each fitted on published `fit` rows or
named as assumed, looked up from the most specific key to the most general one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.hwmodels.gpu import generation_of
from moesim.hwmodels.nearest import named_in, plain, with_a_way_out
from moesim.refusal import Refusal
from moesim.sim.software.dispatchers import DISPATCHERS, unknown_dispatcher


def parse_release(text: str) -> str:
    """'YY.MM' of a release ('Megatron-Bridge 26.04.01' -> '26.04'), or '' when the text names no month."""
    month = re.search(r"(?<![\d.])(2\d)\.(0[1-9]|1[0-2])(?!\d)", text)
    if month:
        return f"{month.group(1)}.{month.group(2)}"
    if re.search(r"\bdev\b", text):
        return "25.01"  # a development container, from before the first release of its line
    half = re.search(r"20(\d\d)H([12])", text)
    if half:
        return f"{half.group(1)}.{'04' if half.group(2) == '1' else '09'}"
    return ""


def release_age(release: str) -> str:
    """young (before 26.02), mid (26.02 to 26.05), late (26.06 on) or unknown: how grown-up a tuned MoE stack is.

    `release` is 'YY.MM' or ''.
    """
    if not release:
        return "unknown"
    if release < "26.02":
        return "young"
    return "mid" if release < "26.06" else "late"


_STACKS = Path(__file__).parent / "stacks"


class StackError(Refusal):
    """A stack or setting that does not exist."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Named settings of a training stack, all decided: "auto" of the catalogue is resolved before use."""

    name: str
    title: str
    constants_of: str  # the stack whose fitted constants apply: its own, or that of a relative
    attention_kernel: str  # fused | fused-plain (untuned) | sdpa | unfused | unmasked (masked blocks computed too)
    tp_overlap: bool | str  # auto: see resolve.decided
    dp_overlap: bool
    ep_overlap: str  # none | hidden (behind another micro-batch's compute) | dualpipe | auto (see resolve.decided)
    grad_dtype: str
    cuda_graphs: str  # none | router | partial (attention and router; experts stay eager) | full | auto (by host CPU)
    compiled: bool  # graph compiler fuses elementwise work
    dispatcher: str  # what carries tokens to experts (dispatchers.py); auto: see resolve.decided
    dispatch_dtype: str  # of the rows that travel to the experts
    grouped_kernels: bool  # one launch serves all local experts; otherwise the host launches each expert's GEMMs
    fused_experts: bool | str  # grouped GEMM, SwiGLU and MXFP8 quantisation as one kernel; auto: see resolve.decided
    fp8_attention: bool  # scores and values in 8 bits as well
    dummy_gradients: bool  # Transformer Engine keeps one 16-bit gradient buffer per distinct weight shape
    regather: bool  # sequence parallelism keeps shards and gathers them again for the weight gradient
    host_sync: bool  # the CPU waits for the GPU at pipeline transfers
    fused_loss: bool
    fp8_activations: bool  # inputs of expert layers are kept for the backward pass in 8 bits
    quantised_inputs: bool  # linear layers keep their inputs for the backward pass in the format they multiply in
    master_dtype_bytes: float  # optimizer state per parameter: fp32 master + two moments
    sharded_masters: bool  # under ZeRO-3 the shard is the fp32 master itself; 16-bit copies live only while gathered
    logit_bytes: float  # alive at once per logit in the loss, unless that is fused (2: its gradient takes their place)
    split_logit_bytes: float  # the same where a tensor group splits the vocabulary
    selective: str  # what recompute=selective means: core_attention | operators (every second matrix and what is cheap)
    source: str = ""
    author: str = "other framework"  # whose runs these are: AUTHORS
    words: tuple[str, ...] = ()  # other names of it, see hwmodels/nearest.py
    shared_words: tuple[str, ...] = ()  # names that texts about others carry too


AUTHORS = ("vendor-tuned", "plain checkout", "other framework")


# what a scenario may write for the settings that are neither a switch nor a number
_CHOICES = {
    "attention_kernel": ("fused", "fused-plain", "sdpa", "unfused", "unmasked"),
    "tp_overlap": ("auto", True, False),
    "ep_overlap": ("auto", "none", "hidden", "dualpipe"),
    "grad_dtype": ("bf16", "fp16", "fp32"),
    "cuda_graphs": ("auto", "none", "router", "partial", "full"),
    "dispatcher": ("auto", *DISPATCHERS),
    "fused_experts": ("auto", True, False),
    "dispatch_dtype": ("bf16", "fp8_block"),
    "selective": ("core_attention", "operators"),
}
_BYTES = ("master_dtype_bytes", "logit_bytes", "split_logit_bytes")


def _checked(key: str, value: Any) -> Any:
    """A setting's value when it is of the right kind; StackError otherwise."""
    if key == "ep_overlap" and isinstance(value, bool):  # as tables of results say it, and YAML's yes and no
        return "hidden" if value else "none"
    if key == "dispatcher" and value not in _CHOICES[key]:
        raise StackError(f"stack.dispatcher={unknown_dispatcher(str(value))}")
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise StackError(f"stack.{key}={value!r} is not one of {', '.join(map(str, _CHOICES[key]))}")
    elif key in _BYTES:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 64:
            each = "logit" if "logit" in key else "parameter"
            raise StackError(f"stack.{key}={value!r} must be bytes per {each} between 0 and 64")
    elif not isinstance(value, bool):
        raise StackError(f"stack.{key}={value!r} must be true or false")
    return value


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = read_yaml(_STACKS / "stacks.yaml")
    return records


@cache
def constants() -> dict[str, dict[str, Any]]:
    """Every constant: key -> {value, kind: fitted | assumed, why}."""
    values: dict[str, dict[str, Any]] = read_yaml(_STACKS / "constants.yaml")
    return values


def stack_names() -> tuple[str, ...]:
    """Names of the stacks in the catalogue."""
    return tuple(_records())


def setting_names() -> tuple[str, ...]:
    """Names of the settings that a scenario may override."""
    return tuple(f.name for f in fields(Stack) if f.name not in _FIXED)


_FIXED = (
    "name",
    "title",
    "constants_of",
    "source",
    "author",
    "words",
    "shared_words",
)  # what a record says of itself, not a choice
_OWN = (
    "title",
    "author",
    "words",
    "shared_words",
    "source",
    "constants_of",
    "like",
)  # what no record takes from another


def _whole(name: str) -> dict[str, Any]:
    """A record with the settings that it takes from a relative."""
    record = _records()[name]
    relative = record.get("like")
    if relative is None:
        return {"constants_of": name, **record}
    if relative not in _records():
        raise StackError(f"sim/software/stacks/stacks.yaml: {name}: like names no stack: {relative!r}")
    taken = {key: value for key, value in _whole(relative).items() if key not in _OWN}
    return {"constants_of": name, **taken, **{key: value for key, value in record.items() if key != "like"}}


def stack_named(text: str) -> str | None:
    """The stack whose name or other name stands in a text ("Primus (Megatron-LM, ROCm)"); None for none."""
    records = _records()
    shared = {word: name for name, r in records.items() for word in r.get("shared_words", ())}
    return named_in(text, {word: name for name, r in records.items() for word in (plain(name), *r["words"])}, shared)


def relative_of(name: str) -> str:
    """The stack whose fitted constants one of the catalogue takes: itself, or a relative."""
    return str(_whole(name)["constants_of"])


def fitted_as(name: str) -> str:
    """The stack on whose rows the constants of one were fitted: itself where any bears its name, else its relative."""
    named = any(name in re.split(r"[\[\],]", key) for key in constants())
    return name if named else relative_of(name)


def assumed_with(name: str) -> str:
    """What is assumed with a stack, in a few words."""
    record = _whole(name)
    overlapped = [key.removesuffix("_overlap") for key in ("tp_overlap", "dp_overlap") if record[key]]
    overlapped += ["ep"] if record["ep_overlap"] != "none" else []
    overlap = f"overlaps {', '.join(overlapped)}" if overlapped else "overlaps nothing"
    return f"constants of {record['constants_of']}, {record['attention_kernel']} attention, {overlap}"


def unknown_stack(text: str) -> str:
    """Why a stack is refused: the nearest three, and what would be assumed with each."""
    meanings = {name: f"{r['title']} {' '.join(r['words'])}" for name, r in _records().items()}
    return f"{text!r} is not known; {with_a_way_out(text, meanings, {name: assumed_with(name) for name in meanings})}"


def load_stack(name: str, cluster: Cluster, overrides: dict[str, Any] | None = None) -> tuple[Stack, list[str]]:
    """The stack called `name` on this cluster with overrides applied, and what had to be assumed."""
    records = _records()
    if name not in records:
        raise StackError(f"stack {unknown_stack(name)}")
    record = _whole(name)
    wrong = set(record) - {"shared_words"} ^ {f.name for f in fields(Stack)} - {"name", "shared_words"}
    if wrong:
        raise StackError(f"sim/software/stacks/stacks.yaml: {name}: missing or unknown: {', '.join(sorted(wrong))}")
    relative = record["constants_of"]
    if relative not in records:
        raise StackError(f"sim/software/stacks/stacks.yaml: {name}: constants_of names no stack: {relative!r}")
    if record["author"] not in AUTHORS:
        raise StackError(f"sim/software/stacks/stacks.yaml: {name}: author is none of {', '.join(AUTHORS)}")
    for key in ("words", "shared_words"):
        record[key] = tuple(record.get(key, ()))
    assumed = []
    for key, value in (overrides or {}).items():
        if key not in setting_names():
            raise StackError(f"unknown stack setting {key!r}; {did_you_mean(key, list(setting_names()))}")
        record[key] = _checked(key, value)
    if record["cuda_graphs"] == "auto":
        record["cuda_graphs"] = "partial" if cluster.host_cpu == "grace" else "none"
    for key in setting_names():
        if key not in (overrides or {}):
            assumed.append(f"{key} = {record[key]} (default of stack {name})")
    return Stack(name=name, **record), assumed


DEFAULT_STACK = "megatron-tuned"  # assumed when none is named


def stack_asked(ask: str | dict[str, Any] | None, cluster: Cluster) -> tuple[Stack, list[str]]:
    """The stack that a scenario names (a name, or a mapping of name and settings) and what was assumed about it.

    Settings that wait for the layout are still "auto".
    """
    overrides: dict[str, Any] = dict(ask) if isinstance(ask, dict) else {}
    name = str(overrides.pop("name", DEFAULT_STACK)) if isinstance(ask, dict) else ask or DEFAULT_STACK
    known = name if name in _records() or stack_named(name) is None else str(stack_named(name))
    stack, assumed = load_stack(known, cluster, overrides)
    if ask is None:
        assumed.insert(0, f"stack = {name} (not stated)")
    elif known != name:
        assumed.insert(0, f"stack = {known} (what {name!r} names)")
    assumed.append(_of_author(stack))
    return stack, assumed


def _of_author(stack: Stack) -> str:
    """Whose record an answer rests on: its class of author decides how sure it is, its constants how long it takes."""
    whose = "" if stack.constants_of == stack.name else f"; constants of {stack.constants_of}"
    return f"unstated settings: those of {stack.name}, {stack.author} ({stack.title}{whose})"


def _candidates(qualifiers: tuple[str, ...], generations: Mapping[str, str]) -> list[str]:
    """Keys from specific to general: a GPU family may fall back to its generation, all then to '*'."""
    keys: list[tuple[str, ...]] = [()]
    for qualifier in qualifiers:
        options = [qualifier]
        parent = generations.get(qualifier, qualifier)
        if parent != qualifier:
            options.append(parent)
        options.append("*")
        keys = [(*key, option) for key in keys for option in options]
    keys.sort(key=lambda key: sum(_generality(option, own) for option, own in zip(key, qualifiers, strict=True)))
    return [",".join(key) for key in keys]


def _generality(option: str, own: str) -> float:
    if option == own:
        return 0.0
    return 1.5 if option == "*" else 1.0


@dataclass(frozen=True, slots=True)
class Constant:
    """One number with where it comes from."""

    value: float
    key: str
    kind: str  # fitted | assumed


class Tuning:
    """Look-up of constants for one (GPU class, stack, precision); remembers what was used and of which kind.

    `table` holds them: those of training stacks, unless another is given (serving engines have their own).
    """

    def __init__(
        self, overrides: dict[str, float] | None = None, table: dict[str, dict[str, Any]] | None = None
    ) -> None:
        self._overrides = overrides or {}
        self._table = constants() if table is None else table
        self.used: dict[str, Constant] = {}
        self._generation_of = generation_of()  # a GPU family without a constant of its own takes its generation's
        self._cache: dict[tuple[str, tuple[str, ...]], Constant] = {}

    def get(self, name: str, *qualifiers: str) -> float:
        """The value of constant `name` for these qualifiers, most specific key first."""
        constant = self._cache.get((name, qualifiers))
        if constant is None:
            constant = self._find(name, qualifiers)
            self._cache[(name, qualifiers)] = constant
            self.used[constant.key] = constant
        return constant.value

    def _find(self, name: str, qualifiers: tuple[str, ...]) -> Constant:
        for candidate in _candidates(qualifiers, self._generation_of):
            key = f"{name}[{candidate}]" if candidate else name
            record = self._table.get(key)
            if key in self._overrides:  # an own machine's constants may be more specific than any shipped one
                return Constant(self._overrides[key], key, record["kind"] if record else "fitted")
            if record is not None:
                return Constant(float(record["value"]), key, record["kind"])
        raise StackError(f"no constant {name} for {', '.join(qualifiers)}")
