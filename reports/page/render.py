"""A page as HTML: one file that needs nothing else, the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moesim.files.whole import write_text
from moesim.files.words import LINES, visible
from moesim.reports.page.section import Page


def html_of(page: Page) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("moesim.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["percent"] = percent
    text = environment.get_template("page.html.j2").render(page=page)
    return visible(text, kept=LINES)  # names and cells of foreign files stand in it


def percent(share: Any) -> str:
    """A share as a CSS length; four digits are finer than any screen."""
    return f"{100.0 * float(share):.4g}%"


def write_page(page: Page, path: Path) -> None:
    """Write the page. OutputError when that is not possible."""
    write_text(path, html_of(page))
