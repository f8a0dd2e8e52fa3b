"""What the walker keeps of a slot under way, and of the compute that runs on a rank."""

from __future__ import annotations

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
    """Compute under way on a rank: what is left at full speed, and its speed."""

    __slots__ = ("alone_end", "due_s", "left_s", "number", "rate", "since_s", "slot", "version")

    def __init__(self, slot: OpenSlot, number: int, alone_end: When) -> None:
        self.slot, self.number, self.alone_end = slot, number, alone_end
        self.left_s = self.rate = self.since_s = self.due_s = 0.0
        self.version = 0
