"""Units live in names: every float field of a record says what it is measured in, or is listed here with a reason."""

from __future__ import annotations

import dataclasses
import typing
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("hwmodels", "traces", "sim", "calibrate", "reports")

# endings that say the unit: seconds, bytes, rates, watts, money, shares and counts
UNITS = (
    "_s", "_s2", "_bytes", "_flops", "_w", "_per_s", "_per_s_per_gpu", "_per_s_per_user", "_usd", "_per_hour", "_gib",
    "_pct", "_share", "_efficiency", "_exponent", "_power", "_factor", "_copies", "_error", "_bias", "_ratio", "_rows",
    "_keys",
    "_columns", "_weight", "_passes", "_dim", "_s_per_k", "_s_per_key", "_sqrt_s", "_tokens", "_layers", "_inch",
    "_joules", "_replicas",
    "_per_step", "_params", "_s_per_param", "_s_per_flop", "_hours", "_per_kwh", "_mwh", "_tonnes", "_per_gpu_hour",
)  # fmt: skip

# field -> why its name carries no ending
PLAIN = {
    "bytes": "is the unit",
    "flops": "is the unit",
    "seconds": "is the unit",
    "goodput": "a fraction of the wall time",
    "pue": "a ratio of powers",
    "dimensions": "axes of a torus that a group spans",
    "side": "chips along one of them",
    "usd": "is the unit",
    "usd_per_million_output_tokens_at_most": "dollars; at the highest rate, as the name says",
    "factor": "a pure factor on a time",
    "gain": "a fraction of a cost",
    "p10": "in the unit of its axis, as `value`",
    "p90": "in the unit of its axis, as `value`",
    "half_width": "of a logarithm",
    "doublings": "a count, in parts",
    "log_ratio": "measured over predicted, of the logarithm",
    "tokens": "is the unit: a count",
    "inches": "is the unit",
    "scale": "a pure factor on a time",
    "spread": "a fraction: one standard deviation over the mean",
    "exposed": "a fraction of a transfer",
    "imbalance": "busiest over mean",
    "oversubscription": "a ratio of rates",
    "sigma": "of the logarithm, no unit",
    "group_sigma": "of the logarithm, no unit",
    "topic": "of the logarithm, as users write it",
    "group_topic": "of the logarithm, as users write it",
    "drift": "a correlation, as users write it",
    "sequences": "is the unit: a count, in parts where ranks share one",
    "sequences_per_rank": "is the unit: a count, in parts where ranks share one",
    "mfu": "a fraction of the peak",
    "share": "a fraction, of what the record names",
    "growth": "a fraction a year, as users write it",
    "years": "is the unit",
    "minutes": "is the unit",
    "rack_units": "is the unit",
    "value": "a constant, its unit is in its key",
    "decline": "a share by which long kernels slow down",
    "pad_k": "steps of k",
    "lognormal": "sigma of the logarithm, as users write it",
    "offload_activations": "a fraction, as users write it",
    "failures": "a count, expected",
    "kv_fraction": "a fraction, as users write it",
    "resident": "a fraction of the experts, as users write it",
    "hit_rate": "a fraction of the uses, as users write it",
    "acceptance": "a probability, as users write it",
    "warmup": "a fraction of the requests, as users write it",
    "mean_turns": "a count, of requests of a session",
    "bytes_per_token": "is the unit",
    "times": "a count of equal kernels",
    "kv_use": "a fraction of the blocks",
    "mean_batch": "a count of sequences",
    "exposed_communication": "a fraction of the wall time",
    "rate_sigma": "of the logarithm, no unit",
    "width": "of one element, bytes",
}
# records whose fields are all of one kind that the record's docstring names
WHOLE_RECORDS = {
    "ServeMemory": "bytes by kind",
    "Spread": "seconds: mean and quantiles of one latency",
    "Range": "low and high in the unit of its metric",
    "Percentile": "seconds, and which percentile they are",
    "Seed": "a published number in the unit that it names",
    "RankMemory": "bytes by kind",
    "Width": "logarithms of factors",
    "Law": "standard deviations of logarithms",
    "Legs": "seconds by what bounds a kernel, and the exponent that joins them",
    "Estimate": "one number in the unit of its metric, which it names",
    "Record": "predicted and measured in the unit of its metric, which it names",
    "Sustained": "factors on times, by kind of kernel",
    "Alternative": "measured and predicted in the unit of one metric",
    "BreakEven": "values in the unit of its axis, which it names",
    "Hardware": "multiples of the data sheet's bandwidths",
    "Cost": "dollars, or GPU-hours where there is no price, of a million tokens",
    "Mixture": "numbers of weights, tokens and experts, and a share of experts",
    "LawValue": "numbers of parameters",
    "DenseEqual": "numbers of parameters, and of tokens",
    "Ranking": "rank correlations between -1 and 1, shares in percent by name",
}


def records() -> list[type]:
    """All dataclasses of the rooms."""
    found: dict[str, type] = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(("moesim", *path.relative_to(ROOT).with_suffix("").parts))
            if path.parent.name == "fit":  # need the extra "fit"
                continue
            for value in vars(import_module(name.removesuffix(".__init__"))).values():
                ours = isinstance(value, type) and value.__module__.startswith(f"moesim.{room}")
                if ours and dataclasses.is_dataclass(value):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return [found[key] for key in sorted(found)]


def is_float(hint: object) -> bool:
    """float, or float | None."""
    if isinstance(hint, UnionType) or typing.get_origin(hint) is typing.Union:
        return float in typing.get_args(hint) and set(typing.get_args(hint)) <= {float, int, NoneType}
    return hint is float


@pytest.mark.parametrize("record", records(), ids=lambda r: f"{r.__module__}.{r.__qualname__}")
def test_float_fields_say_their_unit(record: type) -> None:
    if record.__qualname__ in WHOLE_RECORDS:
        return
    names = {f.name for f in dataclasses.fields(record)}
    try:
        hints = typing.get_type_hints(record)
    except NameError:  # names imported for type checking only: their annotations are no floats
        hints = {n: float for n, h in record.__annotations__.items() if h in ("float", "float | None")}
    unclear = [
        name for name in names & set(hints) if is_float(hints[name]) and not name.endswith(UNITS) and name not in PLAIN
    ]
    assert not unclear, f"give {sorted(unclear)} a unit ending, or a reason in PLAIN"


@pytest.mark.parametrize("record", records(), ids=lambda r: f"{r.__module__}.{r.__qualname__}")
def test_no_field_uses_a_scaled_unit(record: type) -> None:
    """SI base units only inside: no milliseconds, no gigabytes, no percent where a fraction would do."""
    scaled = ("_ms", "_us", "_ns", "_gb", "_mb", "_tb", "_tflops", "_gbps", "_mhz", "_ghz", "_kw", "_mw")
    assert not [f.name for f in dataclasses.fields(record) if f.name.lower().endswith(scaled)]
