"""What reading a model assumed, left out or took as a mean comes with every answer about it."""

from __future__ import annotations

from typing import Any

from moesim.sim.question.lookup import look_up
from moesim.sim.question.scenario import parse_scenario

_LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 1000,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
}  # fmt: skip


def _said(model: str | dict[str, Any]) -> tuple[str, ...]:
    train = {"global_batch": 8, "seq_len": 512}
    scenario = {"model": model, "cluster": {"node": "dgx-h100", "gpus": 8}, "train": train}
    return look_up(parse_scenario(scenario)).assumptions


def test_fields_that_were_not_used_are_listed() -> None:
    assert "config.json fields not used: colour" in _said({**_LLAMA, "colour": "red"})
    assert not any("not used" in line for line in _said(_LLAMA))


def test_the_name_of_a_hub_is_said() -> None:
    assert "model = qwen3-30b-a3b of the catalogue, for Qwen/Qwen3-30B-A3B" in _said("Qwen/Qwen3-30B-A3B")


def test_what_is_counted_and_not_priced_is_said() -> None:
    longcat = _said("longcat-flash")
    assert any(
        line.startswith("zero-compute experts: 256 identities beside 512 experts, of which 8") for line in longcat
    )
    v4 = _said("deepseek-v4-flash")
    assert any(line.startswith("4 residual streams: weights counted") for line in v4)
    assert any(line.startswith("compressed keys") for line in v4)
    assert not any(line.startswith(("zero-compute", "compressed", "4 residual")) for line in _said("deepseek-v3"))
