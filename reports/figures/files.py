"""Pictures as files: which formats there are, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moesim.files.whole import OutputError, replacing
from moesim.files.words import visible

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
    from matplotlib import rc_context
    from matplotlib.text import Text

    check_format(path)
    file = Path(path)
    ending = file.suffix.lower()
    for text in figure.findobj(Text):
        _as_written(text)
    with replacing(file) as beside, rc_context({"text.parse_math": False}):  # for what is made while it is drawn
        figure.savefig(beside, dpi=150, format=ending[1:], metadata=_NO_DATE.get(ending))


def _as_written(text: Any) -> None:
    """No text of ours is a formula: names come from files, and a `$` in them would be read as one, or fail."""
    text.set_parse_math(False)
    text.set_text(visible(text.get_text(), kept="\n"))
