"""A machine that was measured as a whole: its profile file, what one rank of it is, and the cluster it makes.

The file is a kernel profile like the shipped ones, with `schema`, `machine`, and `beside`: the same measured while
n ranks shared the device ("2": ...), as processes on the cores of one CPU do. GPUs have one device a rank.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from moesim.files.plain_yaml import FileError, read_text
from moesim.hwmodels.checked_fit import BadNumber, mapping
from moesim.hwmodels.cluster import Cluster
from moesim.hwmodels.facts import FactError
from moesim.hwmodels.profile import NoFit, Profile, profile_from_dict

SCHEMA = 1
MAX_BYTES = 20_000_000


_NUMBERS = re.compile(r"\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]")


def profile_text(raw: Mapping[str, Any]) -> str:
    """The text of a profile file: JSON with sorted keys, and every list of numbers on a line of its own."""
    text = json.dumps(raw, indent=1, sort_keys=True, allow_nan=False)
    return _NUMBERS.sub(lambda match: f"[{', '.join(match.group(1).replace(',', ' ').split())}]", text) + "\n"


def read_profile_file(path: str) -> dict[str, Any]:
    """The parsed file. NoFit when it is missing, broken, or of another schema."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise NoFit(f"cannot read profile {path}: {why}; `moesim calibrate --out {path}` writes one") from None
    if status.st_size > MAX_BYTES:
        raise NoFit(f"{path} is too large for a profile; `moesim calibrate --out {path}` writes one")
    return _parsed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _parsed(path: str, changed_ns: int, size_bytes: int) -> dict[str, Any]:
    """The file as it was at that time: a profile that is written again is read again."""
    try:
        raw = json.loads(read_text(Path(path), "is not there", MAX_BYTES))
    except FileError as error:
        raise NoFit(f"profile {path[:200]} {error}; `moesim calibrate --out {path[:200]}` writes one") from None
    except (ValueError, RecursionError):
        raise NoFit(f"profile {path} is not JSON; `moesim calibrate --out {path}` writes one") from None
    if not isinstance(raw, dict) or "gemm" not in raw:
        raise NoFit(f"{path} is not a profile of kernels; `moesim calibrate --out {path}` writes one")
    if raw.get("schema") != SCHEMA:
        schema = raw.get("schema", "none")
        raise NoFit(f"profile {path} has schema {schema}, this moesim reads {SCHEMA}; calibrate again")
    return raw


def _body(raw: Mapping[str, Any], ranks: int, path: str) -> Mapping[str, Any]:
    """The part of the file that was measured with `ranks` ranks on the device."""
    if ranks == 1 or mapping(raw.get("machine", {}), "machine").get("device") != "cpu":
        return raw
    beside = mapping(raw.get("beside", {}), "beside")
    if str(ranks) not in beside:
        have = ", ".join(["1", *sorted(beside, key=lambda n: (len(n), n))])
        raise NoFit(
            f"profile {path} was measured with {have} ranks on this CPU, not with {ranks}; "
            f"calibrate with --ranks {ranks}"
        )
    return mapping(beside[str(ranks)], f"beside.{ranks}")


def load_machine(path: str, ranks: int = 1) -> Profile:
    """The profile of a file, as `ranks` ranks on the machine see it. NoFit or FactError for a file that is no such."""
    try:
        return profile_from_dict(_body(read_profile_file(path), ranks, path))
    except NoFit:
        raise
    except BadNumber as error:
        raise NoFit(f"profile {path[:200]}: {error}; `moesim calibrate` writes one that can be") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise NoFit(f"profile {path[:200]} lacks or has unknown parts ({str(error)[:60]}); calibrate again") from None


def machine_cluster(profile: Profile, ranks: int) -> Cluster:
    """`ranks` ranks of a measured machine as one scale-up domain. FactError when the profile holds no device."""
    if profile.device is None:
        raise FactError(f"profile of {profile.gpu} holds no machine; say cluster.node or cluster.gpu as well")
    return Cluster(
        name=f"{ranks} x {profile.gpu} (this machine, measured)",
        gpu=profile.device,
        gpus=ranks,
        domain=ranks,
        gpus_per_host=ranks,
        nic_bytes_per_s=0.0,
        fabric="none",
        fabric_kind="none",
        fabric_latency_s=0.0,
        oversubscription=1.0,
        topology="rail",
        host_cpu="x86",
        source=profile.device.source,
    )
