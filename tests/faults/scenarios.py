"""Thirty and more things that go wrong around a command; each must lose nothing and keep nothing that is wrong."""

from __future__ import annotations

from tests.faults import clusters, outputs, surroundings, sweeps
from tests.faults.registry import SCENARIOS, Skipped

__all__ = ["SCENARIOS", "Skipped", "clusters", "outputs", "surroundings", "sweeps"]  # the rooms fill the table
