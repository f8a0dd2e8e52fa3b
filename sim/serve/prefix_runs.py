"""PrefixRuns: the prompts of a run as one tree, cut into runs: pieces of text that requests only ever use whole.

The requests are known beforehand, so the tree is built once: a radix tree over the keys of their pieces, cut wherever
two requests part and wherever a prompt or a chain ends. A request is then a path of a few runs, whatever the size of
the blocks in which a worker keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moesim.traces.requests import Chains

Path = tuple[int, ...]  # runs from the start of a prompt


@dataclass(frozen=True, slots=True)
class PrefixRuns:
    """Runs and who uses them; runs are numbered, a run follows its parent."""

    prompts: list[Path]  # of each request: the runs of its prompt
    answers: list[Path]  # those of its answer, which come after them
    starts: list[int]  # tokens from the start of the prompt at which each run begins
    ends: list[int]  # and ends

    _blocks: dict[int, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts)

    def blocks(self, block_tokens: int) -> list[int]:
        """Whole blocks that end in each run. A block that two runs share counts for the later one."""
        sizes = self._blocks.get(block_tokens)
        if sizes is None:
            sizes = [
                end // block_tokens - start // block_tokens for start, end in zip(self.starts, self.ends, strict=True)
            ]
            self._blocks[block_tokens] = sizes
        return sizes


class _Tree:
    """A radix tree that grows; a run is a piece [first, last) of its owner's keys."""

    def __init__(self, chains: Chains) -> None:
        self.keys = chains.keys
        self.owner: list[int] = []
        self.first: list[int] = []
        self.last: list[int] = []
        self.parent: list[int] = []
        self.below: list[dict[int, int]] = []  # first key -> run
        self.roots: dict[int, int] = {}

    def add(self, request: int, depth: int) -> int:
        """The run at whose end the first `depth` keys of a request end; -1 for none of them."""
        keys = self.keys[request]
        run, at = -1, 0
        while at < depth:
            children = self.roots if run < 0 else self.below[run]
            child = children.get(keys[at])
            if child is None:
                child = self._new(request, at, depth, run)
                children[keys[at]] = child
                return child
            same = self._same(child, keys, at, depth)
            if at + same < self.last[child]:
                child = self._cut(child, at + same)
            run, at = child, at + same
        return run

    def _same(self, run: int, keys: tuple[int, ...], at: int, depth: int) -> int:
        """How many keys of a run are those of `keys` from `at` on; at least one."""
        theirs, most = self.keys[self.owner[run]], min(self.last[run], depth)
        if theirs[at:most] == keys[at:most]:
            return most - at
        n = at + 1
        while theirs[n] == keys[n]:
            n += 1
        return n - at

    def _new(self, request: int, first: int, last: int, parent: int) -> int:
        self.owner.append(request)
        self.first.append(first)
        self.last.append(last)
        self.parent.append(parent)
        self.below.append({})
        return len(self.owner) - 1

    def _cut(self, run: int, depth: int) -> int:
        """The upper part of a run, as a run of its own: the lower one keeps its number, and those who end there."""
        first, parent = self.first[run], self.parent[run]
        keys = self.keys[self.owner[run]]
        upper = self._new(self.owner[run], first, depth, parent)
        (self.roots if parent < 0 else self.below[parent])[keys[first]] = upper
        self.below[upper][keys[depth]] = run
        self.first[run], self.parent[run] = depth, upper
        return upper

    def path(self, run: int, until: int = -1) -> Path:
        """Runs from below `until` (-1: the start) to a run."""
        path = []
        while run != until:
            path.append(run)
            run = self.parent[run]
        return tuple(reversed(path))


def prefix_runs(chains: Chains, input_tokens: tuple[int, ...]) -> PrefixRuns:
    """The runs of these requests. Pieces that end beyond a prompt belong to the answer."""
    tree = _Tree(chains)
    asked, whole = [], []
    for request, (ends, tokens) in enumerate(zip(chains.ends, input_tokens, strict=True)):
        depth = len(ends)
        while depth and ends[depth - 1] > tokens:
            depth -= 1
        asked.append((request, depth))
        whole.append(len(ends))
    prompt_ends = [tree.add(request, depth) for request, depth in asked]
    chain_ends = [tree.add(request, depth) for request, depth in enumerate(whole)]
    known: dict[int, Path] = {}
    prompts = []
    for run in prompt_ends:
        path = known.get(run)
        if path is None:
            path = known[run] = tree.path(run)
        prompts.append(path)
    answers = [tree.path(last, first) for first, last in zip(prompt_ends, chain_ends, strict=True)]
    starts = [chains.ends[o][n - 1] if n else 0 for o, n in zip(tree.owner, tree.first, strict=True)]
    ends_of = [chains.ends[o][n - 1] for o, n in zip(tree.owner, tree.last, strict=True)]
    return PrefixRuns(prompts, answers, starts, ends_of)
