"""Where seconds are booked, by hand: pieces, waits with their reasons, what members of a group waited for others."""

from __future__ import annotations

import pytest

from moesim.sim.clock.books import Books
from moesim.sim.clock.script import Piece


def piece(seconds: float, *spent: tuple[str, float]) -> Piece:
    return Piece("p", "compute", "compute", seconds, "gemm", spent=spent, sources=(("fit: x", seconds),))


def test_a_piece_is_booked_by_its_parts_as_long_as_it_took() -> None:
    books = Books(1)
    books.spend(0, piece(2.0, ("gemm", 1.5), ("attention", 0.5)), 4.0, 0.0)  # a GPU at half its speed
    assert books.spent[0] == {"gemm": 3.0, "attention": 1.0} and books.sources[0] == {"fit: x": 4.0}
    books.spend(0, piece(2.0, ("gemm", 2.0)), 2.5, 0.5)  # half a second of it because of transfers beside it
    assert books.spent[0] == {"gemm": 5.0, "attention": 1.0, "overlap": 0.5}


def test_a_piece_of_no_length_adds_what_it_took_and_nothing_else() -> None:
    books = Books(1)
    books.spend(0, piece(0.0), 0.0, 0.0)
    assert books.spent[0] == {"gemm": 0.0}
    books.spend(0, piece(0.0), 0.25, 0.0)
    assert books.spent[0] == {"gemm": 0.25}


def test_waits_are_booked_by_their_shares_and_once() -> None:
    books = Books(2)
    books.wait(0, 3.0, (("ep_comm", 0.75), ("host", 0.25)))
    books.wait(0, 2.0, (("ep_comm", 1.0),))  # over already
    assert books.spent[0] == {"ep_comm": 2.25, "host": 0.75} and books.free == [3.0, 0.0]
    books.wait(0, 3.5, ())
    assert books.spent[0]["bubble"] == 0.5 and books.spent[1] == {}


@pytest.mark.parametrize(("waited", "left"), [(0.5, 1.5), (2.0, 0.0), (5.0, 0.0)])
def test_of_a_wait_for_a_transfer_what_its_members_waited_comes_first(waited: float, left: float) -> None:
    books = Books(1)
    books.meet(0, "imbalance", waited)
    books.meet(0, "slow_gpu", -1.0)  # nobody waited
    books.wait(0, 2.0, (("ep_comm", 1.0),))
    assert books.spent[0] == {"imbalance": min(waited, 2.0), "ep_comm": left}
    books.wait(0, 3.0, (("ep_comm", 1.0),))  # it is told once
    assert books.spent[0]["imbalance"] == min(waited, 2.0) and books.spent[0]["ep_comm"] == left + 1.0


def test_a_wait_for_something_else_keeps_it_for_the_transfer() -> None:
    books = Books(1)
    books.meet(0, "slow_gpu", 0.5)
    books.wait(0, 1.0, (("bubble", 1.0),))
    assert books.spent[0] == {"bubble": 1.0}
    books.wait(0, 2.0, (("dp_comm", 1.0),))
    assert books.spent[0] == {"bubble": 1.0, "slow_gpu": 0.5, "dp_comm": 0.5}
