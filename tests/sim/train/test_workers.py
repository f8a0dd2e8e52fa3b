"""One executor for all verbs: here, on cores, on a Dask cluster; workers that die lose nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moesim import CompareEffort, Effort, MachineFailure, compare, many_steps, plan, sweep
from moesim.calibrate.record.validate import validate_files
from moesim.calibrate.rows.files import published_rows
from moesim.sim.train import workers as crews
from moesim.sim.train.workers import answers, crew

SMALL: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4}, "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"ep": 8}, "train": {"global_batch": 64, "seq_len": 2048},
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers in processes of their own; one that dies is not replaced."""
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as started:
        yield started


def slowly(number: int) -> int:
    """A task that lasts long enough for its worker to be killed."""
    time.sleep(0.2)
    return number * number


def test_answers_are_the_same_wherever_they_are_made(cluster: Any) -> None:
    tasks = list(range(7))
    for workers, dask in ((1, ""), (2, ""), (1, cluster.scheduler_address)):
        with crew(workers, dask) as those:
            assert those.all(abs, tasks) == tasks
            assert sorted(those.each(abs, tasks)) == list(enumerate(tasks))
        assert sorted(answers(abs, tasks, workers, dask)) == tasks
    assert list(answers(abs, [], dask="tcp://127.0.0.1:9")) == []


def test_a_plan_and_a_comparison_are_the_same_on_a_cluster(cluster: Any) -> None:
    here, there = (plan(SMALL, effort=Effort(2, 20, dask=dask)).to_dict() for dask in ("", cluster.scheduler_address))
    assert here == there
    one = compare([SMALL], twin="iso-active")
    other = compare([SMALL], twin="iso-active", effort=CompareEffort(dask=cluster.scheduler_address))
    assert one.to_dict() == other.to_dict()


def test_workers_find_files_that_the_question_names_from_here(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in other folders: those of the cluster were started before this test went to its own."""
    monkeypatch.chdir(tmp_path)
    Path("h.yaml").write_text("nodes: {box: {gpu: H100, gpus: 8, nic_bytes_per_s: 400 Gb/s}}")
    asked = {**SMALL, "cluster": {"hardware": "h.yaml", "node": "box", "gpus": 16}}
    there = plan(asked, effort=Effort(1, 10, dask=cluster.scheduler_address)).to_dict()
    assert there == plan(asked, effort=Effort(1, 10)).to_dict()
    swept = [sweep(asked, {"layout.tp": (1, 2)}, dask=dask).rows for dask in ("", cluster.scheduler_address)]
    assert swept[0] == swept[1] and not swept[0][0]["error"]
    both = [many_steps(asked, 2, dask=dask).to_dict() for dask in ("", cluster.scheduler_address)]
    assert both[0] == both[1]
    effort = CompareEffort(dask=cluster.scheduler_address)
    assert compare([asked], twin="iso-active", break_even=False, effort=effort).columns[1].train is not None


def test_validation_is_the_same_on_a_cluster(cluster: Any) -> None:
    rows = next(file for file in published_rows() if file.name == "training_other_teams.csv")
    few = replace(rows, rows=rows.rows[:6])
    assert validate_files([few]) == validate_files([few], dask=cluster.scheduler_address)


def test_a_worker_that_is_killed_loses_nothing(cluster: Any) -> None:
    pids = [worker.process.pid for worker in cluster.workers.values()]
    assert len(pids) == 2
    killer = threading.Timer(0.7, os.kill, (pids[0], signal.SIGKILL))
    killer.start()
    with crew(dask=cluster.scheduler_address) as those:
        assert those.all(slowly, list(range(12))) == [n * n for n in range(12)]
    killer.join()


def test_a_scheduler_without_workers_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "_WORKERS_S", 1)  # of 8
    distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(MachineFailure, match="has no worker after 1 s"),
        crew(dask=empty.scheduler_address),
    ):
        pass
