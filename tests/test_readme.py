"""The pages tell the truth: the README is short and runs, every file that a page names exists, decisions are whole."""

from __future__ import annotations

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("calibrate/**/*.md"))]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
FOLDERS = "hwmodels|sim|traces|calibrate|reports|moesim|tests|docs|examples|benchmarks"


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_python_blocks_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
        for line in block.splitlines():
            printed = re.fullmatch(r"\s*print\(\w+\)  # (.+)", line)
            if printed:
                assert capsys.readouterr().out.strip().splitlines()[-1] == printed[1]
    assert "dense twin" in capsys.readouterr().out


def test_the_readme_is_two_screens() -> None:
    assert len(README.splitlines()) <= 130


def test_the_first_example_is_short() -> None:
    assert len(blocks("python")[0].strip().splitlines()) <= 13


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_lead_to_files(page: Path) -> None:
    for path in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]*", page.read_text(encoding="utf-8")):
        file = path.rstrip(".")
        assert "." not in file.rpartition("/")[2] or list(ROOT.glob(file)), path
    for path in re.findall(rf"`((?:{FOLDERS})/[^`\s]*)`", page.read_text(encoding="utf-8")):
        assert list(ROOT.glob(path.rstrip("/"))), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_can_be_imported(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in re.findall(r"(?:-m |from )(moesim\.[\w.]*\w)", text):
        file = ROOT / module.removeprefix("moesim.").replace(".", "/")
        assert file.with_suffix(".py").is_file() or (file / "__init__.py").is_file(), module


def test_one_finds_where_to_add_what() -> None:
    table = CONTRIBUTING.partition("## Where do I add")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    for what in ("a GPU", "a schedule", "a serving engine", "a trace format", "a kind of layer"):
        (row,) = [cells for cells in rows if cells[0].startswith(f"| **{what}**")]
        assert re.search(rf"`(?:{FOLDERS})/", row[1]), what
    for word in re.findall(r"`(_?[A-Z]\w+|\w+_\w+)` (?:in|of) `([\w./]+\.py)`", table):
        assert re.search(rf"\b{word[0]}\b", (ROOT / word[1]).read_text(encoding="utf-8")), word


def test_nine_decisions_say_why_and_at_what_cost() -> None:
    assert len(DECISIONS) == 9
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    for decision in DECISIONS:
        text = decision.read_text(encoding="utf-8")
        headings = re.findall(r"(?m)^## (.+)$", text)
        assert headings == ["Context", "Decision", "Cost", "What would change our mind"], decision.name
        assert "**Why.**" in text and f"({decision.name})" in index
        assert len(text.splitlines()) <= 40, decision.name


def test_commands_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in "\n".join(blocks("bash") + blocks("bash", CONTRIBUTING)).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in makefile, line
        if "-m" in words and words[words.index("-m") + 1].startswith("moesim."):
            module = words[words.index("-m") + 1].removeprefix("moesim.").replace(".", "/")
            assert (ROOT / f"{module}.py").is_file(), line
        if words and words[0].endswith("moesim"):
            if words[1] in ("calibrate", "report"):  # minutes of measuring, a whole page: their own tests run them
                assert run([words[1], "--help"]) == 0
                said = capsys.readouterr().out
                assert all(word in said for word in words if word.startswith("--")), line
            elif words[1] in ("train", "validate"):
                assert (ROOT / words[2]).is_file(), line
            else:
                arguments = [
                    str(tmp_path / word) if word.endswith(".png") or before == "--out" else word
                    for before, word in pairwise(words)
                ]
                if "--traffic" in arguments:  # the same day with a tenth of its requests
                    at = arguments.index("--traffic") + 1
                    arguments[at] = str(quieter(ROOT / arguments[at], tmp_path))
                assert run(arguments) == 0, line


def quieter(traffic: Path, folder: Path) -> Path:
    """A table of traffic with a tenth of the requests."""
    head, *hours = traffic.read_text(encoding="utf-8").splitlines()
    at = head.split(",").index("requests_per_s")
    rows = [hour.split(",") for hour in hours]
    lines = [",".join([*row[:at], str(float(row[at]) / 10.0), *row[at + 1 :]]) for row in rows]
    written = folder / traffic.name
    written.write_text("\n".join([head, *lines]), encoding="utf-8")
    return written


def test_the_picture_is_small_enough_to_keep() -> None:
    picture = ROOT / "docs" / "img" / "deepseek-v3.png"
    assert 10_000 < picture.stat().st_size < 300_000


def test_the_accuracy_block_is_what_the_page_of_accuracy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert README.count("<!-- accuracy:begin -->") == README.count("<!-- accuracy:end -->") == 1
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from write_accuracy import BLOCK, PAGE, headline, kept

    block = BLOCK.search(README)
    assert block is not None
    tables, _ = kept(PAGE.read_text(encoding="utf-8"))
    assert block[0] == f"{block[1]}{headline(tables)}{block[2]}"
    assert len(headline(tables).splitlines()) == 16  # a sentence, a head and twelve lines
