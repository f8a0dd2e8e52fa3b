"""The README tells the truth: its Python runs, its commands and files exist, its picture is small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from moesim.reports.cli.app import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


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


def test_the_first_example_is_short() -> None:
    assert len(blocks("python")[0].strip().splitlines()) <= 13


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_paths_in_tables_exist() -> None:
    paths = re.findall(r"`((?:hwmodels|sim|traces|calibrate|reports|tests|docs|examples)/[^`*<>]+)`", README)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_commands_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in "\n".join(blocks("bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert f"\n{words[1]}:" in makefile, line
        if "-m" in words and words[words.index("-m") + 1].startswith("moesim."):
            module = words[words.index("-m") + 1].removeprefix("moesim.").replace(".", "/")
            assert (ROOT / f"{module}.py").is_file(), line
        if words and words[0].endswith("moesim"):
            if words[1] == "calibrate":  # minutes of measuring: its own tests run it
                assert run(["calibrate", "--help"]) == 0
                said = capsys.readouterr().out
                assert all(word in said for word in words if word.startswith("--")), line
            elif words[1] in ("train", "validate"):
                assert (ROOT / words[2]).is_file(), line
            else:
                arguments = [str(tmp_path / word) if word.endswith((".png", ".html")) else word for word in words[1:]]
                assert run(arguments) == 0, line


def test_the_picture_is_small_enough_to_keep() -> None:
    picture = ROOT / "docs" / "img" / "deepseek-v3.png"
    assert 10_000 < picture.stat().st_size < 300_000


def test_the_accuracy_block_can_be_replaced() -> None:
    assert README.count("<!-- accuracy:begin -->") == README.count("<!-- accuracy:end -->") == 1
