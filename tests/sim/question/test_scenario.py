"""Scenarios: what people get wrong, each answered with one line that names the key and what would do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from moesim.files.plain_yaml import MAX_BYTES
from moesim.sim.question.scenario import Scenario, ScenarioError, load_scenario, parse_scenario
from moesim.sim.train.job import resolve
from moesim.sim.train.predict import predict_train

GOOD: dict[str, Any] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 4, "ep": 8},
    "train": {"global_batch": 256, "seq_len": 4096},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one value set; `...` deletes it."""
    scenario = copy.deepcopy(GOOD)
    *parents, key = path.split(".")
    at = scenario
    for parent in parents:
        at = at.setdefault(parent, {})
    if value is ...:
        del at[key]
    else:
        at[key] = value
    return scenario


def test_the_good_one_is_good() -> None:
    assert resolve(parse_scenario(GOOD)).job.layout.dp == 16


BAD_VALUES: list[tuple[str, Any, str]] = [
    ("modle", "x", "unknown key 'modle'; did you mean 'model'"),
    ("layout.ppp", 4, r"unknown key 'layout\.ppp'; did you mean .*'pp'"),
    ("cluster.gpu_count", 8, r"unknown key 'cluster\.gpu_count'; (did you mean|known:) .*gpu"),
    ("train.sequence_length", 8, r"unknown key 'train\.sequence_length'; (did you mean|known:) .*seq_len"),
    ("train.lora", {"rnk": 8}, r"train\.lora\.rank is missing|unknown key 'train\.lora\.rnk'"),
    ("model", ..., "model is missing"),
    ("cluster", ..., "cluster is missing"),
    ("cluster.gpus", ..., r"cluster\.gpus is missing"),
    ("train.seq_len", ..., r"train\.seq_len is missing"),
    ("train", ..., "has no train section"),
    ("cluster.gpus", 0, r"cluster\.gpus: .*greater than or equal to 1 \(given 0\)"),
    ("cluster.gpus", -8, r"cluster\.gpus: .*\(given -8\)"),
    ("cluster.gpus", 6.5, r"cluster\.gpus"),
    ("cluster.gpus", float("nan"), r"cluster\.gpus"),
    ("cluster.gpus", float("inf"), r"cluster\.gpus"),
    ("cluster.gpus", 10**30, r"cluster\.gpus"),
    ("cluster.gpus", "many", r"cluster\.gpus"),
    ("cluster.nic_bytes_per_s", "400 Gb", r"cluster\.nic_bytes_per_s: .*not in B/s; write for example '400 Gb/s'"),
    ("cluster.nic_bytes_per_s", "20 ms", r"not in B/s"),
    ("cluster.nic_bytes_per_s", float("nan"), r"cluster\.nic_bytes_per_s: .*finite"),
    ("cluster.nic_bytes_per_s", "-1 GB/s", r"cluster\.nic_bytes_per_s: .*greater than or equal to 1"),
    ("cluster.nic_bytes_per_s", True, r"cluster\.nic_bytes_per_s: .*not a quantity"),
    ("cluster.nic_bytes_per_s", "1" * 100_000, r"cluster\.nic_bytes_per_s: .*not a quantity"),
    ("cluster.oversubscription", 0.5, r"cluster\.oversubscription: .*greater than or equal to 1"),
    ("cluster.oversubscription", float("inf"), r"cluster\.oversubscription"),
    ("cluster.node", "dgx-h10", "unknown node 'dgx-h10'; did you mean"),
    ("cluster.fabric", "ib", "unknown fabric 'ib'"),
    ("cluster.node", ..., "cluster needs a node .* or a gpu"),
    ("model", "mixtral-8x7bb", "unknown model .*mixtral-8x7bb.*did you mean .*mixtral-8x7b"),
    ("model", "", "is no model"),
    ("model", 7, "model"),
    ("model", "no/such/config.json", "no such file"),
    ("model", {"layers": 2, "hidden": 64, "heads": 0, "vocab": 10}, "heads"),
    ("layout.pp", 5, "dp is not whole: 64 GPUs"),
    ("layout.dp", 7, r"dp=7 does not fit: 64 GPUs / .* = 16; leave dp out"),
    ("layout.ep", 3, "ep x etp may be one of"),
    ("layout.ep", 16, "ep=16 does not divide 8 experts of .*; use one of 1, 2, 4, 8"),
    ("layout", {"pp": 64}, "asks for 64 stages, but .* has 32 layers"),
    ("layout.tp", -1, r"layout\.tp: .*\(given -1\)"),
    ("layout.tp", 0, r"layout\.tp"),
    ("layout.zero", 4, r"layout\.zero: .*less than or equal to 3"),
    ("layout.schedule", "zigzag", "is not known; use one of gpipe, 1f1b"),
    ("layout.stage_layers", [8, 8, 8, 9], "4 entries that sum to 33; it needs .* sum to 32"),
    ("layout.stage_layers", "all", r"layout\.stage_layers"),
    ("train.global_batch", 250, "global_batch=250 is not a multiple of .* = 16; use 240 or 256"),
    ("train.global_batch", 0, r"train\.global_batch"),
    ("train.seq_len", -4096, r"train\.seq_len"),
    ("train.precision", "fp7", r"train\.precision: 'fp7' is not a training precision; did you mean .*'fp8'"),
    ("train.precision", "nvfp4", "precision=nvfp4 has no tensor path on h100-sxm; use one of bf16, fp16, fp8"),
    ("train.recompute", "everything", r"train\.recompute: 'everything' cannot be recomputed"),
    ("train.recompute", ["moe_akt"], r"train\.recompute: 'moe_akt' cannot be recomputed; did you mean .*'moe_act'"),
    ("train.capacity_factor", 0, r"train\.capacity_factor"),
    ("train.capacity_factor", float("nan"), r"train\.capacity_factor"),
    ("routing", "skewed", "routing"),
    ("routing", {"lognormal": 9}, r"lognormal.*less than or equal to 5"),
    ("routing", {"lognormal": 0.5, "counts": "x.csv"}, "give either lognormal"),
    ("routing", {"counts": "no-such-file.npz"}, "does not exist"),
    ("routing", {"lognormal": float("nan")}, "lognormal"),
    ("routing", {"lognormal": 0.5, "group_sigma": 6}, r"group_sigma.*less than or equal to 5"),
    ("routing", {"lognormal": 0.5, "topic": 4}, r"topic.*less than or equal to 3"),
    ("routing", {"lognormal": 0.5, "drift": 0}, r"drift.*greater than 0"),
    ("routing", {"lognormal": 0.5, "drift": 1.5}, r"drift.*less than or equal to 1"),
    ("routing", {"lognormal": 0.5, "sampling": "often"}, "sampling"),
    ("routing", {"counts": "x.csv", "group_sigma": 0.3}, "group_sigma goes with lognormal"),
    ("placement", {"slots": 8, "spare_slots": 0}, "say the same thing"),
    ("placement", {"plan_age_steps": -1}, "plan_age_steps"),
    ("placement", {"slot": 8}, "did you mean 'slots'"),
    ("stack", "megatron", "stack 'megatron' is not known; nearest are .*megatron-core .constants of"),
    (
        "stack",
        {"name": "megatron-core", "tp_overlp": True},
        "unknown stack setting 'tp_overlp'; did you mean 'tp_overlap'",
    ),
    ("stack", {"name": "megatron-core", "tp_overlap": "maybe"}, "tp_overlap"),
    ("profile", "h1000", "unknown GPU 'h1000'"),
    ("price_usd_per_gpu_hour", -2, r"price_usd_per_gpu_hour"),
    ("price_usd_per_gpu_hour", float("nan"), r"price_usd_per_gpu_hour"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD_VALUES, ids=lambda v: str(v)[:30])
def test_one_wrong_value_is_answered_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        predict_train(changed(path, value))
    assert type(caught.value).__module__.split(".")[1] in ("sim", "hwmodels", "traces"), repr(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("raw", [None, [], "text", 7, [GOOD]])
def test_a_scenario_is_a_mapping(raw: Any) -> None:
    with pytest.raises(ScenarioError, match="a scenario is a mapping with model, cluster, layout and train"):
        parse_scenario(raw)


def test_dualpipe_says_how_large_the_batch_must_be() -> None:
    scenario = changed("layout.schedule", "dualpipe")
    scenario["train"]["global_batch"] = 64
    with pytest.raises(ScenarioError, match="at least 8; global_batch=64 gives 4; use 128 or more"):
        predict_train(scenario)


def test_context_parallelism_must_divide_the_sequence() -> None:
    scenario = changed("layout.cp", 2)
    scenario["train"]["seq_len"] = 4097
    with pytest.raises(ScenarioError, match="cp=2 does not divide seq_len=4097"):
        predict_train(scenario)


def test_quantities_may_carry_units() -> None:
    parsed = parse_scenario(changed("cluster.nic_bytes_per_s", "200 Gb/s"))
    assert parsed.cluster.nic_bytes_per_s == 25e9


def test_a_release_that_yaml_reads_as_a_number_is_text_again() -> None:
    assert parse_scenario(changed("release", 26.10)).release == "26.10"


def test_assumptions_name_what_was_not_said() -> None:
    assumed = " | ".join(resolve(parse_scenario(GOOD)).assumptions)
    for key in ("cluster.fabric", "layout.schedule", "stack = ", "release"):
        assert key in assumed


# -- files ----------------------------------------------------------------------------------------------------

FILES: list[tuple[str, bytes, str]] = [
    ("empty.yaml", b"", "a scenario is a mapping"),
    ("list.yaml", b"- 1\n- 2\n", "a scenario is a mapping"),
    ("latin.yaml", b"model: \xe9\xff\n", "is not a text file in UTF-8"),
    ("binary.yaml", bytes(range(256)) * 4, "is not a text file in UTF-8|is not valid YAML"),
    ("tab.yaml", b"model:\t- x\n\t- y\n", "is not valid YAML"),
    ("cut.yaml", b"model: {a: [1, 2\n", "is not valid YAML"),
    ("python.yaml", b"model: !!python/object/apply:os.system ['true']\n", "YAML tags .* are not allowed"),
    ("alias.yaml", b"a: &a [x]\nb: *a\n", "aliases .* are not allowed"),
    ("merge.yaml", b"base: &b {gpus: 8}\ncluster:\n  <<: *b\n", "aliases .* are not allowed"),
    ("deep.yaml", b"model: " + b"[" * 5000 + b"]" * 5000, "nested deeper than"),
    ("nul.yaml", b"model: a\x00b\n", "is not valid YAML"),
    ("dates.yaml", b"model: 2026-99-99\ncluster: 2026-13-01\n", "is not valid YAML|cluster"),
    ("big.yaml", b"# " + b"x" * MAX_BYTES, "at most 400,000 are read"),
    (
        "number.yaml",
        b"model: mixtral-8x7b\ncluster: {node: dgx-h100, gpus: 0x" + b"f" * 5000 + b"}\n",
        "a number has 5,0.. digits; at most 300 are read",
    ),
    ("key.yaml", b"model: m\n? [a, b]\n: 1\n", "is not valid YAML|unknown key|mapping"),
    ("intkey.yaml", b"1: 2\nmodel: m\ncluster: {gpus: 8}\n", "keys should be strings"),
    ("twice.yaml", b"model: a\nmodel: b\n", "key .model. is given twice in one mapping"),
]


@pytest.mark.parametrize(("name", "content", "message"), FILES, ids=lambda v: v if isinstance(v, str) else None)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ScenarioError, match=message) as caught:
        load_scenario(file)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert len(str(caught.value)) < 800


def test_a_billion_laughs_are_not_heard(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ScenarioError, match="aliases"):
        load_scenario(tmp_path / "bomb.yaml")


@pytest.mark.parametrize("path", ["no-such-file.yaml", ".", "", "a\x00b", "x" * 5000])
def test_a_missing_file(path: str) -> None:
    with pytest.raises(ScenarioError, match="does not exist"):
        load_scenario(path)


def test_a_file_reads_as_its_mapping(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "good.yaml").write_text(yaml.safe_dump(GOOD))
    assert load_scenario(tmp_path / "good.yaml") == parse_scenario(GOOD)
    assert isinstance(load_scenario(str(tmp_path / "good.yaml")), Scenario)


def test_numbers_may_be_written_as_people_do() -> None:
    asked = parse_scenario(
        {**GOOD, "train": {"global_batch": "1k", "seq_len": "4Ki"}, "cluster": {"node": "dgx-h100", "gpus": "64"}}
    )
    assert asked.train is not None
    assert (asked.train.global_batch, asked.train.seq_len, asked.cluster.gpus) == (1000, 4096, 64)
    with pytest.raises(ScenarioError, match=r"seq_len: .*integer"):
        parse_scenario({**GOOD, "train": {"global_batch": 256, "seq_len": "4.5"}})


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ({"kind": "closed_loop", "concurrency": 4}, "or 'sessions'; did you mean 'closed'?"),
        ({"kind": "azure-conversations"}, "did you mean 'azure-conversation'"),
        ({"arrivals": "closed", "concurrency": 4}, "unknown key 'serve.requests.arrivals'; it is called kind here"),
        ({"kind": "closed", "clients": 4}, "it is called concurrency here"),
        ({"kind": "closed", "concurrency": [1, 2]}, "ask `moesim sweep FILE --set serve.requests.concurrency=1,2`"),
    ],
)
def test_what_was_meant_is_said(requests: dict[str, Any], message: str) -> None:
    asked = {"model": "mixtral-8x7b", "cluster": {"node": "dgx-h100", "gpus": 8}}
    with pytest.raises(ScenarioError) as told:
        parse_scenario({**asked, "serve": {"engine": "vllm", "requests": requests}})
    assert message in str(told.value)


def test_a_list_where_one_value_stands_is_a_sweep() -> None:
    with pytest.raises(ScenarioError, match=r"to try several values, ask `moesim sweep FILE --set layout.tp=1,2,4`"):
        parse_scenario(changed("layout.tp", [1, 2, 4]))
