"""Find a model: by catalogue name or alias, by path (config.json or our YAML), or from an inline mapping."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from moesim.files.plain_yaml import FileError, check_printable, read_plain, read_text
from moesim.hwmodels.facts import did_you_mean, read_yaml
from moesim.sim.model.arch import ArchError, ModelArch, short
from moesim.sim.model.derived import derived
from moesim.sim.model.hf_config import from_hf
from moesim.sim.model.hub_names import format_of, names_of
from moesim.sim.model.reading import from_mapping, from_plain

__all__ = ["ArchError", "Published", "load_model", "model_names", "model_record", "published"]

_ARCHS = Path(__file__).parent / "archs"
_INDEX = _ARCHS / "_index.yaml"
_DEFAULT_TOLERANCE_PCT = 0.5
_MOST_CONFIG_BYTES = 4_000_000  # configs of models whose every layer differs are the largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the makers say: parameter counts (None where they say nothing) and how exactly they say it."""

    params_total: int | None
    params_active: int | None
    tolerance_pct: float
    reason: str
    verified: bool


def model_names() -> tuple[str, ...]:
    """Names of all models of the catalogue that can be simulated, sorted; aliases not included."""
    hidden = {*_index()["not_simulatable"], _INDEX.stem}
    return tuple(sorted(path.stem for path in _ARCHS.glob("*.yaml") if path.stem not in hidden))


def load_model(model: str | Path | Mapping[Any, Any]) -> ModelArch:
    """The model that is meant by a catalogue name or alias, a path, or an inline mapping; else an ArchError.

    A path is a Hugging Face config.json, a directory that holds one, or a YAML file in our format. A mapping
    is in our format, in Hugging Face form, a plain GPT {layers, hidden, heads, vocab}, or
    {base: name, layers: n} (a proxy: the first n layers of a model).
    """
    if isinstance(model, Mapping):
        return _from_mapping(model, "inline")
    if isinstance(model, Path):
        return _from_path(model)
    if not isinstance(model, str) or not model.strip():
        raise ArchError(f"model {short(model)} is no model; needs a name, a path or a mapping of sizes")
    return _from_text(model)


def model_record(name: str) -> Mapping[str, Any]:
    """The catalogue file of a model (name or alias) as it is written, with aliases, source and notes."""
    canonical = _canonical(name)
    if canonical is None:
        raise ArchError(f"unknown model {short(name)}; {did_you_mean(name, list(model_names()))}")
    record: Mapping[str, Any] = _read(_ARCHS / f"{canonical}.yaml")
    return record


def published(name: str) -> Published:
    """Published parameter counts of a catalogue model, with the tolerance that their rounding asks for."""
    record = model_record(name)
    counts = record.get("published") or {}
    return Published(
        params_total=counts.get("params_total"),
        params_active=counts.get("params_active"),
        tolerance_pct=float(counts.get("tolerance_pct", _DEFAULT_TOLERANCE_PCT)),
        reason=str(counts.get("reason", "")),
        verified=bool(counts.get("verified", True)),
    )


@cache
def _index() -> dict[str, Any]:
    index: dict[str, Any] = read_yaml(_INDEX)
    return index


_KINDS = {str: "text", list: "a list", bool: "a word"}


def _canonical(name: str) -> str | None:
    """The file name behind a name or alias, None when it is neither."""
    key = name.strip().lower()
    # letters, digits, "-" and "." only: a name must not reach outside the folder
    if not key.replace("-", "").replace(".", "").isalnum():
        return None
    alias: str | None = _index()["aliases"].get(key)
    if alias is not None:
        return alias
    return key if _is(Path.is_file, _ARCHS / f"{key}.yaml") else None


@cache
def catalogued(name: str) -> ModelArch:
    """The model of a file that ships with the product, by the file's name; read once."""
    return from_mapping(read_yaml(_ARCHS / f"{name}.yaml"), name)


def _from_text(model: str, proxies: bool = True) -> ModelArch:
    """A model by catalogue name, alias or path."""
    name = _canonical(model)
    if name is not None:
        return catalogued(name)
    if _looks_like_path(model) or _is(Path.exists, Path(model)):
        return _from_path(Path(model), proxies)
    hub = next((found for found in map(_canonical, names_of(model)) if found is not None), None)
    if hub is not None:
        return replace(catalogued(hub), said=(f"model = {hub} of the catalogue, for {model.strip()}",))
    fmt = format_of(model)
    if fmt is not None and names_of(model):
        raise ArchError(
            f"model {short(model)} is a copy in {fmt}; give the path of its config.json, or name the model and state "
            "serve.precision"
        )
    known = [*model_names(), *_index()["aliases"]]
    hint = did_you_mean(model.strip().lower().rpartition("/")[2], known)
    raise ArchError(f"unknown model {short(model)}: neither in the catalogue nor a path; {hint}")


def _looks_like_path(text: str) -> bool:
    return text.endswith((".json", ".yaml", ".yml", "/"))


def _is(question: Callable[[Path], bool], path: Path) -> bool:
    """Ask the file system; a path that it cannot even be asked for (too long, null byte) is not there."""
    try:
        return question(path)
    except (OSError, ValueError):
        return False


def _from_path(path: Path, proxies: bool = True) -> ModelArch:
    file = path / "config.json" if _is(Path.is_dir, path) else path
    if not _is(Path.is_file, file):
        raise ArchError(f"no model at {short(str(file))}: no such file; needs a config.json or a YAML")
    record = _read(file)
    if not isinstance(record, Mapping):
        holds = "is empty" if record is None else f"holds {_KINDS.get(type(record), 'a number')}"  # no word of it
        raise ArchError(f"no model at {short(str(file))}: {holds}; needs a mapping of sizes")
    name = file.parent.name if file.name == "config.json" else file.stem
    record = _with_formats(record, file)
    if "base" in record and not proxies:  # would allow a file that is its own base
        raise ArchError(f"model at {short(str(file))} is itself a proxy with a base; needs a whole model as base")
    return _from_mapping(record, name or "config")


def _with_formats(record: Mapping[Any, Any], file: Path) -> Mapping[Any, Any]:
    """The record of a config.json, with what an hf_quant_config.json beside it says of the weights' formats."""
    beside = file.parent / "hf_quant_config.json"
    if file.name != "config.json" or "quantization_config" in record or not _is(Path.is_file, beside):
        return record
    formats = _read(beside)
    if not isinstance(formats, Mapping) or not isinstance(formats.get("quantization"), Mapping):
        raise ArchError(f"{short(str(beside))} holds no mapping `quantization`; needs one with quant_algo")
    return {**record, "quantization": formats["quantization"]}


def _read(file: Path) -> Any:
    """Parse JSON or YAML; every way in which a file can be broken is an ArchError."""
    kind = "JSON" if file.suffix == ".json" else "YAML"
    try:
        if kind == "YAML":
            return read_plain(file, "is not there")
        value = json.loads(read_text(file, "is not there", _MOST_CONFIG_BYTES), object_pairs_hook=_once)
        check_printable(value)
        return value
    except (FileError, ArchError) as error:
        raise ArchError(f"cannot read {short(str(file))}: {error}") from None
    except RecursionError:
        raise ArchError(f"cannot read {short(str(file))} as {kind}: it is nested too deep") from None
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise ArchError(f"cannot read {short(str(file))} as {kind}: {where}") from None
    except ValueError:  # numbers of thousands of digits
        raise ArchError(f"cannot read {short(str(file))} as {kind}: a number without end") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The mapping of these pairs; JSON itself lets the last of two equal keys win in silence."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(name for name, _ in pairs)
        twice = short(next(name for name in names if names[name] > 1)[:40])
        raise ArchError(f"key {twice} is given twice in one mapping; keep the one that is meant")
    return made


def _from_mapping(record: Mapping[Any, Any], name: str) -> ModelArch:
    if "base" in record:
        named = record["base"]
        if not isinstance(named, str):
            raise ArchError(f"model with base: base is {short(named)}; needs text: a name or a path")
        return derived(_from_text(named, proxies=False), record)
    if any(key in record for key in ("model_type", "architectures", "text_config")):
        return from_hf(record, name)
    if "heads" in record:
        return from_plain(record, name)
    return from_mapping(record, name)
