"""Requests of the outside world: arrivals and lengths, read from a trace or drawn from a seed."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moesim.traces.rng import stream
from moesim.traces.routing import BadTrace

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MAX_BYTES = 1_000_000_000
_NEEDED = ("arrival_s", "input_tokens", "output_tokens")
_PREFIXES = ("prefix", "shared_prefix_tokens_infinite_cache")


@dataclass(frozen=True, slots=True)
class Chains:
    """What each prompt consists of, as keys of its pieces from the start; leading pieces with equal keys are equal.

    The last pieces of a request may lie beyond its prompt: they are its answer, which a later prompt may repeat.
    """

    keys: tuple[tuple[int, ...], ...]
    ends: tuple[tuple[int, ...], ...]  # tokens from the start of the prompt at which each piece ends


@dataclass(frozen=True, slots=True)
class Requests:
    """Columns by request, in order of arrival; `prefix` leading input tokens were seen before, whatever was kept.

    With `after`, a request that waits for an answer has its time to think in `arrival_s`: seconds after it.
    """

    arrival_s: tuple[float, ...]
    input_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    prefix: tuple[int, ...]
    chains: Chains | None = None  # None: the trace does not say what prompts share
    after: tuple[int, ...] = ()  # the request whose answer each one waits for, -1 for none; empty: none waits

    def __len__(self) -> int:
        return len(self.arrival_s)


def load_requests(path: str | Path) -> Requests:
    """A CSV of arrival_s,input_tokens,output_tokens[,prefix]. BadTrace names the file, the line and what would do."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BadTrace(f"{file} has {file.stat().st_size:,} bytes; a trace has at most {MAX_BYTES:,}")
        with file.open(encoding="utf-8-sig", newline="") as handle:
            return _parse(csv.reader(handle, strict=True), str(file))
    except OSError as error:
        raise BadTrace(f"cannot read trace {file}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise BadTrace(f"trace {file} is not a text file in UTF-8") from None
    except csv.Error as error:
        raise BadTrace(f"trace {file} is not a CSV: {error}") from None


def _parse(lines: csv._reader, name: str) -> Requests:  # type: ignore[name-defined]  # csv has no public name for it
    header = [cell.strip() for cell in next(lines, [])]
    missing = [column for column in _NEEDED if column not in header]
    if missing:
        raise BadTrace(f"trace {name} lacks column {', '.join(missing)}; it needs {', '.join(_NEEDED)}[, prefix]")
    where = [header.index(column) for column in _NEEDED]
    prefix_at = next((header.index(column) for column in _PREFIXES if column in header), None)
    rows = []
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise BadTrace(f"trace {name}, line {lines.line_num}: {len(cells)} cells under {len(header)} columns")
        place = f"trace {name}, line {lines.line_num}"
        arrival = _number(cells[where[0]], place, "arrival_s", 0.0)
        tokens, output = (int(_number(cells[where[i]], place, _NEEDED[i], 1.0)) for i in (1, 2))
        prefix = int(_number(cells[prefix_at] or "0", place, "prefix", 0.0)) if prefix_at is not None else 0
        rows.append((arrival, tokens, output, min(prefix, tokens)))
    if not rows:
        raise BadTrace(f"trace {name} holds no requests")
    rows.sort(key=lambda row: row[0])
    arrivals, tokens_, outputs, prefixes = zip(*rows, strict=True)
    return Requests(arrivals, tokens_, outputs, prefixes)


def _number(text: str, place: str, column: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or value < least or value > 1e12:
        raise BadTrace(f"{place}: {column} is {text.strip()[:20]!r}; it must be a number of at least {least:g}")
    return value


def gamma_arrivals(rate_per_s: float, cv: float, count: int, seed: int) -> Floats:
    """Arrival times with gamma gaps of this coefficient of variation; 1 is a Poisson process."""
    draws = stream(seed, "requests.arrivals")
    shape = 1.0 / cv**2
    return np.cumsum(draws.gamma(shape, 1.0 / (shape * rate_per_s), count))


def uniform_lengths(nominal: int, jitter: float, count: int, seed: int, name: str) -> Ints:
    """Lengths uniform in [(1 - jitter) nominal, nominal], at least one."""
    if jitter == 0.0:
        return np.full(count, nominal, dtype=np.int64)
    low = max(1, round(nominal * (1.0 - jitter)))
    return stream(seed, f"requests.{name}").integers(low, nominal + 1, count)


_LONGEST = 5.0  # means that a length has at most; ShareGPT prompts of 215 tokens are cut at 1,024 by the harnesses


def lognormal_lengths(mean: int, sigma: float, count: int, seed: int, name: str) -> Ints:
    """Lengths with a lognormal spread, at least one and at most five means long; they average `mean`."""
    drawn = np.exp(sigma * stream(seed, f"requests.{name}.lognormal").standard_normal(count))
    low, high = 0.0, mean * _LONGEST
    for _ in range(60):  # the factor that gives the mean once the longest are cut
        middle = (low + high) / 2.0
        below = float(np.minimum(np.maximum(middle * drawn, 1.0), mean * _LONGEST).mean()) < mean
        low, high = (middle, high) if below else (low, middle)
    return np.maximum(1, np.rint(np.minimum(high * drawn, mean * _LONGEST))).astype(np.int64)
