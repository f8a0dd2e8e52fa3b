"""whatif: the verb that changes one thing at a time and says what each change is worth."""

from __future__ import annotations

from moesim.sim.plan.plan import about_serving
from moesim.sim.question.scenario import Asked, scenario_of
from moesim.sim.variation.sweep import Progress
from moesim.sim.variation.whatif_serve import ServeWhatIf, whatif_serve
from moesim.sim.variation.whatif_train import WhatIf, whatif_train


def whatif(
    scenario: Asked, share: float = 0.2, exact: bool = False, progress: Progress | None = None
) -> WhatIf | ServeWhatIf:
    """Change settings, layout, load, routing and price one by one, and hardware by plus and minus `share`.

    scenario: a file's path, a mapping or a Scenario; one with a serve section and no train section is a deployment.
    share: a fraction above 0 and at most 0.9; 0.2 is plus and minus 20 %.
    exact: run every change of scenario keys as it is, also of training steps that draw so many rows that each takes
        seconds; otherwise those are ratios between shorter runs, marked as estimated.
    progress: called with what is being done, how much of it, of how much.

    The answer's `outcomes` hold for every change the factor on tokens per second (training) or on output tokens per
    second, TTFT and TPOT (serving), what matters most first. `group` tells what users can change from what they would
    have to buy; `keys` are those of the scenario that say the change, which gives the same numbers by itself. Raises
    ScenarioError for a share out of range, other kinds of Refusal as the predictions do.
    """
    asked = scenario_of(scenario)
    if about_serving(asked):
        return whatif_serve(asked, share, progress)
    return whatif_train(asked, share, exact, progress)
