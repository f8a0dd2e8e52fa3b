"""Does the model tell better layouts from worse ones? Pairs of measured alternatives, and which of them come out right.

Alternatives are rows of the same model, machines, batch, sequence, precision and software that differ in layout only.
Pairs whose measured values lie within the noise floor are counted apart: repeated runs differ by as much.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from moesim.calibrate.rows.cells import text_of
from moesim.calibrate.rows.files import measured, published_rows
from moesim.calibrate.rows.outcomes import Outcome, Progress, predict_rows

Row = dict[str, str]

NOISE = 0.03  # relative: published repeats of one run differ by up to that
TRAINING_KEYS = (
    "model",
    "layers",
    "hidden",
    "heads",
    "gpu",
    "gpus",
    "seq_len",
    "gbs",
    "precision",
    "release",
    "internode",
)
SERVING_KEYS = ("model", "gpu", "precision", "engine", "engine_version", "arrival", "isl", "osl")
_RATES = ("output_tokens_per_s_per_gpu", "derived_tokens_per_s_per_gpu")


@dataclass(frozen=True, slots=True)
class Alternative:
    """One row of a group: measured and predicted value of the same metric, and the layout that tells rows apart."""

    measured: float
    predicted: float
    layout: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Pairs of one kind: told apart by more than the noise, and how many of those are predicted in that order."""

    kind: str
    groups: int
    pairs: int
    right: int
    close_pairs: int  # within the noise
    close_right: int

    @property
    def right_pct(self) -> float:
        """Share in the right order of the pairs that differ by more than the noise, %."""
        return 100.0 * self.right / max(1, self.pairs)

    @property
    def close_right_pct(self) -> float:
        """The same of pairs within the noise, %."""
        return 100.0 * self.close_right / max(1, self.close_pairs)


def order_of(kind: str, groups: Iterable[Sequence[Alternative]], noise: float = NOISE) -> Order:
    """Count the pairs of every group; rows of one layout are no alternatives of each other."""
    counts = [0, 0, 0, 0]
    several = 0
    for group in groups:
        several += len({a.layout for a in group}) > 1
        for a, b in combinations(group, 2):
            if a.layout != b.layout and a.measured != b.measured:
                close = abs(a.measured - b.measured) <= noise * max(a.measured, b.measured)
                right = (a.measured < b.measured) == (a.predicted < b.predicted)
                counts[2 * close] += 1
                counts[2 * close + 1] += right
    return Order(kind, several, *counts)


def orders(progress: Progress | None = None, workers: int = 1) -> list[Order]:
    """Alternatives in the published training and serving rows; the last kind is part of the one before."""
    orders = []
    files = {file.name: file for file in published_rows()}
    training, sweeps, serving = files["training.csv"], files["training_sweeps.csv"], files["serving.csv"]
    for title, file in (("training runs", training), ("training sweeps", sweeps)):
        groups = groups_of(file.rows, TRAINING_KEYS)
        orders.append(order_of(title, answered(groups, "step_time_s", workers, progress)))
    spread = groups_of(serving.rows, SERVING_KEYS, per_gpu=True)
    orders.append(order_of("serving, same users per GPU, replicas of any size", _served(spread, workers, progress)))
    same = groups_of(serving.rows, (*SERVING_KEYS, "gpus", "concurrency"))
    orders.append(order_of("serving, same GPUs and users", _served(same, workers, progress)))
    return orders


def groups_of(rows: Iterable[Row], keys: Sequence[str], per_gpu: bool = False) -> list[list[Row]]:
    """Rows that agree in these cells (and in users per GPU), where there are two or more."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        parts = [text_of(row, key) for key in keys]
        if per_gpu:
            users = text_of(row, "concurrency")  # a number, or max where all requests are queued
            parts.append(f"{float(users) / float(row['gpus']):.6g}" if users.isdecimal() else users)
        groups.setdefault("/".join(parts), []).append(row)
    return [group for group in groups.values() if len({_layout(row) for row in group}) > 1]


def _layout(row: Row) -> tuple[str, ...]:
    """Everything about how a row is laid out."""
    keys = (
        "mbs", "tp", "pp", "vpp", "cp", "ep", "etp", "dp", "zero", "recompute", "schedule", "gpus", "attention_dp",
        "prefill_workers", "prefill_tp", "prefill_ep", "prefill_attention_dp", "decode_workers", "decode_tp",
        "decode_ep", "decode_attention_dp",
    )  # fmt: skip
    return tuple(text_of(row, key) for key in keys)


def answered(
    groups: Sequence[Sequence[Row]], metric: str, workers: int = 1, progress: Progress | None = None
) -> list[list[Alternative]]:
    """The groups predicted; rows that are refused are left out."""
    outcomes = iter(predict_rows([row for group in groups for row in group], workers, progress))
    return [[a for row in group if (a := _alternative(row, metric, next(outcomes))) is not None] for group in groups]


def _served(groups: Sequence[Sequence[Row]], workers: int, progress: Progress | None) -> list[list[Alternative]]:
    """Tokens per second and GPU; a group is judged by the first rate that all of its rows have, or not at all."""
    alternatives = []
    outcomes = iter(predict_rows([row for group in groups for row in group], workers, progress))
    for group in groups:
        own = [(row, next(outcomes)) for row in group]
        metric = next((m for m in _RATES if all(measured(row, m)[0] for row in group)), "")
        alternatives.append([a for row, o in own if (a := _alternative(row, metric, o)) is not None])
    return alternatives


def _alternative(row: Row, metric: str, outcome: Outcome) -> Alternative | None:
    value, estimate = measured(row, metric)[0] if metric else None, outcome.estimates.get(metric)
    return Alternative(value, estimate.value, _layout(row)) if value is not None and estimate is not None else None
