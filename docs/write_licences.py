"""Write docs/licences.md: every package that requirements/ installs, its licence as it says it, and what it is for."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
_INTRO = """\
# Licences of dependencies

What `make` installs, by hash (`requirements/run.txt`: moesim itself; `requirements/test.txt`: its tests too). Licences
are as the packages state them. Nothing of them is copied into this repository; NOTICE lists what data came from
elsewhere. Optional and not locked, because their files depend on the machine: torch (BSD-3-Clause and others), scipy
(BSD-3-Clause), pyarrow (Apache-2.0), aiconfigurator-core (Apache-2.0). Written by `python docs/write_licences.py`.

| package | version | licence | needed by |
| --- | --- | --- | --- |
"""


def locked(name: str) -> dict[str, str]:
    """Package -> version of one file of requirements/."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+) ", text, re.MULTILINE))


def licence_of(package: str) -> str:
    """As the package states it: an expression, else its classifier, else the first line of its text."""
    stated = distribution(package).metadata
    classed = [c.rpartition(" :: ")[2] for c in stated.get_all("Classifier") or [] if c.startswith("License")]
    said = (stated.get("License") or "not stated").split("\n")[0]
    return stated.get("License-Expression") or ", ".join(classed) or said


def page() -> str:
    """The whole page."""
    run = locked("run")
    rows = [
        f"| {name} | {version} | {licence_of(name)} | {'moesim' if name in run else 'tests'} |"
        for name, version in sorted(locked("test").items())
    ]
    return _INTRO + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
