"""Real torch programs: a small language model, dense or with experts, that trains or decodes on one rank of several.

Plain modules as anyone would write them without a framework, made of the same pieces that calibration times alone.
Which experts a token takes is set beforehand, so that routing skews are what a case says; the router still runs.
"""

from __future__ import annotations

from typing import Any

from moesim.calibrate.measure import blocks
from moesim.calibrate.measure.tensors import noise
from moesim.calibrate.prove.cases import Case

_SCALE = 0.02


class Program:
    """One rank's share of a case, ready to step."""

    def __init__(self, case: Case, rank: int, device: str) -> None:
        import torch

        self.case, self.rank, self.device = case, rank, device
        self.trains = case.kv_len == 0
        self.head_dim = case.hidden // case.heads
        self.local_experts = case.experts // case.ranks if case.experts else 0
        self.shared: list[Any] = []  # weights that every rank holds
        self.own: list[Any] = []  # experts of this rank
        self.table = self._weight(case.vocab, case.hidden)
        self.layers = [self._layer() for _ in range(case.layers)]
        self.norm, self.head = self._weight(case.hidden), self._weight(case.vocab, case.hidden)
        self.names = (torch.arange(case.tokens, device=device) * 7919) % case.vocab
        self.labels = (self.names + 1) % case.vocab
        length = case.seq_len if self.trains else 1
        self.tables = blocks.rotary_tables(length, self.head_dim, case.dtype, device)
        self.picks: Any = torch.from_numpy(case.picks(rank).astype("int64")).to(device) if case.experts else None
        self.caches = [] if self.trains else [self._cache() for _ in range(case.layers)]
        self.optimizer = torch.optim.AdamW([*self.shared, *self.own], lr=1e-4, fused=True) if self.trains else None

    def _weight(self, *shape: int, own: bool = False) -> Any:
        made = noise(shape, self.case.dtype, self.device, _SCALE, gradient=self.trains)
        (self.own if own else self.shared).append(made)
        return made

    def _layer(self) -> dict[str, Any]:
        c = self.case
        width = (c.heads + 2 * c.kv_heads) * self.head_dim
        layer: dict[str, Any] = {
            "norm1": self._weight(c.hidden),
            "qkv": self._weight(width, c.hidden),
            "out": self._weight(c.hidden, c.heads * self.head_dim),
            "norm2": self._weight(c.hidden),
        }
        if not c.experts:
            return layer | {"up": self._weight(2 * c.inner, c.hidden), "down": self._weight(c.hidden, c.inner)}
        return layer | {
            "router": self._weight(c.experts, c.hidden),
            "up": self._experts(2 * c.inner, c.hidden),
            "down": self._experts(c.hidden, c.inner),
        }

    def _experts(self, n: int, k: int) -> Any:
        if self.device.startswith("cuda"):
            return self._weight(self.local_experts, n, k, own=True)
        return [self._weight(n, k, own=True) for _ in range(self.local_experts)]

    def _cache(self) -> tuple[Any, Any]:
        c = self.case
        shape = (c.batch, c.kv_len, c.kv_heads, self.head_dim)
        keys, values = (noise(shape, c.dtype, self.device).transpose(1, 2) for _ in range(2))
        return keys, values

    # -- forward ----------------------------------------------------------------------------------------------

    def _attention(self, x: Any, layer: dict[str, Any], number: int) -> Any:
        import torch.nn.functional as F  # noqa: N812  # the name everybody uses

        c = self.case
        qkv = F.linear(blocks.rms_norm(x, layer["norm1"]), layer["qkv"])
        queries, keys, values = blocks.split_and_rotate(qkv, c.batch, c.heads, c.kv_heads, *self.tables)
        if not self.trains:
            held_keys, held_values = self.caches[number]
            held_keys[:, :, -1:], held_values[:, :, -1:] = keys, values
            keys, values = held_keys, held_values
        mixed = blocks.attend((queries, keys, values), causal=self.trains)
        return F.linear(mixed.transpose(1, 2).reshape(c.tokens, c.heads * self.head_dim), layer["out"])

    def _feed_forward(self, x: Any, layer: dict[str, Any]) -> Any:
        import torch.nn.functional as F  # noqa: N812  # the name everybody uses

        x = blocks.rms_norm(x, layer["norm2"])
        if not self.case.experts:
            return F.linear(blocks.gated_activation(F.linear(x, layer["up"])), layer["down"])
        weights, _ = blocks.choose_experts(F.linear(x, layer["router"]), self.case.top_k)
        rows, order = blocks.into_expert_order(x, self.picks)
        counts = self.picks.reshape(-1).bincount(minlength=self.case.experts)
        if self.case.ranks == 1:
            rows = self._run_experts(rows, tuple(counts.tolist()), layer)
        else:
            from moesim.calibrate.prove.exchange import through_experts

            rows = through_experts(rows, counts, lambda part, each: self._run_experts(part, each, layer))
        return blocks.back_to_tokens(rows, order, weights, self.case.tokens)

    def _run_experts(self, rows: Any, counts: tuple[int, ...], layer: dict[str, Any]) -> Any:
        inner = blocks.gated_activation(blocks.grouped_linear(rows, layer["up"], counts))
        return blocks.grouped_linear(inner, layer["down"], counts)

    def logits(self) -> Any:
        """Scores of every token, [tokens, vocab]."""
        import torch.nn.functional as F  # noqa: N812  # the name everybody uses

        x = F.embedding(self.names, self.table)
        for number, layer in enumerate(self.layers):
            x = x + self._attention(x, layer, number)
            x = x + self._feed_forward(x, layer)
        return F.linear(blocks.rms_norm(x, self.norm), self.head)

    # -- steps ------------------------------------------------------------------------------------------------

    def step(self, number: int) -> None:
        """One training step, or one token for every sequence."""
        import torch
        import torch.nn.functional as F  # noqa: N812  # the name everybody uses

        if self.optimizer is None:
            with torch.no_grad():
                self.logits()
            return
        F.cross_entropy(self.logits().float(), self.labels).backward()
        if self.case.ranks > 1:
            self._sum_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _sum_gradients(self) -> None:
        """Gradients of what all ranks hold, summed one tensor after the other; experts are one rank's own."""
        import torch.distributed as dist

        for weight in self.shared if self.case.experts else [*self.shared, *self.own]:
            dist.all_reduce(weight.grad)
