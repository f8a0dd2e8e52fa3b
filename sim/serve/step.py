"""StepCosts: what the event loop needs of passes: a(B) + b(B) K, resources of a pipeline, and seconds by part.

A decode pass of B sequences that hold K tokens together takes a(B) + b(B) K. A pass that carries prompt tokens takes
the longer of what the GPU needs and what the host needs to launch it without a graph.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from moesim.sim.serve.kv_cache import token_bytes
from moesim.sim.serve.lines import Line, rounded
from moesim.sim.serve.pass_costs import PassCosts
from moesim.sim.serve.stages import batches_of, cycle_s, layers_of_stages
from moesim.sim.serve.step_parts import Parts, StepParts, Table
from moesim.sim.software.stack import Tuning


class StepCosts(PassCosts):
    """Seconds of steps of one job for sequences of about `contexts` (shortest, longest) tokens."""

    def __init__(self, parts: StepParts, tuning: Tuning, contexts: tuple[int, int]) -> None:
        super().__init__(parts, tuning, contexts)
        self._layers = layers_of_stages(self._job.arch.num_layers, self._stages)
        self._ab: dict[int, tuple[float, float]] = {}
        job = self._job
        self._one_rank = job.attention_dp == 1 and self._stages == 1 and self._drafter is None and not job.two_batch
        self._one_rank = self._one_rank and job.apart is None
        self._by_tokens: dict[int, float] = {}  # layers of a pass with prompts
        self._by_heads: dict[int, float] = {}

    def lowest(self, table: str) -> float:
        """Seconds below which a table's line never goes; 0 for one that this job does not have."""
        line = self._named(table)
        return 0.0 if line is None else min(line.seconds)

    def leanest(self, table: str) -> float:
        """Seconds per token below which a table's line never goes; 0 for one that this job does not have."""
        line = self._named(table)
        return 0.0 if line is None else min(s / t for s, t in zip(line.seconds, line.grid, strict=True))

    def _named(self, table: str) -> Line | None:
        """The line of "rank", "head", "experts" or "prefill experts"."""
        if table in ("rank", "head"):
            return self._rank if table == "rank" else self._head
        return self._expert_line(table == "prefill experts") if self._moe else None

    def per_batch(self, batch: int) -> int:
        """Sequences of the fullest of the batches in flight: one without a pipeline, one per stage with it."""
        return -(-batch // self._stages)

    def per_rank(self, batch: int) -> int:
        """Sequences of the fullest rank in the fullest batch."""
        return -(-batch // self._ranks)

    def decode(self, batch: int) -> tuple[float, float]:
        """(a, b): until all of `batch` sequences with K cached tokens have gained one: a + b K seconds.

        In a pipeline these are as many batches as there are stages, in flight together.
        """
        line = self._ab.get(batch)
        if line is None:
            line = self._ab[batch] = self._pass_line(batch) if self._stages == 1 else self._round_line(batch)
        return line

    def _pass_line(self, batch: int) -> tuple[float, float]:
        """a + b K of one batch's pass."""
        empty, slope = self._decode_pass(batch)
        middle = batch * sum(self.contexts) / 2.0
        return empty.total_s + max(0.0, self.stream_s * batch - empty.total_s - slope * middle), slope

    def _round_line(self, batch: int) -> tuple[float, float]:
        """a + b K of a round of all batches in flight, with the resource that is the busiest at contexts between."""
        cached = batch * sum(self.contexts) / 2.0
        share = cached / batch
        sizes = batches_of(batch, self._stages)
        full = [(n, self.resources((), size, share * size)) for size, n in sizes.items()]
        seconds, busiest = cycle_s(full)
        if busiest < 0:
            empty = max(sum(self.resources((), size, 0.0)) for size in sizes)
        else:
            empty = sum(n * self.resources((), size, 0.0)[busiest] for size, n in sizes.items())
        return empty, max(0.0, (seconds - empty) / cached)

    def resources(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> list[float]:
        """Seconds at each resource of the pipeline (stages.py) of one pass of one batch; `cached`: tokens it holds."""
        if chunks:
            each = self._prompt_pass(chunks, batch, cached)
        else:
            empty, slope = self._decode_pass(batch)
            each = empty._replace(layers_s=empty.layers_s + slope * cached)
        return each.resources(self._layers)

    def mixed(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> float:
        """Seconds of a pass with prompt chunks of (new, already cached) tokens beside `batch` decoding sequences."""
        if self._one_rank:
            return max(self._one_rank_s(chunks, batch, cached), self.stream_s * (batch + len(chunks)))
        return max(self._prompt_pass(chunks, batch, cached).total_s, self.stream_s * (batch + len(chunks)))

    def _one_rank_s(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> float:
        """`_prompt_pass` where one rank has all tokens and nothing is divided: what depends on counts is kept."""
        new, cores, attention = 0, 0.0, self.parts.prefill_attention
        for chunk, old in chunks:
            new += chunk
            cores += attention(chunk, old)
        tokens, heads = new + batch * self.width, batch * self.width + len(chunks)
        layers = self._by_tokens.get(tokens)
        if layers is None:
            each = self._layers_s(tokens, tokens, tokens, 1, True)
            layers = self._by_tokens[tokens] = each.compute_s + each.exchange_s
        head = self._by_heads.get(heads)
        if head is None:
            head = self._by_heads[heads] = self._head.at(heads)
        gpu_s = layers + self._prefill_factor * cores + head
        if batch:
            fixed, slope = self._attention_line(rounded(batch))
            gpu_s += fixed + slope * cached
        host_s = self.host_s + self.sequence_s * batch + self.prefill_s
        factor, added_s = self._aged
        return factor * (host_s + max(gpu_s, self.floor_s)) + added_s

    # ---- seconds by part

    def decode_parts(self, batch: int, cached: float) -> Parts:
        """Seconds by part of a decode pass of `batch` sequences that hold `cached` tokens together; sums to a + b K."""
        a, b = self.decode(batch)
        mine = self.per_rank(batch)
        halves = self.halves_of(mine)
        fixed, slope = self._cores(mine, halves)
        tokens, routed = mine * self.width, self.per_batch(batch) * self.width
        padded, share = tokens * self._job.attention_dp, cached / self._ranks
        parts: Parts = {"attention": fixed + slope * share, "head": self._head.at(tokens)}
        tables = [(self.parts.rank, tokens)]
        if self._moe and self._job.apart is None:
            tables.append((self.parts.experts(False), routed))
        for table, count in tables:
            for name, seconds in self._nearest(table, count / halves).items():
                parts[name] = parts.get(name, 0.0) + halves * seconds * self._factors.get(name, 1.0)
        if "ep_comm" in parts or self._job.apart is not None:  # what is exposed of it
            each, cores = self._layers_s(tokens, routed, padded, halves), fixed + slope * mine * self.contexts[0]
            name = "ep_comm" if self._job.apart is None else "apart"
            parts[name] = max(0.0, self._overlapped(cores, each, halves) - each.compute_s - cores)
        draft, draft_slope = self._draft_line(mine, self.per_batch(batch))
        if draft:
            parts["draft"] = draft + draft_slope * share
        if self._stages > 1:
            parts["pp_comm"] = sum(self._hops_s(tokens))
        if self.rebalance_s:
            parts["rebalance"] = self.rebalance_s
        parts = {name: self.pace * seconds / self.yields for name, seconds in parts.items()}
        if self._stages > 1:  # of a batch that comes round sooner than the slowest resource has served the others
            full = self.per_batch(batch)
            parts["pp_wait"] = max(0.0, a + b * cached - sum(self.resources((), full, cached * full / batch)))
        parts["host and gaps"] = max(0.0, a + b * cached - sum(parts.values()))
        return parts

    def decode_floors(self, batch: int, cached: float) -> Parts:
        """Seconds by part that the data sheet alone would take: peak FLOP/s, weights and caches at full bandwidth."""
        mine = self.per_rank(batch)
        tokens = mine * self.width
        tables = [(self.parts.rank, tokens), (self.parts.head, tokens)]
        if self._moe:
            tables.append((self._expert_parts.experts(False), self.per_batch(batch) * self.width))
        floors: Parts = {}
        for table, count in tables:
            point = table.points[max(0, bisect_right(table.grid, count) - 1)]
            for kernel in point.kernels:
                floors[kernel.part] = floors.get(kernel.part, 0.0) + kernel.times * kernel.floor_s / self.yields
        kept = token_bytes(self._job) * cached / self._ranks
        floors["attention"] = kept / self._job.cluster.gpu.hbm_bytes_per_s / self.yields
        return floors

    def _nearest(self, table: Table, count: float) -> Parts:
        """Parts at `count`, in proportion between the two points of the grid around it."""
        i = min(bisect_left(table.grid, count), len(table.grid) - 1)
        low = max(0, i - 1)
        width = table.grid[i] - table.grid[low]
        share = min(1.0, (count - table.grid[low]) / width) if width else 1.0
        before, after = self._parts_of(table.points[low]), self._parts_of(table.points[i])
        return {n: (1 - share) * before.get(n, 0.0) + share * after.get(n, 0.0) for n in {**before, **after}}
