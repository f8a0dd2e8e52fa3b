"""Whole command lines of engines read back, and the record of documented options."""

from __future__ import annotations

import pytest

from moesim.sim.software.engine_commands import command_of
from moesim.sim.software.engine_options import check_option, engine_options, option_targets, paths_of
from moesim.sim.software.stack import StackError


def test_a_vllm_command() -> None:
    read = command_of(
        "vllm",
        "--tensor-parallel-size 2 --data-parallel-size 4 --enable-expert-parallel --enable-eplb "
        "--eplb-config '{\"num_redundant_experts\":8}' --enable-dbo --max-num-seqs 64 --kv-cache-dtype fp8 "
        '--speculative-config \'{"method":"mtp","num_speculative_tokens":2}\' --enable-lora --max-loras 4 '
        "--max-lora-rank 32 --port 8000",
    )
    assert read.layout == {"tp": 2, "pp": 1, "ep": 8, "attention_dp": 4}
    assert read.settings == {"max_batch": 64}
    assert read.serve == {
        "expert_slots": 8,
        "two_batch_overlap": True,
        "kv_dtype": "fp8",
        "speculative": {"method": "mtp", "tokens": 2},
        "adapters": {"count": 4, "rank": 32},
    }


def test_sglang_counts_over_all_attention_ranks() -> None:
    read = command_of(
        "sglang",
        "--tp-size 16 --dp-size 8 --enable-dp-attention --ep-size 16 --max-running-requests 512 "
        "--chunked-prefill-size 65536 --disaggregation-mode decode --speculative-algorithm EAGLE "
        "--speculative-num-steps 3 --mem-fraction-static 0.85",
    )
    assert read.layout == {"tp": 2, "pp": 1, "ep": 16, "attention_dp": 8}
    assert read.settings == {"max_batch": 64, "token_budget": 8192, "kv_fraction": 0.85}
    assert read.role == "decode" and read.serve == {"speculative": {"method": "mtp", "tokens": 3}}
    assert command_of("sglang", "--tp 4 --ep 4").layout == {"tp": 4, "pp": 1, "ep": 4, "attention_dp": 1}


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("vllm", "--tensor-parallel 2", "vllm has no --tensor-parallel here"),
        ("vllm", "--speculative-config {method", "is no JSON"),
        ("sglang", "--tp-size 8 --dp-size 3 --enable-dp-attention", "does not divide"),
    ],
)
def test_refusals(family: str, text: str, message: str) -> None:
    with pytest.raises(StackError, match=message):
        command_of(family, text)


def test_options_are_recorded_with_version_and_source() -> None:
    assert set(option_targets()) == {"vllm", "sglang", "trtllm", "dynamo", "llm-d"}
    for target in option_targets():
        record = engine_options(target)
        assert record["version"] and "/" in record["source"]
        for option in [*record["options"].values(), *record.get("words", {}).values()]:
            assert set(option) == {"type", "since"}
            assert option["type"] in ("int", "float", "text", "switch", "json", "list")
    with pytest.raises(StackError, match=r"vllm .* has no option 'enable-eplbs'; did you mean"):
        check_option("vllm", "enable-eplbs")
    assert list(paths_of({"a": {"b": 1, "c": [2]}, "d": 3})) == ["a.b", "a.c", "d"]
    check_option("llm-d", "modelArtifacts.labels.llm-d.ai/model")  # the name of a label has dots
