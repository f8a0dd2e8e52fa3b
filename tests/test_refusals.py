"""Every exception of ours means "no, because" and is a kind of Refusal, so that one `except` catches them all."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import moesim
from moesim.refusal import Refusal
from moesim.reports.failures import guarded


def _exceptions() -> Iterator[type[Exception]]:
    """Those that any module of the package defines."""
    for info in pkgutil.walk_packages(moesim.__path__, "moesim."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == info.name:
                yield kind


def test_every_exception_of_ours_is_a_refusal() -> None:
    ours = set(_exceptions())
    assert len(ours) > 15
    assert {kind.__name__ for kind in ours if not issubclass(kind, Refusal)} == set()
    assert all(issubclass(kind, ValueError) for kind in ours)  # as callers of older releases catch them


def test_refusals_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in set(_exceptions()):

        def refuse(kind: type[Exception] = kind) -> int:
            raise kind("no,\nbecause")

        assert guarded(refuse) == 2
        assert capsys.readouterr().err == "error: no, because\n"


def test_a_defect_of_ours_is_no_refusal() -> None:
    def fail() -> int:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        guarded(fail)
