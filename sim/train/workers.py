"""Workers: the same function over many tasks, here, on this machine's cores or on a Dask cluster, for all verbs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from moesim.refusal import MachineFailure

Task = TypeVar("Task")
Answer = TypeVar("Answer")
_ANSWER_S, _WORKERS_S = 5, 8  # seconds in which a scheduler answers, and has a worker
_LOST_S = 20.0  # seconds without any worker after which a cluster is lost
_LOOK_S = 0.05  # between two looks at what a cluster has done


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work: this process (workers=1), as many others, or a Dask cluster by the client of its scheduler."""

    workers: int = 1
    client: Any = None

    def each(self, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
        """(number of the task, what the function answers), as answers come in."""
        if self.client is not None:
            return _on_dask(self.client, function, tasks)
        return _on_cores(function, tasks, self.workers)

    def all(self, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> list[Answer]:
        """The answers in the order of the tasks."""
        found = dict(self.each(function, tasks))
        return [found[number] for number in range(len(tasks))]


@contextmanager
def crew(workers: int = 1, dask: str = "") -> Iterator[Crew]:
    """Workers for a while. workers: processes, which need no guard in the script that calls us. dask: the address of a
    scheduler to run on instead.

    MachineFailure where nobody answers there, where it has no worker, where distributed is not installed, or where
    workers are lost on the way.
    """
    if not dask:
        yield Crew(workers)
        return
    with _client(dask) as client:
        yield Crew(workers, client)


def answers(
    function: Callable[[Task], Answer], tasks: Sequence[Task], workers: int = 1, dask: str = ""
) -> Iterator[Answer]:
    """What the function answers to every task, as answers come in: put their number into them where order matters.

    Workers as of `crew`, and its errors.
    """
    if not tasks:
        return
    with crew(workers, dask) as those:
        for _, answer in those.each(function, tasks):
            yield answer


def _on_cores(function: Callable[[Task], Answer], tasks: Sequence[Task], workers: int) -> Iterator[tuple[int, Answer]]:
    if workers == 1 or len(tasks) == 1:
        yield from enumerate(map(function, tasks))
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    run = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="4*n_jobs")
    parent = os.getpid()
    try:
        yield from run(delayed(_numbered)(function, number, task, parent) for number, task in enumerate(tasks))
    except TerminatedWorkerError:
        raise MachineFailure(
            "a worker process was killed, perhaps for its memory; what was done is kept where a journal is written: "
            "run it again, with fewer workers"
        ) from None


def _numbered(function: Callable[[Task], Answer], number: int, task: Task, parent: int) -> tuple[int, Answer]:
    if not _watched:
        _watched.append(parent)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return number, function(task)


_watched: list[int] = []  # of a worker process: whom it works for


def _end_with(parent: int) -> None:
    """Ends this worker soon after the process that it works for, however that ended: no orphan goes on for minutes."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os._exit(1)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of the scheduler, which has at least one worker."""
    try:
        from distributed import Client
    except ImportError:
        raise MachineFailure("--dask needs the extra: pip install 'moesim[dask]'") from None
    try:
        client = Client(address, timeout=f"{_ANSWER_S}s")
    except (OSError, TimeoutError, ValueError):
        raise MachineFailure(f"no Dask scheduler answers at {address!r}; start one with `dask scheduler`") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            raise MachineFailure(
                f"the Dask scheduler at {address!r} has no worker after {_WORKERS_S} s; start one with "
                f"`dask worker {address}`"
            ) from None
        yield client


def _on_dask(client: Any, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
    """Answers of a cluster; what a worker that died was doing is done by another."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    futures = {client.submit(function, task, pure=False): number for number, task in enumerate(tasks)}
    try:
        for future in _done(client, list(futures)):
            yield futures[future], future.result()
    except KilledWorker:
        raise MachineFailure("a task was lost with every worker of the Dask cluster that took it") from None
    except (CancelledError, OSError, TimeoutError):
        raise MachineFailure(_LOST.format("scheduler")) from None


_LOST = "the Dask cluster lost its {}; what was done is kept where a journal is written: run it again"


def _done(client: Any, futures: list[Any]) -> Iterator[Any]:
    """Futures as they are done; MachineFailure when scheduler or workers are gone and do not come back."""
    from distributed import as_completed

    done, helped, look = as_completed(futures), time.monotonic(), time.monotonic()
    while done.count():
        if done.has_ready():
            yield next(done)
            helped = time.monotonic()
            continue
        time.sleep(_LOOK_S)
        if client.status != "running":
            raise MachineFailure(_LOST.format("scheduler"))
        if time.monotonic() - look > 1.0:
            look = time.monotonic()
            if client.scheduler_info(n_workers=-1)["workers"]:
                helped = look
            elif look - helped > _LOST_S:
                raise MachineFailure(_LOST.format("workers"))
