"""BadSource: a log, trace or system that no profile can be made of; and how such files are opened."""

from __future__ import annotations

from moesim.files.opening import Opening
from moesim.refusal import Refusal


class BadSource(Refusal):
    """A log, trace or system that no profile can be made of; the message says what would do."""


NCCL_LOG = Opening(
    "log", 200_000_000, BadSource, "moesim reads the output of nccl-tests and rccl-tests (all_reduce_perf ...)", True
)
PROFILER_TRACE = Opening(
    "trace", 600_000_000, BadSource, "moesim reads prof.export_chrome_trace of PyTorch, also gzipped", True
)
