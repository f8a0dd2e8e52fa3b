"""Which share of the tokens each expert receives, per layer: balanced, lognormal, or counted in a file."""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from moesim.refusal import Refusal
from moesim.traces.rng import stream

Shares = npt.NDArray[np.float64]  # [layers, experts], every row sums to 1


class BadTrace(Refusal):
    """A trace or routing description that cannot be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens spread over experts: `kind` balanced, lognormal (popularity ~ exp(sigma N(0,1))) or counts."""

    kind: str = "balanced"
    sigma: float = 0.0
    counts_file: str | None = None
    seed: int = 0

    def shares(self, layers: int, experts: int) -> Shares:
        """Expected share of token-expert pairs per expert, shape [layers, experts]."""
        if self.kind == "balanced":
            return np.full((layers, experts), 1.0 / experts)
        if self.kind == "lognormal":
            draws = stream(self.seed, "routing.lognormal").standard_normal((layers, experts))
            popularity = np.exp(self.sigma * draws)
            return np.asarray(popularity / popularity.sum(axis=1, keepdims=True))
        if self.counts_file is None:
            raise BadTrace("routing counts need a file")
        return _from_counts(Path(self.counts_file), layers, experts)


def _from_counts(path: Path, layers: int, experts: int) -> Shares:
    counts = load_counts(path)
    if counts.shape[1] != experts:
        raise BadTrace(f"{path}: counts for {counts.shape[1]} experts, but the model has {experts}")
    rows = counts[np.arange(layers) % counts.shape[0]]  # fewer layers in the file: they repeat
    totals = rows.sum(axis=1, keepdims=True)
    if (totals <= 0).any():
        raise BadTrace(f"{path}: a layer has no routed tokens")
    return np.asarray(rows / totals, dtype=np.float64)


def load_counts(path: Path) -> npt.NDArray[np.float64]:
    """Tokens per layer and expert, shape [layers, experts], from .npz, .npy or .csv (one line a layer).

    Arrays with a leading step axis are summed over it. BadTrace when the file is missing or is none of these.
    """
    if not path.is_file():
        raise BadTrace(f"routing counts file {path} does not exist")
    try:
        data = _read_table(path)
    except BadTrace:
        raise
    except (ValueError, OSError, EOFError, MemoryError, BadZipFile, zlib.error) as error:
        raise BadTrace(f"{path} is not a table of counts: {_one_line(error)}") from error
    if data.ndim == 3:
        data = data.sum(axis=0)
    if data.ndim != 2 or not data.size or not np.isfinite(data).all() or (data < 0).any():
        raise BadTrace(f"{path}: counts must be finite, non-negative, of shape [layers, experts]")
    return data


def save_counts(counts: npt.NDArray[np.int64], path: Path) -> None:
    """Write counts of shape [layers, experts] or [steps, layers, experts] as .npz, for `load_counts`."""
    if counts.ndim not in (2, 3) or not counts.size or (counts < 0).any():
        raise BadTrace(f"counts of shape {counts.shape} are not [layers, experts] or [steps, layers, experts]")
    with path.open("wb") as file:
        np.savez_compressed(file, counts=counts)


def _read_table(path: Path) -> npt.NDArray[np.float64]:
    if path.suffix not in (".npz", ".npy"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an empty file is refused by its shape
            return np.loadtxt(path, delimiter=",", ndmin=2)
    with path.open("rb") as file:  # opened here, so that it is closed whatever is inside
        data = np.load(file, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return np.asarray(data, dtype=np.float64)
        names = [n for n in data.files if data[n].ndim in (2, 3)]
        if not names:
            raise BadTrace(f"{path} holds no array of shape [layers, experts] or [steps, layers, experts]")
        return np.asarray(data["counts" if "counts" in names else names[0]], dtype=np.float64)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
