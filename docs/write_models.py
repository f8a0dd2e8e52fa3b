"""Write the tables of docs/models.md: which families of config.json are read, and which are refused and why.

python docs/write_models.py            # after a change of sim/model/hf_families.py
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from moesim.sim.model.hf_families import FAMILIES, REFUSED

PAGE = Path(__file__).parent / "models.md"
BEGIN, END = "<!-- families:begin -->", "<!-- families:end -->"


def families() -> str:
    """A row for each reader: values of model_type that it reads and what it takes as given; then what is refused."""
    by_reader: dict[str, list[str]] = {}
    says: dict[str, str] = {}
    for name, read in FAMILIES.items():
        key = f"{read.__module__}.{read.__name__}"
        by_reader.setdefault(key, []).append(f"`{name}`")
        says[key] = (inspect.getdoc(read) or "").split("\n\n")[0].replace("\n", " ")
    rows = [f"| {', '.join(names)} | {says[key]} |" for key, names in by_reader.items()]
    refused = [f"| `{name}` | refused: `{field}` {why} |" for name, (field, why) in REFUSED.items()]
    return "\n".join(["| model_type | read as |", "| --- | --- |", *rows, *refused])


def page(text: str) -> str:
    """The page with its table written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{families()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
