"""Members: what sets the ranks of one pipeline stage apart from each other (routing, slow GPUs), as seconds per piece."""

from __future__ import annotations

from typing import Protocol

from moesim.sim.clock.script import Script
from moesim.sim.clock.values import Seconds
from moesim.sim.layers.graph import Op
from moesim.sim.layout.pipeline import Slot


class Members(Protocol):
    """Seconds of the pieces of a slot for every member of its stage, as arrays [groups, members]."""

    def apart(self, op: Op) -> bool:
        """True for operations of the compute stream at which members meet: pieces of their own."""
        ...

    def seconds(self, rank: int, slot: Slot, script: Script) -> list[Seconds]:
        """Seconds of every piece of the slot's script, by its number."""
        ...
