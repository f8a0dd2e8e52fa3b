"""Which piece of work a PyTorch operator with its recorded shapes is: GEMMs, grouped GEMMs, fused attention."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from moesim.hwmodels.work import Attention, Gemm, GroupedGemm

_DTYPES = {
    "float": "fp32", "c10::bfloat16": "bf16", "c10::half": "fp16", "bfloat16": "bf16", "float16": "fp16",
    "float32": "fp32", "half": "fp16",
}  # fmt: skip
_MOST = 1 << 40  # elements along an axis beyond which a shape is no shape

Kernel = Gemm | GroupedGemm | Attention
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as a trace records it: shapes and types of its inputs, and values of those that are no tensors."""

    name: str
    shapes: tuple[Shape, ...]
    types: tuple[str, ...]
    values: tuple[str, ...] = ()


def operator_of(name: str, shapes: object, types: object, values: object = None) -> Operator | None:
    """The operator; None where its shapes are no lists of whole numbers (it was recorded without shapes)."""
    if not isinstance(shapes, list) or not shapes:
        return None
    read = tuple(_shape(each) for each in shapes)
    kinds = tuple(str(t) for t in types) if isinstance(types, list) else ()
    said = tuple(str(v) for v in values) if isinstance(values, list) else ()
    return Operator(name, read, kinds, said) if any(read) else None


def _shape(value: object) -> Shape:
    if isinstance(value, list) and all(type(n) is int and 0 < n < _MOST for n in value):
        return tuple(value)
    return ()


def is_read(name: str) -> bool:
    """Whether operators of this name are of a kind that is read, whatever their shapes."""
    return name in _READERS or _flash(name)


def work_of_operator(op: Operator, dtype: str = "") -> Kernel | str:
    """The work, or why it is none that is read. `dtype`: where the trace does not record types."""
    reader = _READERS.get(op.name) or (_attention_bshd if _flash(op.name) else None)
    if reader is None:
        return "is of no kind that is read"
    return reader(op, dtype)


def _flash(name: str) -> bool:
    return bool(re.fullmatch(r"flash_attn(_\w+)?::_?flash_attn_forward(_v\d)?|aten::_flash_attention_forward", name))


def _dtype(op: Operator, at: int, told: str) -> str:
    """Our name of an input's format; "" for one that is not read."""
    kind = op.types[at].lower() if at < len(op.types) else ""
    if "float8" in kind:
        return "fp8"
    return _DTYPES.get(kind, "") or ("" if kind else told)


def _plain(m: int, n: int, k: int, dtype: str, out: str = "") -> Gemm | str:
    return Gemm(m, n, k, dtype, out or dtype) if dtype else "has operands of a format that is not read"


def _mm(op: Operator, told: str, skip: int = 0) -> Kernel | str:
    """a [m, k] times b [k, n]; addmm has a bias before them."""
    if len(op.shapes) < skip + 2:
        return "lacks shapes"
    a, b = op.shapes[skip : skip + 2]
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        return "has shapes that do not multiply"
    return _plain(a[0], b[1], a[1], _dtype(op, skip, told))


def _addmm(op: Operator, told: str) -> Kernel | str:
    return _mm(op, told, 1)


def _linear(op: Operator, told: str) -> Kernel | str:
    """x [..., k] times the transpose of w [n, k]."""
    if len(op.shapes) < 2 or len(op.shapes[1]) != 2 or not op.shapes[0] or op.shapes[0][-1] != op.shapes[1][1]:
        return "has shapes that do not multiply"
    x, w = op.shapes[:2]
    return _plain(prod(x[:-1]), w[0], w[1], _dtype(op, 0, told))


def _bmm(op: Operator, told: str, skip: int = 0) -> Kernel | str:
    """A batch of one is a GEMM; larger ones are attention written out, on which no coefficient rests."""
    if len(op.shapes) < skip + 2:
        return "lacks shapes"
    a, b = op.shapes[skip : skip + 2]
    if len(a) != 3 or len(b) != 3 or a[0] != b[0] or a[2] != b[1]:
        return "has shapes that do not multiply"
    if a[0] > 1:
        return "is a batch of matrices, on which no coefficient rests"
    return _plain(a[1], b[2], a[2], _dtype(op, skip, told))


def _baddbmm(op: Operator, told: str) -> Kernel | str:
    return _bmm(op, told, 1)


def _scaled_mm(op: Operator, told: str) -> Kernel | str:
    """8-bit operands with scales: one per tensor or row, per block of 128, or per 32 (a scale of 8 bits)."""
    plain = _mm(op, told or "fp8")
    if isinstance(plain, str) or not isinstance(plain, Gemm):
        return plain
    scales = [s for s in op.shapes[2:] if len(s) == 2]
    kinds = [t.lower() for t in op.types[2:]]
    if any("e8m0" in kind for kind in kinds):
        return Gemm(plain.m, plain.n, plain.k, "mxfp8", "bf16")
    blocked = any(s[1] == -(-plain.k // 128) and s[1] > 1 for s in scales)
    return Gemm(plain.m, plain.n, plain.k, "fp8_block" if blocked else "fp8", "bf16")


def _grouped_mm(op: Operator, told: str) -> Kernel | str:
    """rows [t, k] times weights [experts, k, n]; how many rows each expert has is not recorded: taken as equal."""
    if len(op.shapes) < 2 or len(op.shapes[0]) != 2 or len(op.shapes[1]) != 3:
        return "is of a form other than rows times weights of experts"
    (rows, k), (experts, inner, n) = op.shapes[0], op.shapes[1]
    dtype = _dtype(op, 0, told)
    if inner != k or not dtype:
        return "has shapes that do not multiply" if inner != k else "has operands of a format that is not read"
    each, more = divmod(rows, experts)
    return GroupedGemm(tuple(each + (g < more) for g in range(experts)), n, k, dtype)


def _causal(op: Operator, at: int) -> bool | None:
    """What the trace says of the mask; None where it does not record plain values."""
    said = op.values[at] if at < len(op.values) else ""
    return {"True": True, "False": False, "1": True, "0": False}.get(said)


def _attention(op: Operator, told: str, heads_at: int, causal_at: int) -> Kernel | str:
    if len(op.shapes) < 3 or any(len(s) != 4 for s in op.shapes[:3]):
        return "has sequences of lengths that are not recorded"
    q, k, v = op.shapes[:3]
    rows_at = 3 - heads_at
    causal = _causal(op, causal_at)
    if causal is None:
        return "does not record whether it is causal"
    dtype = _dtype(op, 0, told)
    if not dtype or q[rows_at] < 2 or k[heads_at] > q[heads_at]:
        return "has operands of a format that is not read" if not dtype else "is a decode step, which is not read"
    return Attention(
        q[0], q[rows_at], k[rows_at], q[heads_at], k[heads_at], q[3], v[3], causal, None, dtype, "forward"
    )  # fmt: skip


def _sdpa(op: Operator, told: str) -> Kernel | str:
    """[batch, heads, rows, width]; (q, k, v, dropout_p, is_causal, ...)."""
    return _attention(op, told, 1, 4)


def _cudnn(op: Operator, told: str) -> Kernel | str:
    """(q, k, v, bias, compute_log_sumexp, dropout_p, is_causal, ...)."""
    return _attention(op, told, 1, 6)


def _attention_bshd(op: Operator, told: str) -> Kernel | str:
    """[batch, rows, heads, width], as flash-attn has it: (q, k, v, dropout_p, softmax_scale, causal, ...)."""
    at = 8 if op.name.startswith("aten::") else 5
    return _attention(op, told, 2, at)


_READERS: dict[str, Any] = {
    "aten::mm": _mm,
    "aten::addmm": _addmm,
    "aten::linear": _linear,
    "aten::bmm": _bmm,
    "aten::baddbmm": _baddbmm,
    "aten::_scaled_mm": _scaled_mm,
    "aten::_grouped_mm": _grouped_mm,
    "aten::_scaled_grouped_mm": _grouped_mm,
    "aten::_scaled_dot_product_flash_attention": _sdpa,
    "aten::_scaled_dot_product_cudnn_attention": _cudnn,
}
# `aten::mm, seq = 12, op_id = 40, sizes = [[512, 1024], [1024, 1024]], input_op_ids = [...]`
_NVTX = re.compile(
    r"^(?P<name>[\w:.]+)(?:, seq = \d+)?(?:, op_id = \d+)?, sizes = (?P<sizes>\[.*?\])(?:, input_op_ids.*)?$"
)


def operator_of_range(text: str) -> Operator | None:
    """The operator of an NVTX range that torch.autograd.profiler.emit_nvtx(record_shapes=True) wrote; else None."""
    found = _NVTX.match(text)
    if not found or len(text) > 4000:
        return None
    try:
        shapes = json.loads(found["sizes"])
    except (ValueError, RecursionError):
        return None
    return operator_of(found["name"], shapes, None)


# words of cuBLAS, CUTLASS and hipBLASLt kernel names (recalled, not looked up: they are documented nowhere)
_KERNEL_DTYPES = (
    (r"e4m3|e5m2|float8|_fp8|f8f8|qmma", "fp8"),
    (r"bf16|bfloat16|nvjet_t", "bf16"),
    (r"tf32", "tf32"),
    (r"f16|half|h16816|hgemm|h884|h1688|nvjet_h", "fp16"),
    (r"sgemm|f32f32|ffma|fp32", "fp32"),
)


def dtype_of_kernel(name: str) -> str:
    """The format that a GEMM kernel's name says; "" where it says none."""
    lower = name.lower()
    return next((dtype for pattern, dtype in _KERNEL_DTYPES if re.search(pattern, lower)), "")


def shapes_of(works: Sequence[Kernel]) -> dict[str, list[float]]:
    """Smallest and largest size along every axis, for provenance."""
    rows: list[dict[str, float]] = []
    for w in works:
        if isinstance(w, Gemm):
            rows.append({"m": w.m, "n": w.n, "k": w.k})
        elif isinstance(w, GroupedGemm):
            rows.append({"total_rows": w.total_rows, "groups": len(w.rows), "n": w.n, "k": w.k})
        else:
            rows.append({"batch": w.batch, "q_len": w.q_len, "kv_len": w.kv_len, "heads": w.heads})
    return {axis: [float(min(r[axis] for r in rows)), float(max(r[axis] for r in rows))] for axis in rows[0]}
