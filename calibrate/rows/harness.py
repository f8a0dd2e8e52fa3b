"""Guesses that recognise who ran a benchmark by what its published table prints, each with a name.

A row that states the setting itself (columns lengths, requests, stream_tokens, token_budget) is not guessed about.
Only workload columns are read. Every guess is applied to all rows alike and listed among what was assumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from moesim.calibrate.rows.arrivals import CLOSED, arrival_of
from moesim.calibrate.rows.cells import Row, text_of, whole_of
from moesim.hwmodels.gpu import load_gpu

_PUBLIC_LENGTHS = (
    1024,
    8192,
)  # of the public benchmark harness (InferenceX), which draws lengths from [0.8, 1] of them
_PUBLIC_JITTER = 0.2
_EARLY_STREAM, _LATE_STREAM = 40, 15  # tokens per group: read off fit rows of several models, see stream_tokens
_LEAST_BUDGET = 1024  # prompt tokens of a pass in the vendor's sweeps, at least; read off fit rows
# requests of an offline table by total tokens: its source says 30,000, 3,000, 1,500 or 1,000, depending on lengths.
# Which goes with which is assumed, and 6,000 stand for the 30,000 of the shortest: a steady state long before
_OFFLINE = ((300, 6000), (3000, 3000), (4200, 1500), (10**9, 1000))


@dataclass(frozen=True, slots=True)
class Guess:
    """A setting that a row does not state: its value, the name of the guess, and the column that would state it."""

    setting: str
    value: Any
    name: str
    why: str
    column: str

    @property
    def said(self) -> str:
        """As it is listed among the assumptions."""
        return f"{self.setting} = {self.value} (guess {self.name!r}: {self.why}; column {self.column} states it)"


def is_public_harness(row: Row) -> bool:
    """Lengths of the public harness; what runs on early pre-releases of TensorRT-LLM is the vendor's own."""
    lengths = {whole_of(row, "isl") or 1, whole_of(row, "osl") or 1}
    return lengths <= set(_PUBLIC_LENGTHS) and not is_vendors_sweep(row)


def is_vendors_sweep(row: Row) -> bool:
    """The vendor's own sweeps ran on pre-releases of TensorRT-LLM 1.0."""
    return text_of(row, "engine_version").startswith("1.0.0rc")


def jitter(row: Row) -> Guess | None:
    """Share of the nominal length over which a closed loop's lengths are drawn."""
    if not is_public_harness(row):
        return None
    why = f"lengths are {' or '.join(map(str, _PUBLIC_LENGTHS))}: drawn from [{1 - _PUBLIC_JITTER:g}, 1] of them"
    return Guess("jitter", _PUBLIC_JITTER, "public harness", why, "lengths")


def stream_tokens(row: Row, engine: str) -> Guess | None:
    """Public recipes of SGLang on Blackwell send tokens in groups; from 0.5.10 on the first one leaves earlier.

    Read off fit rows: their TTFT is 30 to 50 times their TPOT at every load, 10 to 20 times from 0.5.10 on.
    """
    blackwell = load_gpu(text_of(row, "gpu")).generation == "blackwell"
    if engine != "sglang" or not blackwell or not is_public_harness(row) or text_of(row, "prefill_workers"):
        return None
    version = re.match(r"0\.5\.(\d+)", text_of(row, "engine_version"))
    tokens = _LATE_STREAM if version and int(version.group(1)) >= 10 else _EARLY_STREAM
    return Guess(
        "stream_tokens", tokens, "public recipe of SGLang", "on Blackwell they send in groups", "stream_tokens"
    )


def token_budget(row: Row) -> Guess | None:
    """Steps of the vendor's sweeps on pre-releases of TensorRT-LLM 1.0 carry one prompt, short ones together.

    Read off fit rows: a prompt delays the others' tokens by the same time at every load, and the first tokens of
    many clients come as early as if their prompts never met.
    """
    if not is_vendors_sweep(row) or arrival_of(row).kind != CLOSED or text_of(row, "prefill_workers"):
        return None
    budget = max(whole_of(row, "isl") or 1, _LEAST_BUDGET) + (arrival_of(row).count or 1)
    return Guess("token_budget", budget, "vendor sweep", "one prompt per pass", "token_budget")


def offline_requests(row: Row) -> Guess:
    """Requests of an offline run, all queued."""
    tokens = (whole_of(row, "isl") or 1) + (whole_of(row, "osl") or 1)
    count = next(n for limit, n in _OFFLINE if tokens <= limit)
    return Guess("requests", count, "offline table", "TensorRT-LLM's overview by total tokens, all queued", "requests")
