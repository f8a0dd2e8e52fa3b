"""Did a change of the code change a number? Records every verb's JSON with one checkout and compares two records.

    python benchmarks/same_answers.py record BEFORE            # in the old checkout, with an environment of its own
    python benchmarks/same_answers.py record AFTER             # in the new one
    python benchmarks/same_answers.py compare BEFORE AFTER     # exit code 1 where a number moved

Numbers must be equal to the last bit, texts too; keys that are new, and those under `--may-change`, are listed apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"


def commands(validation: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every verb over the examples, as (name of the file, arguments)."""
    train = [p.stem for p in sorted(EXAMPLES.glob("*.yaml")) if not p.stem.startswith("serve-")]
    serve = [p.stem for p in sorted(EXAMPLES.glob("serve-*.yaml"))]
    for name in train:
        yield f"train-{name}", ["train", f"{name}.yaml"]
        yield f"run-{name}", ["train", f"{name}.yaml", "--tokens", "1e12"]
        yield f"whatif-{name}", ["whatif", f"{name}.yaml"]
    for name in serve:
        yield f"serve-{name}", ["serve", f"{name}.yaml"]
    yield "serve-requests", ["serve", "serve-gpt-oss-120b-h100.yaml", "--requests", "requests.csv"]
    yield "whatif-serve", ["whatif", "serve-gpt-oss-120b-h100.yaml"]
    mixtral, poisson = "mixtral-8x7b-h100.yaml", "serve-mixtral-8x7b-poisson.yaml"
    yield "sweep", ["sweep", mixtral, "--set", "cluster.gpus=32,64", "--set", "train.precision=bf16,fp8"]
    yield "plan-train", ["plan", mixtral, "--set", "tp=1,2", "--set", "micro_batch=1"]
    fixed = ["--set", "tp=2", "--set", "pools=no", "--set", "pp=1"]
    yield "plan-serve", ["plan", poisson, "--slo", "ttft=500ms,tpot=30ms", *fixed]
    yield "plan-fleet", ["plan", poisson, "--traffic", "traffic-day.csv", "--growth", "0.2", "--spare", "1", *fixed]
    yield "compare-twin", ["compare", mixtral, "--twin", "iso-quality", "--tokens", "1e12"]
    yield "compare-upcycled", ["compare", mixtral, "--tokens", "1e12", "--upcycled-from", "mistral-7b"]
    yield "compare-serve", ["compare", "serve-mixtral-8x7b-h100.yaml", "serve-llama-2-70b-h100.yaml"]
    ring = ["--cluster", "hgx-h800", "--op", "all_to_all", "--ranks", "64", "--bytes", "64MiB"]
    yield "comm", ["comm", *ring, "--sweep"]
    yield "comm-beside", ["comm", *ring, "--beside", "reduce_scatter:1GiB:8:8"]
    dispatch = ["--cluster", "dgx-h100", "--op", "moe_dispatch", "--ranks", "64", "--tokens", "4096"]
    yield "comm-dispatch", ["comm", *dispatch, "--hidden", "7168", "--top-k", "8", "--experts", "256"]
    for path in validation:
        yield f"validate-{Path(path).stem}", ["validate", path]


def record(folder: Path, validation: list[str]) -> int:
    """Run all commands with the `moesim` of this checkout; one JSON file each. Returns how many failed."""
    folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    shell = os.environ.get("MOESIM", f"{sys.executable} -m moesim").split()
    for name, arguments in commands([str(Path(p).resolve()) for p in validation]):
        extra = ["--out", str((folder / f"{name}.csv").resolve())] if arguments[0] == "validate" else []
        done = subprocess.run([*shell, *arguments, *extra, "--json"], cwd=EXAMPLES, capture_output=True, text=True)
        failed += done.returncode != 0
        (folder / f"{name}.json").write_text(done.stdout or json.dumps({"error": done.stderr}), encoding="utf-8")
        sys.stderr.write(f"{name}: exit code {done.returncode} {done.stderr[-200:] if done.returncode else ''}\n")
    return failed


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in a JSON document."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")
    else:
        yield path, value


def compare(before: Path, after: Path, may_change: tuple[str, ...]) -> int:
    """Print what differs between two records; 1 when a number moved that had no leave to."""
    moved = counted = 0
    for old in sorted(before.iterdir()):
        new = after / old.name
        if old.suffix == ".csv":
            rows = [path.read_text(encoding="utf-8").splitlines() for path in (old, new)]
            differ = sum(a != b for a, b in zip(*rows, strict=False)) + abs(len(rows[0]) - len(rows[1]))
            counted, moved = counted + len(rows[0]), moved + differ
            print(f"{old.name}: {len(rows[0])} lines, {differ} differ")
            continue
        was, now = (dict(leaves(json.loads(path.read_text(encoding="utf-8")))) for path in (old, new))
        differ = [key for key, value in was.items() if key not in now or now[key] != value]
        allowed = [key for key in differ if any(word in key.lower() for word in may_change)]
        wrong = [key for key in differ if key not in set(allowed)]
        counted, moved = counted + len(was), moved + len(wrong)
        print(
            f"{old.name}: {len(was)} values, {len(wrong)} moved, {len(allowed)} with leave moved, "
            f"{len(now.keys() - was.keys())} new"
        )
        for key in wrong[:8]:
            print(f"    {key}: {was[key]!r} -> {now.get(key, 'gone')!r}")
    print(f"{counted} values compared, {moved} moved that should not")
    return int(moved > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    recording = verbs.add_parser("record")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--validate", nargs="*", default=[], metavar="CSV", help="measured rows to predict as well")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--may-change", nargs="*", default=[], metavar="WORD", help="keys with these words may move")
    given = parser.parse_args()
    if given.verb == "record":
        return int(record(given.folder, given.validate) > 0)
    return compare(given.before, given.after, tuple(given.may_change))


if __name__ == "__main__":
    sys.exit(main())
