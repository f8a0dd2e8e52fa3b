"""What "auto" means for a job: every rule of the tuned recipes, one at a time."""

from __future__ import annotations

from typing import Any

import pytest

from moesim.sim.question.scenario import parse_scenario
from moesim.sim.train.job import resolve


def stack_of(
    model: str = "qwen3-30b-a3b", node: str = "dgx-h100", layout: dict[str, Any] | None = None,
    release: str | None = "26.04", precision: str = "bf16", name: str = "megatron-tuned", gpus: int = 32,
) -> Any:  # fmt: skip
    asked = {
        "model": {"base": model, "layers": 8},
        "cluster": {"node": node, "gpus": gpus},
        "layout": layout or {},
        "stack": name,
        "train": {"global_batch": 256, "seq_len": 1024, "precision": precision},
        **({"release": release} if release else {}),
    }
    return resolve(parse_scenario(asked)).job.stack


def test_tensor_parallel_transfers_hide_in_dense_models_only() -> None:
    assert stack_of("llama-3.1-8b").tp_overlap is True
    assert stack_of().tp_overlap is False


INTERLEAVED = {"pp": 2, "vpp": 2, "schedule": "interleaved"}


@pytest.mark.parametrize(
    ("layout", "release", "hidden"),
    [
        ({**INTERLEAVED, "ep": 16}, "26.04", "hidden"),
        ({**INTERLEAVED, "ep": 16}, None, "hidden"),
        ({**INTERLEAVED, "ep": 16}, "25.09", "none"),  # young
        ({**INTERLEAVED, "ep": 8}, "26.04", "none"),  # inside one host
        ({"pp": 2, "schedule": "1f1b", "ep": 16}, "26.04", "none"),
        ({**INTERLEAVED}, "26.04", "none"),  # nothing is exchanged
    ],
)
def test_exchanges_hide_where_they_cross_hosts_under_interleaved_schedules_of_later_releases(
    layout: dict[str, Any], release: str | None, hidden: str
) -> None:
    assert stack_of(layout=layout, release=release).ep_overlap == hidden


@pytest.mark.parametrize(
    ("node", "release", "name", "dispatcher"),
    [
        ("dgx-h100", "26.04", "megatron-tuned", "deepep"),
        ("dgx-h100", "25.09", "megatron-tuned", "alltoall"),  # young, on x86 hosts
        ("gb200-nvl72", "25.09", "megatron-tuned", "hybridep"),  # young, but its hosts are Arm
        ("gb200-nvl72", "26.04", "megatron-tuned", "hybridep"),
        ("dgx-h100", "26.04", "torch-eager", "alltoall"),
    ],
)
def test_who_carries_tokens(node: str, release: str, name: str, dispatcher: str) -> None:
    assert stack_of(node=node, release=release, name=name, layout={"ep": 16}).dispatcher == dispatcher


@pytest.mark.parametrize(
    ("node", "release", "precision", "fused"),
    [
        ("dgx-b200", "26.06", "mxfp8", True),
        ("dgx-b200", "26.06", "nvfp4", True),
        ("dgx-b200", "26.04", "mxfp8", False),
        ("dgx-b200", "26.06", "bf16", False),
        ("dgx-h100", "26.06", "fp8", False),
    ],
)
def test_gated_experts_run_as_fused_kernels_in_late_releases_on_blackwell(
    node: str, release: str, precision: str, fused: bool
) -> None:
    assert stack_of(node=node, release=release, precision=precision, layout={"ep": 8}).fused_experts is fused


def test_experts_without_a_gate_do_not() -> None:
    ungated = {"node": "dgx-b200", "release": "26.06", "precision": "mxfp8", "layout": {"ep": 8}}
    assert stack_of(**ungated).fused_experts is True
    assert stack_of("switch-base-128", **ungated).fused_experts is False
