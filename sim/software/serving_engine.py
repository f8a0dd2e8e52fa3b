"""Engine: a serving engine as named settings; its seconds come from engines/constants.yaml through a Tuning."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.hwmodels.gpu import GpuSpec
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
}
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
    work_bytes: float
    kv_of: str  # kv_fraction counts of the total memory, or of what weights and work space leave free
    prefix_cache: bool
    poll_steps: int  # decode passes between two looks at the queue
    stream_tokens: int  # tokens that reach the client together: it sees its first one when all of them are there
    exchange: str  # how tokens travel to experts under attention data parallelism, see sim/serve/layers.py
    kv_dtype: dict[str, str]
    source: str

    def cache_dtype(self, gpu: GpuSpec, precision: str, experts: int) -> str:
        """Format of keys and values that this engine takes by default; 16 bits unless the model is quantised.

        Block-scaled FP8 checkpoints of models with many experts bring no scales for the cache: 16 bits on Hopper.
        """
        if precision not in ("fp8", "fp8_block", "fp4", "nvfp4"):
            return "bf16"
        if gpu.generation == "hopper" and experts >= _UNSCALED_CACHE:
            return "bf16"
        return self.kv_dtype.get(gpu.generation, self.kv_dtype["*"])


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


def load_engine(name: str, overrides: dict[str, Any] | None = None) -> Engine:
    """The engine called `name` with settings replaced. StackError for a name or setting that does not exist."""
    records = _records()
    if name not in records:
        raise StackError(f"unknown engine {name!r}; {did_you_mean(name, list(records))}")
    lacks = sorted({f.name for f in fields(Engine)} - {"name", *records[name]})
    if lacks:
        raise StackError(f"engine {name!r} in engines.yaml lacks {', '.join(lacks)}; copy the record of another engine")
    engine = Engine(name=name, **records[name])
    known = [*_CHOICES, *_RANGES]
    for key, value in (overrides or {}).items():
        if key not in known:
            raise StackError(f"unknown engine setting {key!r}; {did_you_mean(key, known)}")
        changed: dict[str, Any] = {key: _checked(key, value)}
        engine = replace(engine, **changed)
    return engine


def engine_asked(ask: str | dict[str, Any]) -> Engine:
    """The engine that a scenario names: a name, or a mapping of name and settings. StackError without a name."""
    if isinstance(ask, str):
        return load_engine(ask)
    settings = dict(ask)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise StackError("serve.engine: a mapping needs name, for example {name: vllm, token_budget: 4096}")
    return load_engine(name, settings)


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
    }
    return Stack(**named)
