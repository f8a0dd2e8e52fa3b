"""Keys and values of one token and of one sequence on one GPU, and the blocks that hold them, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.serve.job import ServeJob
from moesim.sim.serve.kv_cache import Blocks, kv_cache, sequence_bytes, token_bytes
from moesim.sim.serve.resolve import resolve_serve


def job(model: str, layout: dict[str, int] | None = None, node: str = "dgx-h200", **serve: Any) -> ServeJob:
    layout = layout or {"tp": 1}
    asked = {
        "model": model,
        "cluster": {"node": node, "gpus": layout.get("tp", 1) * layout.get("pp", 1)},
        "layout": layout,
        "serve": {"engine": "vllm", "precision": "fp8", "kv_dtype": "bf16",
                  "requests": {"kind": "offline", "count": 1, "input_tokens": 64, "output_tokens": 2}, **serve},
    }  # fmt: skip
    return resolve_serve(parse_scenario(asked)).deployment.job


@pytest.mark.parametrize(
    ("layout", "heads", "layers"),
    [({"tp": 1}, 8, 32), ({"tp": 4}, 2, 32), ({"tp": 8}, 1, 32), ({"tp": 16}, 1, 32), ({"tp": 2, "pp": 2}, 4, 16)],
)
def test_a_token_takes_keys_and_values_of_the_heads_that_a_rank_has_and_of_one_at_least(
    layout: dict[str, int], heads: float, layers: int
) -> None:
    """Llama 3.1 8B: 32 layers, 8 key heads of 128; a tensor group of more ranks than heads holds copies."""
    assert token_bytes(job("llama-3.1-8b", layout)) == layers * heads * 2 * 128 * 2.0
    assert token_bytes(job("llama-3.1-8b", layout, kv_dtype="fp8")) == layers * heads * 2 * 128


def test_a_latent_is_held_whole_by_every_rank() -> None:
    """DeepSeek-V3: 61 layers of 512 + 64."""
    assert [token_bytes(job("deepseek-v3", {"tp": n})) for n in (8, 16)] == [61 * 576 * 2.0] * 2


@pytest.mark.parametrize("tokens", [1, 127, 128, 129, 5000])
def test_windows_hold_their_last_tokens_once_per_sequence(tokens: int) -> None:
    """gpt-oss-20b: 24 layers, every second one looks at 128 tokens; 8 key heads of 64."""
    asked = job("gpt-oss-20b")
    each = 8 * 2 * 64 * 2.0
    assert token_bytes(asked) == 12 * each
    assert sequence_bytes(asked, tokens) == 12 * min(tokens, 128) * each


def test_blocks_fill_the_memory_and_a_typical_window_is_shared_out_over_its_tokens() -> None:
    asked, each = job("gpt-oss-20b"), 8 * 2 * 64 * 2.0
    cache = kv_cache(asked, 1e9, 512)
    assert cache.bytes_per_token == pytest.approx(12 * each * (1 + 128 / 512))
    assert cache.block_tokens == 16 and cache.blocks == int(1e9 // (cache.bytes_per_token * 16))
    assert [cache.blocks_of(n) for n in (1, 16, 17)] == [1, 1, 2]
    assert kv_cache(asked, -1.0, 512).blocks == 0


def test_a_swapped_token_crosses_the_host_link_twice() -> None:
    asked = job("llama-3.1-8b", node="dgx-h100")
    cache = kv_cache(asked, 1e9, 512)
    link = asked.cluster.gpu.host_link_bytes_per_s
    assert cache.swap_token_s == pytest.approx(2 * 32 * 8 * 2 * 128 * 2.0 / (0.8 * link)) and link > 0.0


@pytest.mark.parametrize("size", [1, 16, 64, 100])
def test_used_blocks_are_those_of_every_sequence_by_itself(size: int) -> None:
    blocks, lengths = Blocks(1000, size), [1, 15, 16, 17, 99, 100, 200]
    for tokens in lengths:
        blocks.grow(tokens, 0)
    for step in (0, 1, 5, 63, 200):
        alone = sum(-(-(tokens + step) // size) for tokens in lengths)
        assert blocks.used(sum(lengths) + step * len(lengths), step) == alone
    blocks.held = 3
    assert blocks.used(sum(lengths), 0) == sum(-(-n // size) for n in lengths) + 3
    blocks.grow(99, 0, -1)
    assert blocks.used(sum(lengths) - 99, 0) == sum(-(-n // size) for n in lengths if n != 99) + 3


def test_passes_that_fit_are_the_most_for_which_there_are_blocks() -> None:
    """Two sequences of 16 tokens and room for six blocks of 16: each may grow to 48, by 32 passes."""
    blocks = Blocks(6, 16)
    for _ in range(2):
        blocks.grow(16, 0)
    assert [blocks.steps_that_fit(k, 32, 2, 0) for k in (0, 31, 32, 33, 500)] == [0, 31, 32, 32, 32]
    assert not blocks.may_exceed(66, 2) and blocks.may_exceed(82, 2)
