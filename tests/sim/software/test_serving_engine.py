"""The catalogue of serving engines."""

from __future__ import annotations

from moesim.sim.software.serving_engine import engine_constants, engine_names, load_engine


def test_catalogue_of_engines_is_complete_and_says_why() -> None:
    assert {"vllm", "sglang", "trtllm"} <= set(engine_names())
    for name in engine_names():
        assert load_engine(name).source
    for key, record in engine_constants().items():
        assert record["kind"] in ("fitted", "assumed") and record["why"], key
        assert float(record["value"]) >= 0.0
