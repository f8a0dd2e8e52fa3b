"""Write the widths of intervals from errors with sources left out: `python -m moesim.calibrate.fit.widths`

Reads calibrate/published/unseen/*.csv and the rows that they are of; judges every estimator on sources left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from moesim.calibrate.fit.bands import ESTIMATORS, NOISE, Error, bands_by_root, by_kind, chosen, judged, write_bands
from moesim.calibrate.fit.unseen import read_unseen
from moesim.calibrate.rows.comm import comm_row
from moesim.calibrate.rows.files import published_rows
from moesim.calibrate.rows.kinds import COMM, SERVING, TRAINING, Table
from moesim.calibrate.rows.predict_serving import BAND_OF
from moesim.calibrate.rows.serving import serving_row
from moesim.calibrate.rows.training import scenario_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.band import band_keys as serving_keys
from moesim.sim.serve.band import load_class
from moesim.sim.serve.job import ResolvedServe
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.software.stack import fitted_as
from moesim.sim.train.band import NO_ROWS_OF_STACK, axes_of, band_keys, kind_of
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.transfer.alone import band_keys as transfer_keys

_SIM = Path(__file__).parents[2] / "sim"
STACKS, ENGINES = _SIM / "software" / "stacks", _SIM / "software" / "engines"
# least half-width by metric: most sources of a class are runs of one team, and another team's differ. Read off the
# medians of other teams' sources left out (0.12 root mean square, twice that for the first token), times 1.645; of
# training steps, dense ones of well-known stacks (0.06)
_LEAST = {"tpot_s": 0.2, "output_tokens_per_s": 0.2, "ttft_s": 0.4, "dense": 0.1, "moe": 0.1}
TRANSFERS = _SIM.parent / "hwmodels" / "profiles" / "comm"
_ALONE = 0.9  # share of a stack's fitted rows from which leaving a source out leaves the stack without constants


def _rows(table: Table) -> dict[str, dict[str, str]]:
    return {row["id"]: row for file in published_rows() if file.table is table for row in file.rows}


def training_jobs() -> dict[str, TrainJob]:
    """The jobs of all fitted training rows, by id."""
    rows = _rows(TRAINING)
    return {u.id: resolve(parse_scenario(scenario_of(rows[u.id])[0])).job for u in read_unseen("training")}


def training_errors(jobs: dict[str, TrainJob]) -> list[Error]:
    """Errors of training rows with their source left out.

    Where a source holds nearly all rows of a stack, leaving it out says how far a stack without rows is; how far the
    next run of that stack is, its rows say with their family left out.
    """
    unseen = read_unseen("training")
    stacks = {row: fitted_as(job.stack.name) for row, job in jobs.items()}
    of_stack = Counter(stacks[u.id] for u in unseen)
    of_source = Counter((stacks[u.id], u.source) for u in unseen)
    errors = []
    for u in unseen:
        job = jobs[u.id]
        alone = of_source[stacks[u.id], u.source] > _ALONE * of_stack[stacks[u.id]]
        keys = tuple(band_keys(job))
        # a vendor's own recipes and everybody else's runs are two populations: neither leans on both together
        errors.append(Error(keys, u.source, u.family_log if alone else u.source_log, stands_alone=keys[-2]))
        if alone:
            errors.append(Error((NO_ROWS_OF_STACK,), u.source, u.source_log))
    return errors


def deployments() -> dict[str, ResolvedServe]:
    """What the fitted serving rows ask, by id."""
    rows = _rows(SERVING)
    ids = dict.fromkeys(u.id for u in read_unseen("serving"))
    return {i: resolve_serve(parse_scenario(serving_row(rows[i])[0])) for i in ids}


def serving_errors(resolved: dict[str, ResolvedServe]) -> list[Error]:
    """Errors of every metric of serving rows with their source left out."""
    errors = []
    for u in read_unseen("serving"):
        of = resolved[u.id]
        job, pools = of.deployment.job, of.deployment.prefill is not None
        keys = serving_keys(job, pools, load_class(of.workload.clients))
        errors.append(Error(tuple(f"{BAND_OF[u.metric]},{key}" for key in keys), u.source, u.source_log))
    return errors


def _least(root: str) -> float:
    return _LEAST.get(root.split(",")[0], NOISE)


def transfer_errors() -> list[Error]:
    """Errors of collectives and exchanges with their source left out."""
    rows, errors = _rows(COMM), []
    for u in read_unseen("comm"):
        question = comm_row(rows[u.id])
        keys = transfer_keys(question.work, question.cluster.gpu.generation)
        errors.append(Error(tuple(keys), u.source, u.source_log))
    return errors


def _measured(jobs: dict[str, TrainJob]) -> dict[str, object]:
    """What the fitted rows of each kind hold, as sim/train/band.py reads it."""
    record: dict[str, object] = {}
    for kind in ("dense", "moe"):
        own = [job for job in jobs.values() if kind_of(job) == kind]
        axes = [axes_of(job) for job in own]
        record[kind] = {
            "stacks": sorted({job.stack.name for job in own}),
            "gpus": sorted({job.cluster.gpu.name for job in own}),
            "ranges": {axis: [min(a[axis] for a in axes), max(a[axis] for a in axes)] for axis in axes[0]},
        }
    return record


def table(errors: Sequence[Error]) -> str:
    """Markdown: every estimator on sources left out, by kind."""
    lines = ["| class | estimator | sources held | mean half-width | interval score |"]
    lines.append("| --- | --- | ---: | ---: | ---: |")
    for root, own in by_kind(errors).items():
        if root == NO_ROWS_OF_STACK:
            continue
        used = chosen(own)
        for name in ESTIMATORS:
            j = judged(own, name)
            mark = " (used)" if name == used else ""
            lines.append(f"| {root} | {name}{mark} | {j.coverage:.0%} | {j.half_width:.2f} | {j.score:.2f} |")
    return "\n".join(lines) + "\n"


def _yaml(said: str, record: object, path: Path) -> None:
    text = yaml.safe_dump(record, sort_keys=True, default_flow_style=None, width=118)
    path.write_text(f"# {said} Written by calibrate/fit/widths.py.\n{text}", encoding="utf-8")


def _write(jobs: dict[str, TrainJob], served: dict[str, ResolvedServe]) -> None:
    """The files that intervals are read from."""
    by = "Written by calibrate/fit/widths.py from {} published fit rows with their sources left out."
    said = "Log 90 % widths, below and above, of step times by class of run: kind, author, stack, GPU family."
    write_bands(bands_by_root(training_errors(jobs), _least), (said, by.format(len(jobs))), STACKS / "bands.yaml")
    _yaml("What fitted training rows hold, by kind of model.", _measured(jobs), STACKS / "measured.yaml")
    said = "Log 90 % widths, below and above, of serving predictions: metric, kind, load, engine, GPU generation."
    found = bands_by_root(serving_errors(served), _least)
    write_bands(found, (said, by.format(len(served))), ENGINES / "bands.yaml")
    said = "Log 90 % widths, below and above, of transfers: library or kernel, size or reach, GPU generation."
    transfers = transfer_errors()
    write_bands(bands_by_root(transfers, _least), (said, by.format(len(transfers))), TRANSFERS / "bands.yaml")
    gpus = sorted({of.deployment.job.cluster.gpu.name for of in served.values()})
    _yaml("GPUs of fitted serving rows.", {"gpus": gpus}, ENGINES / "measured.yaml")


def main() -> None:
    """Write the files that intervals are read from, and print how the estimators do; `--table` only prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="print how the estimators do, and write nothing")
    only_table = parser.parse_args().table
    jobs, served = training_jobs(), deployments()
    if not only_table:
        _write(jobs, served)
    errors = [*training_errors(jobs), *serving_errors(served), *transfer_errors()]
    sys.stdout.write(table(errors))


if __name__ == "__main__":
    main()
