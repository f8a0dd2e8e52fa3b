"""Where the measured kernel tables lie inside the package aiconfigurator-core, and how to read one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PACKAGE = "aiconfigurator-core"
LICENCE = "Apache-2.0"

# our GPU name -> directory of the package
SYSTEM_OF = {
    "a100-sxm-80gb": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200-sxm": "h200_sxm",
    "b200-hgx": "b200_sxm",
    "b300-hgx": "b300_sxm",
    "gb200": "gb200",
    "gb300": "gb300",
}

# our dtype -> name in the tables
TABLE_DTYPE = {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4"}


def package_version() -> str:
    """Installed version of the package."""
    from importlib.metadata import version

    return version(PACKAGE)


def data_root() -> Path:
    """Folder that holds one folder per GPU. ImportError without the package."""
    import aiconfigurator_core

    return Path(str(aiconfigurator_core.__file__)).parent / "systems" / "data"


def table_path(gpu: str, op: str, source: str, file: str) -> str:
    """Path of a table relative to the package's data folder; `source` is "<engine>/<version>"."""
    return f"{SYSTEM_OF[gpu]}/{op}/{source}/{file}"


def read_table(relative: str, columns: list[str], equal: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of `columns` where every column in `equal` has that value."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(data_root() / relative, columns=sorted({*columns, *equal}))
    for name, value in equal.items():
        table = table.filter(pc.equal(table[name], value))
    return list(zip(*(table[c].to_pylist() for c in columns), strict=True))


def has_column(relative: str, name: str) -> bool:
    """True when the table has that column (older collections lack some)."""
    import pyarrow.parquet as pq

    return name in pq.read_schema(data_root() / relative).names
