"""Coefficients of network formulas from profiles/comm/*.yaml: one value each, or one per GPU generation."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import yaml

from moesim.hwmodels.facts import FactError

T = TypeVar("T")


@cache
def comm_records(name: str) -> dict[str, dict[str, Any]]:
    """All records of profiles/comm/<name>.yaml: key -> value, kind (fitted | assumed), why."""
    text = files("moesim.hwmodels").joinpath("profiles", "comm", f"{name}.yaml").read_text(encoding="utf-8")
    records: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return records


def load_constants(cls: type[T], name: str, generation: str) -> T:
    """`cls` with every field from the file: `field[generation]` where there is one, else `field`."""
    records, found = comm_records(name), {}
    for field in fields(cls):  # type: ignore[arg-type]  # only dataclasses are passed
        record = records.get(f"{field.name}[{generation}]") or records.get(field.name)
        if record is None:
            raise FactError(f"profiles/comm/{name}.yaml lacks {field.name}")
        found[field.name] = float(record["value"])
    return cls(**found)
