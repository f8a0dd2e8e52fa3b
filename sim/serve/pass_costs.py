"""PassCosts: seconds of one pass of one batch, from kernel parts and an engine's constants.

With two-batch overlap the ranks' tokens go through the layers as two halves: one half computes while the other's tokens
are on their way. Both halves read all weights, launch all kernels and pay every transfer's latency, so that small
batches lose what large ones gain.
"""

from __future__ import annotations

from collections.abc import Sequence

from moesim.sim.serve.age import age_of, draft_gaps_s, stream_s, young_experts
from moesim.sim.serve.apart import LayerSeconds
from moesim.sim.serve.lines import Line, rounded
from moesim.sim.serve.rebalance import rebalance_s
from moesim.sim.serve.sampling import host_s
from moesim.sim.serve.stages import PassSeconds, hops_of
from moesim.sim.serve.step_parts import Parts, Priced, StepParts, Table, layer_count
from moesim.sim.software.stack import Tuning

_DIVIDED = 1000  # parts into which a prompt can be divided: more than anybody asks for
NARROW_HEAD = 64  # wide, or less: heads that kernels written for 128 fill by half


class PassCosts:
    """Pass times of one job for sequences of about `contexts` (shortest, longest) tokens."""

    def __init__(self, parts: StepParts, tuning: Tuning, contexts: tuple[int, int]) -> None:
        self.parts, self.tuning = parts, tuning
        job = parts.job
        self._job, self._moe = job, job.arch.is_moe
        self._stages = job.layout.pp
        self._ranks = job.attention_dp * self._stages
        self.contexts = (max(1, contexts[0]), max(contexts[0] + 1, contexts[1]))
        self._engine, self._family = job.engine.name, job.cluster.gpu.family
        self.yields = job.speculation.tokens_per_step if job.speculation else 1.0
        self.width = 1 + (job.speculation.tokens if job.speculation else 0)
        self._factors, self._legs = self._part_factors(), self._leg_factors()
        self._constants()
        age = age_of(job, tuning, layer_count(parts.kinds, "moe"))
        self.stream_s = stream_s(job, tuning)
        self.pace, self._aged = age.factor, (age.factor, age.added_s)
        self._rank, self._head = self._line(parts.rank), self._line(parts.head)
        self._drafter = PassCosts(parts.draft, tuning, contexts) if parts.draft is not None else None
        self._expert_parts = parts.apart or parts  # whose tables price the experts
        self._experts: dict[bool, Line] = {}
        self._exchanges: dict[bool, Line] = {}
        self._hops: dict[bool, Line] = {}
        self._decode: dict[int, tuple[float, float]] = {}
        self._passes: dict[int, tuple[PassSeconds, float]] = {}

    # ---- constants

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
        get, engine, family, job = self.tuning.get, self._engine, self._family, self._job
        layers, kinds = job.arch.num_layers, self.parts.kinds
        moe, ssm = layer_count(kinds, "moe"), layer_count(kinds, "ssm")
        mla = layers if self._mla else 0
        fixed = layers * get("layer_s", engine, family)
        floor = layers * get("floor_layer_s", engine)
        if moe:
            fixed += moe * get("moe_layer_s", engine, family)
            if job.layout.ep > 1 and job.attention_dp == 1:
                fixed += moe * get("ep_layer_s", engine)
            floor += moe * get("floor_moe_layer_s", engine)
        if mla:
            fixed += mla * get("mla_layer_s", engine)
            floor += mla * get("floor_mla_layer_s", engine)
        if ssm:
            fixed += ssm * get("ssm_layer_s", engine)
        self.fixed_s, self.floor_s = fixed, floor
        self.rebalance_s = rebalance_s(job, self.tuning)
        self.host_s = get("host_step_s", engine) + self.rebalance_s
        self.sequence_s = get("host_sequence_s", engine) + host_s(job.sampling, self.width, engine, self.tuning)
        self._draft_gaps_s = draft_gaps_s(job, self.tuning)
        self.prefill_s = get("prefill_step_s", engine)
        self._prefill_factor = get("attention_prefill_factor", family)
        attention = job.arch.attention
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

    # ---- lines over the kernels' tables

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

    def _expert_line(self, prefill: bool) -> Line:
        line = self._experts.get(prefill)
        if line is None:
            line = self._experts[prefill] = self._line(self._expert_parts.experts(prefill))
        return line

    def _exchange(self, prefill: bool) -> Line:
        line = self._exchanges.get(prefill)
        if line is None:
            table = self._expert_parts.experts(prefill)
            seconds = tuple(point.parts.get("ep_comm", 0.0) for point in table.points)
            line = self._exchanges[prefill] = Line(table.grid, seconds)
        return line

    def _attention_line(self, batch: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) of the cores: a chord between two contexts."""
        line = self._decode.get(batch)
        if line is None:
            low, high = (self._weighted(self.parts.decode_attention(batch, c)) for c in self.contexts)
            slope = max(0.0, (high - low) / (self.contexts[1] - self.contexts[0]))
            line = self._decode[batch] = (max(0.0, low - slope * self.contexts[0]), slope / batch)
        return line

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

    # ---- all layers of a pass

    def halves_of(self, sequences: int) -> int:
        """Parts in which a rank's batch of so many sequences or chunks goes through the layers: one is not divided."""
        if self._job.apart is not None:
            return max(1, min(self._job.apart.batches, sequences))
        return 2 if self._job.two_batch and self._moe and sequences > 1 else 1

    def _layers_s(
        self, tokens: float, routed: float, padded: float, halves: int, prefill: bool = False
    ) -> LayerSeconds:
        """Seconds of all layers but the attention cores, in so many equal parts.

        `tokens`: of the fullest rank; `routed`: of all ranks, whose experts they reach; `padded`: those that the
        exchange carries as if every rank sent as many as the fullest, for which the others wait.
        """
        compute = halves * (self.fixed_s + self._rank.at(tokens / halves))
        if not self._moe:
            return LayerSeconds(compute, 0.0)
        apart = self._job.apart
        if apart is not None:  # the side with fewer NICs sets the rate
            padded *= max(1.0, apart.gpus / self._job.layout.gpus)
        experts, line = self._expert_line(prefill).at(routed / halves), self._exchange(prefill)
        own, widest = line.at(routed / halves), line.at(max(routed, padded) / halves)
        if apart is not None:
            each, wires = experts - own, max(own, widest)
            return LayerSeconds(compute, halves * max(each, wires), each + wires)
        return LayerSeconds(compute + halves * (experts - own), halves * max(own, widest))

    @staticmethod
    def _overlapped(cores_s: float, layers: LayerSeconds, halves: int) -> float:
        """Layers and attention cores: with several parts what is longer hides the others."""
        compute_s = layers.compute_s + cores_s
        if layers.around_s:
            return max(compute_s, layers.exchange_s, compute_s / halves + layers.around_s)
        return compute_s + layers.exchange_s if halves == 1 else max(compute_s, layers.exchange_s)

    def _cores(self, mine: int, halves: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) of the attention cores of `mine` sequences."""
        fixed, slope = self._attention_line(rounded(-(-mine // halves)))
        return halves * fixed, slope

    # ---- drafts

    def _draft_line(self, mine: int, batch: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) until `mine` sequences of each rank have their drafts.

        The drafter first catches up with all the positions that were checked, then goes on token by token.
        """
        if self._drafter is None or self._job.speculation is None:
            return 0.0, 0.0
        count = self._job.speculation.tokens
        first, slope = self._drafter.alone(mine, batch, self.width)
        later, _ = self._drafter.alone(mine, batch, 1)
        each_s, check_s = self._draft_gaps_s
        return first + (count - 1) * later + count * each_s + check_s, count * slope

    def alone(self, mine: int, batch: int, width: int) -> tuple[float, float]:
        """(seconds, seconds per cached token of one rank) of layers and head for `width` tokens of every sequence."""
        fixed, slope = self._cores(mine, 1)
        tokens = mine * width
        layers = self._layers_s(tokens, batch * width, tokens * self._job.attention_dp, 1)
        return self._overlapped(fixed, layers, 1) + self._head.at(mine), slope

    def of_prompts(self, chunks: Sequence[tuple[int, int]]) -> float:
        """Seconds of layers and head over prompt chunks of (new, cached) tokens, for a model that only follows."""
        total, dp = sum(new for new, _ in chunks), self._job.attention_dp
        tokens = max(max(new for new, _ in chunks), total / dp)
        cores = sum(self.parts.prefill_attention(new, old) for new, old in chunks) / min(dp, len(chunks))
        layers = self._layers_s(tokens, total, total, 1, True)
        return self._overlapped(self._prefill_factor * cores, layers, 1) + self._head.at(len(chunks))

    # ---- passes

    def _decode_pass(self, batch: int) -> tuple[PassSeconds, float]:
        """(seconds of a decode pass of one batch without any cache, seconds per cached token), per token gained."""
        known = self._passes.get(batch)
        if known is None:
            known = self._passes[batch] = self._new_decode_pass(batch)
        return known

    def _new_decode_pass(self, batch: int) -> tuple[PassSeconds, float]:
        dp = self._job.attention_dp
        mine = -(-batch // dp)
        halves = self.halves_of(mine)
        fixed, slope = self._cores(mine, halves)
        tokens = mine * self.width
        each = self._layers_s(tokens, batch * self.width, tokens * dp, halves)
        least = slope * mine * self.contexts[0]  # of the cores: they hide the exchange too
        layers = self._overlapped(fixed + least, each, halves) - least
        draft, draft_slope = self._draft_line(mine, batch)
        host = self.host_s + self.sequence_s * mine
        one = PassSeconds(host, layers, self._head.at(tokens) + draft, self._hops_s(tokens))
        return one.aged(*self._aged, self.yields), self.pace * (slope + draft_slope) / dp / self.yields

    def _prompt_pass(self, chunks: Sequence[tuple[int, int]], batch: int, cached: float) -> PassSeconds:
        """A pass with prompt chunks beside `batch` decoding sequences that hold `cached` tokens."""
        total, dp = sum(new for new, _ in chunks), self._job.attention_dp
        mine = -(-batch // dp)
        new = max(max(new for new, _ in chunks), total / dp)
        attention_s = sum(self.parts.prefill_attention(new, old) for new, old in chunks) / min(dp, len(chunks))
        tokens = new + mine * self.width
        halves = self.halves_of(_DIVIDED)  # a prompt can be divided
        routed, padded = total + batch * self.width, total + mine * self.width * dp
        layers = self._layers_s(tokens, routed, padded, halves, True)
        cores_s = self._prefill_factor * attention_s
        head_s, draft_s = self._head.at(mine * self.width + len(chunks)), 0.0
        if self._drafter is not None:  # follows the pass, launched like it
            draft_s = max(self._drafter.of_prompts(chunks), self._drafter.floor_s)
        if batch:
            fixed, slope = self._cores(mine, 1)
            cores_s += fixed + slope * cached / dp
            draft, draft_slope = self._draft_line(mine, batch)
            draft_s += draft + draft_slope * cached / dp
        gpu_s = self._overlapped(cores_s, layers, halves) + head_s
        host_s = self.host_s + self.sequence_s * mine + self.prefill_s
        layers_s = max(gpu_s, self.floor_s) - head_s
        each = PassSeconds(host_s, layers_s, head_s + draft_s, self._hops_s(tokens))
        return each.aged(*self._aged)
