"""What this machine really takes, and how wrong we are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calibrate.row_file import BadRows, RowFile, load_rows, published_rows
    from calibrate.row_outcomes import Estimate, Outcome, predict_rows, usable_cores
    from calibrate.summary import Accuracy, Summary, summarise
    from calibrate.validate import Record, validate_files, validate_rows, write_records

# where each public name lives; loaded when first asked for, so that importing the room stays cheap
_HOME = {
    "Estimate": "calibrate.row_outcomes",
    "Outcome": "calibrate.row_outcomes",
    "predict_rows": "calibrate.row_outcomes",
    "usable_cores": "calibrate.row_outcomes",
    "BadRows": "calibrate.row_file",
    "RowFile": "calibrate.row_file",
    "load_rows": "calibrate.row_file",
    "published_rows": "calibrate.row_file",
    "Accuracy": "calibrate.summary",
    "Summary": "calibrate.summary",
    "summarise": "calibrate.summary",
    "Record": "calibrate.validate",
    "validate_files": "calibrate.validate",
    "validate_rows": "calibrate.validate",
    "write_records": "calibrate.validate",
}

__all__ = [
    "Accuracy",
    "BadRows",
    "Estimate",
    "Outcome",
    "Record",
    "RowFile",
    "Summary",
    "load_rows",
    "predict_rows",
    "published_rows",
    "summarise",
    "usable_cores",
    "validate_files",
    "validate_rows",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
