"""Small wrong changes to code: every place in a file where one operator, bound or number may be replaced by another."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("hwmodels", "sim/clock", "sim/train", "sim/serve")  # what is mutated: physics, clock, memory, schedules

_ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
}
_COMPARED: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
_SWAPPED_CALLS = {"min": "max", "max": "min", "ceil": "floor", "floor": "ceil", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: `old` at a place of a file becomes `new`."""

    file: str
    line: int
    column: int  # of the first character, from 0
    old: str
    new: str

    @property
    def key(self) -> str:
        """How lists name it: by the place's text, so that lines above may change."""
        return f"{self.file}:{self.line}:{self.column} {self.old} -> {self.new}"

    def applied(self, text: str) -> str:
        """The file's text with the change."""
        lines = text.split("\n")
        line = lines[self.line - 1]
        assert line[self.column : self.column + len(self.old)] == self.old, self.key
        lines[self.line - 1] = line[: self.column] + self.new + line[self.column + len(self.old) :]
        return "\n".join(lines)


def mutants_of(root: Path, file: Path) -> list[Mutant]:
    """All changes of one file, in the order of its lines."""
    text = file.read_text(encoding="utf-8")
    found = _Finder(str(file.relative_to(root)), text)
    found.visit(ast.parse(text))
    return sorted(set(found.mutants), key=lambda m: (m.line, m.column, m.new))


def all_mutants(root: Path) -> list[Mutant]:
    """All changes of the rooms that are mutated."""
    files = [file for room in ROOMS for file in sorted((root / room).glob("*.py"))]
    return [mutant for file in files for mutant in mutants_of(root, file)]


class _Finder(ast.NodeVisitor):
    """Walks a file; passes over what decides no result: annotations, messages, raise statements, type checking."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.lines = file, text.split("\n")
        self.mutants: list[Mutant] = []

    def _keep(self, line: int, column: int, old: str, new: str) -> None:
        place = self.lines[line - 1]
        if place.isascii() and place[column : column + len(old)] == old:  # columns of the parser count bytes
            self.mutants.append(Mutant(self.file, line, column, old, new))

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> None:
        """The operator between two operands, where both are on one line."""
        line, begin, end = left.end_lineno, left.end_col_offset, right.col_offset
        if line is None or begin is None or line != right.lineno:
            return
        at = self.lines[line - 1][begin:end].find(old)
        if at >= 0:
            self._keep(line, begin + at, old, new)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if type(node.op) in _ARITHMETIC and not _is_text(node.left) and not _is_text(node.right):
            self._between(node.left, node.right, *_ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if type(node.op) in (ast.Add, ast.Sub, ast.Mult, ast.Div) and not _is_text(node.value):
            old, new = _ARITHMETIC[type(node.op)]
            self._between(_as_expression(node.target), node.value, f"{old}=", f"{new}=")
        self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            self._between(left, right, *_COMPARED[type(op)])
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._between(left, right, old, new)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._keep(node.lineno, node.col_offset, "not ", "")
        elif isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self._keep(node.lineno, node.col_offset, "-", "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _SWAPPED_CALLS:
            self._keep(node.lineno, node.col_offset, f"{node.func.id}(", f"{_SWAPPED_CALLS[node.func.id]}(")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._keep(node.lineno, node.col_offset, str(node.value), str(not node.value))
        elif isinstance(node.value, (int, float)) and node.lineno == node.end_lineno:
            old = self.lines[node.lineno - 1][node.col_offset : node.end_col_offset]
            self._keep(node.lineno, node.col_offset, old, _other(node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """A text with values in it is a message or a name."""

    def visit_Raise(self, node: ast.Raise) -> None:
        """What is said when something cannot be."""

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not _is_index(node.slice):
            self.visit(node.slice)
        self.visit(node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        """Annotations decide nothing."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for part in (*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None), *node.body):
            self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in node.body:  # not its decorators: frozen, slots
            self.visit(part)

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)


def _as_expression(target: ast.expr) -> ast.expr:
    return target


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_index(node: ast.expr) -> bool:
    """[0], [-1]: another place of a tuple is mostly an error of types, which the checker finds."""
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant)


def _other(value: float) -> str:
    """Another number: the next whole one; half again as much."""
    if isinstance(value, int):
        return str(value + 1)
    return "1.0" if value == 0.0 else repr(value * 1.5)


def sampled(mutants: list[Mutant], number: int, seed: int) -> Iterator[Mutant]:
    """A random sample without repeats: the same for the same seed and code."""
    import random

    yield from random.Random(seed).sample(mutants, min(number, len(mutants)))
