"""The planner's bound on pairs, by hand: four alike stages that both ends of a pipeline feed."""

from __future__ import annotations

import numpy as np
import pytest

from moesim.sim.layout.layout import Layout
from moesim.sim.plan.train.bound import Pipe, Prices, _paired_s

RANKS = 4
NOTHING = (0.0, 0.0, 0.0, 0.0)


def _bound(sent_s: float, held: float, micro_batches: int = 8) -> float:
    """Forward 1 s, backward 2 s, exchanges of `sent_s` in each direction, per stage and micro-batch."""
    layout = Layout(gpus=RANKS, pp=RANKS, schedule="dualpipe")
    both_ends = np.eye(RANKS) + np.eye(RANKS)[::-1]
    nowhere = np.zeros((RANKS, RANKS))
    running = np.arange(RANKS + 1.0)
    prices = Prices(running, 2.0 * running, sent_s * running, sent_s * running, NOTHING, NOTHING, 0.0, 0.0)
    pipe = Pipe(np.arange(RANKS + 1), both_ends, nowhere, nowhere, nowhere)
    return _paired_s(layout, micro_batches, prices, pipe, 1.0, held)


@pytest.mark.parametrize(
    ("sent_s", "held", "busy_s"),
    [
        (0.0, 0.0, 8 * 3.0),  # half of the micro-batches on each of two stages
        (0.5, 0.0, 8 * 3.0),  # exchanges that hold nothing hide
        (0.5, 0.2, 8 * (3.0 + 0.2 * 1.0)),  # a second of them takes a fifth of the multiprocessors
        (4.0, 0.2, 8 * 8.0),  # exchanges longer than all compute
    ],
)
def test_pairs_take_their_compute_and_what_exchanges_take_from_it(sent_s: float, held: float, busy_s: float) -> None:
    """The middle ranks wait for one stage of the nearer end."""
    assert _bound(sent_s, held) == pytest.approx(busy_s + 1.0)
