"""What is near to a name that nobody knows."""

from __future__ import annotations

import pytest

from moesim.hwmodels.libraries import library_named
from moesim.hwmodels.nearest import _shared, named_in, nearest, with_a_way_out
from moesim.sim.software.stack import stack_named

MEANINGS = {
    "alpha": "sends messages over the network",
    "beta-two": "keeps weights in host memory",
    "gamma": "sends weights between hosts",
    "delta": "does nothing",
}


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ("alhpa", "alpha"),
        ("beta", "beta-two"),
        ("DELTA", "delta"),
        ("network messages", "alpha"),
        ("weights-host", "beta-two"),
    ],
)
def test_spelling_and_meaning_both_count(asked: str, first: str) -> None:
    found = nearest(asked, MEANINGS)
    assert found[0] == first and len(set(found)) == 3


def test_the_way_out_says_what_each_would_assume() -> None:
    said = with_a_way_out("alhpa", MEANINGS, {name: f"assumes {name}" for name in MEANINGS})
    assert said.startswith("nearest are alpha (assumes alpha); ") and said.count("(assumes ") == 3


def test_a_name_is_found_as_whole_words_and_outside_brackets_first() -> None:
    spellings = {"efa": "aws", "mega": "mega", "megabridge": "bridge", "interface": "other"}
    assert named_in("Mega-Bridge 26.04", spellings) == "bridge"
    assert named_in("mega (interface)", spellings) == "mega"
    assert named_in("(interface)", spellings) == "other"
    assert named_in("default", spellings) is None  # "efa" stands in it, but not as a word


def test_a_word_that_others_carry_too_counts_where_no_other_does() -> None:
    spellings, shared = {"fsdp2": "fsdp2", "nemo": "nemo"}, {"pytorch": "eager"}
    for text in ("PyTorch FSDP2", "FSDP2 on PyTorch 2.6", "PyTorch (FSDP2)"):
        assert named_in(text, spellings, shared) == "fsdp2"
    assert named_in("PyTorch 2.6", spellings, shared) == "eager" and named_in("JAX", spellings, shared) is None


@pytest.mark.parametrize(
    ("text", "stack"),
    [("PyTorch FSDP2", "fsdp2"), ("PyTorch NeMo", "megatron-tuned"), ("accelerate FSDP2", "fsdp2"),
     ("PyTorch", "torch-eager"), ("transformers, accelerate", "hf-eager"), ("TRL on PyTorch", "hf-eager")],
)  # fmt: skip
def test_stacks_are_found_beside_what_they_run_on(text: str, stack: str) -> None:
    assert stack_named(text) == stack


@pytest.mark.parametrize(
    ("text", "library"),
    [("DeepEP on PyTorch", "deepep"), ("UCCL-EP libfabric", "uccl-ep"), ("DeepEP, libfabric", "deepep"),
     ("EFA", "aws-ofi-nccl"), ("torch.distributed", "nccl"), ("DeepEP over NVSHMEM-libfabric", "deepep-nvshmem")],
)  # fmt: skip
def test_libraries_are_found_beside_what_they_run_on(text: str, library: str) -> None:
    assert library_named(text, collective=library in ("nccl", "aws-ofi-nccl")).name == library


@pytest.mark.parametrize(
    ("asked", "known", "share"),
    [
        (["comm"], ["comm"], 1.0),
        (["communicates"], ["comm"], 1.0),  # begun by a known word
        (["comm"], ["communicates"], 1.0),  # begins one
        (["telecomm"], ["comm"], 0.0),
        (["ab"], ["abacus"], 0.0),  # two letters begin too many words
        (["abacus"], ["ab"], 0.0),
        (["ab"], ["ab"], 1.0),
        (["comm", "xyzw"], ["communicates"], 0.5),
        (["comm", "xyzwuvst"], ["communicates"], 4 / 12),  # by letters
        ([], ["comm"], 0.0),
    ],
)
def test_words_count_from_three_letters_on_by_how_they_begin(asked: list[str], known: list[str], share: float) -> None:
    assert _shared(asked, known) == pytest.approx(share)
