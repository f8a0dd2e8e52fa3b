"""What is installed is locked by hash, and every licence is on the page."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"


@pytest.mark.parametrize("name", ["run", "test"])
def test_every_locked_file_has_a_hash(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^([\w.-]+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    assert len(blocks) == text.count("==") > 25


def test_what_runs_is_locked_alike_for_tests() -> None:
    run, test = (_versions(name) for name in ("run", "test"))
    assert run.items() <= test.items()


def test_the_lock_holds_all_that_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = {re.split(r"[>=]", line)[0].lower() for line in project["project"]["dependencies"]}
    assert asked <= set(_versions("run"))
    tests = {re.split(r"[>=]", line)[0].lower() for line in project["project"]["optional-dependencies"]["test"]}
    assert tests <= set(_versions("test"))
    assert project["build-system"]["requires"] == [f"setuptools=={_versions('run')['setuptools']}"]


def test_every_licence_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| ([\w.-]+) \| (\S+) \| ([^|]+) \|", text, re.MULTILINE)[1:]  # less the table's rule
    assert {name: version for name, version, _ in listed if name != "---"} == _versions("test")
    assert all(licence.strip() != "not stated" for _, _, licence in listed)


def _versions(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+) ", text, re.MULTILINE))
