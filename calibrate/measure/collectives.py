"""Collectives over a process group (gloo on CPUs, NCCL on GPUs), and compute while one is under way."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from moesim.calibrate.measure.asks import Ask
from moesim.calibrate.measure.bench import Bench, Prepared, Unsupported
from moesim.calibrate.measure.clock import Call, Timing, longest_wait_s, summary, waits_s
from moesim.calibrate.measure.tensors import noise

_WARM = 3
_SHORTEST_S = 1e-3
_MOST_REPEATS = 40


def prepare_collective(a: Ask, bench: Bench) -> Prepared:
    """The call of one collective on this rank. Unsupported when the backend lacks it."""
    import torch
    import torch.distributed as dist

    ranks, rank = dist.get_world_size(), dist.get_rank()
    count = max(ranks, a.number("bytes") // 4 // ranks * ranks)
    whole = noise((count,), "fp32", bench.device)
    part = torch.empty(count // ranks, device=bench.device)
    again = torch.empty_like(whole)
    # newer names first: the older ones still work, with a warning
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    calls: dict[str, Call] = {
        "all_reduce": lambda i: dist.all_reduce(whole),
        "all_gather": lambda i: gather(again, part),
        "reduce_scatter": lambda i: scatter(part, whole),
        "all_to_all": lambda i: dist.all_to_all_single(again, whole),
        "broadcast": lambda i: dist.broadcast(whole, 0),
        "send": lambda i: _hand_on(whole, again, rank, ranks),
    }
    backend = str(dist.get_backend())
    call = calls[a.phase]
    try:
        call(0)
    except (RuntimeError, NotImplementedError) as error:
        raise Unsupported(f"{backend} has no {a.phase}: {str(error).splitlines()[0][:100]}") from None
    return Prepared(call, 1, backend)


def _hand_on(whole: Any, again: Any, rank: int, ranks: int) -> None:
    """Rank 0 sends, rank 1 receives; the others look on."""
    import torch.distributed as dist

    if rank == 0:
        dist.send(whole, 1)
    elif rank == 1:
        dist.recv(again, 0)


def prepare_overlap(a: Ask, bench: Bench) -> Prepared:
    """GEMMs alone, an all-reduce alone, or both at once."""
    import torch.distributed as dist

    whole = noise((a.number("bytes") // 4,), "fp32", bench.device)
    return Prepared(_overlap(a, bench, whole), 1, str(dist.get_backend()))


def _overlap(a: Ask, bench: Bench, whole: Any) -> Call:
    import torch
    import torch.distributed as dist

    side = a.number("side")
    left, right = noise((side, side), "fp32", bench.device), noise((side, side), "fp32", bench.device)

    def compute() -> None:
        for _ in range(a.number("gemms")):
            torch.mm(left, right)

    def both(i: int) -> None:
        under_way = dist.all_reduce(whole, async_op=True)
        compute()
        assert under_way is not None  # async_op returns the work
        under_way.wait()

    if a.phase == "compute":
        return lambda i: compute()
    return (lambda i: dist.all_reduce(whole)) if a.phase == "comm" else both


def time_together(call: Call, budget_s: float, cuda: bool) -> Timing:
    """Time a call that all ranks make together: as many repeats on each, every one begun at a barrier."""
    import torch
    import torch.distributed as dist

    def run(turn: int, count: int) -> tuple[float, float]:
        dist.barrier()
        before, start = waits_s(), perf_counter()
        for i in range(turn, turn + count):
            call(i)
        if cuda:
            torch.cuda.synchronize()
        return (perf_counter() - start) / count, longest_wait_s(before, waits_s()) / count

    for i in range(_WARM):
        run(i, 1)
    first, _ = run(_WARM, 2)
    count = max(1, round(_SHORTEST_S / max(first, 1e-7)))
    repeats = max(3, min(_MOST_REPEATS, int(budget_s / max(first * count, 1e-7))))
    plan = torch.tensor([count, repeats])
    if not cuda:
        dist.broadcast(plan, 0)
    else:  # NCCL moves tensors of the device only
        on_device = plan.cuda()
        dist.broadcast(on_device, 0)
        plan = on_device.cpu()
    count, repeats = (int(v) for v in plan)
    walls, waits = zip(*(run(4 + r * count, count) for r in range(repeats)), strict=True)
    if cuda:
        return summary([(wall, 0.0) for wall in walls], "own")
    # a transfer is over when the last rank has it, and while one rank waits for a core the others wait for it
    slowest = torch.tensor([walls, waits], dtype=torch.float64)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return summary(list(zip(*slowest.tolist(), strict=True)), "together")
