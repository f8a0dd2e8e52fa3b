"""The dense twin: equal active parameters, equal shapes, and a mapping that reads back as the same record."""

from __future__ import annotations

import pytest

from moesim.sim.comparison.twin import TOLERANCE, dense_of_size, dense_twin, twin_scenario
from moesim.sim.model.catalogue import load_model, model_names
from moesim.sim.model.flops import flops_per_token
from moesim.sim.model.params import active_parameters
from moesim.sim.model.writing import as_mapping, pattern_of
from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.predict import predict_train

MOE = [name for name in model_names() if load_model(name).is_moe]
DENSE = [name for name in model_names() if not load_model(name).is_moe]


@pytest.mark.parametrize("name", MOE)
def test_active_parameters_are_equal(name: str) -> None:
    arch = load_model(name)
    twin = dense_twin(arch)
    for ours, theirs in zip(active_parameters(twin), active_parameters(arch), strict=True):
        assert ours == pytest.approx(theirs, rel=2 * TOLERANCE)
    assert active_parameters(twin).with_input_embedding == pytest.approx(
        active_parameters(arch).with_input_embedding, rel=TOLERANCE
    )


@pytest.mark.parametrize("name", MOE)
def test_everything_but_the_feed_forward_is_kept(name: str) -> None:
    arch, twin = load_model(name), dense_twin(load_model(name))
    assert not twin.is_moe and twin.moe is None
    assert (twin.hidden, twin.vocab, twin.mtp_layers) == (arch.hidden, arch.vocab, arch.mtp_layers)
    assert twin.attention == arch.attention and twin.ssm == arch.ssm
    assert [kind.mixer for kind in twin.layers] == [kind.mixer for kind in arch.layers]


def test_deepseek_v3_twin_is_a_37b_model() -> None:
    twin = dense_twin(load_model("deepseek-v3"))
    assert twin.ffn is not None and twin.ffn.intermediate % 256 == 0
    assert 37e9 < active_parameters(twin).with_input_embedding < 38e9
    arch = load_model("deepseek-v3")
    assert flops_per_token(twin, 4096) == pytest.approx(flops_per_token(arch, 4096), rel=0.01)


@pytest.mark.parametrize("name", DENSE[:5])
def test_a_dense_model_is_its_own_twin(name: str) -> None:
    assert dense_twin(load_model(name)) is load_model(name) or dense_twin(load_model(name)) == load_model(name)


@pytest.mark.parametrize("name", model_names())
def test_as_mapping_reads_back_as_the_same_record(name: str) -> None:
    arch = load_model(name)
    assert load_model(as_mapping(arch)) == arch


def test_pattern_of_is_one_readable_line() -> None:
    assert pattern_of(load_model("deepseek-v3").layers) == "3 x attention+dense, 58 x attention+moe"


def test_twin_scenario_predicts() -> None:
    scenario = {
        "model": "mixtral-8x7b",
        "cluster": {"node": "dgx-h100", "gpus": 64},
        "layout": {"pp": 4, "ep": 8},
        "train": {"global_batch": 256, "seq_len": 4096, "capacity_factor": 1.25},
        "routing": {"lognormal": 0.5},
    }
    twin = twin_scenario(scenario, load_model("mixtral-8x7b"))
    assert "routing" not in twin and "capacity_factor" not in twin["train"]
    assert parse_scenario(twin).layout.ep == 1
    prediction = predict_train(twin, check_memory=False)
    assert prediction.resolved.job.arch.name == "mixtral-8x7b-dense-twin"
    assert "ep_comm" not in prediction.breakdown_s


def test_what_experts_recompute_the_dense_blocks_of_the_twin_recompute() -> None:
    words = {"moe_act": "mlp_act", "moe": "mlp", "layernorm": "layernorm", "none": "none"}
    arch = load_model("deepseek-v3")
    for asked, wanted in words.items():
        for ask, want in ((asked, wanted), ([asked, "mla_up_proj"], [wanted, "mla_up_proj"])):
            question = {"model": "deepseek-v3", "train": {"global_batch": 64, "seq_len": 4096, "recompute": ask}}
            assert twin_scenario(question, arch)["train"]["recompute"] == want


FORMATS = {
    "attention": "bf16", "dense": "fp8_block", "experts": "nvfp4", "shared": "fp8_block", "head": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("size", [None, 20e9])
def test_a_twins_checkpoint_is_of_its_own_parts(size: float | None) -> None:
    """Formats of experts are no words of a model without any, in its record as in what an answer says of it."""
    mixture = load_model({"base": "deepseek-v3", "fp8_blocks": True, "checkpoint": {"method": "tool", **FORMATS}})
    twin = dense_twin(mixture) if size is None else dense_of_size(mixture, size)
    assert twin.checkpoint is not None and not twin.fp8_blocks
    assert (twin.checkpoint.attention, twin.checkpoint.dense) == ("bf16", "nvfp4")
    assert twin.checkpoint.method == f"as {mixture.name} is: tool"
    written = as_mapping(twin)
    assert set(written["checkpoint"]) == {"method", "attention", "dense", "head"}
    assert load_model(written).checkpoint == twin.checkpoint
    assert set(as_mapping(mixture)["checkpoint"]) == {"method", "block", *FORMATS}
    blocks = {**FORMATS, "attention": "fp8_block"}
    of_blocks = load_model({"base": "deepseek-v3", "checkpoint": {"method": "tool", **blocks}})
    assert dense_twin(of_blocks).fp8_blocks
