"""Refusals that training and serving share."""

from __future__ import annotations

from moesim.refusal import Refusal


class DoesNotFit(Refusal):
    """The job needs more memory than a GPU has; the message says how much and what would fit."""
