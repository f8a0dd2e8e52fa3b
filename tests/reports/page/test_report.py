"""The report: what it says is what the simulator says, the same bytes every time, and a browser shows all of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import browser, look, print_pdf

from moesim.calibrate.record import comparable
from moesim.reports.cli.app import run
from moesim.reports.page.dense import KINDS, Dense, beside
from moesim.reports.page.make import make_page
from moesim.reports.page.render import html_of
from moesim.reports.page.section import Page
from moesim.reports.page.trust import kind_of
from moesim.sim.comparison.best import best_train
from moesim.sim.comparison.scaling import dense_equal
from moesim.sim.comparison.twins import twin_of
from moesim.sim.model.catalogue import load_model
from moesim.sim.question.scenario import parse_scenario, read_mapping
from moesim.sim.serve.predict import predict_serve
from moesim.sim.train.predict import predict_train

Capture = pytest.CaptureFixture[str]
TEXT = (
    "model: {base: mixtral-8x7b, layers: 4}\n"
    "cluster: {node: dgx-h100, gpus: 8}\n"
    "layout: {pp: 2, ep: 4}\n"
    "train: {global_batch: 64, seq_len: 2048}\n"
)
SECTIONS = (
    "against",
    "crossings",
    "spent",
    "held",
    "timeline",
    "experts",
    "matters",
    "layouts",
    "run",
    "sureness",
    "sources",
    "record",
    "assumptions",
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "small.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def few_comparable_rows() -> Iterator[None]:
    """A page shows thirty published runs predicted anew: here six are enough, and no other test is to see them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparable, "MOST", 6)
        yield
    for remembered in (comparable.comparable_training, comparable.comparable_serving):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def page(file: Path) -> Page:
    return make_page([file], tokens=1e11)


def sections(page: Page) -> dict[str, Any]:
    return page.to_dict()["chapters"][0]["sections"]


def test_it_says_what_the_simulator_says(page: Page, file: Path) -> None:
    said, asked = sections(page), predict_train(file)
    assert tuple(said) == SECTIONS
    values = said["against"]["values"]
    for kind, title in KINDS.items():  # each in its own best layout, not in the mixture's
        best = best_train(twin_of(kind, read_mapping(file), 1e11).as_asked["train"])
        assert values[title]["step_time_s"] == predict_train(best.scenario).step_time_s
        assert said["against"]["time_ratios"][kind] == values[title]["step_time_s"] / asked.step_time_s
    active = values["dense, equal active"]["parameters"]
    assert active == pytest.approx(values["model as asked"]["active_parameters"], rel=0.02)
    assert active < values["dense, equal quality"]["parameters"] < values["model as asked"]["parameters"]
    assert said["against"]["quality"]["low"] <= said["against"]["quality"]["parameters"]
    assert values["model as asked"]["step_time_s"] == asked.step_time_s
    assert sum(said["spent"]["breakdown_s"].values()) == pytest.approx(asked.step_time_s)
    assert said["held"]["ranks"][1]["total"] == asked.memory[1].total
    assert said["layouts"]["options"][0]["step_time_s"] <= asked.step_time_s * (1 + 1e-9)
    assert sum(said["sources"]["kinds"].values()) == pytest.approx(1.0)
    assert said["assumptions"]["assumptions"] == list(asked.assumptions)
    assert said["run"]["tokens"] == 1e11


def test_the_track_record_is_of_like_runs_and_shows_judging_rows_apart(page: Page) -> None:
    record = sections(page)["record"]
    assert record["rows"] >= 4 and record["rule"] != "none"
    assert any(key.endswith(", test") for key in record["accuracy"])
    for row in record["records"]:
        assert row["error_pct"] == pytest.approx(100 * (row["predicted"] / row["measured"] - 1))


def test_the_page_needs_nothing_else_and_is_always_the_same(page: Page, file: Path) -> None:
    text = html_of(page)
    assert html_of(make_page([file], search="none")) == html_of(make_page([file], search="none"))
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text and "@import" not in text
    assert text.count("<article") == 2 and "model: {base: mixtral-8x7b" in text
    for section in page.chapters[0].sections:
        assert f'id="c1-{section.key}"' in text and section.lead
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_nothing_in_a_page_is_obeyed_by_a_terminal(page: Page) -> None:
    odd = replace(page, title=f"{page.title} \x1b]0;owned\x07 \u202e")
    text = html_of(odd)
    assert "\\x1b]0;owned\\x07" in text and not {"\x1b", "\x07", "\u202e"} & set(text)


def test_sources_are_sorted_by_how_sure_they_are() -> None:
    assert [kind_of(s) for s in ("fit: h100 gemm bf16", "derived fit: h100 gemm", "roofline", "assumed: x")] == [
        "measured", "derived", "roofline", "assumed",
    ]  # fmt: skip


def test_a_dense_model_has_no_twin(tmp_path: Path) -> None:
    path = tmp_path / "dense.yaml"
    path.write_text(TEXT.replace("mixtral-8x7b", "llama-3.1-8b").replace(", ep: 4", ""), encoding="utf-8")
    page = make_page([path], search="none")
    assert "is dense" in sections(page)["against"]["lead"] and "Not searched" in sections(page)["layouts"]["lead"]
    assert "equal quality" not in html_of(page)


SERVED = (
    "model: mixtral-8x7b\n"
    "cluster: {node: dgx-h100, gpus: 2}\n"
    "layout: {tp: 2}\n"
    "serve: {engine: vllm, requests: {kind: poisson, rate_per_s: 5, count: 99, input_tokens: 500, output_tokens: 60}}\n"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("report") / "served.yaml"
    path.write_text(SERVED, encoding="utf-8")
    return make_page([path])


def test_a_served_chapter_says_what_the_simulator_says(served: Page) -> None:
    said = sections(served)
    asked = predict_serve(parse_scenario(yaml.safe_load(SERVED)))
    values = said["against"]["values"]
    assert values["model as asked"]["tpot_s"] == asked.tpot_s.mean
    assert values["dense, equal active"]["active_parameters"] == pytest.approx(
        values["model as asked"]["active_parameters"], rel=0.01
    )
    assert said["spent"]["utilisation"] == asked.utilisation and said["layouts"]["options"]
    assert said["record"]["rows"] >= 4 and said["matters"]["outcomes"]
    assert html_of(served).count("data:image/svg+xml") == 2  # the load, and the front


def test_a_file_with_both_gets_two_chapters(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(TEXT.replace(", ep: 4", "") + SERVED.splitlines()[-1] + "\n", encoding="utf-8")
    page = make_page([path], search="none")
    assert [c.key for c in page.chapters] == ["c1", "c2"] and page.chapters[1].title.startswith("Serving")


def test_limits_that_nothing_meets_are_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text(SERVED.rstrip("}\n") + "}, slo: {ttft_s: 0.001, tpot_s: 0.001}}\n", encoding="utf-8")
    assert "Nothing on up to 2 GPUs meets" in sections(make_page([path]))["layouts"]["lead"]


def test_command(file: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "page.html"
    assert run(["report", str(file), "--out", str(out), "--plan", "none"]) == 0
    said = capsys.readouterr()
    assert str(out) in said.err and said.out == ""
    assert out.read_text(encoding="utf-8").count("<article") == 2
    assert run(["report", str(file), "--json", "--plan", "none"]) == 0
    assert json.loads(capsys.readouterr().out)["chapters"][0]["answer"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "nowhere/page.html"], "folder nowhere does not exist"),
        (["--out", "page.pdf"], "a page ends in .html"),
        (["--plan", "most"], "use one of near, full, none"),
        (["--tokens", "many"], "not a number"),
    ],
)
def test_bad_questions_are_one_line(
    words: list[str], message: str, file: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["report", str(file), *words]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(browser() is None, reason="no chromium on this machine: Debian's package chromium has one")
@pytest.mark.parametrize("kind", ["trained", "served"])
def test_a_browser_shows_all_of_it_at_two_widths(kind: str, page: Page, served: Page, tmp_path: Path) -> None:
    page = page if kind == "trained" else served
    text = html_of(page)
    looks, console = look(text, (390, 1200), tmp_path)
    assert console == []
    for width, seen in looks.items():
        assert seen.width <= seen.room <= width and seen.sticks_out == [], (width, seen.sticks_out)
        assert seen.pictures
        for section in page.chapters[0].sections:
            assert section.title in seen.text and " ".join(section.lead.split()) in " ".join(seen.text.split())
    assert looks[390].height > looks[1200].height
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    print_pdf(tmp_path / "page.html", tmp_path / "page.pdf", tmp_path)
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_sentence_says_which_dense_model_could_stand_in() -> None:
    """Equal quality first; equal active parameters is no substitute, and what does not fit is said."""
    equal = dense_equal(load_model("deepseek-v3"), 14.8e12)
    quality: Dense[Any] = Dense("iso-quality", 190_000_000_000, None, "", equal)
    active: Dense[Any] = Dense("iso-active", 37_600_000_000, None, "", None)
    said = beside([(quality, 2.9, True), (active, 0.65, False)])
    first, second = said.split(". ")[0], said[said.index("One of equal active") :]
    assert (
        "equal quality" in first and "190.0B" in first and "2.9 times dearer per token (the intervals overlap)" in first
    )
    assert "no substitute" in second and "35% cheaper per token" in second
    assert "does not fit here" in beside([(quality, None, False)])
    assert "costs the same per token" in beside([(active, 1.001, False)])
