"""What is kept of an answer: its headline numbers as they are, how many lines it says, and of every other part one
number made of all it holds.

The number of a part is the sum of w log(1 + |x| / 1e-12) over its numbers x, with a weight w of 0.5 to 1.5 by the
number's place: it moves with any of them, large or small, and a change of one part in a million shows.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import moesim
from moesim.refusal import Refusal
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.train.search import Effort
from moesim.traces.day import Day, Hour

HERE = Path(__file__).parent
FILES = {kind: HERE / f"{kind}.yaml" for kind in ("train", "serve", "comm", "more")}
_SMALLEST = 1e-12
_SEEN = 1e-7  # a change of less is a rounding of another processor
_HEAD = "# Questions of {kind}, and what was answered when a change was last meant: see tests/pinned/test_pinned.py."
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ASKED = ("layout", "global_batch", "micro_batch", "micro_batches", "seq_len", "gpus")  # said again by the answer
_WORDS = ("label", "algorithm", "bottleneck_link")  # words that are part of the answer


def numbers(tree: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a tree with its place; True and False are 1 and 0, other text is left out."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from numbers(value, f"{place}/{key}")
    elif isinstance(tree, list | tuple):
        for index, value in enumerate(tree):
            yield from numbers(value, f"{place}/{index}")
    elif isinstance(tree, int | float):
        yield place, float(tree)


def signature(tree: Any) -> float:
    """One number made of all numbers of a tree."""
    total = 0.0
    for place, value in numbers(tree):
        weight = 0.5 + zlib.crc32(place.encode()) / 2**32
        total += weight * math.copysign(math.log1p(abs(value) / _SMALLEST), value)
    return total


def kept(answer: Mapping[str, Any]) -> dict[str, float | str]:
    """Numbers and words of the first level as they are, and the signature of every part that holds numbers."""
    found: dict[str, float | str] = {}
    for name, value in answer.items():
        if name in _ASKED:
            continue
        if name in _WORDS:
            found[name] = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = float(f"{value:.12g}")
        elif isinstance(value, list | tuple) and value and all(isinstance(line, str) for line in value):
            found[f"{name} (lines)"] = float(len(value))
        elif any(True for _ in numbers(value)):
            found[f"{name} (all)"] = round(signature(value), 8)
    return found


def _train(ask: dict[str, Any]) -> dict[str, Any]:
    return moesim.predict_train(ask, check_memory=False).to_dict()


def _serve(ask: dict[str, Any]) -> dict[str, Any]:
    return moesim.predict_serve(ask).to_dict()


def _comm(ask: dict[str, Any]) -> dict[str, Any]:
    return moesim.predict_comm(ask).to_dict()


def _hours(question: dict[str, Any]) -> Day:
    """24 hours of traffic: requests per second by hour, prompts and answers all alike."""
    ask = question["traffic"]
    rates = ask["requests_per_s"]
    return tuple(Hour(rates[h % len(rates)], ask["input_tokens"], ask["output_tokens"]) for h in range(24))


def _plan(ask: dict[str, Any]) -> dict[str, Any]:
    effort = ServeEffort(top=3, most=8) if "serve" in ask["scenario"] else Effort(top=3, most=8, workers=1)
    found = moesim.plan(ask["scenario"], given=ask.get("given"), effort=effort, objective=ask.get("objective", ""))
    return found.to_dict()


_VERBS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "predict_day": lambda ask: moesim.predict_day(ask["scenario"], _hours(ask), days=ask.get("days", 1)).to_dict(),
    "many_steps": lambda ask: moesim.many_steps(ask["scenario"], ask["steps"]).to_dict(),
    "run": lambda ask: moesim.run(ask["scenario"], ask["tokens"]).to_dict(),
    "predict_train": lambda ask: moesim.predict_train(ask["scenario"]).to_dict(),
    "plan": _plan,
    "train_beside": lambda ask: moesim.train_beside(ask["scenarios"], spread=ask["spread"]).to_dict(),
}


def _more(ask: dict[str, Any]) -> dict[str, Any]:
    """A question of another verb: its name, and what it takes."""
    return _VERBS[ask["verb"]](ask)


ANSWERED_BY: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "train": _train, "serve": _serve, "comm": _comm, "more": _more,
}  # fmt: skip


def answer(kind: str, ask: dict[str, Any]) -> dict[str, float | str]:
    """What is kept of the answer to a question; of a refusal its kind."""
    try:
        return kept(ANSWERED_BY[kind](ask))
    except Refusal as refusal:
        return {"refused": type(refusal).__name__, "its numbers": " ".join(re.findall(r"\d[\d.]*", str(refusal)))}


def read(kind: str) -> list[dict[str, Any]]:
    """The questions of a file, each with the answer that it had: [{ask: ..., answer: ...}, ...]."""
    pins: list[dict[str, Any]] = yaml.load(FILES[kind].read_text(encoding="utf-8"), _Loader)
    return pins


def write(kind: str, pins: list[dict[str, Any]]) -> None:
    """Two lines a question, as people read them and as a comparison of two versions shows them."""
    lines = [_HEAD.format(kind=kind)]
    for pin in pins:
        lines += [f"- ask: {_flow(pin['ask'])}", f"  answer: {_flow(pin['answer'])}"]
    FILES[kind].write_text("\n".join(lines) + "\n", encoding="utf-8")


def moved(before: Mapping[str, float | str], after: Mapping[str, float | str]) -> list[str]:
    """What of an answer is not what it was, a line each."""
    lines = []
    for name in (*before, *(n for n in after if n not in before)):
        old, new = before.get(name, "nothing"), after.get(name, "nothing")
        if isinstance(old, str) or isinstance(new, str):
            if old != new:
                lines.append(f"{name}: {old} -> {new}")
        elif name.endswith("(all)"):
            if abs(new - old) > _SEEN:
                lines.append(f"{name}: moved")
        elif abs(new - old) > _SEEN * abs(old):
            lines.append(f"{name}: {old:.10g} -> {new:.10g}")
    return lines


def _flow(tree: Any) -> str:
    text: str = yaml.safe_dump(tree, default_flow_style=True, sort_keys=False, width=10**9)
    return text.strip()
