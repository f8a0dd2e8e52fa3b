"""Worker processes that measure: one per rank, in step with each other, results handed over as they come."""

from __future__ import annotations

import multiprocessing
import os
import queue
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from moesim.calibrate.measure.asks import Ask
from moesim.calibrate.measure.bench import Bench, Prepared, Unsupported
from moesim.calibrate.measure.clock import Timing, time_cpu, time_cuda
from moesim.calibrate.measure.device import keep_pages
from moesim.calibrate.measure.kernels import prepare
from moesim.refusal import Refusal

_TOGETHER = ("collective", "overlap")
_LEAST_S, _MOST_S = 0.03, 0.6  # of one measurement
# threads sleep at the end of a parallel region: spinning costs whole time slices where other processes want the core
_THREADING = {"OMP_WAIT_POLICY": "passive"}
_SILENT_S = 180.0  # a worker that says nothing for so long is stuck


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """How many ranks measure at once, with how many threads each, on which device."""

    ranks: int
    threads: int
    device: str  # cpu, cuda:0
    cache_bytes: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What a crew says about one ask: a timing, or why there is none."""

    ask: Ask
    timing: Timing | None
    backend: str
    reason: str


class CrewFailed(Refusal):
    """The worker processes died or went silent; what they had measured before is kept."""


def start_rank(rank: int, crew: Crew, rendezvous: str) -> Bench:
    """Set up this process as one rank: threads, allocator, process group where there are several."""
    import torch

    keep_pages()
    device = crew.device
    if device.startswith("cuda"):
        number = rank if crew.ranks > 1 else int(device.partition(":")[2] or 0)
        torch.cuda.set_device(number)
        device = f"cuda:{number}"
    else:
        torch.set_num_threads(crew.threads)
    if crew.ranks > 1:
        import torch.distributed as dist

        backend = "nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, init_method=f"file://{rendezvous}", rank=rank, world_size=crew.ranks)
    return Bench(device, crew.cache_bytes)


def _agree(value: float, crew: Crew, bench: Bench) -> float:
    """The largest value of all ranks."""
    if crew.ranks == 1:
        return value
    import torch
    import torch.distributed as dist

    shared = torch.tensor([value], device=bench.device)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX)
    return float(shared.item())


def _prepare(a: Ask, bench: Bench) -> Prepared:
    from moesim.calibrate.measure.collectives import prepare_collective, prepare_overlap

    if a.op == "overlap":
        return prepare_overlap(a, bench)
    return prepare_collective(a, bench) if a.op == "collective" else prepare(a, bench)


def _time(a: Ask, ready: Prepared, budget_s: float, bench: Bench) -> Timing:
    from moesim.calibrate.measure.collectives import time_together

    if a.op in _TOGETHER:
        timing = time_together(ready.call, budget_s, bench.cuda)
    else:
        timing = (time_cuda if bench.cuda and a.op != "launch" else time_cpu)(ready.call, budget_s)
    return Timing(timing.seconds / ready.units, timing.spread, timing.repeats, timing.disturbed_share)


def _measure(a: Ask, budget_s: float, crew: Crew, bench: Bench) -> Answer:
    """One measurement; what the device cannot do is said, not raised."""
    ready, reason = None, ""
    try:
        ready = _prepare(a, bench)
    except Unsupported as error:
        reason = str(error)
    except (
        RuntimeError,
        NotImplementedError,
        MemoryError,
    ) as error:  # out of memory, no such kernel: listed as skipped
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    if _agree(float(ready is None), crew, bench):
        return Answer(a, None, "", reason or "another rank could not run it")
    assert ready is not None
    return Answer(a, _time(a, ready, budget_s, bench), ready.backend, "")


def _work(rank: int, crew: Crew, rendezvous: str, asks: Sequence[Ask], budget_s: float, out: Any) -> None:
    """Body of a worker process."""
    parent = os.getppid()
    bench = start_rank(rank, crew, rendezvous)
    begin = perf_counter()
    for number, a in enumerate(asks):
        left_s = budget_s - (perf_counter() - begin)
        over = left_s <= 0.0 or os.getppid() != parent
        if _agree(float(over), crew, bench):
            break
        each_s = min(_MOST_S, max(_LEAST_S, left_s / (len(asks) - number) * 0.7))
        answer = _measure(a, each_s, crew, bench)
        if rank == 0:
            out.put(answer)
    if rank == 0:
        out.put(None)
    if crew.ranks > 1:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()


def run_crew(body: Callable[..., None], crew: Crew, *arguments: Any) -> Iterator[Any]:
    """Start `body(rank, crew, rendezvous, *arguments, out)` on every rank and yield what is put out until None.

    CrewFailed when a worker dies or all are silent for long. Workers are stopped when the caller stops listening.
    """
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "rendezvous")
        workers = [
            context.Process(target=body, args=(rank, crew, meeting, *arguments, out), daemon=True)
            for rank in range(crew.ranks)
        ]
        with _environment(_THREADING | {"OMP_NUM_THREADS": str(crew.threads)}):
            for worker in workers:
                worker.start()
        try:
            yield from _listen(out, workers)
        finally:
            for worker in workers:
                worker.join(timeout=3.0)
                if worker.is_alive():
                    worker.terminate()


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables that a worker's thread pool reads when it is loaded; put back afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _listen(out: Any, workers: Sequence[Any]) -> Iterator[Any]:
    """Everything that is put out, until None; checks on the workers while they are silent."""
    last = perf_counter()
    while True:
        try:
            message = out.get(timeout=0.5)
        except queue.Empty:
            broken = [w.exitcode for w in workers if w.exitcode not in (None, 0)]
            if broken:
                raise CrewFailed(f"a measuring process ended with code {broken[0]}") from None
            if perf_counter() - last > _SILENT_S:
                raise CrewFailed(f"the measuring processes said nothing for {_SILENT_S:.0f} s") from None
            continue
        last = perf_counter()
        if message is None:
            return
        yield message


def measure_asks(asks: Sequence[Ask], crew: Crew, budget_s: float) -> Iterator[Answer]:
    """Answers to the asks in their order, as many as the budget allows."""
    if asks:
        yield from run_crew(_work, crew, list(asks), budget_s)
