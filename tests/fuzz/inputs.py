"""Hostile inputs: a command line and the files that it reads, something wrong in one of them; the same for a seed."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import typer
import yaml
from pydantic import BaseModel

from moesim.reports.cli.app import app
from moesim.sim.question.scenario import Scenario
from tests.fuzz import seeds
from tests.fuzz.values import DIGITS, broken_bytes, broken_tree, hostile, put, text_of


@dataclass(frozen=True, slots=True)
class Input:
    """What is run: words of a command, and files by name in the folder where it runs."""

    words: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """The first word."""
        return self.words[0]


# how often each command is asked: those that take seconds seldom
WEIGHTS = {
    "train": 26,
    "serve": 18,
    "validate": 12,
    "calibrate": 12,
    "show": 10,
    "comm": 10,
    "sweep": 5,
    "plan": 2,
    "compare": 2,
    "whatif": 2,
    "report": 0.3,
    "init": 1,
    "schema": 0.2,
}
# options that start other processes or measure this machine: not asked
_LEFT_OUT = frozenset(("workers", "dask", "prove", "device", "ranks_measured", "minutes", "quick", "best_each", "help"))
_FEW = {
    "plan": ("--workers", "1", "--most", "3"),
    "compare": ("--workers", "1", "--no-break-even"),
    "sweep": ("--workers", "1"),
    "report": ("--plan", "none"),
}


@cache
def options() -> dict[str, list[Any]]:
    """Options of every command, as the parser holds them."""
    commands = typing.cast("Any", typer.main.get_command(app)).commands
    return {
        name: [p for p in command.params if p.opts[0].startswith("--") and p.name not in _LEFT_OUT]
        for name, command in commands.items()
    }


def _sections(model: type[BaseModel], here: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    for name, info in model.model_fields.items():
        yield (*here, name), info.annotation
        for part in _parts(info.annotation):
            listed = "tuple" in str(info.annotation)
            yield from _sections(part, (*here, name, 0) if listed else (*here, name))


def _parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _parts(inner)


@cache
def keys() -> tuple[tuple[tuple[Any, ...], Any], ...]:
    """Every key of a scenario with what it takes."""
    return tuple(_sections(Scenario))


def _words_of(annotation: Any) -> list[Any]:
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [word for inner in typing.get_args(annotation) for word in _words_of(inner)]


def _value(draw: Random, annotation: Any) -> Any:
    """Often one that its key may take."""
    words = _words_of(annotation)
    kind = draw.random()
    if words and kind < 0.5:
        return draw.choice(words)
    if kind < 0.5:
        return draw.choice((1, 2, 3, 4, 8, 64, 1000, 10**5, 10**6, 0.5, 0.01, True))
    return hostile(draw)


def scenario(draw: Random, names: tuple[str, ...]) -> Any:
    """A scenario with something wrong, now and then nothing."""
    tree = json.loads(json.dumps(seeds.SCENARIOS[draw.choice(names)]))
    if draw.random() < 0.5:
        for _ in range(draw.choice((1, 1, 2))):
            place, annotation = draw.choice(keys())
            if place[0] != "serve" or "serve" in tree:
                tree = put(tree, place, _value(draw, annotation))
        return tree
    return broken_tree(draw, tree) if draw.random() < 0.95 else tree


def dumped(draw: Random, tree: Any) -> bytes:
    """A scenario as text; seldom with something wrong in the text too."""
    raw = yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass") if not _odd(tree) else _json(tree)
    raw = raw.replace(DIGITS.encode(), b"9" * 5000)
    return broken_bytes(draw, raw) if draw.random() < 0.12 else raw


def _odd(tree: Any) -> bool:
    return "\\ud800" in json.dumps(tree, default=str)


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode().replace(json.dumps(DIGITS).encode(), b"9" * 5000)


def own_file(draw: Random, kind: str, broken: float = 0.9) -> tuple[str, bytes]:
    """A name and the bytes of a file of this kind, mostly with something wrong in it; seldom a trap instead."""
    if draw.random() < 0.06:
        return draw.choice(("pipe.fifo", "zero.dev", "bomb.gz", "random.bin", ".", "missing" + seeds.ending(kind))), b""
    trees = seeds.trees()
    if draw.random() < 0.03:
        kind = draw.choice([*trees, *seeds.texts(), *seeds.binaries()])  # one of another kind
    name = f"own{seeds.ending(kind)}"
    if kind in trees:
        tree = trees[kind]
        if draw.random() < broken:
            if draw.random() < 0.7:
                return name, _written(broken_tree(draw, tree), name)
            return name, broken_bytes(draw, _written(tree, name))
        return name, _written(tree, name)
    raw = seeds.texts().get(kind) or seeds.binaries()[kind]
    return name, broken_bytes(draw, raw) if draw.random() < broken else raw


def _written(tree: Any, name: str) -> bytes:
    if name.endswith(".yaml") and not _odd(tree):
        return yaml.safe_dump(tree, sort_keys=False).encode().replace(DIGITS.encode(), b"9" * 5000)
    return _json(tree)


def _word(value: Any) -> str:
    """A value as a word of a command line, which holds no zero byte."""
    return text_of(value).decode("utf-8", "surrogatepass").replace("\0", "")


def _more(draw: Random, command: str, likely: float = 0.35) -> list[str]:
    """Options with values of any kind, in most inputs none."""
    found = ["--json"] if draw.random() < 0.5 and any(p.name == "json" for p in options()[command]) else []
    while draw.random() < likely:
        option = draw.choice(options()[command] or [None])
        if option is None:
            break
        found.append(draw.choice(option.opts))
        if not option.is_flag:
            figure = option.name in ("figure", "out", "timeline", "records") and draw.random() < 0.7
            ending = draw.choice((".svg", ".png", ".csv", ".jsonl", ".html", ".json", ".yaml"))
            found.append(f"out{ending}" if figure else _word(hostile(draw)) or "0")
    return found


TRAINED, SERVED = ("train", "train", "train more"), ("serve", "serve", "serve more")


def _asked(draw: Random, command: str, names: tuple[str, ...], likely: float = 0.35) -> Input:
    files = {"job.yaml": dumped(draw, scenario(draw, names))}
    return Input((command, "job.yaml", *_FEW.get(command, ()), *_more(draw, command, likely)), files)


# where a file of one's own is named -> its kinds
_OWN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("cluster", "hardware"), ("hardware",)),
    (("model",), ("model", "config")),
    (("profile",), ("profile",)),
    (("corrections",), ("corrections",)),
    (("routing",), ("counts", "counts npy", "counts npz")),
)


def _with_file(draw: Random, tree: dict[str, Any]) -> tuple[Any, dict[str, bytes]]:
    """A scenario that names a broken file."""
    place, kinds = draw.choice(_OWN)
    kind = draw.choice(kinds)
    name, raw = own_file(draw, kind)
    tree = put(tree, place, {"counts": name} if place == ("routing",) else name)
    if kind == "hardware":
        tree = put(tree, ("cluster", "node"), "my-pod")
    if kind == "corrections":
        tree = put(tree, ("model",), "llama-3.1-8b")
        tree = put(tree, ("layout",), {})
    return tree, {name: raw} if raw else {}


def _train(draw: Random) -> Input:
    if draw.random() < 0.55:
        return _asked(draw, "train", TRAINED)
    tree, files = _with_file(draw, json.loads(json.dumps(seeds.TRAIN)))
    return Input(("train", "job.yaml", *_more(draw, "train", 0.2)), {"job.yaml": dumped(draw, tree), **files})


def _serve(draw: Random) -> Input:
    kind = draw.random()
    if kind < 0.6:
        return _asked(draw, "serve", SERVED)
    tree = json.loads(json.dumps(seeds.SERVE if kind < 0.85 else seeds.DAY))
    name, raw = own_file(draw, draw.choice(("requests", "requests mooncake")) if kind < 0.85 else "traffic")
    option = "--requests" if kind < 0.85 else "--traffic"
    words = ("serve", "job.yaml", option, name, *_more(draw, "serve", 0.2))
    return Input(words, {"job.yaml": dumped(draw, tree), **({name: raw} if raw else {})})


def _plan(draw: Random) -> Input:
    if draw.random() < 0.7:
        return _asked(draw, "plan", (*TRAINED, *SERVED), 0.5)
    name, raw = own_file(draw, "traffic")
    words = ("plan", "job.yaml", "--traffic", name, *_FEW["plan"], *_more(draw, "plan", 0.2))
    return Input(words, {"job.yaml": seeds.text(seeds.SERVE), **({name: raw} if raw else {})})


def _sweep(draw: Random) -> Input:
    place, annotation = draw.choice(keys())
    values = ",".join(
        text_of(_value(draw, annotation)).decode("utf-8", "replace").replace("\0", "")[:6000] for _ in range(2)
    )
    asked = _asked(draw, "sweep", (*TRAINED, *SERVED), 0.3)
    return Input((*asked.words, "--set", f"{'.'.join(map(str, place))}={values}"), asked.files)


def _comm(draw: Random) -> Input:
    op = draw.choice(("all_reduce", "all_to_all", "all_gather", "send", "moe_dispatch", "moe_combine", "broadcast"))
    words = {"--cluster": "dgx-h100", "--op": op, "--ranks": "16", "--bytes": "1MiB"}
    if op.startswith("moe"):
        words = {**words, "--bytes": "", "--tokens": "64", "--hidden": "512", "--top-k": "2", "--experts": "32"}
    files: dict[str, bytes] = {}
    if draw.random() < 0.3:
        kind = draw.choice(("hardware", "profile"))
        name, raw = own_file(draw, kind)
        words, files = {**words, f"--{kind}": name}, {name: raw} if raw else {}
    for _ in range(draw.choice((0, 1, 1, 2))):
        value = _word(hostile(draw))
        words[draw.choice(list(words))] = value
    flat = [word for pair in words.items() if pair[1] for word in pair]
    return Input(("comm", *flat, *_more(draw, "comm")), files)


# what logs and results leave open
_CELLS = ("gpu=H100", "gpus=8", "tp=2", "precision=bf16", "engine=vllm", "model=llama-3.1-8b", "seq_len=4096")


def _validate(draw: Random) -> Input:
    kinds = [k for k in (*seeds.texts(), *seeds.trees()) if k.startswith(("log", "rows", "result"))]
    name, raw = own_file(draw, draw.choice(kinds))
    cells = draw.sample(_CELLS, draw.choice((0, 1, len(_CELLS), len(_CELLS))))
    more = [word for cell in cells for word in ("--set", cell)]
    return Input(("validate", name, *more, *_more(draw, "validate", 0.25)), {name: raw} if raw else {})


def _calibrate(draw: Random) -> Input:
    source, kinds = draw.choice(
        (
            ("nccl-tests", ("nccl", "nccl alltoall")),
            ("kineto", ("kineto",)),
            ("nsight", ("nsight",)),
            ("rows", ("rows", "log megatron")),
            ("csv", ("samples",)),
        )
    )
    name, raw = own_file(draw, draw.choice(kinds))
    words = ("calibrate", "--from", source, name, "--out", "p.json", *_more(draw, "calibrate", 0.2))
    files = {name: raw} if raw else {}
    if source == "csv" and raw:
        _, files["own.machine.json"] = own_file(draw, "machine", 0.3)
    return Input(words, files)


def _show(draw: Random) -> Input:
    if draw.random() < 0.75:
        name, raw = own_file(draw, draw.choice(("model", "config", "config", "hardware", "profile", "corrections")))
        return Input(("show", name, *_more(draw, "show", 0.1)), {name: raw} if raw else {})
    name = draw.choice(
        (
            "dgx-h100",
            "h100-sxm",
            "mixtral-8x7b",
            _word(hostile(draw)),
        )
    )
    return Input(("show", name, *_more(draw, "show", 0.6)))


def _of_both(command: str) -> Callable[[Random], Input]:
    return lambda draw: _asked(draw, command, (*TRAINED, *SERVED))


_MAKERS: dict[str, Callable[[Random], Input]] = {
    "train": _train,
    "serve": _serve,
    "plan": _plan,
    "sweep": _sweep,
    "comm": _comm,
    "validate": _validate,
    "calibrate": _calibrate,
    "show": _show,
    "compare": _of_both("compare"),
    "whatif": _of_both("whatif"),
    "report": _of_both("report"),
    "init": lambda draw: Input(("init", *_more(draw, "init", 0.6))),
    "schema": lambda draw: Input(("schema", *_more(draw, "schema", 0.6))),
}


def inputs(number: int, seed: int, commands: tuple[str, ...] = ()) -> Iterator[Input]:
    """So many inputs of these commands (none: of all); the same for a seed."""
    for index in range(number):
        yield input_at(index, seed, commands)


def input_at(index: int, seed: int, commands: tuple[str, ...] = ()) -> Input:
    """One of them by its number."""
    asked = commands or tuple(WEIGHTS)
    draw = Random(f"{seed}.{index}")
    command = draw.choices(asked, [WEIGHTS[name] for name in asked])[0]
    return _MAKERS[command](draw)
