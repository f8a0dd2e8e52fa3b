"""Records of one's own hardware completed: text with units into numbers, and what is left out by rule, each said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moesim.hwmodels.facts import FactError, catalogue, did_you_mean, gpu_spellings
from moesim.hwmodels.units import UnitError, parse_quantity

FORMS = ("gpus", "nodes", "fabrics", "servers", "instances")  # sections of a file, as of the catalogue
_UNITS = {"_bytes_per_s": "B/s", "_flops_per_s": "FLOP/s", "_bytes": "B", "_w": "W", "latency_s": "s"}
# what any machine of today or of the next decade has: anything else is a slip of units
_PLAUSIBLE = {
    "_flops_per_s": (1e9, 1e19), "_bytes_per_s": (1e6, 1e16), "latency_s": (0.0, 1.0), "_bytes": (1e5, 1e16),
    "_w": (1.0, 1e5), "gpus": (1, 100_000), "gpus_per_domain": (1, 100_000), "gpus_per_host": (1, 1024),
    "nics_per_host": (0, 1024), "sm_count": (1, 100_000), "oversubscription": (1.0, 1e4),
}  # fmt: skip
# what a GPU has from the one that it is like, where it says nothing
_LENT = ("vendor", "arch", "l2_bytes", "sm_count", "pcie_bytes_per_s", "scale_up_bytes_per_s", "tdp_w")
_HOST_BYTES_PER_GPU = 2.0**38  # assumed: 256 GiB, as DGX hosts have


def completed(section: str, name: str, raw: Mapping[str, Any], origin: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A record with all that the catalogue's have, and what was taken for what it does not say.

    FactError for text that is no quantity of its unit, and for numbers that no machine has.
    """
    where = f"{origin}: {section}.{name}"
    record = {str(key): _number(f"{where}.{key}", str(key), value) for key, value in raw.items()}
    record.setdefault("source", f"given in {origin}")
    if section == "gpus":
        return _gpu(record, name, where)
    if section == "nodes":
        return _node(record, name, where)
    if section == "fabrics":
        return _fabric(record, name)
    return _priced(record, "usd_per_hour" if section == "instances" else "usd", origin), ()


def _number(where: str, key: str, value: Any) -> Any:
    """A quantity in SI units where the key ends in one; of peaks by format, each."""
    unit = next((unit for ending, unit in _UNITS.items() if key.endswith(ending)), None)
    if unit is None or value is None:
        return _plausible(where, key, value)
    try:
        if isinstance(value, Mapping):
            return {
                str(k): None if v is None else _plausible(where, key, parse_quantity(v, unit)) for k, v in value.items()
            }
        return _plausible(where, key, parse_quantity(value, unit))
    except UnitError as error:
        raise FactError(f"{where}: {error}") from None


def _plausible(where: str, key: str, value: Any) -> Any:
    """The number itself. FactError for one that no machine has, 0 apart, which says that there is none."""
    low, high = next((ends for ending, ends in _PLAUSIBLE.items() if key.endswith(ending)), (None, None))
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and low is not None and high is not None and value != 0 and not low <= value <= high:
        raise FactError(
            f"{where}: {value:g} is not between {low:g} and {high:g}; write SI units, or text with its unit"
        )
    return value


def _priced(record: dict[str, Any], key: str, origin: str) -> dict[str, Any]:
    """A price that is one number as a range of one, dated where the file is the date."""
    price = record.get(key)
    if isinstance(price, int | float) and not isinstance(price, bool):
        record[key] = {"low": price, "high": price, "date": f"as given in {origin}"}
    return record


def _gpu(record: dict[str, Any], name: str, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    said = []
    price = record.get("price_usd_per_hour")
    if isinstance(price, int | float) and not isinstance(price, bool):
        record["price_usd_per_hour"] = {"low": price, "high": price, "source": record["source"]}
    like = record.get("like")
    if like is not None:
        lender = _lender(str(like), where)
        record["like"] = lender["name"]
        record.setdefault("family", lender.get("family") or lender["name"])
        record.setdefault("generation", lender.get("generation") or record["family"])
        lent = [key for key in _LENT if key not in record and lender.get(key) is not None]
        record |= {key: lender[key] for key in lent}
        told = ", ".join(f"{key} {lender[key]:g}" for key in lent if key not in ("vendor", "arch"))
        said.append(
            f"{name}: kernels and constants of {lender['name']} (like)" + (f"; also its {told}" if told else "")
        )
    else:
        record.setdefault("vendor", "unknown")
        record.setdefault("arch", "unknown")
        record.setdefault("pcie_bytes_per_s", 0.0)
        if "tdp_w" not in record:
            raise FactError(f"{where}: tdp_w is missing, watts of one GPU; or say like: h100-sxm, whose it then has")
        said.append(f"{name}: kernels of the nearest measured GPU; `like: h100-sxm` would name one")
    if "usable_bytes" not in record and "hbm_bytes" in record:
        said.append(f"{name}: all of its hbm_bytes can be used (assumed); usable_bytes says what the driver reports")
    return record, tuple(said)


def _lender(like: str, where: str) -> dict[str, Any]:
    known = gpu_spellings()
    if like not in known:
        raise FactError(f"{where}.like: unknown GPU {like[:60]!r}; {did_you_mean(like, list(known))}")
    return {"name": known[like], **catalogue("gpus")[known[like]]}


def _node(record: dict[str, Any], name: str, where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    said = []
    if "gpu" not in record:
        raise FactError(f"{where}: gpu is missing: the name of the GPU that it holds")
    for key in ("gpus", "gpus_per_domain", "gpus_per_host"):
        given = record.get(key)
        if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
            raise FactError(f"{where}.{key}: {repr(given)[:40]} must be a whole number of at least 1")
    gpus = record.pop("gpus", None)
    if gpus is not None:
        record.setdefault("gpus_per_domain", gpus)
        record.setdefault("gpus_per_host", gpus)
    if "gpus_per_host" not in record and "gpus_per_domain" not in record:
        raise FactError(
            f"{where}: gpus is missing: how many GPUs it holds (gpus_per_domain and gpus_per_host in a rack)"
        )
    if "gpus_per_host" not in record:
        record["gpus_per_host"] = record["gpus_per_domain"]
    record.setdefault("gpus_per_domain", record["gpus_per_host"])
    per_host = record["gpus_per_host"]
    if record.get("nic_bytes_per_s") and "nics_per_host" not in record:
        record["nics_per_host"] = per_host
        said.append(f"{name}: one NIC per GPU (assumed); nics_per_host says how many")
    if "host_memory_bytes" not in record:
        record["host_memory_bytes"] = _HOST_BYTES_PER_GPU * per_host
        record["host_memory_source"] = "assumed: 256 GiB per GPU"
        said.append(f"{name}: hosts have 256 GiB of memory per GPU (assumed); host_memory_bytes says how much")
    record.setdefault("host_memory_source", record["source"])
    return record, tuple(said)


def _fabric(record: dict[str, Any], name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    said = []
    for key, value, told in (
        ("topology", "rail-optimised", "rail-optimised"),
        ("oversubscription", 1.0, "not oversubscribed"),
    ):
        if key not in record:
            record[key] = value
            said.append(f"{name}: {told} (assumed); {key} says what it is")
    return record, tuple(said)
