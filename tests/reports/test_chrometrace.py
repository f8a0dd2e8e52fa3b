"""The Chrome trace: what Perfetto needs, in microseconds, and nothing lost on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from moesim.files.whole import OutputError
from moesim.reports.chrometrace import chrome_trace, write_chrome_trace
from moesim.sim.train.predict import predict_train
from moesim.sim.train.prediction import Prediction

Predicted = Callable[[str], Prediction]


def test_every_item_is_a_complete_event_and_the_trace_is_as_long_as_the_step(prediction: Prediction) -> None:
    events = [e for e in chrome_trace(prediction)["traceEvents"] if e["ph"] == "X"]
    ranks = prediction.step.timeline.ranks()
    assert len(events) == len(prediction.step.timeline.program) + len(ranks)
    end = max(e["ts"] + e["dur"] for e in events)
    assert end == pytest.approx(prediction.step_time_s * 1e6, rel=1e-12)
    assert min(e["ts"] for e in events) >= 0.0
    assert min(e["dur"] for e in events) >= 0.0


def test_one_named_process_per_pipeline_rank_and_named_threads(prediction: Prediction) -> None:
    events = chrome_trace(prediction)["traceEvents"]
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert sorted(names) == prediction.step.timeline.ranks()
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] == "X"} <= set(threads)
    assert {"compute", "end of step"} <= set(threads.values())


def test_slots_carry_micro_batch_and_stage(prediction: Prediction) -> None:
    slots = [e for e in chrome_trace(prediction)["traceEvents"] if e["ph"] == "X" and e["cat"] == "compute"]
    assert all({"phase", "micro_batch", "stage"} <= set(e["args"]) for e in slots)
    forwards = Counter((e["args"]["micro_batch"], e["args"]["stage"]) for e in slots if "forward" in e["name"])
    job = prediction.resolved.job
    assert set(forwards.values()) == {1}
    assert len(forwards) == job.micro_batches * job.layout.pp * job.layout.vpp


def test_slices_of_one_thread_do_not_overlap(predicted: Predicted) -> None:
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in chrome_trace(predicted("interleaved"))["traceEvents"]:
        if e["ph"] == "X":
            lanes.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    for spans in lanes.values():
        spans.sort()
        assert all(b[0] >= a[1] - 1e-6 for a, b in pairwise(spans))


def test_file_is_json_and_an_unwritable_path_is_one_of_our_errors(predicted: Predicted, tmp_path: Path) -> None:
    write_chrome_trace(predicted("1f1b"), tmp_path / "t.json")
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["model"].startswith("mixtral")
    with pytest.raises(OutputError, match="cannot write"):
        write_chrome_trace(predicted("1f1b"), tmp_path / "no" / "t.json")


def test_a_recorded_step_has_tracks_inside_slots_and_counters_of_wires() -> None:
    job = {
        "model": {"base": "mixtral-8x7b", "layers": 4},
        "cluster": {"node": "dgx-h100", "gpus": 32},
        "layout": {"pp": 2, "ep": 8},
        "train": {"global_batch": 32, "seq_len": 2048},
        "routing": {"lognormal": 0.6, "seed": 3},
    }
    p = predict_train(job, record=True)
    events = chrome_trace(p)["traceEvents"]
    inside = [e for e in events if e.get("cat") == "inside"]
    assert {e["args"]["category"] for e in inside} >= {"ep_comm", "grouped_gemm"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {threads[e["pid"], e["tid"]] for e in inside} >= {"inside slots: compute"}
    spans: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in inside:
        spans.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    assert all(b[0] >= a[1] - 1e-3 for rows in spans.values() for a, b in pairwise(sorted(rows)))
    counters = [e for e in events if e["ph"] == "C"]
    assert {e["name"] for e in counters} == {"NIC in use", "scale-up link in use"}
    assert all(0.0 <= e["args"]["%"] <= 100.0 for e in counters)
    assert not [
        e for e in chrome_trace(predict_train(job))["traceEvents"] if e["ph"] == "C" or e.get("cat") == "inside"
    ]
