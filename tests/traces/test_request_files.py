"""Request traces as they are published: told by their content, what is left out is said, wrong ones are refused."""

from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import pytest

from moesim.traces import request_files
from moesim.traces.readers.rows import Loaded
from moesim.traces.request_files import load_requests
from moesim.traces.routing import BadTrace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.1805900,396,109
2023-11-16 18:15:47.6805900,879,0
2023-11-16 18:15:48.6805900,91,16
"""
BURST = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
7,ChatGPT,321,21,342,Conversation log
19,GPT-4,88,0,88,API log
31,ChatGPT,1200,140,1340,Conversation log
"""
MOONCAKE = [
    {"timestamp": 3000, "input_length": 1300, "output_length": 70, "hash_ids": [0, 4, 5]},
    {"timestamp": 1500, "input_length": 1100, "output_length": 52, "hash_ids": [0, 4, 9]},
    {"timestamp": 9000, "input_length": 1024, "output_length": 52, "hash_ids": [0, 4]},
    {"timestamp": 9500, "input_length": 700, "output_length": 3, "hash_ids": [6, 4]},
]
BAILIAN = [
    {"chat_id": 7, "parent_chat_id": -1, "timestamp": 0.5, "input_length": 40, "output_length": 9, "type": "text",
     "turn": 1, "hash_ids": [11, 12, 13]},
    {"chat_id": 9, "parent_chat_id": 7, "timestamp": 21.25, "input_length": 60, "output_length": 5, "type": "text",
     "turn": 2, "hash_ids": [11, 12, 14, 15]},
]  # fmt: skip
SHAREGPT = [
    {"id": "a", "conversations": [
        {"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 81}, {"from": "human", "value": "more"}]},
    {"id": "b", "conversations": [{"from": "human", "value": "never answered"}]},
    {"id": "c", "conversations": [{"from": "human", "value": "x" * 5000}, {"from": "gpt", "value": "long"}]},
]  # fmt: skip


def lines(objects: list[dict[str, object]]) -> str:
    return "\n".join(json.dumps(each) for each in objects) + "\n"


def read(tmp_path: Path, text: str, name: str = "trace.txt") -> Loaded:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load_requests(path)


def test_our_own_csv(tmp_path: Path) -> None:
    text = "arrival_s,input_tokens,output_tokens,prefix\n3,10,5,99\n1.5,7,1,\n"
    loaded = read(tmp_path, text)
    r = loaded.requests
    assert (r.arrival_s, r.input_tokens, r.output_tokens, r.prefix) == ((0.0, 1.5), (7, 10), (1, 5), (0, 10))
    assert loaded.said == ("prefix: rows with more tokens than their prompt has; all of it is taken: 1",)
    assert r.chains is None and r.after == ()


def test_azure_dates_with_seven_digits_and_with_zones(tmp_path: Path) -> None:
    loaded = read(tmp_path, AZURE)
    assert loaded.requests.arrival_s == pytest.approx((0.0, 2.0, 3.5), abs=1e-9)
    assert loaded.requests.input_tokens == (374, 91, 396)
    assert loaded.said == ("trace: rows without output tokens are failures; left out: 1",)
    zoned = AZURE.replace("0,374", "0+00:00,374").replace("0,396", "0Z,396").replace("0,91", "0+00:00,91")
    assert read(tmp_path, zoned.replace("0,879", "0+02:00,879")).requests == loaded.requests


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ("1700000000", "1700000002", ""),
        ("1700000000000", "1700000002000", "milliseconds"),
        ("1700000000000000000", "1700000002000000000", "nanoseconds"),
    ],
)
def test_times_since_1970_in_any_unit(tmp_path: Path, first: str, second: str, word: str) -> None:
    loaded = read(tmp_path, f"Timestamp,Request tokens,Response tokens\n{first},5,5\n{second},6,6\n")
    assert loaded.requests.arrival_s == pytest.approx((0.0, 2.0), abs=1e-5)
    assert (word in " ".join(loaded.said)) and bool(loaded.said) == bool(word)


def test_burstgpt_leaves_failures_out(tmp_path: Path) -> None:
    loaded = read(tmp_path, BURST)
    assert loaded.requests.arrival_s == (0.0, 24.0) and loaded.requests.output_tokens == (21, 140)
    assert "left out: 1" in loaded.said[0]


def test_mooncake_has_milliseconds_and_blocks_of_512(tmp_path: Path) -> None:
    loaded = read(tmp_path, lines(MOONCAKE))
    r = loaded.requests
    assert r.arrival_s == pytest.approx((0.0, 1.5, 7.5, 8.0))
    assert r.prefix == (0, 1024, 1024, 0)  # equal keys behind another beginning are not equal prompts
    assert r.chains is not None
    assert r.chains.keys == ((0, 4, 9), (0, 4, 5), (0, 4), (6, 4))
    assert r.chains.ends == ((512, 1024, 1100), (512, 1024, 1300), (512, 1024), (512, 700))
    assert "milliseconds" in loaded.said[0]


def test_bailian_has_seconds_and_blocks_of_16(tmp_path: Path) -> None:
    loaded = read(tmp_path, lines(BAILIAN))
    assert loaded.requests.arrival_s == pytest.approx((0.0, 20.75)) and loaded.requests.prefix == (0, 32)
    assert loaded.requests.chains is not None
    assert loaded.requests.chains.ends == ((16, 32, 40), (16, 32, 48, 60))
    assert loaded.said == ()


def test_hashes_that_end_early_or_late_are_said(tmp_path: Path) -> None:
    short = [{**MOONCAKE[0], "input_length": 5000}, {**MOONCAKE[1], "input_length": 600}]
    loaded = read(tmp_path, lines(short))
    r = loaded.requests
    assert r.chains is not None and r.chains.keys[0] == (0, 4) and r.chains.keys[1][:3] == (0, 4, 5)
    assert all(ends[-1] == tokens for ends, tokens in zip(r.chains.ends, r.input_tokens, strict=True))
    assert r.chains.keys[1][3] < 0  # what the hashes do not cover is like nothing else
    assert "end before the prompt" in " ".join(loaded.said) and "go on beyond" in " ".join(loaded.said)


def test_a_trace_without_hashes_has_no_chains(tmp_path: Path) -> None:
    bare = [{key: value for key, value in each.items() if key != "hash_ids"} for each in MOONCAKE]
    loaded = read(tmp_path, lines(bare))
    assert loaded.requests.chains is None and loaded.requests.prefix == (0, 0, 0, 0)


def test_sharegpt_takes_the_first_two_turns_and_says_what_a_token_is(tmp_path: Path) -> None:
    loaded = read(tmp_path, json.dumps(SHAREGPT), "ShareGPT_V3.json")
    assert loaded.requests.input_tokens == (10,) and loaded.requests.output_tokens == (20,)
    said = " ".join(loaded.said)
    assert "4 characters" in said and "all at once" in said
    assert "without an answer; left out: 1" in said and "with its answer); left out: 1" in said


def test_what_we_write_we_read(tmp_path: Path) -> None:
    own = [{"request": 0, "arrival_s": 0.25, "input_tokens": 9, "output_tokens": 4, "ttft_s": 0.1}]
    assert read(tmp_path, lines(own), "r.jsonl").requests.input_tokens == (9,)


@pytest.mark.parametrize("text", [AZURE, BURST, lines(MOONCAKE), lines(BAILIAN), json.dumps(SHAREGPT)])
def test_a_gzip_file_is_the_same_trace_whatever_its_name(tmp_path: Path, text: str) -> None:
    plain = read(tmp_path, "\ufeff" + text)
    packed = tmp_path / "packed.bin"
    packed.write_bytes(gzip.compress(text.encode()))
    assert load_requests(packed) == plain


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("name,age\nx,3\n", "no trace that is known; moesim reads: CSV .* Azure .* BurstGPT .* Mooncake .* ShareGPT"),
        ("TIMESTAMP,ContextTokens\n2023-11-16,5\n", "lacks column GeneratedTokens beside TIMESTAMP, ContextTokens"),
        (AZURE.replace("2023-11-16 18:15:50", "yesterday 18:15:50"), "line 3: TIMESTAMP is text; it must be a date"),
        (BURST.replace("\n7,", "\nnoon,"), "line 2: Timestamp is text; it must be a number of seconds or a date"),
        (BURST.replace("321", "-321"), "line 2: Request tokens is -321"),
        (BURST.replace("321", "nan"), "line 2: Request tokens is nan"),
        (BURST.replace("321", "1e400"), "line 2: Request tokens is 1e400"),
        (BURST.replace("321", "3.5"), "whole number"),
        (BURST.replace("31,", "31,31,"), "line 4: 7 cells under 6 columns"),
        (BURST.replace(",21,", ",0,").replace(",140,", ",,"), "holds no requests: all 3 rows lack an answer"),
        ('arrival_s,input_tokens,output_tokens\n"0,5,5\n', "not a CSV"),
        (lines(MOONCAKE) + "{\n", "line 5: not JSON"),
        (lines(MOONCAKE) + "[1]\n", "line 5: .* is no JSON object"),
        (lines([{**MOONCAKE[0], "timestamp": -5}]), "line 1: timestamp is -5"),
        (lines([{**MOONCAKE[0], "input_length": True}]), "input_length is true or false"),
        (lines(MOONCAKE).replace("1100", "1e400"), "line 2: input_length is inf"),
        (lines(MOONCAKE).replace("1100", "9" * 5000), "line 2: not JSON"),
        (lines([{**MOONCAKE[0], "hash_ids": [0, "x"]}]), "hash_ids is .* list of whole numbers"),
        (lines([MOONCAKE[0], {"timestamp": 1, "output_length": 2, "hash_ids": []}]), "line 2: lacks input_length"),
        ('{"duration": 3, "completed": 9}', "its keys .duration, completed. are those of no trace"),
        ("[]", "its list is empty"),
        ("[" * 50_000, "nested too deep|not JSON"),
        ('[{"conversations": "none"}]', "conversation 1: has no list"),
        ('[{"conversations": [{"from": "human"}, {}]}]', "conversation 1: a turn is"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("a\0b", "binary"),
    ],
)
def test_wrong_files_get_one_clear_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadTrace, match=says) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    packed = gzip.compress(AZURE.encode())
    (tmp_path / "half.gz").write_bytes(packed[:-20])
    (tmp_path / "broken.gz").write_bytes(packed[:12] + b"\xff\xff\xff" + packed[15:])
    (tmp_path / "latin").write_bytes("arrival_s,input_tokens,output_tokens\n0,5,é\n".encode("latin-1"))
    for name, says in (
        (tmp_path, "is a folder"),
        (pipe, "no plain file"),
        (tmp_path / "none", "cannot read"),
        ("a\0b", "cannot read"),
        (tmp_path / "half.gz", "ends too early"),
        (tmp_path / "broken.gz", "broken gzip"),
        (tmp_path / "latin", "not a text file in UTF-8"),
    ):
        with pytest.raises(BadTrace, match=says):
            load_requests(name)


def test_a_small_file_may_not_unpack_to_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_files, "MAX_BYTES", 10_000)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(AZURE.encode() + b"\n" * 1_000_000))
    assert bomb.stat().st_size < 10_000
    with pytest.raises(BadTrace, match="unpacks to more than 10,000 bytes"):
        load_requests(bomb)


def test_a_long_trace_is_read_in_a_moment(tmp_path: Path) -> None:
    rows = "\n".join(
        f"2024-05-10 {i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}.123,{i % 997 + 1},9" for i in range(50_000)
    )
    begin = perf_counter()
    r = read(tmp_path, "TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows).requests
    assert perf_counter() - begin < 3.0  # a sixth of a second where nothing else runs
    assert len(r) == 50_000 and all(a <= b for a, b in pairwise(r.arrival_s))


def test_the_first_requests_of_a_trace_keep_what_they_share(tmp_path: Path) -> None:
    whole = read(tmp_path, lines(MOONCAKE)).requests
    few = whole.first(2)
    assert len(few) == 2 and few.chains is not None and whole.chains is not None
    assert few.chains.keys == whole.chains.keys[:2] and few.prefix == whole.prefix[:2]
    assert whole.first(100) is whole
