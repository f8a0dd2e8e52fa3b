"""StepCosts: seconds of an inference pass, from kernel parts and an engine's constants, as the event loop needs them.

A decode pass of B sequences that hold K tokens together takes a(B) + b(B) K. A pass that carries prompt tokens takes
the longer of what the GPU needs and what the host needs to launch it without a graph.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from moesim.sim.serve.kv_cache import token_bytes
from moesim.sim.serve.step_parts import Parts, Priced, StepParts, Table, layer_count
from moesim.sim.software.stack import Tuning


@dataclass(frozen=True, slots=True)
class _Line:
    """Seconds over a grid of counts, linear in between."""

    grid: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, count: float) -> float:
        """Seconds at `count`; beyond the grid it goes on in proportion."""
        grid, seconds = self.grid, self.seconds
        if count <= grid[0]:
            return seconds[0]
        if count >= grid[-1]:
            return seconds[-1] * count / grid[-1]
        i = bisect_left(grid, count)
        low, high = grid[i - 1], grid[i]
        return seconds[i - 1] + (seconds[i] - seconds[i - 1]) * (count - low) / (high - low)


class StepCosts:
    """Pass times of one job for sequences of about `contexts` (shortest, longest) tokens."""

    def __init__(self, parts: StepParts, tuning: Tuning, contexts: tuple[int, int]) -> None:
        self.parts, self.tuning = parts, tuning
        job = parts.job
        self._job, self._moe = job, job.arch.is_moe
        self._ranks = job.attention_dp * job.layout.pp
        self._contexts = (max(1, contexts[0]), max(contexts[0] + 1, contexts[1]))
        self._engine, self._family = job.engine.name, job.cluster.gpu.family
        self.yields = job.speculation.tokens_per_step if job.speculation else 1.0
        self._width = 1 + (job.speculation.tokens if job.speculation else 0)
        self._factors, self._legs = self._part_factors(), self._leg_factors()
        self._constants()
        self._rank, self._head = self._line(parts.rank), self._line(parts.head)
        self._experts: dict[bool, _Line] = {}
        self._exchanges: dict[bool, _Line] = {}
        self._decode: dict[int, tuple[float, float]] = {}
        self._ab: dict[int, tuple[float, float]] = {}

    def _part_factors(self) -> Parts:
        get, family = self.tuning.get, self._family
        attention = "mla_decode_factor" if self._mla else "attention_decode_factor"
        return {
            "tp_comm": get("comm_factor", self._engine, family),
            "attention": get(attention, family),
        }

    @property
    def _mla(self) -> bool:
        return self._job.arch.attention is not None and self._job.arch.attention.is_mla

    def _constants(self) -> None:
        """Seconds per pass that no kernel table holds."""
        get, engine, family = self.tuning.get, self._engine, self._family
        layers, kinds = self._job.arch.num_layers, self.parts.kinds
        moe, ssm = layer_count(kinds, "moe"), layer_count(kinds, "ssm")
        mla = layers if self._mla else 0
        fixed = layers * get("layer_s", engine, family)
        floor = layers * get("floor_layer_s", engine)
        if moe:
            fixed += moe * get("moe_layer_s", engine, family)
            if self._job.layout.ep > 1 and self._job.attention_dp == 1:
                fixed += moe * get("ep_layer_s", engine)
            floor += moe * get("floor_moe_layer_s", engine)
        if mla:
            fixed += mla * get("mla_layer_s", engine)
            floor += mla * get("floor_mla_layer_s", engine)
        if ssm:
            fixed += ssm * get("ssm_layer_s", engine)
        self.fixed_s, self.floor_s = fixed, floor
        self.host_s, self.sequence_s = get("host_step_s", engine), get("host_sequence_s", engine)
        self.prefill_s = get("prefill_step_s", engine)
        self._prefill_factor = get("attention_prefill_factor", family)

    def _leg_factors(self) -> dict[str, tuple[float, float, float]]:
        """Factors of (fixed, arithmetic, traffic) of matrix kernels by part."""
        get, formats, family, engine = self.tuning.get, self._job.formats, self._family, self._engine
        factors = {
            "gemm": (
                get("gemm_fixed_factor", engine, family),
                get("gemm_flops_factor", formats.attention, engine, family),
                get("gemm_bytes_factor", formats.attention, engine, family),
            )
        }
        if self._moe:
            factors["experts"] = (
                get("expert_fixed_factor", engine, family),
                get("expert_flops_factor", formats.experts, engine, family),
                get("expert_bytes_factor", formats.experts, engine, family),
            )
        return factors

    def _line(self, table: Table) -> _Line:
        return _Line(table.grid, tuple(self._weighted(self._parts_of(point)) for point in table.points))

    def _parts_of(self, point: Priced) -> Parts:
        """Seconds by part, matrix kernels with their factors included."""
        parts = dict(point.parts)
        for kernel in point.kernels:
            seconds = kernel.legs.seconds(*self._legs.get(kernel.part, (1.0, 1.0, 1.0)))
            parts[kernel.part] = parts.get(kernel.part, 0.0) + kernel.times * max(kernel.floor_s, seconds)
        return parts

    def _weighted(self, parts: Parts) -> float:
        """Seconds of a pass's parts."""
        return sum(seconds * self._factors.get(name, 1.0) for name, seconds in parts.items())

    def _expert_s(self, tokens: float, prefill: bool) -> float:
        if not self._moe:
            return 0.0
        line = self._experts.get(prefill)
        if line is None:
            line = self._experts[prefill] = self._line(self.parts.experts(prefill))
        return line.at(tokens)

    def lowest(self, table: str) -> float:
        """Seconds below which a table's line never goes; 0 for one that this job does not have."""
        line = self._named(table)
        return 0.0 if line is None else min(line.seconds)

    def leanest(self, table: str) -> float:
        """Seconds per token below which a table's line never goes; 0 for one that this job does not have."""
        line = self._named(table)
        return 0.0 if line is None else min(s / t for s, t in zip(line.seconds, line.grid, strict=True))

    def _named(self, table: str) -> _Line | None:
        """The line of "rank", "head", "experts" or "prefill experts"."""
        if table in ("rank", "head"):
            return self._rank if table == "rank" else self._head
        prefill = table == "prefill experts"
        self._expert_s(1, prefill)  # draws the line where there is one
        return self._experts.get(prefill)

    def _hidden_s(self, total: float, tokens: float, prefill: bool) -> float:
        """With two-batch overlap: what of the exchange runs while the other half of the batch computes."""
        if not (self._job.two_batch and self._moe):
            return 0.0
        line = self._exchanges.get(prefill)
        if line is None:
            table = self.parts.experts(prefill)
            seconds = tuple(point.parts.get("ep_comm", 0.0) for point in table.points)
            line = self._exchanges[prefill] = _Line(table.grid, seconds)
        exchange = line.at(tokens)
        return min(exchange, total - exchange)

    def _attention_line(self, batch: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) of the cores: a chord between two contexts."""
        line = self._decode.get(batch)
        if line is None:
            low, high = (self._weighted(self.parts.decode_attention(batch, c)) for c in self._contexts)
            slope = max(0.0, (high - low) / (self._contexts[1] - self._contexts[0]))
            line = self._decode[batch] = (max(0.0, low - slope * self._contexts[0]), slope / batch)
        return line

    def per_rank(self, batch: int) -> int:
        """Sequences of the fullest rank (and pipeline micro-batch)."""
        return -(-batch // self._ranks)

    def decode(self, batch: int) -> tuple[float, float]:
        """(a, b): a decode pass of `batch` sequences with K cached tokens takes a + b K seconds per token gained."""
        line = self._ab.get(batch)
        if line is None:
            mine = self.per_rank(batch)
            fixed, slope = self._attention_line(_rounded(mine))
            tokens = mine * self._width
            a = self.fixed_s + self.host_s + self.sequence_s * mine + fixed + self._rank.at(tokens)
            a += self._head.at(tokens) + self._expert_s(tokens * self._job.attention_dp, False)
            a -= self._hidden_s(a, tokens * self._job.attention_dp, False)
            a += self._draft_s(mine)
            line = self._ab[batch] = (a / self.yields, slope / self._ranks / self.yields)
        return line

    def decode_parts(self, batch: int, cached: float) -> Parts:
        """Seconds by part of a decode pass of `batch` sequences that hold `cached` tokens together; sums to a + b K."""
        a, b = self.decode(batch)
        mine = self.per_rank(batch)
        fixed, slope = self._attention_line(_rounded(mine))
        tokens = mine * self._width
        parts: Parts = {"attention": fixed + slope * cached / self._ranks, "head": self._head.at(tokens)}
        tables = [(self.parts.rank, tokens)]
        if self._moe:
            tables.append((self.parts.experts(False), tokens * self._job.attention_dp))
        for table, count in tables:
            for name, seconds in self._nearest(table, count).items():
                parts[name] = parts.get(name, 0.0) + seconds * self._factors.get(name, 1.0)
        if "ep_comm" in parts:  # what is exposed of it
            parts["ep_comm"] -= self._hidden_s(sum(parts.values()), tokens * self._job.attention_dp, False)
        parts = {name: seconds / self.yields for name, seconds in parts.items()}
        parts["host and gaps"] = max(0.0, a + b * cached - sum(parts.values()))
        return parts

    def decode_floors(self, batch: int, cached: float) -> Parts:
        """Seconds by part that the data sheet alone would take: peak FLOP/s, weights and caches at full bandwidth."""
        mine = self.per_rank(batch)
        tokens = mine * self._width
        tables = [(self.parts.rank, tokens), (self.parts.head, tokens)]
        if self._moe:
            tables.append((self.parts.experts(False), tokens * self._job.attention_dp))
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

    def _draft_s(self, batch: int) -> float:
        """Drafting one token after the other with one layer and the head."""
        speculation = self._job.speculation
        if speculation is None:
            return 0.0
        layers = self._job.arch.num_layers
        one = (self._rank.at(batch) + self._expert_s(batch * self._job.attention_dp, False) + self.fixed_s) / layers
        return speculation.tokens * (one + self._head.at(batch))

    def mixed(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> float:
        """Seconds of a pass with prompt chunks of (new, already cached) tokens beside `batch` decoding sequences."""
        total = sum(new for new, _ in chunks)
        mine = self.per_rank(batch)
        dp, pp = self._job.attention_dp, self._job.layout.pp
        largest = max(new for new, _ in chunks)
        new = max(largest, total / dp) / pp
        attention_s = sum(self.parts.prefill_attention(new, old) for new, old in chunks) / (min(dp, len(chunks)) * pp)
        gpu_s = self.fixed_s + self._prefill_factor * attention_s + self._rank.at(new + mine * self._width)
        gpu_s += self._head.at(mine * self._width + len(chunks))
        routed = total / pp + mine * self._width * dp
        gpu_s += self._expert_s(routed, True)
        gpu_s -= self._hidden_s(gpu_s, routed, True)
        if batch:
            fixed, slope = self._attention_line(_rounded(mine))
            gpu_s += fixed + slope * cached / self._ranks
        return max(gpu_s, self.floor_s) + self.host_s + self.sequence_s * mine + self.prefill_s


def _rounded(batch: int) -> int:
    """Batches whose attention is priced: exact up to 32, then about 3 % apart."""
    if batch <= 32:
        return batch
    step = 1 << (batch.bit_length() - 5)
    return -(-batch // step) * step
