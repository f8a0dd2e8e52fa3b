"""How far a reader walks to follow one scenario: `python benchmarks/walk.py [--show train] [--root OTHER_CHECKOUT]`.

Follows the interpreter (sys.setprofile) through one answer of every verb, product files only, and writes each function
down when it is entered for the first time. `returns` counts how often the next new function lies in a file that was
left before: what makes a reader jump back. `stations` are the rooms of the spine in the order of their first visit.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

ROOMS = ("sim", "hwmodels", "traces", "calibrate", "reports", "moesim")
INNER = ("<module>", "<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>")
Visit = tuple[str, str]  # (file, function)


class Walk:
    """First visits of functions, in their order."""

    def __init__(self, root: Path) -> None:
        self._root = str(root) + os.sep
        self._seen: set[Visit] = set()
        self.visits: list[Visit] = []

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or code.co_name in INNER or not code.co_filename.startswith(self._root):
            return
        file = code.co_filename[len(self._root) :].removeprefix("moesim/")
        visit = (file, code.co_qualname)
        if file.split(os.sep)[0] in ROOMS and visit not in self._seen:
            self._seen.add(visit)
            self.visits.append(visit)

    def follow(self, call: Callable[[], object]) -> None:
        """Run `call` and write down where it went."""
        sys.setprofile(self)
        try:
            call()
        finally:
            sys.setprofile(None)

    @property
    def files(self) -> list[str]:
        """Files in the order of their first visit."""
        return list(dict.fromkeys(file for file, _ in self.visits))

    @property
    def returns(self) -> int:
        """New functions that lie in a file which had been left before."""
        seen: set[str] = set()
        count, last = 0, ""
        for file, _ in self.visits:
            count += file != last and file in seen
            seen.add(file)
            last = file
        return count

    @property
    def stations(self) -> list[str]:
        """Rooms inside sim in the order of their first visit."""
        return list(dict.fromkeys(f.split(os.sep)[1] for f in self.files if f.startswith("sim" + os.sep)))

    def story(self) -> list[str]:
        """One line per stretch inside a file; those marked R return to it."""
        lines: list[str] = []
        seen: set[str] = set()
        last = ""
        for file, function in self.visits:
            if file != last:
                lines.append(f"{'R' if file in seen else ' '} {file}:")
                seen.add(file)
                last = file
            lines[-1] += f" {function}"
        return lines


def verbs(root: Path) -> dict[str, Callable[[], object]]:
    """One answer of every verb; checkouts from before the package moesim have other homes."""
    now = (root / "moesim").is_dir()
    face = "moesim" if now else "sim"
    homes = ("moesim.sim.plan.train.plan", "moesim.sim.question.scenario") if now else ("sim.plan.plan", "sim.scenario")
    train, serve = (getattr(import_module(face), name) for name in ("predict_train", "predict_serve"))
    plan, load = (getattr(import_module(h), n) for h, n in zip(homes, ("plan_train", "load_scenario"), strict=True))
    examples = root / "examples"
    scenario = load(examples / "mixtral-8x7b-h100.yaml")
    given = {"tp": (1,), "micro_batch": (1,)}
    return {
        "train": lambda: train(examples / "deepseek-v3-h800.yaml"),
        "serve": lambda: serve(examples / "serve-deepseek-v3-h200.yaml"),
        "plan": lambda: plan(scenario, given=given),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout to walk through")
    parser.add_argument("--show", default="", help="print the walk of this verb, stretch by stretch")
    given = parser.parse_args()
    root = given.root.resolve()
    sys.path.insert(0, str(root))
    print(f"{'verb':8} {'files':>6} {'returns':>8} {'functions':>10}   stations")
    for verb, call in verbs(root).items():
        walk = Walk(root)
        walk.follow(call)
        print(f"{verb:8} {len(walk.files):6} {walk.returns:8} {len(walk.visits):10}   {' > '.join(walk.stations)}")
        if given.show == verb:
            print(*walk.story(), sep="\n")


if __name__ == "__main__":
    main()
