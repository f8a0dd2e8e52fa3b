"""Predict one row of a measured collective or exchange: seconds and bandwidth with their intervals, and its class."""

from __future__ import annotations

from dataclasses import dataclass

from moesim.calibrate.rows.cells import Row
from moesim.calibrate.rows.comm import CommRow, comm_row
from moesim.hwmodels.units import MIB
from moesim.hwmodels.work import Comm
from moesim.sim.transfer.alone import CommPrediction, time_alone


@dataclass(frozen=True, slots=True)
class CommRowResult:
    """A predicted row."""

    question: CommRow
    prediction: CommPrediction

    @property
    def bandwidth_bytes_per_s(self) -> float | None:
        """What the row's bandwidth column would hold; None for one rank, which sends nothing."""
        return self.question.logical_bytes / self.prediction.time_s if self.prediction.time_s > 0.0 else None


def predict_comm_row(row: Row) -> CommRowResult:
    """The row predicted by the ordinary model; ValueErrors carry the reason of a refusal."""
    question = comm_row(row)
    return CommRowResult(question, time_alone(question.work, question.cluster, question.library))


_KINDS = {
    "low_latency": "DeepEP low latency",
    "normal": "DeepEP normal",
    "elastic": "DeepEP V2",
    "hybrid": "Hybrid-EP",
    "one_sided": "NVL72 one- and two-sided",
    "two_sided": "NVL72 one- and two-sided",
    "all_to_all": "plain all-to-all",
}


def family_of_comm(question: CommRow) -> str:
    """The class that accuracy targets are set for: NCCL by size, exchanges by kernel and number of nodes."""
    work = question.work
    if isinstance(work, Comm):
        if work.bytes > 64 * MIB:
            return "NCCL above 64 MiB"
        return "NCCL 1 to 64 MiB" if work.bytes >= MIB else "NCCL below 1 MiB"
    name = _KINDS[work.kernel]
    if work.kernel in ("low_latency", "normal"):
        name += ", several nodes" if work.group.domains > 1 else ", one node"
    return name
