"""Hardware: what a name of a GPU, node, fabric, server or rented instance stands for; one's own records beside ours.

A file of one's own has the sections of the catalogue (`gpus`, `nodes`, `fabrics`, `servers`, `instances`) and its keys.
What such a record leaves out is taken from the GPU that it is `like`, or by rule, and said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from moesim.files.plain_yaml import FileError, read_plain
from moesim.hwmodels.facts import (
    FabricRecord,
    FactError,
    GpuRecord,
    InstanceRecord,
    NodeRecord,
    R,
    ServerRecord,
    catalogue,
    checked,
    did_you_mean,
    gpu_spellings,
)
from moesim.hwmodels.own_records import FORMS, completed

Records = Mapping[str, Mapping[str, dict[str, Any]]]  # section -> name -> record
_MODELS: dict[str, type[Any]] = {
    "gpus": GpuRecord, "nodes": NodeRecord, "fabrics": FabricRecord, "servers": ServerRecord,
    "instances": InstanceRecord,
}  # fmt: skip
_MOST_RECORDS = 1000  # of one section


@dataclass(frozen=True, slots=True)
class Hardware:
    """The catalogue, and records of one's own that are in no catalogue. `said`: per record, what was assumed."""

    origin: str = ""  # where one's own are from
    own: Records = field(default_factory=dict)
    said: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    def names(self, section: str) -> tuple[str, ...]:
        """Names of all records of a section, one's own first."""
        return (*self.own.get(section, {}), *catalogue(section))

    def record(self, section: str, name: str) -> Any:
        """The checked record of that name. FactError with the nearest names where there is none."""
        own = self.own.get(section, {})
        if name in own:
            return checked(_MODELS[section], f"{self.origin}: {section}", name, own[name])
        known = catalogue(section)
        if name not in known:
            raise FactError(
                f"unknown {section.removesuffix('s')} {name!r}; {did_you_mean(name, list(self.names(section)))}"
            )
        return checked(_MODELS[section], f"specs/{section}.yaml", name, known[name])

    def gpu_called(self, name: str) -> str | None:
        """The GPU that a name or alias means; None for neither."""
        if name in self.own.get("gpus", {}):
            return name
        return gpu_spellings().get(name)

    def instance_called(self, name: str) -> str | None:
        """The rented instance that a spelling means; None for none."""
        own = {_plain(given): given for given in self.own.get("instances", {})}
        return own.get(_plain(name)) or _instance_spellings().get(_plain(name))

    def node_of(self, name: str) -> str | None:
        """The node or instance that a name of either, or of a GPU (its first node), stands for; None for no such."""
        if name in self.names("nodes"):
            return name
        gpu = self.gpu_called(name)
        if gpu is None:
            return self.instance_called(name)
        return next((node for node in self.names("nodes") if self._gpu_of(node) == gpu), None)

    def _gpu_of(self, node: str) -> str | None:
        """Canonical name of the GPU in a node."""
        record = self.own.get("nodes", {}).get(node) or catalogue("nodes")[node]
        return self.gpu_called(str(record.get("gpu")))

    def assumed(self, *records: tuple[str, str]) -> list[str]:
        """What was assumed about these (section, name), in one's own file."""
        return [line for key in records for line in self.said.get(key, ())]


SHIPPED = Hardware()


def _plain(spelling: str) -> str:
    """A spelling without case, spaces, dots and dashes, and without Azure's first word."""
    return "".join(c for c in spelling[:100].lower() if c.isalnum()).removeprefix("standard")


@cache
def _instance_spellings() -> dict[str, str]:
    records = catalogue("instances")
    return {_plain(alias): name for name, r in records.items() for alias in (*r.get("aliases", []), name)}


def hardware_of(asked: str | Mapping[str, Any] | None) -> Hardware:
    """The catalogue, with what a file (its path) or a mapping adds to it. FactError for records that cannot be."""
    if asked is None:
        return SHIPPED
    if isinstance(asked, Mapping):
        try:
            text = json.dumps(asked, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise FactError("cluster.hardware: holds something that is no text, number, list or mapping") from None
        return _inline(text)
    try:
        status = Path(asked).stat()
    except (OSError, ValueError):
        raise FactError(f"no hardware file {asked[:200]!r}; `moesim init --hardware my.yaml` writes one") from None
    return _from_file(asked, status.st_mtime_ns, status.st_size)


def holds_hardware(path: str) -> bool:
    """Whether a file is one of hardware: a mapping with a section of it."""
    try:
        raw = read_plain(Path(path), "")
    except FileError:
        return False
    return isinstance(raw, Mapping) and any(section in FORMS for section in raw)


@lru_cache(maxsize=32)
def _inline(text: str) -> Hardware:
    return _hardware(json.loads(text), "cluster.hardware")


@lru_cache(maxsize=32)
def _from_file(path: str, changed_ns: int, size_bytes: int) -> Hardware:
    """The file as it was at that time: one that is written again is read again."""
    try:
        return _hardware(read_plain(Path(path), "is a folder, or is not there"), path)
    except FileError as error:
        raise FactError(f"{path[:200]}: {error}") from None


def _hardware(raw: Any, origin: str) -> Hardware:
    """Every record completed and checked, so that a wrong one is refused before anything asks for it."""
    if not isinstance(raw, Mapping) or not raw:
        known = ", ".join(FORMS)
        empty = "" if raw else "is empty; "
        raise FactError(f"{origin}: {empty}hardware is a mapping with some of {known}, each of names and records")
    own: dict[str, dict[str, dict[str, Any]]] = {}
    said: dict[tuple[str, str], tuple[str, ...]] = {}
    for section in raw:
        if section not in FORMS:
            raise FactError(
                f"{origin}: unknown section {str(section)[:60]!r}; {did_you_mean(str(section), list(FORMS))}"
            )
        own[section] = {}
        for name, record in _section(raw[section], f"{origin}: {section}").items():
            own[section][name], said[(section, name)] = completed(section, name, record, origin)
    found = Hardware(origin, own, said)
    for section, records in own.items():
        for name in records:
            _check_record(found, section, name)
    return found


def _section(raw: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(raw, Mapping) or not all(isinstance(record, Mapping) for record in raw.values()):
        raise FactError(f"{where}: is a mapping of names to records, for example {{my-gpu: {{like: h100-sxm, ...}}}}")
    if len(raw) > _MOST_RECORDS:
        raise FactError(f"{where}: holds {len(raw):,} records; at most {_MOST_RECORDS:,} are read")
    return {str(name): dict(record) for name, record in raw.items()}


def _check_record(found: Hardware, section: str, name: str) -> None:
    """FactError for a record that is wrong by itself, takes a name of the catalogue, or points at nothing."""
    where = f"{found.origin}: {section}.{name}"
    taken = name in catalogue(section) or (section == "gpus" and name in gpu_spellings())
    if taken:
        hint = f"for one like it, write like: {name}" if section == "gpus" else "the catalogue's stays as it is"
        raise FactError(f"{where}: is a name of the catalogue; give yours another ({hint})")
    record = found.record(section, name)
    if isinstance(record, GpuRecord) and not (
        record.peak_flops_per_s.get("bf16") or record.peak_flops_per_s.get("fp16")
    ):
        raise FactError(
            f"{where}.peak_flops_per_s: needs the 16-bit peak, bf16 or fp16, dense (no structured sparsity)"
        )
    if isinstance(record, NodeRecord):
        _check_node(found, record, where)
    if isinstance(record, InstanceRecord) and record.node not in found.names("nodes"):
        raise FactError(
            f"{where}.node: unknown node {record.node[:60]!r}; {did_you_mean(record.node, list(found.names('nodes')))}"
        )
    fabric = getattr(record, "fabric", None)
    if fabric is not None and fabric not in found.names("fabrics"):
        raise FactError(
            f"{where}.fabric: unknown fabric {fabric[:60]!r}; {did_you_mean(fabric, list(found.names('fabrics')))}"
        )
    if section == "servers" and name not in found.names("nodes"):
        raise FactError(f"{where}: a server is named after its node, and no node is called so")


def _check_node(found: Hardware, node: NodeRecord, where: str) -> None:
    gpu = found.gpu_called(node.gpu)
    if gpu is None:
        raise FactError(
            f"{where}.gpu: unknown gpu {node.gpu[:60]!r}; {did_you_mean(node.gpu, list(found.names('gpus')))}"
        )
    spec: GpuRecord = found.record("gpus", gpu)
    if node.gpus_per_domain > 1 and not (
        node.scale_up_bytes_per_s or spec.scale_up_bytes_per_s or spec.pcie_bytes_per_s
    ):
        raise FactError(
            f"{where}: nothing says how its GPUs reach each other; give scale_up_bytes_per_s, of one GPU and direction"
        )
    nic = (node.nic_bytes_per_s or 0.0) * (node.nics_per_host or 0.0) / node.gpus_per_host
    if spec.pcie_bytes_per_s and nic > spec.pcie_bytes_per_s * 1.0001:
        raise FactError(
            f"{where}: its NICs carry {nic / 1e9:g} GB/s per GPU, more than the GPU's PCIe slot "
            f"({spec.pcie_bytes_per_s / 1e9:g} GB/s); lower nic_bytes_per_s, or give the GPU pcie_bytes_per_s"
        )


def record_of(cls: type[R], section: str, name: str, hardware: Hardware = SHIPPED) -> R:
    """The record of a section as its own class. FactError as `Hardware.record`."""
    record = hardware.record(section, name)
    assert isinstance(record, cls)
    return record
