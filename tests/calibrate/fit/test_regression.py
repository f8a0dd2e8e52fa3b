"""The regression finds constants of a model it can know, shrugs off outliers, and stays at priors without evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.calibrate.fit.regression import fit, left_out, write_constants


@dataclass
class Powers:
    """Log-linear predictions: log y = sum of exponents x log constants."""

    exponents: Any
    log_measured: list[float]
    families: list[str]
    keys: list[str] = field(default_factory=lambda: ["a", "b", "idle"])

    @property
    def scales(self) -> list[float]:
        return [1.0] * len(self.log_measured)

    def predict(self, values: Mapping[str, float]) -> list[float]:
        return [float(v) for v in self.exponents @ np.array([log(values[k]) for k in self.keys])]

    def jacobian(self, values: Mapping[str, float], base: Any) -> Any:
        return self.exponents


RECORDS = {k: {"value": 1.0, "fit": 1.0, "why": "test"} for k in ("a", "b", "idle")}


def problem(outliers: int) -> Powers:
    exponents = np.array([[1.0, 0.1 * i, 0.0] for i in range(30)])
    truth = exponents @ np.array([log(1.3), log(0.8), 0.0])
    measured = [float(v) + (log(3.0) if i < outliers else 0.0) for i, v in enumerate(truth)]
    return Powers(exponents, measured, [str(i) for i in range(30)])


@pytest.mark.parametrize("outliers", [0, 6])
def test_constants_are_found_beside_outliers(outliers: int) -> None:
    values = fit(problem(outliers), RECORDS, 4, lambda _: None).values
    assert values["a"] == pytest.approx(1.3, rel=0.03)
    assert values["b"] == pytest.approx(0.8, rel=0.03)
    assert values["idle"] == pytest.approx(1.0)


def test_left_out_errors_are_larger_than_fitted_ones_and_show_the_outliers() -> None:
    p = problem(3)
    fitted = fit(p, RECORDS, 4, lambda _: None)
    unseen = np.abs(left_out(p, RECORDS, fitted))
    seen = np.abs(np.array(p.predict(fitted.values)) - np.array(p.log_measured))
    assert (unseen >= seen - 1e-9).all()
    assert exp(unseen[:3].min()) > 2.5 and unseen[3:].max() < 0.1


def test_a_fit_of_some_constants_has_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "constants.yaml"
    file.write_text(
        '# Last fit: 9 rows.\na: {value: 1.0, why: "test"}\nb: {value: 1.0, why: "test"}\n', encoding="utf-8"
    )
    records = {k: {"value": 1.0, "why": "test"} for k in "ab"}
    for rows, value in (("3 rows", 1.5), ("4 rows", 2.0)):
        write_constants({"b": value}, records, rows, file, what="b")
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[:3] == ["# Last fit: 9 rows.", "# Last fit of b: 4 rows.", 'a: {value: 1.0, why: "test"}']
    assert lines[3].startswith("b: {value: 2, ")
    write_constants({"a": 3.0}, records, "10 rows", file)
    assert file.read_text(encoding="utf-8").splitlines()[:2] == ["# Last fit: 10 rows.", "# Last fit of b: 4 rows."]
