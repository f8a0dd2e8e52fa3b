"""PrefixCache: which runs of prompts a worker keeps, on its GPUs and in the tiers behind them.

Runs that running requests use are pinned. The others are free to go when blocks are needed: the least recently used
run first, and from its end, so that what is kept always begins at the start of a prompt. A run that leaves the GPU is
written to the first tier that has room for it, what leaves there to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moesim.sim.serve.prefix_runs import PrefixRuns

Told = Callable[[Sequence[int], bool], None]  # (runs, whether the worker has them now): the router hears of it


class Link:
    """What brings blocks from a tier: one after the other."""

    __slots__ = ("free_s",)

    def __init__(self) -> None:
        self.free_s = 0.0  # when everything that was asked for is there


class Shelf:
    """Runs that lie outside a GPU, least recently used first."""

    __slots__ = ("blocks", "kept", "used", "written")

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks  # that it holds
        self.used = self.written = 0
        self.kept: dict[int, int] = {}  # run -> blocks

    def keep(self, run: int, blocks: int) -> list[tuple[int, int]]:
        """Keep a run; those (run, blocks) that had to go for it. One that is larger than the shelf goes itself."""
        kept = self.kept
        if run in kept:
            kept[run] = kept.pop(run)
            return []
        if blocks > self.blocks:
            return [(run, blocks)]
        kept[run] = blocks
        self.used += blocks
        self.written += blocks
        gone = []
        while self.used > self.blocks:
            old = next(iter(kept))
            gone.append((old, kept.pop(old)))
            self.used -= gone[-1][1]
        return gone


class Tier:
    """A shelf as one worker reaches it: its own, or one that several share."""

    __slots__ = ("link", "name", "read", "read_block_s", "shelf", "write_through")

    def __init__(self, name: str, shelf: Shelf, link: Link, read_block_s: float, write_through: bool = False) -> None:
        """`read_block_s`: seconds of the link until one more block is on the GPU."""
        self.name, self.shelf, self.link = name, shelf, link
        self.read_block_s, self.write_through = read_block_s, write_through
        self.read = 0  # blocks

    def bring(self, blocks: int, now_s: float) -> float:
        """When so many blocks, asked for now, are on the GPU."""
        self.read += blocks
        self.link.free_s = max(self.link.free_s, now_s) + blocks * self.read_block_s
        return self.link.free_s


class PrefixCache:
    """The runs that one worker keeps. Blocks are those of its engine."""

    def __init__(self, runs: PrefixRuns, block_tokens: int, tiers: Sequence[Tier] = (), told: Told | None = None):
        """`told`: is called when a run has come, and when no part of the worker holds it any more."""
        self._prompts, self._answers = runs.prompts, runs.answers
        self._sizes, self._block_tokens = runs.blocks(block_tokens), block_tokens
        self.tiers, self._told = tuple(tiers), told
        self._resident: dict[int, int] = {}  # run -> its leading blocks on the GPU
        self._pins: dict[int, int] = {}  # run -> running requests that use it
        self._free: dict[int, None] = {}  # runs that nobody uses, least recently used first
        self.free_blocks = 0  # that they hold
        self.asked_tokens = self.hit_tokens = 0  # of prompts that were admitted
        self.tier_tokens = [0] * len(self.tiers)  # of the hits, those that a tier brought
        self.evicted_blocks = 0

    def pinned_blocks(self, request: int) -> int:
        """Blocks of a prompt that running requests hold already: it needs no room for them."""
        pins, sizes, held = self._pins, self._sizes, 0
        for run in self._prompts[request]:
            if run not in pins:
                break
            held += sizes[run]
        return held

    def take(self, request: int, tokens: int, now_s: float) -> tuple[int, float]:
        """A request of `tokens` tokens is admitted: (leading tokens that need not be computed, when they are there).

        The last token is always computed. All runs of its prompt are pinned from now on.
        """
        path, sizes, resident, block = self._prompts[request], self._sizes, self._resident, self._block_tokens
        most = (tokens - 1) // block
        hit = 0
        n = 0
        for n, run in enumerate(path):  # noqa: B007  # the run at which the GPU's part ends
            here = resident.get(run, 0)
            hit += here
            if here < sizes[run]:
                break
        there_s = now_s
        if self.tiers and hit < most and path:
            hit, there_s = self._fetch(path[n:], hit, most, now_s)
        self._pin(path)
        hit = min(hit, most)
        self.asked_tokens += tokens
        self.hit_tokens += hit * block
        return hit * block, there_s

    def _fetch(self, path: Sequence[int], hit: int, most: int, now_s: float) -> tuple[int, float]:
        """(blocks that are there with those of tiers, when the slowest tier has brought its part)."""
        brought = [0] * len(self.tiers)
        for run in path:
            missing = min(self._sizes[run] - self._resident.get(run, 0), most - hit)
            if missing <= 0:
                continue
            which = next((n for n, tier in enumerate(self.tiers) if run in tier.shelf.kept), None)
            if which is None:
                break
            kept = self.tiers[which].shelf.kept
            kept[run] = kept.pop(run)
            brought[which] += missing
            hit += missing
        there_s = now_s
        for n, (tier, blocks) in enumerate(zip(self.tiers, brought, strict=True)):
            if blocks:
                self.tier_tokens[n] += blocks * self._block_tokens
                there_s = max(there_s, tier.bring(blocks, now_s))
        return hit, there_s

    def _pin(self, path: Sequence[int]) -> None:
        pins, sizes, resident, free = self._pins, self._sizes, self._resident, self._free
        came = []
        for run in path:
            count = pins.get(run)
            if count:
                pins[run] = count + 1
                continue
            pins[run] = 1
            here = resident.get(run)
            if here is not None:
                del free[run]
                self.free_blocks -= here
                if here == sizes[run]:
                    continue
            resident[run] = sizes[run]
            came.append(run)
        if came:
            self._came(came)

    def _came(self, runs: Sequence[int]) -> None:
        if self._told is not None:
            self._told(runs, True)
        if self.tiers and self.tiers[0].write_through:
            for run in runs:
                if self._sizes[run]:
                    self._write(run)

    def release(self, request: int, answered: bool = True) -> int:
        """A request leaves: its runs are free to go unless others use them. Blocks that others still hold.

        `answered`: what it wrote stays as well, for prompts that repeat it.
        """
        pins, sizes, free, resident = self._pins, self._sizes, self._free, self._resident
        if answered:
            for run in reversed(self._answers[request]):
                if run not in pins:
                    self.free_blocks += sizes[run] - resident.get(run, 0)
                    free.pop(run, None)
                    free[run] = None
                    if resident.get(run) != sizes[run]:
                        resident[run] = sizes[run]
                        self._came((run,))
        shared = 0
        for run in reversed(self._prompts[request]):
            if pins[run] > 1:
                pins[run] -= 1
                shared += sizes[run]
            else:
                del pins[run]
                free[run] = None
                self.free_blocks += sizes[run]
        return shared

    def trim(self, room: int) -> None:
        """Let free runs go until they hold at most `room` blocks."""
        free, resident, sizes = self._free, self._resident, self._sizes
        room = max(0, room)
        while self.free_blocks > room:
            run = next(iter(free))
            here = resident[run]
            cut = min(here, self.free_blocks - room)
            if here == sizes[run]:  # the first blocks of it that go: it is written down whole
                self._left(run)
            self.free_blocks -= cut
            self.evicted_blocks += cut
            if cut == here:
                del free[run], resident[run]
            else:
                resident[run] = here - cut
                return

    def _left(self, run: int) -> None:
        if not self.tiers:
            if self._told is not None:
                self._told((run,), False)
        elif self._sizes[run]:
            self._write(run)

    def _write(self, run: int) -> None:
        """Into the first tier; what goes there for it moves one down, and out at the last."""
        moving = [(run, self._sizes[run])]
        for tier in self.tiers:
            moving = [gone for each, blocks in moving for gone in tier.shelf.keep(each, blocks)]
        if self._told is not None:
            gone = [each for each, _ in moving if self._resident.get(each, 0) < self._sizes[each]]
            if gone:
                self._told(gone, False)
