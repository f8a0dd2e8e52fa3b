"""Workers: the same function over many tasks, here, on this machine's cores or on a Dask cluster, for all verbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from moesim.sim.question.scenario import ScenarioError

Task = TypeVar("Task")
Answer = TypeVar("Answer")
_ANSWER_S, _WORKERS_S = 5, 10  # seconds in which a scheduler answers, and has a worker


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

    ScenarioError where nobody answers there, where it has no worker, or where distributed is not installed.
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

    run = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="4*n_jobs")
    yield from run(delayed(_numbered)(function, number, task) for number, task in enumerate(tasks))


def _numbered(function: Callable[[Task], Answer], number: int, task: Task) -> tuple[int, Answer]:
    return number, function(task)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of the scheduler, which has at least one worker."""
    try:
        from distributed import Client
    except ImportError:
        raise ScenarioError("--dask needs the extra: pip install 'moesim[dask]'") from None
    try:
        client = Client(address, timeout=f"{_ANSWER_S}s")
    except (OSError, TimeoutError, ValueError):
        raise ScenarioError(f"no Dask scheduler answers at {address!r}; start one with `dask scheduler`") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_WORKERS_S)
        except TimeoutError:
            raise ScenarioError(
                f"the Dask scheduler at {address!r} has no worker after {_WORKERS_S} s; start one with "
                f"`dask worker {address}`"
            ) from None
        yield client


def _on_dask(client: Any, function: Callable[[Task], Answer], tasks: Sequence[Task]) -> Iterator[tuple[int, Answer]]:
    """Answers of a cluster; what a worker that died was doing is done by another."""
    from distributed import KilledWorker, as_completed

    futures = {client.submit(function, task, pure=False): number for number, task in enumerate(tasks)}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except KilledWorker:
        raise ScenarioError("a task was lost with every worker of the Dask cluster that took it") from None
