"""Expert parallelism in plain torch.distributed: rows go to the rank of their expert and come back, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def through_experts(rows: Any, counts: Any, experts: Callable[[Any, tuple[int, ...]], Any]) -> Any:
    """Rows in expert order -> the experts' answers in the same order. `counts` rows of every expert, on this rank.

    Counts travel first, as the receivers must know them; then rows there, sorted by local expert, and back.
    """
    import torch
    import torch.distributed as dist

    ranks = dist.get_world_size()
    arriving = torch.empty_like(counts)
    dist.all_to_all_single(arriving, counts)
    per_source = arriving.view(ranks, -1)
    sent = counts.view(ranks, -1).sum(dim=1).tolist()
    received = per_source.sum(dim=1).tolist()
    order = _by_expert(per_source)
    here = _exchange().apply(rows, sent, received).index_select(0, order)
    answers = experts(here, tuple(per_source.sum(dim=0).tolist()))
    back = answers.index_select(0, _inverse(order))
    return _exchange().apply(back, received, sent)


def _by_expert(per_source: Any) -> Any:
    """Where in what arrived (by source, then expert) each row of expert order is found."""
    import torch

    labels = torch.arange(per_source.shape[1], device=per_source.device).repeat(per_source.shape[0])
    return labels.repeat_interleave(per_source.reshape(-1)).argsort(stable=True)


def _inverse(order: Any) -> Any:
    import torch

    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


_made: dict[str, Any] = {}


def _exchange() -> Any:
    """All-to-all of rows whose gradient goes the other way; made when torch is there."""
    if "class" in _made:
        return _made["class"]
    import torch
    import torch.distributed as dist

    class RowExchange(torch.autograd.Function):  # type: ignore[misc]  # torch is not read by mypy
        """all_to_all_single with its transpose as backward."""

        @staticmethod
        def forward(ctx: Any, rows: Any, sent: list[int], received: list[int]) -> Any:
            ctx.sent, ctx.received = sent, received
            out = rows.new_empty(sum(received), rows.shape[1])
            dist.all_to_all_single(out, rows.contiguous(), received, sent)
            return out

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None]:
            back = gradient.new_empty(sum(ctx.sent), gradient.shape[1])
            dist.all_to_all_single(back, gradient.contiguous(), ctx.sent, ctx.received)
            return back, None, None

    _made["class"] = RowExchange
    return RowExchange
