"""Room for a twin: where a dense model does not fit laid out like the mixture, the nearest layouts that hold it.

More tensor and pipeline parallelism over the same GPUs, then everything recomputed; of the first few that fit the
fastest is taken. A search over all layouts is `moesim plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from moesim.sim.comparison.expense import step_s
from moesim.sim.layout.layout import BadLayout
from moesim.sim.question.refusals import DoesNotFit
from moesim.sim.question.scenario import ScenarioError, scenario_of
from moesim.sim.serve.memory import serve_memory
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.train.job import resolve
from moesim.sim.train.memory import step_memory
from moesim.sim.train.prices import StepPrices

_TRIES = 3  # layouts that fit, simulated; the fastest of them is taken
_WAYS = (1, 2, 4, 8, 16)

Question = dict[str, Any]


def train_memory_bytes(scenario: Mapping[str, Any]) -> tuple[float, float]:
    """(bytes of the fullest GPU, bytes it has) of a training scenario."""
    resolved = resolve(scenario_of(scenario))
    prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning(), drawn=False)
    return max(m.total for m in step_memory(prices)), resolved.job.cluster.gpu.usable_bytes


def _train_layouts(scenario: Mapping[str, Any]) -> Iterator[tuple[Question, str]]:
    """The scenario laid out as asked, then over ever more ranks; with what was changed."""
    layout, train = scenario.get("layout", {}), scenario["train"]
    tp, pp = layout.get("tp", 1), layout.get("pp", 1)
    wider = sorted(product(_WAYS, _WAYS), key=lambda w: (w[0] * w[1], w[1]))
    for recompute in (train.get("recompute"), "full"):
        for more_tp, more_pp in wider:
            if tp * more_tp > 8 and more_tp > 1:  # assumed: tensor groups stay inside a host of eight
                continue
            changes: Question = {"tp": tp * more_tp, "pp": pp * more_pp}
            if more_pp > 1:  # virtual stages and their layers were chosen for the old depth
                changes |= {"vpp": 1, "stage_layers": None}
                if layout.get("schedule") == "interleaved":
                    changes["schedule"] = "1f1b"
            asked = {**train, **({} if recompute is None else {"recompute": recompute})}
            said = [f"{key} {changes[key]}" for key, old in (("tp", tp), ("pp", pp)) if changes[key] != old]
            said += ["recompute full"] if recompute == "full" and train.get("recompute") != "full" else []
            yield {**scenario, "layout": {**layout, **changes}, "train": asked}, ", ".join(said)


def fitting_train(scenario: Mapping[str, Any]) -> tuple[Question, str]:
    """The training scenario with the layout nearest to its own that fits, and what was changed ('' for nothing).

    DoesNotFit when none of them does.
    """
    fitting: list[tuple[float, Question, str]] = []
    least = float("inf")
    for candidate, said in _train_layouts(scenario):
        try:
            size, usable = train_memory_bytes(candidate)
        except (BadLayout, ScenarioError):
            continue
        least = min(least, size / usable)
        if size <= usable:
            if not said:
                return candidate, ""
            fitting.append((_step_s(candidate), candidate, said))
            if len(fitting) == _TRIES:
                break
    if not fitting:
        raise DoesNotFit(
            f"does not fit on {scenario['cluster'].get('gpus')} GPUs: the most that tensor and pipeline parallelism "
            f"and recompute save leaves {least:.1f} times a GPU's memory; use more or larger GPUs"
        )
    _, best, said = min(fitting, key=lambda f: f[0])
    return best, said


def _step_s(scenario: Mapping[str, Any]) -> float:
    resolved = resolve(scenario_of(scenario))
    return step_s(StepPrices(resolved.job, resolved.kernels, resolved.tuning(), drawn=False))


def _serve_layouts(scenario: Mapping[str, Any]) -> Iterator[tuple[Question, str]]:
    layout = scenario.get("layout", {})
    tp, pp = layout.get("tp", 1), layout.get("pp", 1)
    for more_tp, more_pp in sorted(product(_WAYS, _WAYS), key=lambda w: (w[0] * w[1], w[1])):
        wide, deep = tp * more_tp, pp * more_pp
        said = [f"{key} {new}" for key, new, old in (("tp", wide, tp), ("pp", deep, pp)) if new != old]
        yield {**scenario, "layout": {**layout, "tp": wide, "pp": deep}}, ", ".join(said)


def fitting_serve(scenario: Mapping[str, Any]) -> tuple[Question, str]:
    """The serving scenario with the smallest replicas from its own upwards that hold the model and its requests.

    DoesNotFit when the whole cluster does not, and for pools, which are not laid out anew.
    """
    refusal: DoesNotFit | None = None
    for candidate, said in _serve_layouts(scenario):
        try:
            predict_serve(candidate, meets=False)
        except BadLayout:
            continue
        except DoesNotFit as error:
            refusal = refusal or error
            if scenario["serve"].get("pools"):
                break
            continue
        return candidate, said
    raise refusal or DoesNotFit("no layout of the replicas divides the cluster")


def smallest_replica(scenario: Mapping[str, Any]) -> Question:
    """The serving scenario on one replica, of the fewest GPUs that hold the model: what little traffic needs.

    DoesNotFit when the whole cluster is too small.
    """
    one = {**scenario, "layout": {}, "serve": {k: v for k, v in scenario["serve"].items() if k not in ("pools",)}}
    one["serve"].pop("attention_dp", None)
    for ways in _WAYS:
        for tp in (ways, 8) if ways > 8 else (ways,):
            trial = {**one, "layout": {"tp": tp, "pp": ways // tp}}
            trial["cluster"] = {**scenario["cluster"], "gpus": ways}
            if ways <= scenario["cluster"]["gpus"]:
                try:
                    resolved = resolve_serve(scenario_of(trial))
                    if serve_memory(resolved.deployment.job).cache_bytes > 0:
                        predict_serve(trial, meets=False)
                        return trial
                except (BadLayout, DoesNotFit):
                    continue
    raise DoesNotFit("no replica of up to 16 GPUs holds the model")
