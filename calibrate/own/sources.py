"""Profiles from what others have measured: kernel tables, logs of nccl-tests, profiler traces, tables of samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

from moesim.calibrate.fit.kernel_tables import SYSTEM_OF
from moesim.calibrate.measure.device import checked_machine
from moesim.calibrate.measure.samples import BadSamples, load_samples
from moesim.calibrate.own.bad_source import BadSource
from moesim.calibrate.own.kernel_factors import put_kernels
from moesim.calibrate.own.kineto import TraceRead, read_trace, why_no_shapes
from moesim.calibrate.own.nccl_logs import read_nccl_log
from moesim.calibrate.own.nsight import is_nsight, read_nsight
from moesim.calibrate.own.shipped import gpu_of, shipped_profile
from moesim.calibrate.own.transfers import TransferSample, fit_transfers, put_transfers
from moesim.files.plain_yaml import FileError, read_text
from moesim.hwmodels.facts import did_you_mean


@dataclass(frozen=True, slots=True)
class Made:
    """A profile ready for JSON, and what was read, assumed and left out on the way."""

    raw: dict[str, Any]
    notes: tuple[str, ...] = ()


def system_name(text: str) -> str:
    """Our name of a system: h200-sxm, or h200_sxm as the tables spell it. BadSource otherwise."""
    spelled = {directory: name for name, directory in SYSTEM_OF.items()} | {name: name for name in SYSTEM_OF}
    if text not in spelled:
        hint = did_you_mean(text, list(spelled)) if text else f"one of {', '.join(SYSTEM_OF)}"
        raise BadSource(f"--system {text or 'is missing'}: {hint}")
    return spelled[text]


def from_tables(system: str) -> Made:
    """The profile of a GPU from the kernel tables of aiconfigurator-core, fitted as the shipped ones are."""
    name = system_name(system)
    try:
        from moesim.calibrate.fit.kernel_tables import data_root
        from moesim.calibrate.fit.kernels import make_profile
        from moesim.calibrate.fit.nccl import read_exclusions

        data_root()
    except ImportError as error:
        raise BadSource(f"kernel tables need {error.name}, which is not installed; pip install 'moesim[fit]'") from None
    with_tests = Path(str(files("moesim.calibrate").joinpath("published", "comm.csv")))
    return Made(make_profile(name, read_exclusions(with_tests), date.today().isoformat()))


# -- nccl-tests and rccl-tests ----------------------------------------------------------------------------------------


def from_nccl_logs(paths: Sequence[Path], system: str, per_host: int = 0) -> Made:
    """The shipped profile of a GPU with the collectives that these logs measured, and no others, moved.

    system: a catalogue GPU, "" for the one that the logs name. per_host: ranks a host, where no log says it (0: none).
    BadSource names the log and what it lacks.
    """
    notes: list[str] = []
    samples, gpus = [], {}
    for path in paths:
        for test in read_nccl_log(path):
            where = test.where
            notes += [f"{path.name}: {line}" for line in test.notes if f"{path.name}: {line}" not in notes]
            gpus[gpu_of(system, where.gpu, str(path), notes)] = str(path)
            samples += [
                TransferSample(
                    test.kind, row.size_bytes, row.seconds, where.ranks, where.per_host or per_host, str(path)
                )
                for row in test.rows
            ]
    gpu = _one(gpus)
    raw = shipped_profile(gpu)
    put_transfers(raw, fit_transfers(samples, gpu, notes))
    return Made(raw, tuple(dict.fromkeys(notes)))


def _one(gpus: dict[str, str]) -> str:
    """The GPU that all files are of. BadSource for several: a profile is of one."""
    if len(gpus) > 1:
        named = ", ".join(f"{Path(file).name} of {gpu}" for gpu, file in gpus.items())
        raise BadSource(f"the files are of different GPUs ({named}); a profile is of one: give them one GPU at a time")
    return next(iter(gpus))


# -- profiler traces --------------------------------------------------------------------------------------------------


def from_trace(paths: Sequence[Path], system: str, per_host: int = 0, form: str = "") -> Made:
    """The shipped profile of a GPU with those kernels and collectives moved that these traces of own runs timed.

    paths: chrome traces of the PyTorch profiler, one a rank, gzipped or not, and SQLite exports of Nsight Systems.
    form: kineto or nsight, in whose words a file that is neither is refused.
    BadSource counts what the traces hold, and says what they lack.
    """
    notes: list[str] = []
    reads = [(path, read_nsight(path) if is_nsight(path, form) else read_trace(path)) for path in paths]
    if not any(read.works or read.transfers for _, read in reads):
        raise BadSource(why_no_shapes(reads[0][1], str(reads[0][0])))
    gpu = _one({gpu_of(system, read.gpu, str(path), notes): str(path) for path, read in reads})
    raw = shipped_profile(gpu)
    names = [path.name for path in paths]
    works = [pair for _, read in reads for pair in read.works]
    transfers = _calmest(reads, per_host, notes)
    for path, read in reads:
        notes += [f"{path.name}: {n:,} x {reason}, left out" for reason, n in read.skipped.most_common(4)]
        notes += [f"{path.name}: {n:,} {what}, left out" for what, n in read.untimed.most_common(4)]
    moved = put_kernels(raw, works, names, notes) if works else 0
    if transfers:
        try:
            put_transfers(raw, fit_transfers(transfers, gpu, notes))
            moved += 1
        except BadSource as error:  # kernels were read all the same: say it, and go on
            if not moved:
                raise
            notes.append(f"collectives: {error}")
    if not moved:
        raise BadSource(_why_nothing(len(works), notes))
    return Made(raw, tuple(dict.fromkeys(notes)))


def _calmest(reads: Sequence[tuple[Path, TraceRead]], per_host: int, notes: list[str]) -> list[TransferSample]:
    """The fastest repeat of every transfer over all ranks: the others waited for somebody inside the kernel."""
    fastest: dict[tuple[str, float, int], TransferSample] = {}
    count = 0
    for _, read in reads:
        for each in read.transfers:
            count += 1
            key = (each.kind, each.size_bytes, each.ranks)
            if key not in fastest or each.seconds < fastest[key].seconds:
                held = each.per_host or per_host
                fastest[key] = TransferSample(each.kind, each.size_bytes, each.seconds, each.ranks, held, each.file)
    if fastest:
        notes.append(
            f"{count:,} NCCL kernels: of every size the fastest counts, as the others hold waits for their peers"
        )
    return list(fastest.values())


def _why_nothing(works: int, notes: Sequence[str]) -> str:
    """What was there, and why it was not enough."""
    few = "; ".join(line for line in notes if "too few" in line or "no fit of" in line)[:240]
    needed = (
        "more steps or shapes" if "too few" in few else "a run in a format that training and serving use (bf16, fp8)"
    )
    return f"{works:,} kernels with shapes, but nothing to fit: {few}; profile {needed}"


# -- tables of samples ------------------------------------------------------------------------------------------------


def machine_file(table: Path) -> Path:
    """Where the machine that filled a table is described."""
    return table.with_suffix(".machine.json")


def from_samples(table: Path) -> Made:
    """The profile that a table of samples gives, on whatever machine it was measured."""
    from moesim.calibrate.own.profile import make_own_profile

    samples = load_samples(table)
    beside = machine_file(table)
    try:
        text = read_text(beside, "is not there")
    except FileError:
        raise BadSamples(f"{table} needs {beside.name} beside it, which says what machine it is of") from None
    try:
        machine = checked_machine(json.loads(text))
    except (ValueError, RecursionError):
        raise BadSamples(f"{beside} does not describe a machine; `moesim calibrate` writes it") from None
    return Made(make_own_profile(samples, machine, table))
