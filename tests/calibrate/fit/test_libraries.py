"""What libraries add to borrowed kernels, fitted on their own rows: found again where it was put in, else let alone."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import pytest

from moesim.calibrate.fit.comm import load_samples
from moesim.calibrate.fit.libraries import error, fit_one, rows_of
from moesim.hwmodels.exchange_kernels import exchange_s
from moesim.hwmodels.facts import comm_records
from moesim.hwmodels.libraries import libraries
from moesim.hwmodels.work import ExpertExchange

ROWS = Path(__file__).parents[3] / "calibrate" / "published" / "comm_other_teams.csv"
KEY = "post_s[deepep-nvshmem,low_latency]"
RECORD = {"prior": 5e-7, "fit": 0.7}


def test_shipped_constants_are_of_known_libraries_and_have_rows() -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    samples = load_samples(ROWS)
    for key, record in comm_records("libraries").items():
        kind, _, inside = key.rstrip("]").partition("[")
        library, kernel = inside.split(",")
        assert kind == "post_s" and kernel in libraries()[library].kernels.values()
        assert rows_of(key, samples) and record["why"]
        assert fit_one(key, record, samples) == pytest.approx(float(record["value"]), rel=0.02)


def test_a_constant_is_found_again_and_others_rows_do_not_move_it() -> None:
    pytest.importorskip("scipy", reason="fits need scipy")
    samples = []
    for sample in load_samples(ROWS):
        work = sample.question.work
        assert isinstance(work, ExpertExchange) or sample.metric
        if isinstance(work, ExpertExchange):
            truth = exchange_s(replace(work, copy_s=8e-7), sample.question.cluster)
            samples.append(replace(sample, log_s=log(truth)))
    own = rows_of(KEY, samples)
    assert len(own) == 2
    assert fit_one(KEY, RECORD, samples) == pytest.approx(8e-7, rel=0.02)
    strangers = [s if s in own else replace(s, log_s=s.log_s + 1.0) for s in samples]
    assert fit_one(KEY, RECORD, strangers) == fit_one(KEY, RECORD, samples)
    assert fit_one(KEY, RECORD, []) == pytest.approx(RECORD["prior"], rel=1e-3)


def test_messages_only_add_to_an_exchange() -> None:
    for sample in rows_of(KEY, load_samples(ROWS)):
        assert error(sample, 0.0) < error(sample, 5e-7) < error(sample, 1e-6)
