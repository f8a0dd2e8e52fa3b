"""Files are whole or not there: on a failure what was there stays, and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from moesim.files.whole import OutputError, check_writable, replacing, write_new, write_text
from moesim.refusal import MachineFailure


def test_the_whole_text_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "one\n")
    path.chmod(0o640)
    write_text(path, "two\n")
    assert path.read_bytes() == b"two\n" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_in_the_middle_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("before", encoding="utf-8")
    for error, kind in ((OSError(errno.ENOSPC, "full"), MachineFailure), (PermissionError(1, "no"), OutputError)):
        with pytest.raises(kind), replacing(path) as beside:
            assert beside.parent == tmp_path and beside.suffix == ".svg"  # pictures go by the ending
            beside.write_text("half", encoding="utf-8")
            raise error
    with pytest.raises(KeyboardInterrupt), replacing(path) as beside:
        beside.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "before" and os.listdir(tmp_path) == ["a.svg"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("before", encoding="utf-8")
    link.symlink_to(target)
    write_text(link, "after")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "after"


def test_what_is_no_plain_file_is_written_to(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "gone")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe"):
        check_writable(tmp_path / "pipe")


def test_what_exists_is_not_overwritten_by_what_is_new(tmp_path: Path) -> None:
    write_new(tmp_path / "a", "first")
    with pytest.raises(OutputError, match="not overwritten"):
        write_new(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "first"


@pytest.mark.parametrize(
    ("name", "message"), [(".", "it is a folder"), ("no/where", "does not exist"), ("a\0b", "zero byte")]
)
def test_places_that_cannot_be_are_refused_before_the_work(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        check_writable(tmp_path / name)
