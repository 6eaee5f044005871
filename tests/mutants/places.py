"""Generates mutants of functions: a pure function from source text to one-place changes.

Each mutant changes one node of the syntax tree: a condition negated or dropped, an operator, a constant, a statement
dropped, two arguments swapped. Not here: running mutants, and deciding whether one is equivalent.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What is changed, and its folders of impl.
SUBJECTS = {"xen": ("xen", "dom0"), "domb": ("domb", "tools", "rings"), "libs": ("libs",)}

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMMUTATIVE = ("min", "max")  # swapped arguments change nothing
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}


@dataclass(frozen=True)
class Mutant:
    """One change: its file, function and line, the old and the new text."""

    file: str  # relative to impl, as `xen/grant_map.py`
    function: str  # qualified, as `GrantTable.reduce_status`
    line: int
    kind: str
    before: str
    after: str
    place: tuple[int, int]  # the index of the node in the function, and of the change for that node

    def text(self) -> str:
        """A one-line summary."""
        return f"impl/{self.file}:{self.line} {self.function}: {self.kind}: `{self.before}` -> `{self.after}`"


def _cut(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 70 else text[:67] + "..."


def _conditions(test: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    yield "negated condition", ast.UnaryOp(ast.Not(), test)
    yield "dropped condition", ast.Constant(False)
    yield "dropped condition", ast.Constant(True)


def _replacements(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """Kind, the node to replace, and its replacement."""
    if isinstance(node, ast.If | ast.IfExp):
        for kind, test in _conditions(node.test):
            yield kind, node.test, test
    elif isinstance(node, ast.BoolOp):
        for n in range(len(node.values)):
            rest = [v for k, v in enumerate(node.values) if k != n]
            yield "dropped condition", node, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        yield "operator", node, ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.Compare):
        for n, op in enumerate(node.ops):
            ops = [COMPARED[type(o)]() if k == n else o for k, o in enumerate(node.ops)]
            yield "operator", node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp):
        if type(node.op) in COMPUTED:
            yield "operator", node, ast.BinOp(node.left, COMPUTED[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", node, ast.Constant(not node.value)
        elif isinstance(node.value, int):
            yield "constant", node, ast.Constant(node.value + 1)
            if node.value > 1:
                yield "constant", node, ast.Constant(node.value - 1)
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in COMPUTED:
            yield "operator", node, ast.AugAssign(node.target, COMPUTED[type(node.op)](), node.value)
        yield "dropped statement", node, ast.Pass()
    elif isinstance(node, ast.Delete | ast.Raise) or (
        isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Subscript)
    ):
        yield "dropped statement", node, ast.Pass()
    elif isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call | ast.Yield) or (
            isinstance(node.value, ast.YieldFrom) and isinstance(node.value.value, ast.Call)
        ):
            yield "dropped statement", node, ast.Pass()
    elif isinstance(node, ast.Call) and len(node.args) > 1 and ast.unparse(node.func) not in COMMUTATIVE:
        first, second, *rest = node.args
        if (
            not isinstance(first, ast.Starred)
            and not isinstance(second, ast.Starred)
            and ast.unparse(first) != ast.unparse(second)
        ):
            yield "swapped arguments", node, ast.Call(node.func, [second, first, *rest], node.keywords)


class _Put(ast.NodeTransformer):
    """Replaces one node by another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _body(function: ast.FunctionDef) -> list[ast.AST]:
    """All nodes executed by a call of the function, in a fixed order: without annotations, defaults and decorators."""
    skipped = {id(n) for each in ast.walk(function) if isinstance(each, ast.AnnAssign) for n in ast.walk(each.annotation)}
    skipped |= {
        id(n) for each in ast.walk(function) if isinstance(each, ast.arguments | ast.JoinedStr) for n in ast.walk(each)
    }
    return [n for statement in function.body for n in ast.walk(statement) if id(n) not in skipped]


def called_at_import(text: str) -> set[str]:
    """The functions that a module itself calls when it is imported."""
    return _early(ast.parse(text))


def _early(tree: ast.Module) -> set[str]:
    top = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    return {n.func.id for each in top for n in ast.walk(each) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions and methods, except those that the module calls at import: a change would come too late."""
    done = _early(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name not in done:
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


def mutants_of(file: str, text: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    return [
        Mutant(file, name, getattr(old, "lineno", function.lineno), kind, _cut(old), _cut(new), (number, choice))
        for name, function in _functions(ast.parse(text))
        for number, node in enumerate(_body(function))
        for choice, (kind, old, new) in enumerate(_replacements(node))
    ]


def source_of(mutant: Mutant, text: str) -> str:
    """The whole changed function, without decorators, from the text of its file."""
    function = dict(_functions(ast.parse(text)))[mutant.function]
    function.decorator_list = []
    number, choice = mutant.place
    _, old, new = list(_replacements(_body(function)[number]))[choice]
    return ast.unparse(ast.fix_missing_locations(_Put(old, new).visit(function)))


def sources(subject: str) -> list[Path]:
    """The source files of a subject."""
    return [p for room in SUBJECTS[subject] for p in sorted((ROOT / "impl" / room).glob("*.py"))]


def every_mutant(subject: str = "xen") -> list[Mutant]:
    """All mutants of a subject: `xen` is the hypervisor and Dom0's drivers, `domb` DomB, its tools and the daemons,
    `libs` the libraries below these."""
    return [m for p in sources(subject) for m in mutants_of(f"{p.parent.name}/{p.name}", p.read_text())]


def sample(number: int, seed: int, subject: str = "xen") -> list[Mutant]:
    """So many different mutants, chosen by a seed, reproducible for the same source text."""
    every = every_mutant(subject)
    return random.Random(seed).sample(every, min(number, len(every)))
