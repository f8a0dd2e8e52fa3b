"""The catalogue of training stacks: complete, sourced, and named by the words of their users."""

from __future__ import annotations

import pytest

from moesim.hwmodels.cluster import build_cluster
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.software.stack import (
    AUTHORS,
    StackError,
    fitted_as,
    load_stack,
    stack_asked,
    stack_named,
    stack_names,
)
from moesim.sim.train.band import author_of
from moesim.sim.train.job import TrainJob, resolve
from moesim.sim.train.prices import StepPrices
from moesim.sim.train.step import simulate_step

CLUSTER = build_cluster("dgx-h100", 8)


SCENARIO: dict[str, object] = {
    "model": "mixtral-8x7b",
    "cluster": {"node": "dgx-h100", "gpus": 64},
    "layout": {"pp": 4, "ep": 8},
    "train": {"global_batch": 256, "seq_len": 4096},
}


def job(stack: str, release: str | None = None) -> TrainJob:
    said = {"stack": stack, **({"release": release} if release else {})}
    return resolve(parse_scenario({**SCENARIO, **said})).job


def test_every_record_says_who_where_from_and_whose_constants() -> None:
    assert {"fsdp2", "automodel", "hf-eager", "maxtext-gpu", "pai-megatron", "primus"} <= set(stack_names())
    spelled: list[str] = []
    for name in stack_names():
        stack, _ = load_stack(name, CLUSTER)
        assert stack.author in AUTHORS and stack.source and stack.constants_of in stack_names()
        spelled += stack.words
        assert all(stack_named(word) == name for word in (name, *stack.words))
    assert len(spelled) == len(set(spelled))


def test_a_record_takes_what_it_does_not_state_from_its_relative() -> None:
    primus, relative = (load_stack(name, CLUSTER)[0] for name in ("primus", "megatron-core"))
    assert (primus.attention_kernel, primus.grad_dtype) == (relative.attention_kernel, relative.grad_dtype)
    assert primus.title != relative.title and primus.words != relative.words


def test_what_a_user_calls_it_is_understood_and_said() -> None:
    stack, assumed = stack_asked("Megatron-LM", CLUSTER)
    assert stack.name == "megatron-core" and "stack = megatron-core (what 'Megatron-LM' names)" in assumed
    assert any(", plain checkout (" in note for note in assumed)
    stack, assumed = stack_asked({"name": "pai-megatron"}, CLUSTER)
    assert any("constants of megatron-tuned" in note for note in assumed)


def test_an_unknown_stack_is_refused_with_the_nearest_three_and_what_each_assumes() -> None:
    with pytest.raises(StackError) as refused:
        stack_asked("fsdp-3", CLUSTER)
    said = str(refused.value)
    assert (
        "stack 'fsdp-3' is not known; nearest are fsdp2 (constants of torchtitan, sdpa attention, overlaps dp)" in said
    )
    assert said.count("(constants of ") == 3


def test_a_stack_without_constants_of_its_name_was_fitted_as_its_relative() -> None:
    pairs = {"fsdp2": "torchtitan", "primus": "megatron-core", "pai-megatron": "megatron-tuned"}
    assert {name: fitted_as(name) for name in pairs} == pairs
    assert fitted_as("megatron-bridge") == "megatron-bridge"  # seconds of its CPU are its own
    assert fitted_as("torchtitan") == "torchtitan"


def test_only_a_vendors_release_is_a_vendors_run() -> None:
    assert author_of(job("megatron-tuned", "26.04")) == "vendor"
    assert author_of(job("megatron-tuned")) == "other"
    assert author_of(job("megatron-bridge", "26.04")) == "other"
    assert author_of(job("nemo", "26.04")) == "vendor"


def test_fsdp2_over_nodes_does_not_fill_its_nics_and_inside_a_host_nothing_changes() -> None:
    def seconds(stack: str, gpus: int, constant: float) -> float:
        scenario = {
            "model": "llama-3.1-8b",
            "cluster": {"node": "dgx-h100", "gpus": gpus},
            "layout": {"zero": 3},
            "train": {"global_batch": gpus, "seq_len": 1024},
            "stack": stack,
        }
        resolved = resolve(parse_scenario(scenario))
        prices = StepPrices(resolved.job, resolved.kernels, resolved.tuning({f"sharded_nic_share[{stack}]": constant}))
        return simulate_step(prices).step_time_s

    assert seconds("torchtitan", 64, 0.5) > 1.3 * seconds("torchtitan", 64, 1.0)
    assert seconds("torchtitan", 8, 0.5) == seconds("torchtitan", 8, 1.0)
    tuning = resolve(parse_scenario({**SCENARIO, "stack": "fsdp2"})).tuning()
    assert tuning.get("sharded_nic_share", "torchtitan") < tuning.get("sharded_nic_share", "composer-fsdp") == 1.0
