"""What a command writes is none of the files that it reads, and no two answers go into one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from moesim.reports.cli.app import run

TRAIN = "model: {base: mixtral-8x7b, layers: 4}\ncluster: {node: dgx-h100, gpus: 8}\nlayout: {pp: 2, ep: 4}\n" \
    "train: {global_batch: 16, seq_len: 512}\n"  # fmt: skip
SERVE = "model: mixtral-8x7b\ncluster: {node: dgx-h100, gpus: 2}\nlayout: {tp: 2}\n" \
    "serve: {engine: vllm, requests: {kind: closed, concurrency: 2, count: 4}}\n"  # fmt: skip
TRACE = "arrival_s,input_tokens,output_tokens\n0,10,2\n1,10,2\n"
OVERWRITES, TWICE = "is a file of the question", "is asked for twice"


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    texts = {"t.yaml": TRAIN, "t.png": TRAIN, "t.csv": TRAIN, "s.yaml": SERVE, "trace.csv": TRACE, "t.html": TRAIN,
             "mine.yaml": TRAIN.replace("{base: mixtral-8x7b, layers: 4}", "own/small.yaml"),
             "own/small.yaml": "{base: mixtral-8x7b, layers: 4}\n"}  # fmt: skip
    Path("own").mkdir()
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")
    Path("link.json").symlink_to("t.yaml")
    return texts


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train t.yaml --timeline t.yaml", OVERWRITES),
        ("train t.yaml --timeline ./own/../t.yaml", OVERWRITES),
        ("train t.yaml --timeline link.json", OVERWRITES),
        ("train mine.yaml --timeline own/small.yaml", OVERWRITES),
        ("train t.png --figure t.png", OVERWRITES),
        ("train t.yaml --figure a.png --timeline a.png", TWICE),
        ("serve s.yaml --requests trace.csv --records trace.csv", OVERWRITES),
        ("serve s.yaml --records r.csv --result vllm=r.csv", TWICE),
        ("serve s.yaml --result vllm=r.json --result sglang=r.json", TWICE),
        ("sweep t.csv --set cluster.gpus=8 --out t.csv", OVERWRITES),
        ("whatif t.png --figure t.png", OVERWRITES),
        ("report t.html --out t.html --plan none", OVERWRITES),
        ("plan t.yaml --out t.yaml", OVERWRITES),
        ("validate trace.csv --out trace.csv", OVERWRITES),
        ("calibrate --from rows trace.csv --out trace.csv", OVERWRITES),
    ],
)
def test_refused_before_anything_is_run(
    words: str, message: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in Path().iterdir())
    assert run(words.split()) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert {name: Path(name).read_text(encoding="utf-8") for name in files} == files
    assert sorted(path.name for path in Path().iterdir()) == before


def test_files_that_are_apart_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "t.yaml", "--timeline", "a.json", "--figure", "a.png"]) == 0
    assert run(["serve", "s.yaml", "--requests", "trace.csv", "--records", "r.csv", "--result", "vllm=r.json"]) == 0
    assert all(Path(name).stat().st_size > 100 for name in ("a.json", "a.png", "r.csv", "r.json"))
    assert run(["train", "t.yaml", "--timeline", "/dev/null"]) == 0
    capsys.readouterr()
