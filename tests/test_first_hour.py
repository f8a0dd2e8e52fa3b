"""The first hour: every file and command of docs/first-hour.md, in order, in an empty folder; no dead end."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from moesim.reports.cli.app import run

PAGE = (Path(__file__).parents[1] / "docs" / "first-hour.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(yaml|json|bash)\n(.*?)```", re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """(what, text): 'file name' with its contents, or 'run' with a command, as the page has them."""
    found = []
    for language, text in BLOCK.findall(PAGE):
        if language == "bash":
            found += [("run", line) for line in text.strip().splitlines()]
        else:
            first, _, rest = text.partition("\n")
            found.append((first.removeprefix("# "), rest if language == "json" else text))
    return found


def sections() -> list[list[tuple[str, str]]]:
    """The steps of each section apart: none needs another's files."""
    return [
        [step for step in steps() if step[1] in part] for part in PAGE.split("\n## ")[1:] if "```" in part
    ]  # fmt: skip


@pytest.mark.parametrize("section", sections(), ids=["mixtures", "chat", "model", "cluster"])
def test_every_command_answers(
    section: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert section
    for what, text in section:
        if what != "run":
            Path(what).parent.mkdir(exist_ok=True)
            Path(what).write_text(text, encoding="utf-8")
            continue
        words = shlex.split(text)
        assert words[0] == "moesim"
        for limit, less in (("--minutes", "0.05"), ("--most", "8")):  # the best that is found at once will do here
            if limit in words:
                words[words.index(limit) + 1] = less
        code = run(words[1:])
        said = capsys.readouterr()
        assert code == 0, f"{text}: {said.err}"
        assert said.out.strip() or said.err.strip(), text
        for option in ("--out", "--figure"):
            if option in words:
                assert Path(words[words.index(option) + 1]).stat().st_size > 0, text


def test_what_a_plan_wrote_gives_its_number_to_the_digit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page says so; shown on the dense model, whose plan is the shortest."""
    monkeypatch.chdir(tmp_path)
    name, text = next(step for step in steps() if step[0] == "llama-70b.yaml")
    Path(name).write_text(text, encoding="utf-8")
    assert run(["plan", name, "--top", "2", "--out", "best.yaml", "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["options"][0]
    assert run(["train", "best.yaml", "--json", "--tokens", "10T"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["step_time_s"] == best["step_time_s"] and answer["low_s"] == best["low_s"]
    days = answer["run"]["intervals"]["days"]
    assert days["p10"] < days["p50"] == answer["run"]["days"] < days["p90"]
