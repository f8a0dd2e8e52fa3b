"""What a constant is worth with sources left out: by fitting again without them, and by constants that help or harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from moesim.calibrate.fit.regression import Fitted, members, without_each
from moesim.calibrate.fit.worth import Linear, table, thin, thinned, worth

KEYS = ["shared", "one", "noise"]
RECORDS = {key: {"value": 1.0, "fit": 0.5, "prior": 1.0, "why": "made"} for key in KEYS}


@dataclass
class Lines:
    """Log-linear predictions of six sources of five rows: `shared` moves all, `one` a source, `noise` two of them."""

    log_measured: list[float]
    jacobian_: NDArray[np.float64]
    families: list[str]
    keys: list[str]

    @property
    def scales(self) -> list[float]:
        return [1.0] * len(self.log_measured)

    def predict(self, values: Mapping[str, float]) -> list[float]:
        return [float(v) for v in self.jacobian_ @ np.log([values[k] for k in self.keys])]

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        return self.jacobian_


def made() -> Linear:
    """Truth: `shared` is 1.4 everywhere; `one` is 1.3; what `noise` would mend in one source it spoils in the other."""
    rng = np.random.default_rng(5)
    sources = [f"s{i // 5}" for i in range(30)]
    jac = np.zeros((30, 3))
    jac[:, 0] = 1.0
    jac[:5, 1] = rng.uniform(0.5, 1.0, 5)
    jac[5:15, 2] = 1.0
    off = np.array([0.25] * 5 + [-0.25] * 5)
    true = jac[:, 0] * log(1.4) + jac[:, 1] * log(1.3) + 0.01 * rng.standard_normal(30)
    true[5:15] += off
    problem = Lines([float(t) for t in true], jac, [f"{s}/{i % 2}" for i, s in enumerate(sources)], list(KEYS))
    values = {"shared": 1.4, "one": 1.3, "noise": 1.05}
    return Linear(problem, RECORDS, Fitted(values, jac), sources)


def again(linear: Linear, held: frozenset[int], rows: list[int]) -> NDArray[np.float64]:
    """Errors of rows after the others were fitted again, by the normal equations of a ridge regression."""
    kept = [i for i in range(len(linear.error)) if i not in rows]
    free = [j for j in range(len(linear.keys)) if j not in held]
    move = np.zeros(len(linear.keys))
    move[sorted(held)] = linear.to_prior[sorted(held)]
    start = linear.error + linear.jacobian @ move
    jac, weight = linear.jacobian[np.ix_(kept, free)], linear.weight[kept]
    left = (jac * weight[:, None]).T @ jac + np.diag(1.0 / linear.spread[free] ** 2)
    right = linear.to_prior[free] / linear.spread[free] ** 2 - (jac * weight[:, None]).T @ start[kept]
    move[free] = np.linalg.solve(left, right)
    return np.array(linear.error + linear.jacobian @ move)[rows]


@pytest.mark.parametrize("held", [frozenset(), frozenset({2}), frozenset({0, 2})])
@pytest.mark.parametrize("by", ["source", "family"])
def test_left_out_errors_are_those_of_a_fit_without_the_group(held: frozenset[int], by: str) -> None:
    linear = made()
    errors = linear.left_out(held, by)
    for rows in linear.groups[by].values():
        assert errors[rows] == pytest.approx(again(linear, held, rows), abs=1e-9)


def test_what_helps_the_next_source_stays_and_what_harms_it_goes(tmp_path: Path) -> None:
    linear = made()
    found = {w.key: w for w in worth(linear)}
    assert found["shared"].source_pct is not None and found["shared"].source_pct > 5.0
    assert found["one"].source_pct is None and found["one"].family_pct > 3.0  # one source: families alone can say
    assert found["noise"].buys_pct < 0.0
    gone, left = thinned(linear, 0.0, lambda _: None)
    assert gone == ["noise"] and {w.key for w in left} == {"shared", "one"}
    assert "| one | 5 | 1 | one source |" in table(gone, left)
    path = tmp_path / "constants.yaml"
    path.write_text("".join(f'{k}: {{value: 1.2, kind: fitted, fit: 0.5, prior: 1.0, why: "made"}}\n' for k in KEYS))
    assert "Gone, at their priors: noise." in thin(linear, RECORDS, 0.0, path, lambda _: None)
    lines = dict(line.split(": {", 1) for line in path.read_text().splitlines())
    assert "assumed" in lines["noise"] and "fit:" not in lines["noise"] and "value: 1," in lines["noise"]
    assert "fitted" in lines["shared"] and "value: 1.2" in lines["one"]


def test_leaving_out_moves_no_prediction_by_more_than_a_factor_e() -> None:
    """Rows of one group that alone decide a constant: a line through them would say a factor of millions."""
    jac, error = np.array([[1.0], [0.0]]), np.array([0.2, 0.1])
    moved = without_each(error, jac, np.array([1e4, 1.0]), np.array([30.0]), members(["a", "b"]))
    assert moved[0] == pytest.approx(1.2) and moved[1] == pytest.approx(0.1) and exp(moved[0]) < 4.0
