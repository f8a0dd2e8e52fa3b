"""Routing as a process: which share of the tokens each expert receives, per layer and step, and how it moves."""

from __future__ import annotations

import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from moesim.files.opening import Opening, check_plain, opened
from moesim.files.whole import replacing
from moesim.refusal import Refusal
from moesim.traces.rng import stream

Floats = npt.NDArray[np.float64]
Shares = npt.NDArray[np.float64]  # [layers, experts], every row sums to 1


class BadTrace(Refusal):
    """A trace or routing description that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Which experts tokens pick, as a process over layers, steps and micro-batches.

    `kind`: balanced (every expert the same, forced: nothing is drawn), lognormal (the logarithm of an expert's share is
    normal) or counts (shares counted in a file). A share is what recorders count: token-expert pairs after top-k.
    """

    kind: str = "balanced"
    sigma: float = 0.0  # sd of log share between the experts of one router group, lognormal
    group_sigma: float = 0.0  # sd of log share between router groups, in models that have them
    topic: float = 0.0  # sd by which the log shares of one sequence's topic differ from the mean's
    group_topic: float = 0.0  # the same between router groups
    drift: float = 1.0  # correlation of log popularity from one step to the next; 1: it stands still
    sampling: bool = True  # tokens of a micro-batch are drawn; False: every expert gets exactly what it expects
    counts_file: str | None = None
    seed: int = 0

    @property
    def drawn(self) -> bool:
        """True where two micro-batches of one step differ."""
        return self.kind != "balanced" and (self.sampling or self.has_topics)

    @property
    def has_topics(self) -> bool:
        """True where sequences differ in the experts that they pick."""
        return self.kind != "balanced" and (self.topic > 0.0 or self.group_topic > 0.0)

    @property
    def even(self) -> bool:
        """True where every expert is expected to get as much, over all topics."""
        return self.kind == "balanced" or (self.kind == "lognormal" and self.sigma == self.group_sigma == 0.0)

    def load_popularity(self, layers: int, experts: int, groups: int = 1, step: int = 0) -> Shares:
        """Like `popularity`, for a load whose sequences are all of one topic, as a served workload is.

        Of a file of counts by step all steps together: requests of a load run beside each other.
        """
        shares = self._popularity(layers, experts, groups, step, whole=True)
        if not self.has_topics:
            return shares
        log = self.topic * stream(self.seed, "routing.topic").standard_normal((layers, experts))
        if groups > 1:
            shared = stream(self.seed, "routing.topic_groups").standard_normal((layers, groups))
            log = log + self.group_topic * np.repeat(shared, experts // groups, axis=1)
        moved = shares * np.exp(log)
        return np.asarray(moved / moved.sum(axis=1, keepdims=True))

    def popularity(self, layers: int, experts: int, groups: int = 1, step: int = 0) -> Shares:
        """Expected share of token-expert pairs per expert at a step, shape [layers, experts], every row sums to 1.

        Steps may be negative: a placement was planned on an earlier step of the same path. The first rows do not
        change with the number of layers. A file of counts by step is gone through again and again. BadTrace for a file
        of counts that does not fit.
        """
        return self._popularity(layers, experts, groups, step, whole=False)

    def _popularity(self, layers: int, experts: int, groups: int, step: int, whole: bool) -> Shares:
        if self.kind == "balanced":
            return np.full((layers, experts), 1.0 / experts)
        if self.kind == "lognormal":
            return self._lognormal(layers, experts, groups, step)
        if self.counts_file is None:
            raise BadTrace("routing counts need a file")
        counts = load_counts(Path(self.counts_file))
        if counts.ndim == 3 and self.drift < 1.0:
            raise BadTrace(
                f"{self.counts_file} has counts of {len(counts)} steps, which move by themselves; drop drift"
            )
        if counts.ndim == 3:
            counts = counts.sum(axis=0) if whole else counts[step % len(counts)]
        counted = _shares(counts, self.counts_file, layers, experts)
        return counted if self.drift == 1.0 or step == 0 else self._drifted(counted, step)

    def _lognormal(self, layers: int, experts: int, groups: int, step: int) -> Shares:
        own = stream(self.seed, "routing.lognormal").standard_normal((layers, experts))
        log = self.sigma * ar1_path(own, self.drift, step, self.seed, "routing.drift.experts")
        if self.group_sigma and groups > 1:
            shared = stream(self.seed, "routing.groups").standard_normal((layers, groups))
            shared = ar1_path(shared, self.drift, step, self.seed, "routing.drift.groups")
            log = log + self.group_sigma * np.repeat(shared, experts // groups, axis=1)
        popularity = np.exp(log)
        return np.asarray(popularity / popularity.sum(axis=1, keepdims=True))

    def _drifted(self, counted: Shares, step: int) -> Shares:
        """Counted shares some steps on: every log share returns to its layer's mean and spreads as it did."""
        seen = counted > 0.0
        log = np.log(np.where(seen, counted, 1.0))
        held = seen.sum(axis=1, keepdims=True)
        mean = log.sum(axis=1, keepdims=True) / held
        sd = np.sqrt((np.where(seen, log - mean, 0.0) ** 2).sum(axis=1, keepdims=True) / held)
        start = (log - mean) / np.where(sd > 0.0, sd, 1.0)
        moved = mean + sd * ar1_path(start, self.drift, step, self.seed, "routing.drift.counts")
        popularity = np.where(seen, np.exp(moved), 0.0)
        return np.asarray(popularity / popularity.sum(axis=1, keepdims=True))


def ar1_path(start: Floats, rho: float, step: int, seed: int, name: str) -> Floats:
    """A stationary first-order path of unit variance at `step` (may be negative), where it was at `start` at step 0.

    Every step of one path agrees with every other, in any order of asking: the path is drawn at steps 1, 2, 4, ... by
    jumps of rho**k, and between two of them by its law given both. A step costs about 2 log2(step) draws.
    """
    if rho == 1.0 or step == 0:
        return start
    side, far = ("back" if step < 0 else "on"), abs(step)

    def noise(at: int) -> Floats:
        return stream(seed, f"{name}.{side}.{at}").standard_normal(start.shape)

    left_at, right_at, left, right = 0, 1, start, _jump(start, rho, 1, noise(1))
    while right_at < far:
        left_at, left = right_at, right
        right_at, right = 2 * left_at, _jump(left, rho, left_at, noise(2 * left_at))
    while right_at != far:
        middle = (left_at + right_at) // 2
        between = _between(left, right, rho, middle - left_at, right_at - middle, noise(middle))
        if middle <= far:
            left_at, left = middle, between
            if middle == far:
                return between
        else:
            right_at, right = middle, between
    return right


def _jump(value: Floats, rho: float, steps: int, noise: Floats) -> Floats:
    kept = rho**steps
    return np.asarray(kept * value + np.sqrt(1.0 - kept * kept) * noise)


def _between(left: Floats, right: Floats, rho: float, before: int, after: int, noise: Floats) -> Floats:
    """The path between two of its points, `before` steps after the left and `after` steps before the right one."""
    near, far = rho**before, rho**after
    lost_near, lost_far, lost = 1.0 - near * near, 1.0 - far * far, 1.0 - near * near * far * far
    mean = (near * lost_far * left + far * lost_near * right) / lost
    return np.asarray(mean + np.sqrt(lost_near * lost_far / lost) * noise)


def _shares(counts: Floats, path: str, layers: int, experts: int) -> Shares:
    if counts.shape[1] != experts or counts.shape[0] not in (1, layers):
        raise BadTrace(
            f"{path} holds counts of shape [{counts.shape[0]} layers, {counts.shape[1]} experts], but the model has "
            f"{layers} layers with {experts} experts; use shape [{layers}, {experts}], or [1, {experts}] for all layers"
        )
    rows = np.broadcast_to(counts, (layers, experts))
    totals = rows.sum(axis=1, keepdims=True)
    if (totals <= 0).any():
        raise BadTrace(f"{path}: a layer has no routed tokens")
    return np.asarray(rows / totals, dtype=np.float64)


_MOST_COUNT = 1e100  # of tokens: sums and ratios of counts stay numbers
# what the library says of files that it cannot read
_BROKEN = (
    ValueError, TypeError, KeyError, ArithmeticError, SyntaxError, TokenError, OSError, EOFError, MemoryError,
    RuntimeError, BadZipFile, zlib.error,
)  # fmt: skip
_MOST_VALUES = 30_000_000  # of one file: a thousand steps of the largest models
_COUNTS = Opening(
    "file of counts", 100_000_000, BadTrace, "moesim reads .npz, .npy or .csv of tokens per layer and expert"
)


def load_counts(path: Path) -> npt.NDArray[np.float64]:
    """Tokens per layer and expert from .npz, .npy or .csv (one line a layer): [layers, experts], or of several steps
    [steps, layers, experts]. BadTrace when the file is missing or is none of these.
    """
    if not path.is_file():
        raise BadTrace(f"routing counts file {path} does not exist")
    try:
        data = _read_table(path)
    except BadTrace:
        raise
    except _BROKEN as error:
        raise BadTrace(f"{path} is not a table of counts: {_why(error)}") from error
    bad = not (data < _MOST_COUNT).all() or (data < 0).any()  # what is no number is not below it
    if data.ndim not in (2, 3) or not data.size or bad:
        raise BadTrace(
            f"{path}: counts must be finite, non-negative, below {_MOST_COUNT:g}, of shape [layers, experts] or "
            "[steps, layers, experts]"
        )
    return data


def save_counts(counts: npt.NDArray[np.int64], path: Path) -> None:
    """Write counts of shape [layers, experts] or [steps, layers, experts] as .npz, for `load_counts`."""
    if counts.ndim not in (2, 3) or not counts.size or (counts < 0).any():
        raise BadTrace(f"counts of shape {counts.shape} are not [layers, experts] or [steps, layers, experts]")
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, counts=counts)


def _read_table(path: Path) -> npt.NDArray[np.float64]:
    check_plain(path, _COUNTS)
    if path.suffix not in (".npz", ".npy"):
        with warnings.catch_warnings(), opened(path, _COUNTS) as text:
            warnings.simplefilter("ignore")  # an empty file is refused by its shape
            return np.loadtxt(text, delimiter=",", ndmin=2)
    with path.open("rb") as file:  # opened here, so that it is closed whatever is inside
        if path.suffix == ".npz":
            with ZipFile(file) as packed:
                if sum(each.file_size for each in packed.infolist()) > _COUNTS.most_bytes:
                    raise BadTrace(f"{path} unpacks to more than {_COUNTS.most_bytes:,} bytes; cut it")
            file.seek(0)
        data = np.load(file, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return _numbers(data, path)
        arrays = {name: data[name] for name in data.files}
    names = [name for name, array in arrays.items() if isinstance(array, np.ndarray) and array.ndim in (2, 3)]
    if not names:
        raise BadTrace(f"{path} holds no array of shape [layers, experts] or [steps, layers, experts]")
    return _numbers(arrays["counts" if "counts" in names else names[0]], path)


def _numbers(data: npt.NDArray[np.generic], path: Path) -> npt.NDArray[np.float64]:
    """The same as floats. BadTrace for what is no number, or more than memory is taken for."""
    if data.dtype.kind not in "biuf" or data.size > _MOST_VALUES:
        raise BadTrace(
            f"{path} must hold numbers, {_MOST_VALUES:,} at most; it holds {data.size:,} of {data.dtype.kind!r}"
        )
    return np.asarray(data, dtype=np.float64)


def _why(error: Exception) -> str:
    """What is wrong, and where; nothing of the file is repeated."""
    where = re.search(r"at row \d+, column \d+|at row \d+", str(error))
    if where is not None:
        return f"something else than a number, or another number of columns, {where.group()}"
    return _one_line(error) if isinstance(error, (OSError, EOFError)) else "it is broken, or of another form"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
