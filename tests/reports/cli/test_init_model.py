"""`moesim init --model`, and the page that explains what it writes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from moesim.reports.cli.app import run
from moesim.reports.model_template import MODEL
from moesim.sim.model.arch import AttentionArch, Checkpoint, FfnArch, FfnKind, MixerKind, MoeArch, SsmArch, Variant
from moesim.sim.model.hf_config import supported_families

_DOCS = Path(__file__).parents[3] / "docs"
MODELS_PAGE = (_DOCS / "models.md").read_text(encoding="utf-8")
Capture = pytest.CaptureFixture[str]


def test_init_writes_a_model_that_runs(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "--model"]) == 0
    assert "next: moesim show model.yaml" in capsys.readouterr().err
    assert run(["show", "model.yaml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    # 24 layers of attention, 23 with 64 + 1 experts of 1024 and a router, one dense block of 6144, two tables
    attention = 2048 * (32 + 8) * 128 + 32 * 128 * 2048 + 2 * 128 + 2 * 2048
    experts = 65 * 3 * 2048 * 1024 + 64 * 2048
    assert shown["parameters"] == 24 * attention + 23 * experts + 3 * 2048 * 6144 + 2 * 151936 * 2048 + 2048
    assert run(["init", "--model"]) == 2
    assert "not overwritten" in capsys.readouterr().err
    assert run(["init", "--model", "--hardware"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_the_commented_model_names_every_field() -> None:
    for part in (AttentionArch, FfnArch, MoeArch, SsmArch, Checkpoint, Variant):
        for field in fields(part):
            assert re.search(rf"`{field.name}[`:]", MODELS_PAGE) or field.name in ("name", "activation"), field.name
    for mixer in (*get_args(MixerKind), *get_args(FfnKind)):
        assert f"`{mixer}`" in MODELS_PAGE and mixer in MODEL, mixer


def test_the_page_of_models_lists_the_families_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(_DOCS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from write_models import page

    assert page(MODELS_PAGE) == MODELS_PAGE
    assert all(f"`{family}`" in MODELS_PAGE for family in supported_families())
