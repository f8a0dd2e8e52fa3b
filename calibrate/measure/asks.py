"""Ask: one measurement to make, and the Work that the simulator means by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.hwmodels.gpu import bytes_per_element
from moesim.hwmodels.work import Attention, Comm, CommKind, Gemm, Group, GroupedGemm, Stream, Work
from moesim.sim.layers.blocks import loss_bytes
from moesim.sim.layers.dense import PASSES
from moesim.sim.layers.experts import router_bytes
from moesim.sim.software.stack import Tuning

BACKWARD = "backward"
OPS = (
    "gemm", "grouped_gemm", "attention", "stream", "optimizer", "copy", "launch", "host_link", "collective", "overlap",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """One measurement: `op`, its `phase` (see work_of) and sizes as name -> number or "a/b/c"."""

    op: str
    phase: str
    dtype: str
    size: tuple[tuple[str, str], ...]

    @property
    def sizes(self) -> str:
        """'m=128;n=256;k=512', as the table writes it."""
        return ";".join(f"{k}={v}" for k, v in self.size)

    @property
    def key(self) -> str:
        """Equal for equal questions."""
        return f"{self.op}/{self.phase}/{self.dtype}/{self.sizes}"

    def number(self, name: str) -> int:
        """A size as a whole number. KeyError when there is none of that name."""
        return int(dict(self.size)[name])

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of sizes."""
        return tuple(int(v) for v in dict(self.size)[name].split("/"))


def ask(op: str, phase: str, dtype: str, **size: int | str) -> Ask:
    """An Ask from plain sizes."""
    return Ask(op, phase, dtype, tuple((k, str(v)) for k, v in size.items()))


_SIZE = re.compile(r"[0-9]{1,12}")  # more digits than a dimension ever has: a table of somebody else's making


def parse_sizes(text: str) -> tuple[tuple[str, str], ...]:
    """The sizes of a table cell. ValueError for a cell that is not name=number;..."""
    pairs = []
    for part in text.split(";"):
        name, _, value = part.partition("=")
        if not name or not value or any(not _SIZE.fullmatch(v) for v in value.split("/")):
            raise ValueError(f"sizes {text[:60]!r} are not name=number;...")
        pairs.append((name, value))
    return tuple(pairs)


def rows_text(rows: tuple[int, ...]) -> str:
    """Rows per group as a size."""
    return "/".join(map(str, rows))


def _gemm(a: Ask) -> Work:
    return Gemm(a.number("m"), a.number("n"), a.number("k"), a.dtype, a.dtype)


def _grouped(a: Ask) -> Work:
    rows, n, k = a.numbers("rows"), a.number("n"), a.number("k")
    return GroupedGemm(rows, n, k, a.dtype, a.dtype, weight_gradient=a.phase == "wgrad")


def _attention(a: Ask) -> Work:
    q_len, dim = a.number("q_len"), a.number("dim")
    phase = {"forward": "forward", BACKWARD: BACKWARD, "decode": "decode"}[a.phase]
    return Attention(
        a.number("batch"), q_len, a.number("kv_len"), a.number("heads"), a.number("kv_heads"), dim, dim, True,
        None, a.dtype, phase,  # type: ignore[arg-type]  # one of the three literals above
    )  # fmt: skip


def _stream(a: Ask) -> Work:
    kind, _, way = a.phase.partition(".")
    back = way == "bwd"
    if kind == "router":
        passes = Tuning().get("router_passes", "torch-eager", "unknown")
        moved = router_bytes(float(a.number("tokens")), a.number("experts"), passes)
        return Stream(moved, kind, 6, back)
    if kind == "loss":
        each = Tuning().get("loss_bytes_per_logit", "plain")
        return Stream(loss_bytes(float(a.number("tokens") * a.number("vocab")), each)[back], kind, 4, back)
    if kind == "embedding" and back:
        table = Tuning().get("embedding_gradient_passes", "torch-eager") * a.number("vocab")
        elements = (PASSES[kind][back] * a.number("rows") + table) * a.number("cols")
        return Stream(elements * bytes_per_element(a.dtype), kind, 1, back)
    if kind == "rope":
        elements = a.number("tokens") * a.number("heads") * a.number("dim")
    else:
        elements = a.number("rows") * a.number("cols")
    return Stream(PASSES[kind][back] * elements * bytes_per_element(a.dtype), kind, 1, back)


def _collective(a: Ask) -> Work:
    kind: CommKind = a.phase  # type: ignore[assignment]  # the plan asks for kinds of CommKind only
    ranks = a.number("ranks")
    return Comm(kind, float(a.number("bytes")), Group(ranks, ranks))


_WORK_OF = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "attention": _attention,
    "stream": _stream,
    "collective": _collective,
}


def work_of(a: Ask) -> Work | None:
    """The Work a measurement stands for; None for what is measured for constants (copies, launches, ...).

    Phases: gemm and grouped_gemm forward, dgrad, wgrad; attention forward, backward, decode; stream a kind, with
    ".bwd" for its backward; collective a kind of Comm.
    """
    make = _WORK_OF.get(a.op)
    return make(a) if make else None


# sizes that are asked of what no Work stands for
_PLAIN = {"copy": ("bytes",), "optimizer": ("tensors", "each")}


def check(a: Ask) -> None:
    """ValueError for a measurement read from a table whose phase, dtype or sizes are not those of its op."""
    try:
        made = work_of(a)
        if made is None:
            for name in _PLAIN.get(a.op, ()):
                a.number(name)
    except (KeyError, ValueError, ArithmeticError) as error:
        raise ValueError(f"phase, dtype or sizes are not those of {a.op}") from error
    if any(sum(map(int, text.split("/"))) < 1 for _, text in a.size):  # of groups of rows, some may be empty
        raise ValueError(f"sizes of {a.op} must be 1 or more")
