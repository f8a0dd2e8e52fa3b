"""Is a mixture of experts to a dense model predicted as it was measured? Pairs of rows of one vendor, on equal terms.

A pair is one row of each kind on the same GPU, in the same release and precision. What is compared is the seconds of a
GPU per active FLOP (of forward and backward, what runs again not counted): a mixture of experts needs more of them than
a dense model, and by how much is the ratio that decides between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Literal

from moesim.calibrate.rows.cells import text_of
from moesim.calibrate.rows.files import blinded, measured, published_rows
from moesim.calibrate.rows.kinds import TRAINING
from moesim.calibrate.rows.outcomes import Outcome, Progress, predict_rows
from moesim.calibrate.rows.training import precision_of, scenario_of
from moesim.sim.model.flops import flops_per_token
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve

Row = dict[str, str]
METRIC = "step_time_s"
TARGET_PCT = (5.0, 15.0)  # median and 90th percentile of the error that a choice between the two can bear


@dataclass(frozen=True, slots=True)
class Run:
    """One row: its terms, seconds of a GPU per active FLOP measured and predicted, and whether it was fitted."""

    model: str
    kind: str  # MoE | dense
    gpu: str
    release: str
    precision: str
    split: str
    measured_s_per_flop: float
    predicted_s_per_flop: float

    @property
    def terms(self) -> tuple[str, str, str]:
        """What both rows of a pair have in common."""
        return self.gpu, self.release, self.precision


@dataclass(frozen=True, slots=True)
class Pair:
    """A mixture of experts and a dense model on equal terms."""

    moe: Run
    dense: Run

    @property
    def measured(self) -> float:
        """How many times as long an active FLOP of the mixture of experts takes."""
        return self.moe.measured_s_per_flop / self.dense.measured_s_per_flop

    @property
    def predicted(self) -> float:
        """The same, predicted."""
        return self.moe.predicted_s_per_flop / self.dense.predicted_s_per_flop

    @property
    def error_pct(self) -> float:
        """Predicted over measured, less 1, %."""
        return 100.0 * (self.predicted / self.measured - 1.0)

    @property
    def split(self) -> Literal["fit", "test"]:
        """fit where both rows were; a pair with a row that no constant has seen judges."""
        return "fit" if self.moe.split == self.dense.split == "fit" else "test"


@dataclass(frozen=True, slots=True)
class Spread:
    """Errors of some pairs, % of the measured ratio."""

    pairs: int
    median_pct: float  # of the absolute error
    p90_pct: float
    middle_pct: float  # median with its sign: above zero, mixtures of experts are predicted too slow against dense


def runs_of(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[Run]:
    """Rows of a vendor's named releases that were measured and predicted."""
    runs = []
    for row, outcome in zip(rows, outcomes, strict=True):
        seconds, _ = measured(row, METRIC)
        if not outcome.release or outcome.refusal or seconds is None or text_of(row, "software"):
            continue
        job = resolve(parse_scenario(scenario_of(blinded(row))[0])).job
        flops = 3.0 * flops_per_token(job.arch, job.seq_len) * job.global_batch * job.seq_len / job.layout.gpus
        runs.append(
            Run(
                model=job.arch.name,
                kind=outcome.kind,
                gpu=outcome.gpu,
                release=text_of(row, "release"),
                precision=precision_of(text_of(row, "precision")),
                split=text_of(row, "split"),
                measured_s_per_flop=seconds / flops,
                predicted_s_per_flop=outcome.estimates[METRIC].value / flops,
            )
        )
    return runs


def pairs_of(runs: Iterable[Run]) -> list[Pair]:
    """Each mixture of experts with each dense model on equal terms, in the order of their terms."""
    groups: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.terms, {"MoE": [], "dense": []})[run.kind].append(run)
    return [Pair(*both) for _, group in sorted(groups.items()) for both in product(group["MoE"], group["dense"])]


def spread_of(pairs: Sequence[Pair]) -> Spread:
    """Median and 90th percentile of the error of some pairs; ValueError for none."""
    if not pairs:
        raise ValueError("no pair to judge")
    sizes = sorted(abs(pair.error_pct) for pair in pairs)
    p90 = sizes[min(len(sizes) - 1, int(0.9 * len(sizes)))]  # a pair's own: between two of few pairs there is none
    return Spread(len(pairs), median(sizes), p90, median(pair.error_pct for pair in pairs))


def published_pairs(workers: int, progress: Progress | None = None) -> list[Pair]:
    """All pairs of the published training rows."""
    rows = [row for file in published_rows() if file.table is TRAINING for row in file.rows if text_of(row, "release")]
    return pairs_of(runs_of(rows, predict_rows(rows, workers, progress)))
