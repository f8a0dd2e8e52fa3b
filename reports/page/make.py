"""make_page: scenarios in, page out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from moesim.reports.page.again import again
from moesim.reports.page.claims import claims_section
from moesim.reports.page.section import Chapter, Page
from moesim.reports.page.serve_case import serve_case
from moesim.reports.page.serve_chapter import serve_chapter
from moesim.reports.page.train_case import SEARCHES, train_case
from moesim.reports.page.train_chapter import train_chapter
from moesim.sim.question.scenario import ScenarioError, load_scenario, read_mapping

Progress = Callable[[str, int, int], None]


def make_page(
    files: Sequence[Path], *, search: str = "near", tokens: float = 0.0, progress: Progress | None = None
) -> Page:
    """A chapter per scenario file. Refusal (ScenarioError, DoesNotFit, ...) for a question that cannot be answered."""
    if search not in SEARCHES:
        raise ScenarioError(f"plan={search!r} is not known; use one of {', '.join(SEARCHES)}")
    chapters: list[Chapter] = []
    for n, file in enumerate(files):
        if progress is not None:
            progress(f"answering {file.name}", n, len(files))
        chapters += _chapters(file, search, tokens, len(chapters))
    options = [*([f"--plan {search}"] if search != "near" else []), *([f"--tokens {tokens:g}"] if tokens else [])]
    names = list(dict.fromkeys(c.title for c in chapters))
    return Page("; ".join(names), tuple(chapters), (claims_section(), again(files, options)))


def _chapters(file: Path, search: str, tokens: float, before: int) -> list[Chapter]:
    scenario, raw = load_scenario(file), read_mapping(file)
    if scenario.train is None and scenario.serve is None:
        raise ScenarioError(f"{file}: has neither a train nor a serve section; add one of them")
    chapters: list[Chapter] = []
    if scenario.train is not None:
        chapters.append(train_chapter(train_case(file, raw, scenario, search, tokens), f"c{before + 1}"))
    if scenario.serve is not None:
        chapters.append(serve_chapter(serve_case(raw, scenario, search), file, f"c{before + len(chapters) + 1}"))
    return chapters
