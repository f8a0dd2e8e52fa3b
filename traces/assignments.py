"""Which experts single tokens pick: top-k sets, free or limited to groups, on any popularity of experts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.traces.rng import stream
from moesim.traces.routing import BadTrace

Picks = npt.NDArray[np.int32]  # [tokens, top_k]
_CHUNK = 1024


def sample_picks(
    experts: int,
    top_k: int,
    tokens: int,
    seed: int = 0,
    popularity: npt.NDArray[np.float64] | None = None,
    groups: int = 1,
    top_groups: int = 1,
) -> Picks:
    """`tokens` sets of `top_k` distinct experts, shape [tokens, top_k].

    Scores are log popularity plus Gumbel noise: draws without replacement in proportion to popularity. With
    `groups` above one only the `top_groups` groups whose two best scores add up highest may serve a token
    (DeepSeek-V3's router). BadTrace for numbers that cannot be.
    """
    if not 0 < top_k <= experts:
        raise BadTrace(f"top_k={top_k} of {experts} experts cannot be")
    if groups > 1 and (experts % groups or not 0 < top_groups <= groups):
        raise BadTrace(f"{top_groups} of {groups} groups of {experts} experts cannot be")
    if popularity is not None and (popularity.shape != (experts,) or (popularity <= 0).any()):
        raise BadTrace(f"popularity needs {experts} numbers above zero, not shape {popularity.shape}")
    rng = stream(seed, "traces.assignments")
    base = np.zeros(experts) if popularity is None else np.log(popularity / popularity.sum())
    picks = np.empty((tokens, top_k), dtype=np.int32)
    for start in range(0, tokens, _CHUNK):
        count = min(_CHUNK, tokens - start)
        scores = (base - np.log(rng.exponential(size=(count, experts)))).astype(np.float32)
        if groups > 1 and top_groups < groups:
            scores = _limited(scores, groups, top_groups)
        picks[start : start + count] = np.argpartition(-scores, top_k - 1, axis=1)[:, :top_k]
    return picks


def _limited(scores: npt.NDArray[np.float32], groups: int, top_groups: int) -> npt.NDArray[np.float32]:
    """Scores of experts outside a token's best groups become minus infinity."""
    count, experts = scores.shape
    split = scores.reshape(count, groups, experts // groups)
    best = np.sort(split, axis=2)[:, :, -2:].sum(axis=2)
    kept = np.argpartition(-best, top_groups - 1, axis=1)[:, :top_groups]
    allowed = np.zeros((count, groups), dtype=bool)
    np.put_along_axis(allowed, kept, True, axis=1)
    return np.where(allowed[:, :, None], split, np.float32(-np.inf)).reshape(count, experts)


def hit_shares(picks: Picks, experts: int, holders: int) -> npt.NDArray[np.float64]:
    """Share of tokens that reach each of `holders` contiguous blocks of experts at least once, shape [holders]."""
    per = experts // holders
    hit = np.zeros((len(picks), holders), dtype=bool)
    np.put_along_axis(hit, (picks // per).astype(np.int64), True, axis=1)
    return np.asarray(hit.mean(axis=0))
