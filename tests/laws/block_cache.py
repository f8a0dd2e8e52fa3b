"""A prefix cache in the plainest way: every block by itself, with its content as its name. For tests."""

from __future__ import annotations

from collections import OrderedDict

Content = tuple[tuple[int, int], ...]  # (key, tokens of it) from the start of the prompt


def contents(keys: tuple[int, ...], ends: tuple[int, ...], tokens: int, size: int) -> list[Content]:
    """What each whole block of the first `tokens` tokens holds, and all before it: equal ones are one block."""
    blocks, pieces, start, at = [], [], 0, size
    for key, end in zip(keys, ends, strict=True):
        while at <= min(end, tokens):
            blocks.append((*pieces, (key, at - start)))
            at += size
        pieces.append((key, end - start))
        start = end
    return blocks


class BlockCache:
    """Blocks that requests pin, and free ones in the order in which they go."""

    def __init__(self) -> None:
        self.pins: dict[Content, int] = {}
        self.free: OrderedDict[Content, None] = OrderedDict()
        self.of: dict[int, list[Content]] = {}

    def pinned(self, blocks: list[Content]) -> int:
        """Leading blocks that others pin already."""
        return next((n for n, b in enumerate(blocks) if b not in self.pins), len(blocks))

    def take(self, request: int, blocks: list[Content], most: int) -> int:
        """Leading blocks that are there, at most `most`; all are pinned from now on."""
        hit = next((n for n, b in enumerate(blocks) if b not in self.pins and b not in self.free), len(blocks))
        for b in blocks:
            self.free.pop(b, None)
            self.pins[b] = self.pins.get(b, 0) + 1
        self.of[request] = blocks
        return min(hit, most)

    def release(self, request: int, answer: list[Content] = []) -> None:  # noqa: B006  # never changed
        """The last block of a chain is the first to go; an answer's blocks come after its prompt's."""
        for b in reversed(answer):
            if b not in self.pins:
                self.free.pop(b, None)
                self.free[b] = None
        for b in reversed(self.of.pop(request)):
            self.pins[b] -= 1
            if not self.pins[b]:
                del self.pins[b]
                self.free[b] = None

    @property
    def shared(self) -> int:
        """Blocks that are pinned more than once, as often as they are more than once."""
        return sum(n - 1 for n in self.pins.values())

    def trim(self, room: int) -> None:
        while len(self.free) > max(0, room):
            self.free.popitem(last=False)
