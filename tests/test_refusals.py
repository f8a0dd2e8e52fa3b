"""Every exception of ours but one says "no, because": a Refusal. The other is the failure of a machine."""

from __future__ import annotations

import errno
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest

import moesim
from moesim.refusal import MachineFailure, Refusal
from moesim.reports.failures import guarded


def _exceptions() -> Iterator[type[Exception]]:
    """Those that any module of the package defines."""
    for info in pkgutil.walk_packages(moesim.__path__, "moesim."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__ == info.name and kind is not MachineFailure:
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


@pytest.mark.parametrize(
    ("ended", "code", "says"),
    [
        (MachineFailure("no room"), 3, "no room"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "ran out"),
        (OSError(errno.EMFILE, "Too many open files", "x.yaml"), 3, "ran out"),
        (PermissionError(errno.EACCES, "Permission denied", "x.yaml"), 2, "cannot read x.yaml"),
        (MemoryError(), 3, "out of memory"),
        (RecursionError(), 2, "nested too deep"),
        (UnicodeEncodeError("ascii", "\u2026", 0, 1, "ordinal not in range"), 3, "PYTHONIOENCODING"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy.optimize"), 3, "pip install 'moesim[calibrate]'"),
        (Refusal("a\x1b[31m" + "b" * 900), 2, "a\\x1b[31mb"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_a_command_is_one_short_line(
    ended: Exception, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def end() -> int:
        raise ended

    assert guarded(end) == code
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and len(said) <= 510


def test_a_defect_of_ours_is_no_refusal() -> None:
    def fail() -> int:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        guarded(fail)
