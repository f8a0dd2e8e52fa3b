"""`moesim report`: one page to forward."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.reports.cli.outputs import check_outputs


def report(
    scenarios: Annotated[list[Path], typer.Argument(help="Scenario files in YAML.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    plan: Annotated[str, typer.Option(help="Search layouts near the asked ones, full, or none.")] = "near",
    tokens: Annotated[str, typer.Option(help="Also whole training runs of this many tokens, for example 1e12.")] = "",
    json: Annotated[
        bool, typer.Option("--json", help="Print what the page says as JSON; --out is not written.")
    ] = False,
) -> int:
    """Answer scenarios on one self-contained HTML page: comparison, breakdown, memory, what matters, trust."""
    from moesim.files.whole import OutputError
    from moesim.reports.page.make import make_page
    from moesim.reports.page.render import write_page
    from moesim.reports.progress import progress_bar
    from moesim.reports.text import note, print_json
    from moesim.sim.plan.words import token_count

    if not json:
        if out.suffix.lower() not in (".html", ".htm"):
            raise OutputError(f"report {out}: a page ends in .html")
        check_outputs(scenarios, [], [out])
    with progress_bar() as show:
        page = make_page(scenarios, search=plan, tokens=token_count(tokens) or 0.0, progress=show)
    if json:
        print_json(page.to_dict())
        return 0
    write_page(page, out)
    for chapter in page.chapters:
        note(f"{chapter.title}: {chapter.answer}")
    note(f"page: {out}")
    return 0
