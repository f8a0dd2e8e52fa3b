"""Coefficients from a profile file, checked one by one: a number of the right kind, finite, in a range that can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

from moesim.hwmodels.kernel_fits import ATTENTION_AXES, GEMM_AXES, STREAM_AXES, Surface, surface_from
from moesim.refusal import Refusal

R = TypeVar("R")
_AXES = (GEMM_AXES, ATTENTION_AXES, STREAM_AXES)
_MOST_NODES = 4096
_MOST_PER_MILLE = 10_000  # e^10: a formula that is four orders of magnitude off describes nothing

# least and most of a coefficient by how its name ends; the first that fits
_RANGES: tuple[tuple[str, float, float], ...] = (
    ("flops_efficiency", 1e-6, 1000.0),  # of peak; caches of a CPU answer faster than its memory
    ("bandwidth_efficiency", 1e-6, 1000.0),
    ("link_efficiency", 1e-6, 1000.0),
    ("pair_efficiency", 1e-6, 1000.0),
    ("a2a_efficiency", 1e-6, 1000.0),
    ("efficiency_ratio", 1e-3, 10.0),
    ("efficiency", 0.0, 1000.0),  # none where the GPU lacks what it is of
    ("overlap_power", 1.0, 1000.0),
    ("_exponent", 0.0, 2.0),
    ("_share", 0.0, 100.0),
    ("decline", 0.0, 1.0),
    ("decline_scale_s", 1e-12, 1e6),
    ("_sqrt_s", 0.0, 100.0),
    ("_s", 0.0, 100.0),  # one launch, hop or step
    ("_per_key", 0.0, 1.0),
    ("_per_k", 0.0, 1.0),
    ("_ranks", 0, 1e6),
    ("tile_m", 1, 1e6),
    ("tile_n", 1, 1e6),
    ("tile_rows", 1, 1e6),
    ("_rows", 1e-9, 1e9),
    ("bias", -1e6, 1e6),
    ("_factor", 0.0, 1e6),
    ("", 0.0, 1e15),
)


class BadNumber(Refusal):
    """A number of a file that cannot be; the message says where, what it is and what would do, not whose file."""


def number(value: object, place: str, least: float, most: float) -> float:
    """A finite number in [least, most]; BadNumber otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadNumber(f"{place} is {_kind(value)}; it must be a number from {least:g} to {most:g}")
    if not least <= value <= most:  # what is no number is in no range; integers may be larger than any float
        said = f"{value:g}" if isinstance(value, float) else "out of range"
        raise BadNumber(f"{place} is {said}; it must be a number from {least:g} to {most:g}")
    return float(value)


def whole(value: object, place: str, least: int, most: int) -> int:
    """A whole number in [least, most]; BadNumber otherwise."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadNumber(f"{place} is {_kind(value)}; it must be a whole number from {least} to {most}")
    if not least <= value <= most:
        raise BadNumber(f"{place} is out of range; it must be a whole number from {least} to {most}")
    return value


def mapping(value: object, place: str) -> Mapping[str, Any]:
    """A mapping with names as keys; BadNumber otherwise."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BadNumber(f"{place} is {_kind(value)}; it must be a mapping by name")
    return value


def checked_fit(record: type[R], raw: object, place: str) -> R:
    """A record of coefficients, every field of it checked. BadNumber for one that is missing, unknown or cannot be."""
    given = mapping(raw, place)
    known = _fields(record)  # type: ignore[arg-type]  # classes are hashable; the checker doubts it of type variables
    unknown = [name for name in given if name not in known]
    missing = [name for name, (_, needed) in known.items() if needed and name not in given]
    if unknown:
        raise BadNumber(f"{place}.{unknown[0][:40]} is not known; {place} holds {', '.join(known)}")
    if missing:
        raise BadNumber(f"{place}.{missing[0]} is missing")
    return record(**{name: _value(name, value, known[name][0], f"{place}.{name}") for name, value in given.items()})


@cache
def _fields(record: type[Any]) -> dict[str, tuple[str, bool]]:
    """Kind of each field as it is annotated, and whether it has to be given."""
    return {f.name: (str(f.type), f.default is MISSING and f.default_factory is MISSING) for f in fields(record)}


def _value(name: str, value: object, kind: str, place: str) -> Any:
    if value is None and kind.endswith("None"):
        return None
    if kind.startswith("Surface"):
        return _surface(mapping(value, place), place)
    least, most = next((low, high) for ending, low, high in _RANGES if name.endswith(ending))
    if kind.startswith("tuple[int"):
        if not isinstance(value, (list, tuple)) or not value:
            raise BadNumber(f"{place} is {_kind(value)}; it must be a list of whole numbers")
        return tuple(whole(each, f"{place}[{i}]", 1, 10**7) for i, each in enumerate(value))
    if kind.startswith("int"):
        return whole(value, place, int(least), int(most))
    return number(value, place, least, most)


def _surface(raw: Mapping[str, Any], place: str) -> Surface:
    axes, nodes, values = raw.get("axes"), raw.get("nodes"), raw.get("per_mille")
    if not isinstance(axes, (list, tuple)) or tuple(axes) not in _AXES:
        raise BadNumber(f"{place}.axes are none of a surface that is known; calibrate again")
    if not isinstance(nodes, (list, tuple)) or not isinstance(values, (list, tuple)) or not values:
        raise BadNumber(f"{place} lacks nodes or per_mille")
    for axis, row in zip(axes, nodes, strict=False):
        if not isinstance(row, (list, tuple)) or not 1 <= len(row) <= _MOST_NODES:
            raise BadNumber(f"{place}.nodes of {axis} are no list of numbers")
        held = [number(x, f"{place}.nodes of {axis}", -1e6, 1e6) for x in row]
        if any(b <= a for a, b in pairwise(held)):
            raise BadNumber(f"{place}.nodes of {axis} do not ascend")
    for value in values:
        number(value, f"{place}.per_mille", -_MOST_PER_MILLE, _MOST_PER_MILLE)
    try:
        return surface_from(raw)  # type: ignore[return-value]  # None only for None
    except ValueError as error:
        raise BadNumber(f"{place}: {error}") from None


def _kind(value: object) -> str:
    """What a value is, not the value: files are of others."""
    return {type(None): "null", bool: "true or false", str: "text", dict: "a mapping", list: "a list"}.get(
        type(value), type(value).__name__
    )
