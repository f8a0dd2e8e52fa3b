"""Refusal: what every room raises when the answer is "no, because"."""

from __future__ import annotations


class Refusal(ValueError):  # the word that users catch
    """A question that cannot be answered. Its text says what was asked, why it cannot be, and what would do.

    Every kind of refusal (`moesim.ScenarioError`, `BadLayout`, `DoesNotFit`, `NoFit`, ...) is one of these; the
    command line prints it in one line and ends with exit code 2. Any other exception is a defect of moesim.
    """
