"""Refusal: what every room raises when the answer is "no, because"; MachineFailure: when this machine cannot go on."""

from __future__ import annotations


class Refusal(ValueError):  # the word that users catch
    """A question that cannot be answered. Its text says what was asked, why it cannot be, and what would do.

    Every kind of refusal (`moesim.ScenarioError`, `BadLayout`, `DoesNotFit`, `NoFit`, ...) is one of these; the
    command line prints it in one line and ends with exit code 2. Any other exception is a defect of moesim.
    """


class MachineFailure(RuntimeError):  # the word that users catch
    """The question is fine, but this machine cannot go on: a full disk, no memory, lost workers, a missing package.

    Its text says what failed and what would do. No Refusal, so that a sweep never records it as a point's own answer;
    the command line prints it in one line and ends with exit code 3.
    """
