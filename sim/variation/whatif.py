"""whatif: the verb that changes one thing at a time and says what each change is worth."""

from __future__ import annotations

from moesim.sim.plan.plan import about_serving
from moesim.sim.question.scenario import Asked, scenario_of
from moesim.sim.variation.whatif_serve import ServeWhatIf, whatif_serve
from moesim.sim.variation.whatif_train import WhatIf, whatif_train


def whatif(scenario: Asked, share: float = 0.2) -> WhatIf | ServeWhatIf:
    """Change GPU, memory, network, load, routing, precision and price one by one; hardware by plus and minus `share`.

    scenario: a file's path, a mapping or a Scenario; one with a serve section and no train section is a deployment.
    share: a fraction above 0 and at most 0.9; 0.2 is plus and minus 20 %.

    The answer's `outcomes` hold for every change the factor on tokens per second (training) or on output tokens per
    second, TTFT and TPOT (serving), what matters most first. Raises ScenarioError for a share out of range, other kinds
    of Refusal as the predictions do.
    """
    asked = scenario_of(scenario)
    return whatif_serve(asked, share) if about_serving(asked) else whatif_train(asked, share)
