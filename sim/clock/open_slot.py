"""What the walker keeps of a slot under way, and of the compute that runs on a rank."""

from __future__ import annotations

from collections.abc import Callable

from moesim.sim.clock.plan import ScriptRun
from moesim.sim.clock.values import When


class OpenSlot:
    """A slot under way."""

    __slots__ = ("ends", "item", "left", "open", "script", "seconds", "starts")

    def __init__(self, item: int, slot: ScriptRun, now_s: float) -> None:
        script = slot.script
        self.item, self.script = item, script
        self.seconds = slot.seconds(now_s) if slot.seconds is not None else None
        self.left = [len(p) for p in script.preds]
        self.starts: list[When] = [0.0] * len(self.left)
        self.ends: list[When] = [0.0] * len(self.left)
        self.open = len(script.blocking)


class RunningPiece:
    """Compute under way on a rank: what is left at full speed, its speed, and who is told when it ends."""

    __slots__ = ("alone_end", "done", "due_s", "left_s", "rate", "since_s", "version")

    def __init__(self, alone_end: When, done: Callable[[When, float], None]) -> None:
        self.alone_end, self.done = alone_end, done
        self.left_s = self.rate = self.since_s = self.due_s = 0.0
        self.version = 0
