"""The shipped profile of a GPU as a file's text would hold it, so that a user's own parts replace some of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from moesim.calibrate.fit.kernel_tables import SYSTEM_OF
from moesim.calibrate.measure.driver_names import DriverName, gpu_of_driver
from moesim.calibrate.own.bad_source import BadSource
from moesim.hwmodels.facts import FactError, did_you_mean
from moesim.hwmodels.gpu import load_gpu
from moesim.hwmodels.machine import SCHEMA
from moesim.hwmodels.profile import load_profile, measured_gpus


def gpu_named(text: str) -> str:
    """A catalogue GPU: h200-sxm, an alias, or h200_sxm as kernel tables spell it. BadSource otherwise."""
    spelled = {directory: name for name, directory in SYSTEM_OF.items()}
    name = spelled.get(text, text)
    for each in (name, name.replace("_", "-"), name.upper()):
        try:
            return load_gpu(each).name
        except FactError:
            continue
    known = [*spelled, *spelled.values()]
    hint = did_you_mean(text, known) if text else f"one of {', '.join(SYSTEM_OF)}, or another GPU of `moesim show gpus`"
    raise BadSource(f"--system {text or 'is missing'}: {hint}")


def gpu_of(asked: str, described: str, file: str, notes: list[str]) -> str:
    """The GPU that a log or trace is of: as asked with --system, else as the file names it.

    Adds to `notes` what was taken from the file. BadSource where both say different ones, and where neither says any.
    """
    told = gpu_of_driver(described) if described else DriverName("")
    if asked:
        name = gpu_named(asked)
        if told.gpu and told.gpu != name:
            raise BadSource(
                f"{file} is of {described!r}, which is {told.gpu}, but --system says {name}; leave --system out, or "
                "give the file of that GPU"
            )
        if described and not told.gpu:
            notes.append(f"the file calls the GPU {described!r}, which the catalogue does not know: {name} as asked")
        return name
    if told.gpu:
        notes.append(f"GPU {told.gpu} by the file's {described!r}" + (f": {told.note}" if told.note else ""))
        return told.gpu
    said = f"names a GPU that the catalogue does not know ({described!r})" if described else "names no GPU"
    raise BadSource(f"{file} {said}; say which it is with --system, such as --system h100-sxm")


def shipped_profile(gpu: str) -> dict[str, Any]:
    """The profile that moesim uses for a catalogue GPU, its own or a derived one, ready for JSON."""
    if gpu in measured_gpus():
        text = files("moesim.hwmodels").joinpath("profiles", f"{gpu}.json").read_text(encoding="utf-8")
        raw: dict[str, Any] = json.loads(text)
        return raw | {"schema": SCHEMA}
    lent = load_profile(gpu)
    return {
        "schema": SCHEMA,
        "gpu": lent.gpu,
        "derived_from": lent.derived_from,
        "derived_note": lent.derived_note,
        "gemm": {dtype: asdict(fit) for dtype, fit in lent.gemms.items()},
        "grouped_gemm": {dtype: asdict(fit) for dtype, fit in lent.grouped_gemms.items()},
        "attention": {dtype: asdict(fit) for dtype, fit in lent.attentions.items()},
        "collectives": asdict(lent.collectives),
        "provenance": {key: asdict(each) for key, each in lent.provenance.items()},
    }
