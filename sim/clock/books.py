"""Books: where every second of every rank went, by category and by evidence."""

from __future__ import annotations

from moesim.sim.clock.script import Piece
from moesim.sim.clock.values import When, latest, mean


class Books:
    """Seconds by category and by source of every rank, the members' mean; `free`: booked up to here."""

    def __init__(self, ranks: int) -> None:
        self.free: list[When] = [0.0] * ranks
        self.spent: list[dict[str, float]] = [{} for _ in range(ranks)]
        self.sources: list[dict[str, float]] = [{} for _ in range(ranks)]
        self._met: list[dict[str, float]] = [{} for _ in range(ranks)]

    def meet(self, rank: int, why: str, waited_s: float) -> None:
        """Members of a group waited this long, on average, for their latest: to be told from the transfer itself."""
        if waited_s > 0.0:
            met = self._met[rank]
            met[why] = met.get(why, 0.0) + waited_s

    def wait(self, rank: int, until: When, shares: tuple[tuple[str, float], ...]) -> None:
        """Book the idle time up to `until` by these shares; of a wait for a transfer, first what its members waited."""
        free = self.free[rank]
        if until is free:
            return
        gap = mean(until) - mean(free)
        if gap > 0.0:
            spent = self.spent[rank]
            for name, share in shares or (("bubble", 1.0),):
                seconds = gap * share
                if name.endswith("_comm") and self._met[rank]:
                    seconds -= self._imbalance(rank, seconds)
                spent[name] = spent.get(name, 0.0) + seconds
        self.free[rank] = latest(free, until)

    def _imbalance(self, rank: int, most_s: float) -> float:
        met, spent, booked = self._met[rank], self.spent[rank], 0.0
        for why, waited_s in met.items():
            seconds = min(most_s - booked, waited_s)
            spent[why] = spent.get(why, 0.0) + seconds
            booked += seconds
        met.clear()
        return booked

    def spend(self, rank: int, piece: Piece, busy_s: float, late_s: float) -> None:
        """Book a piece of the compute stream: its own categories, and by how much transfers beside it made it late."""
        spent, sources = self.spent[rank], self.sources[rank]
        if late_s > 0.0 and piece.kind == "compute":
            spent["overlap"] = spent.get("overlap", 0.0) + late_s
            busy_s -= late_s
        total = piece.seconds
        factor = busy_s / total if total > 0.0 else 0.0
        for name, seconds in piece.spent:
            spent[name] = spent.get(name, 0.0) + seconds * factor
        if total <= 0.0:
            spent[piece.category] = spent.get(piece.category, 0.0) + busy_s
        for name, seconds in piece.sources:
            sources[name] = sources.get(name, 0.0) + seconds * factor
