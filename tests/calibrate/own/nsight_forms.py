"""Exports of Nsight Systems as SQLite, the tables that matter, made by hand."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from trace_forms import H100, SHAPES, shipped_s

THREAD = (77 << 24) + 5


def export(
    path: Path, texts: list[str], kernel: str = "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", without: str = ""
) -> Path:
    """An export of one process: each text is a range with a launch in it, whose kernel runs as shipped."""
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE StringIds (id INTEGER, value TEXT)")
    base.execute("CREATE TABLE TARGET_INFO_GPU (name TEXT)")
    base.execute("INSERT INTO TARGET_INFO_GPU VALUES (?)", (H100,))
    base.execute(
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, correlationId INTEGER, "
        "globalPid INTEGER, demangledName INTEGER, shortName INTEGER)"
    )
    base.execute(
        "CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME "
        "(start INTEGER, end INTEGER, correlationId INTEGER, globalTid INTEGER)"
    )
    base.execute("CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER, globalTid INTEGER)")
    base.execute("INSERT INTO StringIds VALUES (1, ?)", (kernel,))
    for number, text in enumerate(texts):
        at = 1_000_000 * (number + 1)
        last = round(shipped_s(*SHAPES[number % len(SHAPES)]) * 1e9)
        base.execute("INSERT INTO StringIds VALUES (?, ?)", (100 + number, text))
        base.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, NULL, ?, ?)", (at, at + 900, 100 + number, THREAD))
        base.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 'forward', NULL, ?)", (at - 10, at + 990, THREAD))
        base.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?)", (at + 100, at + 200, number, THREAD)
        )
        base.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, 1, 1)",
            (at + 5000, at + 5000 + last, number, 77 << 24),
        )
    if without:
        base.execute(f"DROP TABLE {without}")
    base.commit()
    base.close()
    return path


def ranges() -> list[str]:
    return [
        f"aten::mm, seq = {i}, op_id = {i}, sizes = [[{m}, {k}], [{k}, {n}]], input_op_ids = [(1,0), (2,0)]"
        for i, (m, n, k) in enumerate(SHAPES)
    ]
