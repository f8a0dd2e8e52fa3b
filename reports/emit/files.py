"""The files that start a deployment with an engine or on a platform, printed or written into a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from moesim.files.whole import OutputError, write_text, writing
from moesim.hwmodels.facts import did_you_mean
from moesim.reports.emit.commands import sglang_files, vllm_files
from moesim.reports.emit.kubernetes import dynamo_files, llmd_files
from moesim.reports.emit.trtllm import trtllm_files
from moesim.reports.emit.worker import Deployed, deployed
from moesim.sim.question.scenario import ScenarioError
from moesim.sim.serve.job import ResolvedServe

TARGETS: dict[str, Callable[[Deployed], dict[str, str]]] = {
    "vllm": vllm_files,
    "sglang": sglang_files,
    "trtllm": trtllm_files,
    "dynamo": dynamo_files,
    "llm-d": llmd_files,
}


def check_target(target: str, folder: Path | None) -> None:
    """ScenarioError for a target that is not known, OutputError for a folder that is none; before the work starts."""
    if target not in TARGETS:
        raise ScenarioError(f"--emit {target!r} is not known; {did_you_mean(target, list(TARGETS))}")
    if folder is not None and (folder.is_file() or not (folder if folder.is_dir() else folder.parent).is_dir()):
        raise OutputError(f"cannot write into {folder}: it is no folder, or the one that it is in does not exist")


def emitted(resolved: ResolvedServe, model: str, target: str) -> dict[str, str]:
    """Files by name that start a deployment."""
    return TARGETS[target](deployed(resolved, model))


def write_files(files: dict[str, str], folder: Path) -> None:
    """Write all of them, each whole, into a folder that is made where it is not there."""
    with writing(folder):
        folder.mkdir(exist_ok=True)
    for name, text in files.items():
        write_text(folder / name, text)


def printed(files: dict[str, str]) -> str:
    """All files one after the other, each under its name."""
    return "\n".join(f"# ---- {name}\n{text.rstrip()}\n" for name, text in files.items())
