"""StepCosts: seconds of an inference pass, from kernel parts and an engine's constants, as the event loop needs them.

A decode pass of B sequences that hold K tokens together takes a(B) + b(B) K. A pass that carries prompt tokens takes
the longer of what the GPU needs and what the host needs to launch it without a graph.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from moesim.sim.serve.age import age_of, stream_s, young_experts
from moesim.sim.serve.kv_cache import token_bytes
from moesim.sim.serve.lines import Line, rounded
from moesim.sim.serve.stages import PassSeconds, batches_of, cycle_s, hops_of, layers_of_stages
from moesim.sim.serve.step_parts import Parts, Priced, StepParts, Table, layer_count
from moesim.sim.software.stack import Tuning

NARROW_HEAD = 64  # wide, or less: heads that kernels written for 128 fill by half


class StepCosts:
    """Pass times of one job for sequences of about `contexts` (shortest, longest) tokens."""

    def __init__(self, parts: StepParts, tuning: Tuning, contexts: tuple[int, int]) -> None:
        self.parts, self.tuning = parts, tuning
        job = parts.job
        self._job, self._moe = job, job.arch.is_moe
        self._stages = job.layout.pp
        self._ranks = job.attention_dp * self._stages
        self._layers = layers_of_stages(job.arch.num_layers, self._stages)
        self._contexts = (max(1, contexts[0]), max(contexts[0] + 1, contexts[1]))
        self._engine, self._family = job.engine.name, job.cluster.gpu.family
        self.yields = job.speculation.tokens_per_step if job.speculation else 1.0
        self._width = 1 + (job.speculation.tokens if job.speculation else 0)
        self._factors, self._legs = self._part_factors(), self._leg_factors()
        self._constants()
        age = age_of(job, tuning, layer_count(parts.kinds, "moe"))
        self.stream_s = stream_s(job, tuning)
        self.pace, self._aged = age.factor, (age.factor, age.added_s)
        self._rank, self._head = self._line(parts.rank), self._line(parts.head)
        self._experts: dict[bool, Line] = {}
        self._exchanges: dict[bool, Line] = {}
        self._hops: dict[bool, Line] = {}
        self._decode: dict[int, tuple[float, float]] = {}
        self._ab: dict[int, tuple[float, float]] = {}
        self._passes: dict[int, tuple[PassSeconds, float]] = {}

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
        attention = self._job.arch.attention
        if attention is not None and attention.head_dim <= NARROW_HEAD:
            self._prefill_factor *= get("narrow_head_prefill_factor", family)

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
                get("expert_flops_factor", formats.experts, engine, family) * young_experts(self._job, self.tuning),
                get("expert_bytes_factor", formats.experts, engine, family),
            )
        return factors

    def _line(self, table: Table) -> Line:
        return Line(table.grid, tuple(self._weighted(self._parts_of(point)) for point in table.points))

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

    def _named(self, table: str) -> Line | None:
        """The line of "rank", "head", "experts" or "prefill experts"."""
        if table in ("rank", "head"):
            return self._rank if table == "rank" else self._head
        prefill = table == "prefill experts"
        self._expert_s(1, prefill)  # draws the line where there is one
        return self._experts.get(prefill)

    def _routed_s(self, tokens: float, padded: float, prefill: bool) -> float:
        """Experts of `tokens` tokens of all ranks; the exchange waits for the rank that sends the most.

        `padded`: tokens that it would carry if every rank sent as many as that one.
        """
        if not self._moe:
            return 0.0
        seconds = self._expert_s(tokens, prefill)
        if padded > tokens:
            line = self._exchange(prefill)
            seconds += max(0.0, line.at(padded) - line.at(tokens))
        return seconds

    def _exchange(self, prefill: bool) -> Line:
        line = self._exchanges.get(prefill)
        if line is None:
            table = self.parts.experts(prefill)
            seconds = tuple(point.parts.get("ep_comm", 0.0) for point in table.points)
            line = self._exchanges[prefill] = Line(table.grid, seconds)
        return line

    def _hidden_s(self, total: float, tokens: float, prefill: bool) -> float:
        """With two-batch overlap: what of the exchange runs while the other half of the batch computes."""
        if not (self._job.two_batch and self._moe):
            return 0.0
        exchange = self._exchange(prefill).at(tokens)
        return min(exchange, total - exchange)

    def _attention_line(self, batch: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) of the cores: a chord between two contexts."""
        line = self._decode.get(batch)
        if line is None:
            low, high = (self._weighted(self.parts.decode_attention(batch, c)) for c in self._contexts)
            slope = max(0.0, (high - low) / (self._contexts[1] - self._contexts[0]))
            line = self._decode[batch] = (max(0.0, low - slope * self._contexts[0]), slope / batch)
        return line

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
        middle = batch * sum(self._contexts) / 2.0
        return empty.total_s + max(0.0, self.stream_s * batch - empty.total_s - slope * middle), slope

    def _round_line(self, batch: int) -> tuple[float, float]:
        """a + b K of a round of all batches in flight, with the resource that is the busiest at contexts between."""
        cached = batch * sum(self._contexts) / 2.0
        share = cached / batch
        sizes = batches_of(batch, self._stages)
        full = [(n, self.resources((), size, share * size)) for size, n in sizes.items()]
        seconds, busiest = cycle_s(full)
        if busiest < 0:
            empty = max(sum(self.resources((), size, 0.0)) for size in sizes)
        else:
            empty = sum(n * self.resources((), size, 0.0)[busiest] for size, n in sizes.items())
        return empty, max(0.0, (seconds - empty) / cached)

    def _decode_pass(self, batch: int) -> tuple[PassSeconds, float]:
        """(seconds of a decode pass of one batch without any cache, seconds per cached token), per token gained."""
        known = self._passes.get(batch)
        if known is None:
            known = self._passes[batch] = self._new_decode_pass(batch)
        return known

    def _new_decode_pass(self, batch: int) -> tuple[PassSeconds, float]:
        mine = -(-batch // self._job.attention_dp)
        fixed, slope = self._attention_line(rounded(mine))
        tokens, routed, padded = mine * self._width, batch * self._width, mine * self._width * self._job.attention_dp
        host = self.host_s + self.sequence_s * mine
        layers = self.fixed_s + fixed + self._rank.at(tokens) + self._routed_s(routed, padded, False)
        head = self._head.at(tokens)
        layers -= self._hidden_s(host + layers + head, padded, False)
        head += self._draft_s(mine, batch)
        each = PassSeconds(host, layers, head, self._hops_s(tokens)).aged(*self._aged, self.yields)
        return each, self.pace * slope / self._job.attention_dp / self.yields

    def _hops_s(self, tokens: float) -> tuple[float, ...]:
        if self._stages == 1:
            return ()
        kinds = hops_of(self._job)
        seconds = {kind: self._hop_line(kind).at(tokens) for kind in set(kinds)}
        return tuple(seconds[kind] for kind in kinds)

    def _hop_line(self, crosses: bool) -> Line:
        line = self._hops.get(crosses)
        if line is None:
            line = self._hops[crosses] = self._line(self.parts.hop(crosses))
        return line

    def resources(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> list[float]:
        """Seconds at each resource of the pipeline (stages.py) of one pass of one batch; `cached`: tokens it holds."""
        if chunks:
            each = self._prompt_pass(chunks, batch, cached)
        else:
            empty, slope = self._decode_pass(batch)
            each = empty._replace(layers_s=empty.layers_s + slope * cached)
        return each.resources(self._layers)

    def decode_parts(self, batch: int, cached: float) -> Parts:
        """Seconds by part of a decode pass of `batch` sequences that hold `cached` tokens together; sums to a + b K."""
        a, b = self.decode(batch)
        mine = self.per_rank(batch)
        fixed, slope = self._attention_line(rounded(mine))
        tokens, routed = mine * self._width, self.per_batch(batch) * self._width
        padded = tokens * self._job.attention_dp
        parts: Parts = {"attention": fixed + slope * cached / self._ranks, "head": self._head.at(tokens)}
        tables = [(self.parts.rank, tokens)]
        if self._moe:
            tables.append((self.parts.experts(False), routed))
        for table, count in tables:
            for name, seconds in self._nearest(table, count).items():
                parts[name] = parts.get(name, 0.0) + seconds * self._factors.get(name, 1.0)
        if "ep_comm" in parts:  # what is exposed of it
            parts["ep_comm"] += self._routed_s(routed, padded, False) - self._routed_s(routed, routed, False)
            parts["ep_comm"] -= self._hidden_s(sum(parts.values()), padded, False)
        if self._stages > 1:
            parts["pp_comm"] = sum(self._hops_s(tokens))
        parts = {name: self.pace * seconds / self.yields for name, seconds in parts.items()}
        if self._stages > 1:  # of a batch that comes round sooner than the slowest resource has served the others
            full = self.per_batch(batch)
            parts["pp_wait"] = max(0.0, a + b * cached - sum(self.resources((), full, cached * full / batch)))
        parts["host and gaps"] = max(0.0, a + b * cached - sum(parts.values()))
        return parts

    def decode_floors(self, batch: int, cached: float) -> Parts:
        """Seconds by part that the data sheet alone would take: peak FLOP/s, weights and caches at full bandwidth."""
        mine = self.per_rank(batch)
        tokens = mine * self._width
        tables = [(self.parts.rank, tokens), (self.parts.head, tokens)]
        if self._moe:
            tables.append((self.parts.experts(False), self.per_batch(batch) * self._width))
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

    def _draft_s(self, mine: int, batch: int) -> float:
        """Drafting one token after the other with one layer and the head: `mine` sequences of each rank."""
        speculation = self._job.speculation
        if speculation is None:
            return 0.0
        layers = self._job.arch.num_layers
        experts = self._routed_s(batch, mine * self._job.attention_dp, False)
        one = (self._rank.at(mine) + experts + self.fixed_s) / layers
        return speculation.tokens * (one + self._head.at(mine))

    def mixed(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> float:
        """Seconds of a pass with prompt chunks of (new, already cached) tokens beside `batch` decoding sequences."""
        return max(self._prompt_pass(chunks, batch, cached).total_s, self.stream_s * (batch + len(chunks)))

    def _prompt_pass(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> PassSeconds:
        total = sum(new for new, _ in chunks)
        dp = self._job.attention_dp
        mine = -(-batch // dp)
        new = max(max(new for new, _ in chunks), total / dp)
        attention_s = sum(self.parts.prefill_attention(new, old) for new, old in chunks) / min(dp, len(chunks))
        tokens = new + mine * self._width
        gpu_s = self.fixed_s + self._prefill_factor * attention_s + self._rank.at(tokens)
        head_s = self._head.at(mine * self._width + len(chunks))
        gpu_s += head_s
        routed, padded = total + batch * self._width, total + mine * self._width * dp
        gpu_s += self._routed_s(routed, padded, True)
        if self._job.two_batch:
            gpu_s -= self._hidden_s(gpu_s, padded, True)
        if batch:
            fixed, slope = self._attention_line(rounded(mine))
            gpu_s += fixed + slope * cached / dp
        host_s = self.host_s + self.sequence_s * mine + self.prefill_s
        each = PassSeconds(host_s, max(gpu_s, self.floor_s) - head_s, head_s, self._hops_s(tokens))
        return each.aged(*self._aged)
