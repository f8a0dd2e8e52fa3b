"""Look-up: a profile, shipped or one's own file, works in every verb alike; what a verb has no use for is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from moesim.hwmodels.facts import catalogue
from moesim.hwmodels.profile import NoFit
from moesim.reports.page.serve_case import serve_case
from moesim.sim.comparison.comparison import compare
from moesim.sim.comparison.twins import only
from moesim.sim.plan.fleet.plan import FleetAsk, plan_fleet
from moesim.sim.plan.serve.plan import plan_serve
from moesim.sim.plan.serve.search import ServeEffort
from moesim.sim.plan.train.plan import plan_train
from moesim.sim.plan.train.search import Effort
from moesim.sim.question.scenario import Scenario, ScenarioError, parse_scenario, scenario_of
from moesim.sim.serve.frontier import frontier
from moesim.sim.serve.predict import predict_serve
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.train.predict import predict_train
from moesim.sim.variation.sweep import evaluate
from moesim.sim.variation.whatif_serve import whatif_serve
from moesim.sim.variation.whatif_train import whatif_train
from moesim.traces.day import Hour

Question = dict[str, Any]

SERVED: Question = {
    "model": "llama-3.1-8b",
    "cluster": {"node": "dgx-h100", "gpus": 2},
    "layout": {"tp": 2},
    "serve": {"requests": {"kind": "poisson", "rate_per_s": 4, "count": 16, "input_tokens": 300, "output_tokens": 24}},
}
TRAINED: Question = {
    "model": {"base": "llama-3.1-8b", "layers": 8},
    "cluster": {"node": "dgx-h100", "gpus": 8},
    "layout": {"tp": 2},
    "train": {"global_batch": 8, "seq_len": 2048},
}
FIXED = {"tp": ("2",), "pp": ("1",), "pools": ("no",)}
FEW = ServeEffort(top=1, most=1)


def _whatif_latency(s: Question) -> float:
    """The deployment on a slower network: the knob changes the profile itself."""
    return next(o.tpot_s for o in whatif_serve(s).outcomes if o.knob == "network latency")


def _compared(s: Question) -> float:
    other = {**s, "cluster": {**s["cluster"], "gpus": 4}}
    side = compare([s, other], break_even=False).columns[0]
    assert side.serve is not None
    return side.serve.tpot_s


def _fleet(s: Question) -> float:
    day = tuple(Hour(1.0) for _ in range(24))
    return plan_fleet(s, day, FleetAsk(given=FIXED, slo="ttft=2s,tpot=200ms", effort=FEW)).group.sustained_per_s[0]


SERVE_VERBS: dict[str, Callable[[Question], float]] = {
    "serve": lambda s: predict_serve(s).tpot_s.mean,
    "serve, the front": lambda s: frontier(resolve_serve(parse_scenario(s)), (4,))[0].tpot_s,
    "whatif": lambda s: whatif_serve(s).tpot_s,
    "whatif, a knob of the profile": _whatif_latency,
    "plan": lambda s: plan_serve(s, given=FIXED, effort=FEW, slo="ttft=2s,tpot=200ms").options[0].served.tpot_s,
    "fleet": _fleet,
    "compare": _compared,
    "sweep": lambda s: float(evaluate(s, {"serve.slo.ttft_s": 2.0})["tpot_s"]),
    "report": lambda s: serve_case(s, parse_scenario(s), "none").whatif.tpot_s,
}
TRAIN_VERBS: dict[str, Callable[[Question], float]] = {
    "train": lambda s: predict_train(s).step_time_s,
    "whatif": lambda s: whatif_train(s).step_time_s,
    "plan": lambda s: plan_train(
        s, given={"tp": (2,), "pp": (1,), "micro_batch": (1,), "zero": (1,), "cp": (1,)}, effort=Effort(top=1, most=1)
    ).options[0].finalist.step_time_s,
}  # fmt: skip
VERBS = [(SERVED, name, verb) for name, verb in SERVE_VERBS.items()]
VERBS += [(TRAINED, name, verb) for name, verb in TRAIN_VERBS.items()]
IDS = [f"{'serve' if q is SERVED else 'train'}: {name}" for q, name, _ in VERBS]


def _file(folder: Path, gpu: str, slower: float) -> str:
    """A profile file: the shipped one of an H100 under another name, all launches `slower` times as slow."""
    raw = json.loads(files("moesim.hwmodels").joinpath("profiles", "h100-sxm.json").read_text(encoding="utf-8"))
    for fit in raw["gemm"].values():
        fit["launch_s"] *= slower
    for key in ("base_s", "hop_s"):
        raw["collectives"][key] *= slower
    record = {k: v for k, v in catalogue("gpus")["h100-sxm"].items() if k not in ("aliases", "alias_notes")}
    raw |= {"schema": 1, "machine": {"device": "cuda"}, "gpu": gpu, "device": {**record, "family": "hopper-own"}}
    path = folder / f"{gpu}-{slower:g}.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(("question", "name", "verb"), VERBS, ids=IDS)
def test_a_profile_works_in_every_verb(
    question: Question, name: str, verb: Callable[[Question], float], tmp_path: Path
) -> None:
    plain = verb(question)
    shipped = verb({**question, "profile": "a100-sxm-80gb"})
    assert shipped != plain, "a shipped profile of another GPU is used"
    assert verb({**question, "profile": _file(tmp_path, "h100-sxm", 1.0)}) == plain, "a file with the same fits"
    slow = verb({**question, "profile": _file(tmp_path, "h100-sxm", 5.0)})
    assert slow < plain if name == "fleet" else slow > plain, "a file with slower kernels"


@pytest.mark.parametrize(("question", "name", "verb"), VERBS, ids=IDS)
def test_a_machine_of_ones_own_needs_no_catalogue(
    question: Question, name: str, verb: Callable[[Question], float], tmp_path: Path
) -> None:
    own = {**question, "cluster": {"gpus": question["cluster"]["gpus"]}, "price_usd_per_gpu_hour": 1.0}
    assert verb({**own, "profile": _file(tmp_path, "zeus-1", 1.0)}) > 0


def test_serving_says_whose_kernels_it_used(tmp_path: Path) -> None:
    other = predict_serve({**SERVED, "profile": "a100-sxm-80gb"})
    assert any("profile = a100-sxm-80gb" in a and "another GPU than h100-sxm" in a for a in other.assumptions)
    assert other.to_dict()["profile"] == "a100-sxm-80gb" and "fit: a100-sxm-80gb gemm bf16" in other.sources
    path = _file(tmp_path, "h100-sxm", 1.0)
    own = predict_serve({**SERVED, "profile": path})
    assert any(path in a for a in own.assumptions)
    assert not any("profile" in a for a in predict_serve(SERVED).assumptions)


def test_constants_of_a_profile_come_before_the_engines(tmp_path: Path) -> None:
    path = Path(_file(tmp_path, "h100-sxm", 1.0))
    raw = json.loads(path.read_text(encoding="utf-8")) | {"constants": {"host_step_s[vllm]": 0.01}}
    path.write_text(json.dumps(raw), encoding="utf-8")
    slow, plain = (predict_serve({**SERVED, **said}).tpot_s.mean for said in ({"profile": str(path)}, {}))
    assert slow > plain + 0.005


def test_a_profile_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="was measured on zeus-1, the scenario asks for h100-sxm"):
        predict_serve({**SERVED, "profile": _file(tmp_path, "zeus-1", 1.0)})
    with pytest.raises(NoFit, match="no gemm fit for 'fp8'"):
        predict_serve({**SERVED, "profile": "a100-sxm-80gb", "serve": {**SERVED["serve"], "precision": "fp8"}})
    with pytest.raises(NoFit, match="cannot read profile"):
        predict_serve({**SERVED, "profile": str(tmp_path / "none.json")})


UNUSED: list[tuple[Question, str]] = [
    ({"stack": "megatron-tuned"}, r"stack is about training.*serve\.engine"),
    ({"release": "26.04"}, r"release is about training"),
    ({"corrections": "own.json"}, r"corrections is about training.*profile"),
    *(
        ({"layout": {"tp": 2, key: value}}, rf"layout\.{key} is about training.*attention_dp")
        for key, value in (
            ("dp", 1), ("zero", 1), ("zero_group", 2), ("schedule", "1f1b"), ("sequence_parallel", True),
            ("duplicates", "drop"), ("stage_layers", [16, 16]),
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("said", "why"), UNUSED, ids=[why[:20] for _, why in UNUSED])
def test_what_serving_has_no_use_for_is_refused(said: Question, why: str) -> None:
    asked = {**SERVED, **said}
    for verb in (predict_serve, whatif_serve, plan_serve):
        with pytest.raises(ScenarioError, match=why):
            verb(asked)
    with pytest.raises(ScenarioError, match=why):
        compare([asked, SERVED], break_even=False)
    assert "is about training" in evaluate(asked, {"cluster.gpus": 2})["error"]


def test_a_scenario_with_both_sections_has_use_for_all_of_it() -> None:
    said = {"stack": "megatron-tuned", "release": "26.04", "layout": {"tp": 2, "zero": 1, "schedule": "1f1b"}}
    both = {**SERVED, "train": TRAINED["train"], **said}
    assert predict_serve(both).tpot_s == predict_serve(SERVED).tpot_s
    served = only(both, "serve")
    assert served == SERVED
    columns = compare([both, both], break_even=False).columns
    assert all(c.train is not None and c.serve is not None for c in columns)


def test_a_scenario_is_a_path_a_mapping_or_a_record(tmp_path: Path) -> None:
    path = tmp_path / "served.yaml"
    path.write_text(json.dumps(SERVED), encoding="utf-8")
    record = scenario_of(SERVED)
    assert isinstance(record, Scenario)
    assert scenario_of(path) == scenario_of(str(path)) == scenario_of(record) == record
    assert scenario_of(record) is record
    with pytest.raises(ScenarioError, match="a scenario is a mapping"):
        scenario_of(["model"])  # type: ignore[arg-type]  # what a YAML list would give
