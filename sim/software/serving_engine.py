"""Engine: a serving engine as named settings; its seconds come from engines/constants.yaml through a Tuning."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.hwmodels.gpu import GpuSpec
from moesim.hwmodels.nearest import with_a_way_out
from moesim.hwmodels.units import GIB
from moesim.sim.software.engine_arguments import arguments_of
from moesim.sim.software.engine_release import (
    dated,
    is_before,
    is_listed,
    is_of_main,
    may_follow,
    month_of,
    month_written,
    nearest_releases,
    released,
    version_of,
)
from moesim.sim.software.stack import Stack, StackError, Tuning

_ENGINES = Path(__file__).parent / "engines"
_UNSCALED_CACHE = 16  # assumed: experts from which published FP8 checkpoints quantise weights only
_CHOICES: dict[str, tuple[Any, ...]] = {
    "scheduling": ("mixed", "prefill_first", "decode_first"),
    "admission": ("present", "reserve", "share"),
    "preemption": ("recompute", "swap"),
    "kv_of": ("total", "free"),
    "exchange": ("auto", "gather", "normal", "low_latency", "one_sided"),
    "prefix_cache": (True, False),
    "run": ("server", "library"),
    "cold_start": (True, False),
}
_DEFAULT_NAME = "vllm"  # as of serve.engine
# smallest and largest value that a scenario may give
_RANGES: dict[str, tuple[float, float]] = {
    "token_budget": (1, 10_000_000),
    "max_batch": (1, 1_000_000),
    "block_tokens": (1, 65_536),
    "kv_fraction": (0.01, 1.0),
    "work_bytes": (0.0, 1e12),
    "poll_steps": (1, 10_000),
    "stream_tokens": (1, 10_000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How an engine schedules passes, admits requests and stores their keys and values."""

    name: str
    title: str
    scheduling: str  # mixed | prefill_first | decode_first
    admission: str  # present (use now) | reserve (input and output) | share (input and a share of the output)
    preemption: str  # recompute | swap (to host memory)
    token_budget: int  # tokens of one pass and rank
    max_batch: int  # running sequences of one rank
    block_tokens: int  # tokens of one KV block
    kv_fraction: float
    work_bytes: float  # beside weights and cache; where a scenario states it, all of that (sim/serve/work_space.py)
    kv_of: str  # kv_fraction counts of the total memory, or of what weights and work space leave free
    prefix_cache: bool
    poll_steps: int  # decode passes between two looks at the queue
    stream_tokens: int  # tokens that reach the client together: it sees its first one when all of them are there
    exchange: str  # how tokens travel to experts under attention data parallelism, see sim/serve/layers.py
    kv_dtype: dict[str, str]
    source: str
    family: str  # whose versions and command line choose this record
    before: str = ""  # stands for versions before this one
    group_bytes: float = 0.0  # beside work_bytes where a tensor group exchanges
    sampler_bytes: float = 0.0  # per sequence that may run and word of the vocabulary
    counts_passes: bool = False  # activations of the largest pass come out of kv_fraction
    reserve: dict[str, float] = field(default_factory=dict)  # what is kept out of kv_fraction where nothing is stated
    defaults: tuple[dict[str, Any], ...] = ()  # settings by conditions, the first that fits is taken
    version: str = ""  # as stated
    month: int | None = None  # of its release, since the year 0; None: not known
    whole_blocks: bool = False  # it refuses weights whose blocks of scales a layout cuts (sim/serve/block_split.py)
    cold_start: bool = False  # the first requests wait until kernels are compiled and warmed up
    run: str = "server"  # behind an API server, or as a library in the process that has the requests
    given: tuple[str, ...] = ()  # settings that the scenario states

    def on(self, gpu: GpuSpec, drafts: bool) -> tuple[Engine, list[str]]:
        """This engine as it would start on a GPU, and what it takes by default there and why."""
        for rule in self.defaults:
            if not _fits(rule, self.run, gpu, drafts):
                continue
            taken = {key: value for key, value in rule["set"].items() if key not in self.given}
            changed: dict[str, Any] = {**taken, "defaults": ()}
            said = [
                f"{key} = {value} (default of {self.name} on {gpu.name}: {rule['why']})" for key, value in taken.items()
            ]
            return replace(self, **changed), said
        return replace(self, defaults=()), []

    def cache_dtype(self, gpu: GpuSpec, precision: str, experts: int) -> str:
        """Format of keys and values that this engine takes by default; 16 bits unless the model is quantised.

        Block-scaled FP8 checkpoints of models with many experts bring no scales for the cache: 16 bits on Hopper.
        """
        if precision not in ("fp8", "fp8_block", "fp4", "nvfp4"):
            return "bf16"
        if gpu.generation == "hopper" and experts >= _UNSCALED_CACHE:
            return "bf16"
        return self.kv_dtype.get(gpu.generation, self.kv_dtype["*"])


def _fits(rule: dict[str, Any], run: str, gpu: GpuSpec, drafts: bool) -> bool:
    """Whether all conditions of a rule hold."""
    return (
        rule.get("run", run) == run
        and gpu.usable_bytes >= rule.get("memory_gib", 0) * GIB
        and rule.get("not_gpu") != gpu.family
        and rule.get("drafts", drafts) == drafts
    )


@cache
def _records() -> dict[str, dict[str, Any]]:
    records: dict[str, dict[str, Any]] = read_yaml(_ENGINES / "engines.yaml")
    return records


@cache
def engine_constants() -> dict[str, dict[str, Any]]:
    """Every constant of serving: key -> {value, kind: fitted | assumed, why}."""
    values: dict[str, dict[str, Any]] = read_yaml(_ENGINES / "constants.yaml")
    return values


def engine_tuning(overrides: dict[str, float] | None = None) -> Tuning:
    """A look-up of serving constants."""
    return Tuning(overrides, engine_constants())


def engine_names() -> tuple[str, ...]:
    """Names of the engines in the catalogue."""
    return tuple(_records())


def engine_title(name: str) -> str:
    """What an engine of the catalogue is, in words."""
    return str(_records()[name]["title"])


def _checked(key: str, value: Any) -> Any:
    if key in _CHOICES:
        if value not in _CHOICES[key]:
            raise StackError(f"serve.engine.{key}={value!r} is not one of {', '.join(map(str, _CHOICES[key]))}")
        return value
    low, high = _RANGES[key]
    whole = key not in ("kv_fraction", "work_bytes")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise StackError(f"serve.engine.{key}={value!r} must be a number between {low:g} and {high:g}")
    if whole and value != int(value):
        raise StackError(f"serve.engine.{key}={value!r} must be a whole number")
    return int(value) if whole else float(value)


def record_name(name: str, version: str) -> str:
    """The record that stands for this version of an engine: the one whose `before` is the nearest above it.

    An engine without a version, or with one that is no number, is what its name says.
    """
    records, number = _records(), version_of(version)
    if records.get(name, {}).get("before") or number is None:
        return name
    older = {r["before"]: n for n, r in records.items() if r.get("before") and r["family"] == name}
    fitting = [before for before in older if is_before(number, before)]
    return older[min(fitting, key=lambda b: version_of(b) or ())] if fitting else name


def _aged(record: dict[str, Any], version: str) -> dict[str, Any]:
    """The record as a stated version has it: of the settings of older ones the first that stand for it."""
    plain = {key: value for key, value in record.items() if key != "older"}
    fitting = (rule["set"] for rule in record.get("older", ()) if is_before(version_of(version), rule["before"]))
    return {**plain, **next(fitting, {})}


def is_known_version(family: str, version: str) -> bool:
    """Whether something is known of a version: a release or one soon after the newest, an image, a build of main."""
    released_one = is_listed(family, version) or may_follow(family, version)
    return not version or released_one or dated(version) is not None or is_of_main(version)


def nearest_versions(family: str, version: str) -> str:
    """The three nearest known releases, each with its month and what it is priced as."""
    return "; ".join(
        f"{written} ({month_written(month)}: {_records()[record_name(family, written)]['title']})"
        for written, month in nearest_releases(family, version)
    )


def _check_version(family: str, version: str, date: str) -> None:
    """StackError for a version that is no known release, where nothing dates it; it says what the nearest three are."""
    if date or is_known_version(family, version):
        return
    raise StackError(
        f"engine version {version!r} of {family} is not known; nearest are {nearest_versions(family, version)}; or say "
        "when it was built in serve.engine.date (a row: measured_on), as 2026-05, or leave the version out for the "
        "newest"
    )


def load_engine(name: str, overrides: dict[str, Any] | None = None, version: str = "", date: str = "") -> Engine:
    """The engine called `name` with settings replaced. StackError for a name or setting that does not exist.

    `date`: when it ran, "2025-10", which dates a version that has no known month.
    """
    records = _records()
    if name not in records:
        meanings = {each: f"{r['title']} {r['family']}" for each, r in records.items()}
        assumed = {each: r["title"] for each, r in records.items()}
        raise StackError(f"unknown engine {name!r}; {with_a_way_out(name, meanings, assumed)}")
    _check_version(records[name]["family"], version, date)
    name = record_name(name, version)
    needed = {f.name for f in fields(Engine) if f.default is MISSING and f.default_factory is MISSING}
    lacks = sorted(needed - {"name", *records[name]})
    if lacks:
        raise StackError(f"engine {name!r} in engines.yaml lacks {', '.join(lacks)}; copy the record of another engine")
    record = {**_aged(records[name], version), "defaults": tuple(records[name].get("defaults", ()))}
    family = record["family"]
    listed = released(family, version) if is_listed(family, version) else None
    after = released(family, version)  # of a version newer than all that are listed: the newest's
    oldest = nearest_releases(family, version)[0][1] if may_follow(family, version) else None  # older than all: its
    months = (listed, month_of(date), dated(version), after, oldest)
    month = next((m for m in months if m is not None), None)
    engine = Engine(name=name, **record, version=version, month=month, given=tuple(overrides or ()))
    known = [*_CHOICES, *_RANGES]
    for key, value in (overrides or {}).items():
        if key not in known:
            raise StackError(f"unknown engine setting {key!r}; {did_you_mean(key, [*known, 'version', 'args'])}")
        changed: dict[str, Any] = {key: _checked(key, value)}
        engine = replace(engine, **changed)
    return engine


@dataclass(frozen=True, slots=True)
class AskedEngine:
    """An engine as a scenario names it, the degrees its command line states, and what is to be said about it."""

    engine: Engine
    layout: dict[str, int]
    said: tuple[str, ...] = ()


def engine_asked(ask: str | dict[str, Any]) -> AskedEngine:
    """A name, or a mapping of name, version, date, args (the engine's command line) and settings, which come first."""
    if isinstance(ask, str):
        return AskedEngine(load_engine(ask), {})
    settings = dict(ask)
    name, version, args = settings.pop("name", None), str(settings.pop("version", "")), settings.pop("args", "")
    date = str(settings.pop("date", ""))
    if date and month_of(date) is None:
        raise StackError(f"serve.engine.date={date!r} is no month; write it as 2025-10")
    said = []
    if name is None and version:
        name = _DEFAULT_NAME
        said.append(f"serve.engine.name = {name} (not stated)")
    if not isinstance(name, str):
        raise StackError("serve.engine: a mapping needs name, for example {name: vllm, token_budget: 4096}")
    if not isinstance(args, str):
        raise StackError('serve.engine.args must be one text, for example "--max-num-seqs 512"')
    engine = load_engine(name, settings, version, date)
    if version and version_of(version) is None:
        when = f", of {month_written(engine.month)}" if engine.month is not None else ", of no known month"
        said.append(f"engine version {version!r} is no number: taken as the newest {name}{when}")
    elif version and not date and not is_listed(engine.family, version):
        near = nearest_versions(engine.family, version)
        said.append(f"engine version {version} is no known release: priced as the nearest; known are {near}")
    if not args:
        return AskedEngine(engine, {}, tuple(said))
    stated = arguments_of(engine.family, args)
    twice = sorted(set(stated.settings) & set(settings))
    if twice:
        raise StackError(f"serve.engine: args and {', '.join(twice)} say the same thing; write one of them")
    if stated.unused:
        said.append(f"args without effect here: {', '.join('--' + word for word in stated.unused)}")
    return AskedEngine(load_engine(name, {**settings, **stated.settings}, version, date), stated.layout, tuple(said))


def inference_stack(engine: Engine) -> Stack:
    """The settings that the layer builders read, as an inference engine runs them: fused, nothing overlapped."""
    switches = {f.name: False for f in fields(Stack)}
    named: dict[str, Any] = {
        **switches,
        "name": engine.name,
        "title": engine.title,
        "constants_of": engine.name,
        "attention_kernel": "fused",
        "ep_overlap": "none",
        "grad_dtype": "bf16",
        "cuda_graphs": "full",
        "dispatcher": "deepep",
        "dispatch_dtype": "bf16",
        "grouped_kernels": True,
        "fused_loss": True,
        "master_dtype_bytes": 0.0,
        "source": engine.source,
        "author": "other framework",
        "words": (),
    }
    return Stack(**named)
