"""What a person sees: tables, figures, timelines, the command line."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports.accuracy import accuracy_markdown, accuracy_report
    from reports.chrometrace import chrome_trace, write_chrome_trace
    from reports.failures import OutputError
    from reports.figures import step_figure, write_figure
    from reports.train_table import train_report

# where each public name lives; loaded when first asked for, so that importing the room stays cheap
_HOME = {
    "accuracy_markdown": "reports.accuracy",
    "accuracy_report": "reports.accuracy",
    "chrome_trace": "reports.chrometrace",
    "write_chrome_trace": "reports.chrometrace",
    "OutputError": "reports.failures",
    "step_figure": "reports.figures",
    "write_figure": "reports.figures",
    "train_report": "reports.train_table",
}

__all__ = [
    "OutputError",
    "accuracy_markdown",
    "accuracy_report",
    "chrome_trace",
    "step_figure",
    "train_report",
    "write_chrome_trace",
    "write_figure",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
