"""The face: `import moesim` gives every verb, record and refusal, and each verb takes the same forms of a scenario."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import moesim
from moesim.reports.cli.app import app

EXAMPLES = Path(__file__).parents[1] / "examples"
JOB: dict[str, Any] = {
    "model": {"base": "mixtral-8x7b", "layers": 4},
    "cluster": {"node": "dgx-h100", "gpus": 16},
    "layout": {"ep": 8},
    "train": {"global_batch": 64, "seq_len": 2048},
}
SERVED: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 4},
    "layout": {"tp": 4},
    "serve": {"requests": {"kind": "closed", "concurrency": 4, "count": 8, "input_tokens": 256, "output_tokens": 32}},
}


def test_every_public_name_is_there_and_documented() -> None:
    assert moesim.__all__ == sorted(moesim.__all__)
    for name in moesim.__all__:
        thing = getattr(moesim, name)
        assert thing is not None and (name.startswith("__") or (thing.__doc__ or "").strip()), name
    assert set(moesim.__all__) <= set(dir(moesim))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        moesim.predict  # noqa: B018  # asked for on purpose


def test_the_docstring_names_every_verb_and_every_kind_of_refusal() -> None:
    said = (moesim.__doc__ or "").split()
    verbs = [name for name in moesim.__all__ if type(getattr(moesim, name)).__name__ == "function"]
    quiet = {"load_scenario", "parse_scenario", "load_model", "model_names", "parameters", "active_parameters"}
    assert set(verbs) - quiet <= set(said)
    kinds = {
        n
        for n in moesim.__all__
        if isinstance(getattr(moesim, n), type) and issubclass(getattr(moesim, n), moesim.Refusal)
    }
    assert kinds - {"Refusal"} <= {word.strip(".,") for word in said}


def test_importing_it_loads_nothing_else() -> None:
    code = "import sys, moesim; print(sorted(m for m in sys.modules if m.startswith('moesim.')))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "['moesim.refusal']"


def test_a_record_a_mapping_and_a_file_are_one_question(tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB), encoding="utf-8")
    answers = [moesim.predict_train(asked).to_dict() for asked in (JOB, file, str(file), moesim.parse_scenario(JOB))]
    assert all(answer == answers[0] for answer in answers)
    settings = {"layout.zero": (0, 1)}
    sweeps = [moesim.sweep(asked, settings).rows for asked in (JOB, file, moesim.parse_scenario(JOB))]
    assert all(rows == sweeps[0] for rows in sweeps)


def test_plan_goes_by_what_is_asked() -> None:
    layouts = moesim.plan(JOB, given={"tp": (1, 2), "micro_batch": 1, "pp": 1}, effort=moesim.Effort(top=2))
    assert isinstance(layouts, moesim.Plan)
    beside = moesim.Effort(top=2, workers=2)
    assert (
        moesim.plan(JOB, given={"tp": (1, 2), "micro_batch": 1, "pp": 1}, effort=beside).to_dict() == layouts.to_dict()
    )
    fast = moesim.ServeEffort(top=1, most=4)
    deployments = moesim.plan(SERVED, given={"tp": 4, "pp": 1, "pools": "no"}, objective="tpot", effort=fast)
    assert isinstance(deployments, moesim.ServePlan)
    for wrong in ({"effort": fast}, {"slo": "ttft=1s"}, {"objective": "beauty"}, {"given": {"colour": "red"}}):
        with pytest.raises(moesim.ScenarioError):
            moesim.plan(JOB, **wrong)  # wrong on purpose
    with pytest.raises(moesim.ScenarioError, match="ServeEffort"):
        moesim.plan(SERVED, effort=moesim.Effort())


def test_whatif_goes_by_what_is_asked() -> None:
    assert isinstance(moesim.whatif(JOB), moesim.WhatIf)
    assert isinstance(moesim.whatif(SERVED), moesim.ServeWhatIf)


def test_run_is_the_step_times_its_number() -> None:
    step = moesim.predict_train(JOB)
    run = moesim.run(JOB, 1e12)
    assert run == moesim.run(step, 1e12)
    assert run.compute_s == pytest.approx(1e12 / step.tokens_per_s, rel=1e-4)
    assert moesim.run(step, 1e12, price_usd_per_gpu_hour=2.0).usd == pytest.approx(2.0 * run.gpu_hours)


def test_validate_reads_a_file_of_runs(tmp_path: Path) -> None:
    rows = tmp_path / "mine.csv"
    rows.write_text(
        "model,gpu,gpus,seq_len,gbs,dp,step_time_s,colour\nmistral-7b,H100,8,4096,64,8,3.0,red\n", encoding="utf-8"
    )
    validation = moesim.validate(rows)
    assert validation.summary.rows == 1 and validation.records[0].measured == 3.0
    assert validation.unread == {"mine.csv": ("colour",)} or "colour" in str(validation.unread)
    assert validation.to_dict()["rows"] == 1


def test_every_command_has_a_verb() -> None:
    commands = {c.callback.__name__ for c in app.registered_commands if c.callback is not None}
    verbs = {"train": "predict_train", "serve": "predict_serve", "comm": "predict_comm"}
    others = {"report", "calibrate", "show", "init", "schema"}  # they write files, measure, or print what is shipped
    for command in commands - others:
        assert verbs.get(command, command) in moesim.__all__, command


def test_a_checkout_without_symbolic_links_says_what_to_do(tmp_path: Path) -> None:
    package = tmp_path / "moesim"
    package.mkdir()
    for name in ("__init__.py", "refusal.py"):
        (package / name).write_bytes((Path(moesim.__file__).parent / name).read_bytes())
    (package / "sim").write_text("../sim", encoding="utf-8")  # what git writes where links are switched off
    said = subprocess.run([sys.executable, "-c", "import moesim"], cwd=tmp_path, capture_output=True, text=True)
    assert said.returncode == 1 and "git config core.symlinks true" in said.stderr


WRONG: list[tuple[str, Any]] = [
    ("tokens that are text", lambda: moesim.run(JOB, "many")),
    ("no tokens", lambda: moesim.run(JOB, float("nan"))),
    ("more tokens than there are", lambda: moesim.run(JOB, 1e300)),
    ("a price below zero", lambda: moesim.run(JOB, 1e12, price_usd_per_gpu_hour=-1.0)),
    ("a share that is text", lambda: moesim.whatif(JOB, "a fifth")),
    ("a share above one", lambda: moesim.whatif(SERVED, 2.0)),
    ("a twin that is a number", lambda: moesim.compare([JOB], twin=5)),
    ("one scenario in place of a list", lambda: moesim.compare(JOB)),
    ("tokens of a comparison", lambda: moesim.compare([JOB], twin="iso-active", tokens="many")),
    ("nothing to vary", lambda: moesim.sweep(JOB, {})),
    ("text in place of values", lambda: moesim.sweep(JOB, {"cluster.gpus": "64"})),
    ("a scenario that is none", lambda: moesim.sweep(5, {"cluster.gpus": (8,)})),
    ("axes that are text", lambda: moesim.plan(JOB, given="tp=1")),
    ("GPUs that are text", lambda: moesim.plan(JOB, gpus="64")),
    ("GPUs beyond any cluster", lambda: moesim.plan(JOB, gpus=(10**12,))),
    ("an effort of nothing", lambda: moesim.Effort(top=0)),
    ("a serving effort of nothing", lambda: moesim.ServeEffort(most=0)),
    ("an axis of fleets", lambda: moesim.plan_fleet(SERVED, (), moesim.FleetAsk(given={"nope": (1,)}))),
    ("a fleet's effort", lambda: moesim.plan_fleet(SERVED, (), moesim.FleetAsk(effort=moesim.Effort()))),
]


@pytest.mark.parametrize(("what", "call"), WRONG, ids=[what for what, _ in WRONG])
def test_wrong_arguments_are_refused_in_one_line(what: str, call: Any) -> None:
    with pytest.raises(moesim.Refusal) as refusal:
        call()
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300, what


def test_a_layout_beside_pools_is_said_to_be_unused() -> None:
    pools = {"prefill": {"tp": 2}, "decode": {"tp": 2}}
    asked = {**SERVED, "serve": {**SERVED["serve"], "pools": pools}}
    said = moesim.predict_serve(asked).assumptions
    assert "layout.tp: not used, pools lay out their own workers" in said
