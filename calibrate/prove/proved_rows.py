"""Proved training programs as rows that `moesim validate` reads, with the models they are of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from moesim.calibrate.own.profile import STACK
from moesim.calibrate.prove.cases import Case
from moesim.calibrate.prove.proof import Proof
from moesim.files.whole import replacing, write_text, writing

COLUMNS = (
    "id", "model", "gpu", "gpus", "seq_len", "gbs", "mbs", "pp", "ep", "zero", "precision", "routing", "stack",
    "step_time_s", "spread_pct", "notes",
)  # fmt: skip


def write_proved_rows(cases: Sequence[Case], proof: Proof, profile: str, path: Path) -> None:
    """One row per training program; models and routing counts go into a folder beside the file.

    Decode steps are no training runs and stay in the report.
    """
    folder = path.with_name(path.stem + "-models")
    with writing(folder):
        folder.mkdir(exist_ok=True)
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for case, proved in zip(cases, proof.programs, strict=True):
            if case.mode != "train":
                continue
            model = folder / f"{case.name}.yaml"
            write_text(model, yaml.safe_dump(case.model(), sort_keys=False))
            routing = ""
            if case.experts:
                counts = folder / f"{case.name}.npy"
                with replacing(counts) as whole:
                    np.save(whole, case.counts())
                routing = f"counts {counts}"
            writer.writerow(
                {
                    "id": case.name,
                    "model": str(model),
                    "gpu": profile,
                    "gpus": case.ranks,
                    "seq_len": case.seq_len,
                    "gbs": case.batch * case.ranks,
                    "mbs": case.batch,
                    "pp": 1,
                    "ep": case.ranks if case.experts else 1,
                    "zero": 0,
                    "precision": case.dtype,
                    "routing": routing,
                    "stack": STACK,
                    "step_time_s": f"{proved.measured_s:.6g}",
                    "spread_pct": f"{proved.noise_pct:.2f}",
                    "notes": "moesim calibrate --prove",
                }
            )
