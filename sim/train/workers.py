"""Workers: the same function over many tasks, on this machine's cores or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from moesim.sim.question.scenario import ScenarioError

Task = TypeVar("Task")
Answer = TypeVar("Answer")


def answers(
    function: Callable[[Task], Answer], tasks: Sequence[Task], workers: int = 1, dask: str = ""
) -> Iterator[Answer]:
    """What the function answers to every task, as answers come in: put their number into them where order matters.

    workers: processes, which need no guard in the script that calls us. dask: the address of a scheduler to run on
    instead. ScenarioError where nobody answers there, or where distributed is not installed.
    """
    if not tasks:
        return iter(())
    return _on_dask(function, tasks, dask) if dask else _on_cores(function, tasks, workers)


def _on_cores(function: Callable[[Task], Answer], tasks: Sequence[Task], workers: int) -> Iterator[Answer]:
    from joblib import Parallel, delayed

    if workers == 1 or len(tasks) == 1:
        yield from map(function, tasks)
        return
    run = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch="4*n_jobs")
    yield from run(delayed(function)(task) for task in tasks)


def _on_dask(function: Callable[[Task], Answer], tasks: Sequence[Task], address: str) -> Iterator[Answer]:
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ScenarioError("--dask needs the extra: pip install 'moesim[dask]'") from None
    try:
        client = Client(address, timeout="5s")
    except (OSError, TimeoutError, ValueError):
        raise ScenarioError(f"no Dask scheduler answers at {address!r}; start one with `dask scheduler`") from None
    with client:
        futures = [client.submit(function, task, pure=False) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
