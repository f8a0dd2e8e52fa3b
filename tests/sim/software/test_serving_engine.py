"""The catalogue of serving engines."""

from __future__ import annotations

import pytest

from moesim.hwmodels.gpu import load_gpu
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.resolve import resolve_serve
from moesim.sim.software.engine_release import month_of
from moesim.sim.software.serving_engine import engine_asked, engine_constants, engine_names, load_engine
from moesim.sim.software.stack import StackError


def test_catalogue_of_engines_is_complete_and_says_why() -> None:
    assert {"vllm", "sglang", "trtllm"} <= set(engine_names())
    for name in engine_names():
        assert load_engine(name).source
    for key, record in engine_constants().items():
        assert record["kind"] in ("fitted", "assumed") and record["why"], key
        assert float(record["value"]) >= 0.0


def test_defaults_depend_on_gpu_and_how_the_engine_runs() -> None:
    def limits(gpu: str, run: str = "server") -> tuple[int, int]:
        engine, said = load_engine("vllm", {"run": run}).on(load_gpu(gpu), drafts=False)
        assert any(f"token_budget = {engine.token_budget}" in line for line in said)
        return engine.token_budget, engine.max_batch

    assert limits("h100-sxm") == (8192, 1024) and limits("h100-sxm", "library") == (16384, 1024)
    assert limits("a100-sxm-80gb") == (2048, 256) and limits("a100-sxm-80gb", "library") == (8192, 256)
    assert limits("l40s") == (2048, 256)


def test_what_is_stated_comes_before_defaults() -> None:
    engine, said = load_engine("vllm", {"max_batch": 64}).on(load_gpu("a100-sxm-80gb"), drafts=False)
    assert (engine.max_batch, engine.token_budget) == (64, 2048)
    assert not any("max_batch" in line for line in said)


def test_drafts_limit_what_sglang_runs_at_once() -> None:
    plain, drafting = (load_engine("sglang").on(load_gpu("b200-hgx"), drafts)[0] for drafts in (False, True))
    assert drafting.max_batch == 48 < plain.max_batch


def test_versions_choose_the_record() -> None:
    assert load_engine("vllm", version="0.7.4").name == "vllm-0" == load_engine("vllm", version="v0.6.1.post2").name
    assert load_engine("vllm", version="0.8.0").name == load_engine("vllm", version="0.10.2").name == "vllm"
    assert load_engine("trtllm", version="0.14.0").name == "trtllm-engine"
    assert load_engine("trtllm-1.0", version="0.14.0").name == "trtllm-1.0"  # who names a record means it
    assert any("no number" in line for line in engine_asked({"name": "vllm", "version": "nightly"}).said)


def test_command_lines_are_read_in_the_words_of_their_engine() -> None:
    words = (
        "--max-num-seqs 512 --max-num-batched-tokens=4k --tensor-parallel-size 4 --no-enable-prefix-caching --port 80"
    )
    asked = engine_asked({"version": "0.10.2", "args": words})
    engine = asked.engine.on(load_gpu("a100-sxm-80gb"), drafts=False)[0]
    assert (engine.max_batch, engine.token_budget, engine.prefix_cache) == (512, 4000, False)
    assert asked.layout == {"tp": 4} and any("--port" in line for line in asked.said)
    sglang = engine_asked({"name": "sglang", "args": "--mem-fraction-static 0.8 --chunked-prefill-size 16384"}).engine
    assert (sglang.kv_fraction, sglang.token_budget) == (0.8, 16384)
    trtllm = engine_asked({"name": "trtllm", "version": "0.17", "args": "--max_num_tokens 4096"}).engine
    assert (trtllm.name, trtllm.token_budget) == ("trtllm-engine", 4096)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ({"name": "vllm", "args": "--max-num-sequences 3"}, "did you mean 'max-num-seqs'"),
        ({"name": "vllm", "args": "--max-num-seqs many"}, "needs a number"),
        ({"name": "vllm", "args": "--max-num-seqs 8", "max_batch": 4}, "say the same thing"),
        ({"name": "sglang", "args": "--speculative-num-steps 3"}, "serve.speculative"),
        ({"name": "vllm", "args": "meta-llama/x"}, "belongs to no option"),
        ({"name": "vllm", "args": '--model "x'}, "cannot be read"),
        ({"name": "vllm", "args": ["--max-num-seqs"]}, "must be one text"),
        ({"token_budget": 4}, "needs name"),
    ],
)
def test_what_a_command_line_cannot_say_is_refused(ask: dict[str, object], says: str) -> None:
    with pytest.raises(StackError, match=says):
        engine_asked(ask)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm", {"name": "sglang", "max_batch": 64}])
def test_every_setting_that_was_not_stated_is_said_once(engine: str | dict[str, object]) -> None:
    requests = {"kind": "closed", "concurrency": 1, "count": 2, "output_tokens": 2}
    cluster = {"node": "dgx-h100", "gpus": 1}
    asked = {"model": "llama-3.1-8b", "cluster": cluster, "serve": {"engine": engine, "requests": requests}}
    said = resolve_serve(parse_scenario(asked)).assumptions
    for key in ("scheduling", "admission", "token_budget", "max_batch", "kv_fraction"):
        stated = isinstance(engine, dict) and key in engine
        assert sum(line.startswith(f"{key} = ") for line in said) == (0 if stated else 1), key


@pytest.mark.parametrize(
    ("version", "near"),
    [("0.99", "0.16"), ("v12", "0.16"), ("release-candidate", "0.19")],
)
def test_a_version_that_is_no_release_is_refused_unless_it_is_dated(version: str, near: str) -> None:
    with pytest.raises(
        StackError, match=f"engine version '{version}' of vllm is not known; nearest are .*{near}"
    ) as said:
        engine_asked({"name": "vllm", "version": version})
    assert "serve.engine.date" in str(said.value) and str(said.value).count("vLLM") == 3
    assert engine_asked({"name": "vllm", "version": version, "date": "2026-05"}).engine.month is not None


def test_builds_of_the_main_branch_are_the_newest_and_images_have_the_month_of_their_model() -> None:
    image = engine_asked({"name": "sglang", "version": "glm5-hopper"})
    assert image.engine.month == 12 * 2026 + 1 and "taken as the newest sglang, of 2026-02" in image.said[0]
    build = engine_asked({"name": "sglang", "version": "nightly-dev-20260402-d7256eb6"})
    assert build.engine.month is None and "of no known month" in build.said[0]
    assert engine_asked({"name": "sglang", "version": "main", "date": "2026-05"}).engine.month == 12 * 2026 + 4
    assert engine_asked({"name": "sglang", "version": "0.5.12.post1"}).engine.month == 12 * 2026 + 4


def test_an_unknown_engine_is_refused_with_the_nearest_three() -> None:
    with pytest.raises(StackError, match=r"unknown engine 'TensorRT'; nearest are trtllm.*TensorRT-LLM"):
        engine_asked("TensorRT")


def test_versions_beyond_the_list_have_the_month_of_the_nearest_and_a_stated_date_comes_first() -> None:
    def month(version: str, **said: str) -> int | None:
        return engine_asked({"name": "vllm", "version": version, **said}).engine.month

    assert month("0.1.7") == month("0.2") and month("0.23") == month("0.19")
    assert month("0.1.7", date="2023-07") == month_of("2023-07") != month("0.1.7")
    image = engine_asked({"name": "vllm", "version": "vllm/vllm-openai:v0.10.2"}).engine
    assert image.month == month("0.10.2") and engine_asked({"name": "vllm", "version": "vllm/vllm-openai:nightly"})
