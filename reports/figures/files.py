"""Pictures as files: which formats there are, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.files.whole import OutputError, replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
_NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def check_format(path: str | Path) -> None:
    """OutputError for a file name whose ending is no picture format."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise OutputError(
            f"figure {path}: unknown format {ending or '(none)'!r}; end it in one of {', '.join(FORMATS)}"
        )


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture, without a date: same picture, same bytes. OutputError for what cannot be written."""
    check_format(path)
    file = Path(path)
    ending = file.suffix.lower()
    with replacing(file) as beside:
        figure.savefig(beside, dpi=150, format=ending[1:], metadata=_NO_DATE.get(ending))
