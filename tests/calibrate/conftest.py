"""The profile of a synthetic machine. Being here also puts this folder on the import path, for synthetic.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import made


@pytest.fixture
def profile(tmp_path: Path) -> str:
    """The file of that profile."""
    from moesim.calibrate.own.profile import write_profile

    path = tmp_path / "law.json"
    write_profile(made(), path)
    return str(path)
