"""Rules of the scheduler in small runs whose every pass is written down: budget, prefixes, preemption, swap, reserve.

A pass takes one second, 10 ms more for every token of a prompt, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from moesim.sim.serve.alone import run_open
from moesim.sim.serve.front import Front
from moesim.sim.serve.kv_cache import KvCache
from moesim.sim.serve.replica import Replica, steps_until
from moesim.sim.serve.workload import RequestLog, request_log
from moesim.sim.software.serving_engine import load_engine


@dataclass
class Plain:
    """Seconds of passes, and what each that carried prompts was asked."""

    yields: float = 1.0
    width: int = 1

    def __post_init__(self) -> None:
        self.asked: list[tuple[list[tuple[int, int]], int]] = []

    def decode(self, batch: int) -> tuple[float, float]:
        return 1.0, 0.0

    def mixed(self, chunks: list[tuple[int, int]], batch: int, cached: float) -> float:
        self.asked.append((list(chunks), batch))
        return 1.0 + 0.01 * sum(new for new, _ in chunks)


def served(log: RequestLog, costs: Plain, blocks: int = 1000, swap_token_s: float = 0.0, **settings: object) -> Replica:
    engine = load_engine("vllm", {"prefix_cache": False, **settings})
    replica = Replica(log, costs, engine, KvCache(blocks, 16, 1.0, swap_token_s))
    run_open(log, replica, Front())
    return replica


def test_a_prompt_longer_than_the_budget_comes_in_pieces_and_decoding_goes_first() -> None:
    """64 tokens a pass: 100 tokens take two passes; the second prompt gets what is left beside one decoding request."""
    log, costs = request_log([0.0, 0.0], [100, 70], [5, 1]), Plain()
    replica = served(log, costs, token_budget=64)
    assert (replica.prompt_passes, replica.prompt_chunks, replica.prefill_tokens) == (3, 4, 170)
    assert (replica.prompt_riders, replica.riders_cached) == (1, 100.0)  # beside the last of them
    assert replica.busy_s == replica.now and replica.prefill_busy_s == pytest.approx(1.64 + 1.64 + 1.42)
    assert replica.steps_at == {1: 3} and replica.cached_steps == 101 + 102 + 103
    assert costs.asked == [([(64, 0)], 0), ([(36, 64), (28, 0)], 0), ([(42, 28)], 1)]
    assert log.first_s == pytest.approx([1.64 + 1.64, 1.64 + 1.64 + 1.42])
    # three more passes after the one that carried the second prompt
    assert log.finish_s == pytest.approx([1.64 + 1.64 + 1.42 + 3.0, log.first_s[1]])


def test_drafts_that_are_checked_take_their_part_of_the_budget() -> None:
    log, costs = request_log([0.0, 1.0], [10, 100], [9, 1]), Plain(yields=1.5, width=3)
    served(log, costs, token_budget=64)
    assert costs.asked[1:] == [([(61, 0)], 1), ([(39, 61)], 1)]


def test_a_prefix_saves_all_but_the_last_token() -> None:
    """Who asks the very same again must compute one token, from which the answer starts."""
    log, costs = request_log([0.0, 50.0, 100.0], [40, 40, 40], [2, 2, 2], [0, 40, 25]), Plain()
    served(log, costs, prefix_cache=True)
    assert [chunks for chunks, _ in costs.asked] == [[(40, 0)], [(1, 39)], [(15, 25)]]
    assert list(log.hit) == [0, 39, 25]
    assert [f - a for f, a in zip(log.first_s, log.arrival_s, strict=True)] == pytest.approx([1.4, 1.01, 1.15])


def test_without_a_prefix_cache_all_is_computed() -> None:
    log, costs = request_log([0.0, 50.0], [40, 40], [2, 2], [0, 40]), Plain()
    served(log, costs)
    assert [chunks for chunks, _ in costs.asked] == [[(40, 0)], [(40, 0)]]


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_run_than_the_engine_takes(most: int) -> None:
    log, costs = request_log([0.0, 0.0, 0.0], [10, 10, 10], [4, 4, 4]), Plain()
    served(log, costs, max_batch=most)
    assert [len(chunks) for chunks, _ in costs.asked] == ([1, 1, 1] if most == 1 else [2, 1])
    # one after the other: a pass for the prompt, three more for the answer
    assert log.finish_s == pytest.approx([4.1, 8.2, 12.3] if most == 1 else [4.2, 4.2, 8.3])


def test_the_youngest_is_preempted_and_computes_its_tokens_again() -> None:
    """Four blocks of 16. Two requests of 16 and 17 tokens grow until both need three blocks, when the first holds 33.

    Both begin at once: 1 + 2 blocks. After 15 passes they hold 31 and 32 tokens, four blocks. The next pass needs five
    (a third one of the second): it goes back with 32 tokens to be computed again, and its last 14 tokens to come.
    """
    log, costs = request_log([0.0, 0.0], [16, 17], [20, 30]), Plain()
    served(log, costs, blocks=4)
    assert log.preemptions == 1
    assert costs.asked == [([(16, 0), (17, 0)], 0), ([(32, 0)], 0)]
    first = 1.33
    assert log.first_s == pytest.approx([first, first])
    assert log.finish_s[0] == pytest.approx(first + 19.0)
    # its 30 tokens: one with the prompt, 15 before it was preempted; 14 more, the first of them when it is recomputed
    assert log.finish_s[1] == pytest.approx(first + 19.0 + 1.32 + 14.0)


def test_a_swapped_request_is_fetched_back_and_computes_one_token() -> None:
    log, costs = request_log([0.0, 0.0], [16, 17], [20, 30]), Plain()
    served(log, costs, blocks=4, swap_token_s=0.5, preemption="swap")
    assert costs.asked[1] == ([(1, 31)], 0) and log.preemptions == 1
    assert log.finish_s[1] == pytest.approx(1.33 + 19.0 + 1.01 + 32 * 0.5 + 14.0)


def test_blocks_that_are_reserved_for_the_whole_answer_preempt_nobody() -> None:
    """The second waits until the first has ended: together they would need 3 + 3 of 4 blocks."""
    log, costs = request_log([0.0, 0.0], [16, 17], [20, 30]), Plain()
    replica = served(log, costs, blocks=4, admission="reserve")
    assert log.preemptions == 0 and [chunks for chunks, _ in costs.asked] == [[(16, 0)], [(17, 0)]]
    assert log.finish_s == pytest.approx([1.16 + 19.0, 1.16 + 19.0 + 1.17 + 29.0])
    assert replica.blocks.held == 0 and replica.cached == 0 and replica.batch == 0


def test_engines_that_fill_first_let_decoding_wait() -> None:
    """A prompt that comes while another request decodes: alone in its pass, and the other gains nothing by it."""
    beside, first = (Plain(), Plain())
    logs = [request_log([0.0, 2.0], [10, 50], [6, 1]) for _ in range(2)]
    served(logs[0], beside)
    served(logs[1], first, scheduling="prefill_first")
    assert beside.asked[1] == ([(50, 0)], 1) and first.asked[1] == ([(50, 0)], 0)
    assert logs[0].finish_s[0] == pytest.approx(1.1 + 1.0 + 1.5 + 3.0)
    assert logs[1].finish_s[0] == pytest.approx(1.1 + 1.0 + 1.5 + 4.0)


def test_drafts_that_are_kept_count_as_whole_tokens_and_the_rest_in_the_next_pass() -> None:
    """1.5 tokens a pass: 1, 2, 1, 2, ... beside prompts; alone the engine's passes are counted by tokens."""
    log, costs = request_log([0.0, 1.5, 3.5], [10, 10, 10], [40, 1, 1]), Plain(yields=1.5, width=2)
    replica = served(log, costs)
    assert [riding for _, riding in costs.asked] == [0, 1, 1]
    assert replica.prompt_riders == 2 and replica.riders_cached >= 20


@pytest.mark.parametrize(
    ("a", "b", "batch", "cached", "seconds", "passes"),
    [
        (1.0, 0.0, 4, 100, 5.0, 5),
        (1.0, 0.0, 4, 100, 5.01, 6),
        (1.0, 0.0, 4, 100, 0.0, 1),
        (1.0, 0.01, 2, 100, 2.0, 1),  # passes of 2.00, 2.02, 2.04 s
        (1.0, 0.01, 2, 100, 2.03, 2),
        (1.0, 0.01, 2, 100, 2.0 + 2.02 + 2.04, 3),
        (1.0, 0.01, 2, 100, 2.0 + 2.02 + 2.04 + 0.001, 4),
    ],
)
def test_passes_until_a_time(a: float, b: float, batch: int, cached: int, seconds: float, passes: int) -> None:
    """k passes of B sequences that hold K tokens take k a + b (k K + B k (k - 1) / 2)."""
    assert steps_until(a, b, batch, cached, seconds) == passes
