"""The forms of the language in random systems: `python -m tests.oracle.fuzz --forms --systems N --seed S` prints it.

A form is a production of the grammar `spec/language.lark`, a word of it, a kind of node of the syntax tree, or a row of the
tables of `spec/README.md`. What no random system contains is compared by nobody. Systems that the checker refuses do not
count. Not here: what the forms mean.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.ir import FAILED, System
from bulkhead.model.library import Library
from bulkhead.model.loader import build
from bulkhead.model.parser import GRAMMAR, parse_text
from tests.oracle.generate import draft

REFERENCE = Path(GRAMMAR).parent / "README.md"
REFUSED = {"start:"}  # productions that the parser refuses afterwards: a file with nothing in it
NOBODY = {"Point"}  # a reserved word that no rules can say

# Each row of the reference's tables, and patterns of forms: a system contains the row if all are found in it, in one system
# or in several where a row lists several forms.
ROWS: dict[str, tuple[str, ...]] = {
    "`sort`": ("node SortItem",),
    "`enum`": ("node EnumItem",),
    "`const`": ("node ConstItem",),
    "`state`": ("node StateItem",),
    "`ghost state`": ("state_item:.* GHOST ",),
    "`forall x: S, y: T. A`, `exists x: S. A`": ("QUANT forall", "QUANT exists", "binders: group __value_type_star"),
    "`A implies B`, `A iff B`": ("IMPLIES expr", "IFF expr"),
    "`A or B`": (" OR ",),
    "`A and B`": (" AND ",),
    "`not A`": ("negation: NOT ",),
    "`a = b`, `a != b`, `a in { m, n }`": (" EQ postfix$", " NE ", "postfix IN LBRACE NAME __use_star"),
    "`s[x, y]`, `r.field`, `d(x)`, `distinct(a, b, c)`, `(A)`, `if A then a else b`": (
        "postfix LSQB expr __",
        "postfix DOT NAME",
        "node Call",
        "word distinct",
        "LPAR expr RPAR",
        "IF expr THEN expr ELSE",
    ),
    "`hypercall`": ("KIND hypercall",),
    "`ioctl`, `syscall`": ("KIND ioctl", "KIND syscall"),
    "`request`": ("KIND request",),
    "`guest`": ("KIND guest",),
    "`internal`": ("KIND internal",),
    "`procedure`": ("KIND procedure",),
    "`when A`, first": ("operation:.* WHEN expr ",),
    "`require A else CODE`": ("require with a code",),
    "`require A`": ("require without a code",),
    "`require next(A) else CODE`, `require next(A)`": ("require next with a code", "require next without a code"),
    "`pick x: S where A else CODE`": ("pick 1 where with a code", "pick 1 with a code", "pick 1 where without a code"),
    "`pick x, y: S, z: T where A else CODE`": ("pick 2 where with a code", "pick 2.* without a code"),
    '`may fail CODE "why"`': ("may_stmt: MAY FAIL NAME STRING$", "may_stmt: MAY FAIL NAME STRING undo"),
    "`let x = a`": ("node Let",),
    "`set place = a`": ("set Index", "set Field", "set Name", "set a record by its fields", "set a record as another"),
    "`... for all x: S, y: T`": ("for all 1", "for all 2", "for all, on the diagonal"),
    "`set place = *`": ("set any value", "set any value for all", "set any value of a field", "set any value where"),
    "`... where A`": ("set_value WHERE expr", "binders WHERE expr", "for all, of the condition only"),
    "`return a`": ("node Return",),
    "`map`": ("label first",),
    "`unmap.flush`": ("label later",),
    "`read.copy!EPERM`": ("label undone",),
    "`read.copy!EPERM#2`": ("label undone again",),
    "`take_pages.mark!*`": ("label later fails",),
    "`map!*`": ("label first fails",),
    "`write_entry`": ("label of a party",),
    "`theorem NAME A`": ("theorem_item:",),
    "`invariant NAME A`": ("invariant_item:",),
    "`transition NAME A`": ("transition_item:", "word next", "word failed"),
    "`for x: S, y: T`": ("scenario_item:.* FOR binders ",),
    "`STEP(a, NAME: b, _)`": ("node Called", "given: NAME COLON expr", "an open argument"),
    "`STEP(...) fails CODE`": ("part:.* FAILS NAME",),
    "`assert A`": ("part: ASSERT expr",),
    "`...`": ("part: ANY_STEPS",),
    "`within OP drop A`": ("drop_check of a require", "drop_check of a when", "drop_check of a pick", "drop_check of a set"),
    "`within OP replace A with B`": ("replace_check of a require", "replace_check of a pick", "replace_check of a set"),
    "`within OP move A to STEP`": ("node Change move_check",),
    "`within OP assign PLACE = a`": ("node Change replace_assignment",),
    "`within OP skip PLACE`": ("node Change drop_assignment",),
    "`within OP add set PLACE = a ...`": ("node Change add_assignment",),
    "`within OP let NAME = a`": ("node Change replace_let",),
    "`within OP drop may fail CODE`": ("node Change drop_may_fail",),
    "`within OP drop undo CODE`": ("node Change drop_undo",),
    "`within OP assign undo PLACE = a`": ("node Change replace_undo",),
    "`within OP skip undo PLACE`": ("node Change skip_undo",),
    "`within DEFINITION replace A with B`": ("replace_check of a define",),
    "`within DEFINITION drop A`": ("drop_check of a define",),
}


@cache
def _grammar() -> tuple[Lark, dict[str, None], list[str]]:
    """A parser that notes the productions that it uses in the dictionary, and the names of all productions."""
    lark = Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", maybe_placeholders=True)
    front: Any = lark.parser
    used: dict[str, None] = {}

    def noting(name: str) -> Callable[[list[Any]], None]:
        return lambda _: used.update({name: None})

    machine = front.parser.parser
    names = {
        rule: f"{rule.origin.name}: {' '.join(symbol.name for symbol in rule.expansion)}".strip()
        for rule in machine.callbacks
    }
    machine.callbacks = {rule: noting(name) for rule, name in names.items()}
    return lark, used, sorted(set(names.values()))


def productions(text: str) -> set[str]:
    """The productions that derive a text."""
    lark, used, _ = _grammar()
    used.clear()
    lark.parse(text)
    return set(used)


def kinds() -> set[str]:
    """The kinds of nodes that a syntax tree may have, and the kinds of changes."""
    changes = {p.split(" -> ")[1] for p in re.findall(r'"within" path .*', GRAMMAR.read_text(encoding="utf-8"))}
    return {f"node {k.__name__}" for k in s.Node.__subclasses__()} | {f"node Change {c}" for c in changes}


def all_forms() -> list[str]:
    """All forms that a run should have: productions, nodes, reserved words, rows of the reference."""
    _, _, grammar = _grammar()
    rows = [f"row {row}: {pattern}" for row, patterns in ROWS.items() for pattern in patterns]
    return [
        *(p for p in grammar if p not in REFUSED),
        *sorted(kinds()),
        *(f"word {w}" for w in sorted(s.RESERVED - NOBODY)),
        *rows,
    ]


def forms_of(text: str) -> set[str]:
    """The forms in a rules file with one system. Raises `RulesError` when it is refused."""
    parsed = parse_text(text, "made.rules")
    library = Library()
    library.take(parsed, text)
    (name,) = library.systems
    system = build(library, name, ())
    plain = re.sub(r'"[^"]*"', "", text)
    found = productions(text) | {f"word {w}" for w in s.RESERVED if re.search(rf"\b{w}\b", plain)}
    found.update(_of_labels(system))
    for component in parsed.components:
        found.update(_of_items(component.items))
    for node in nodes(parsed):
        found.add(f"node {type(node).__name__}")
        found.update(_of_node(node))
    return found | {
        f"row {row}: {p}" for row, patterns in ROWS.items() for p in patterns if any(re.search(p, f) for f in found)
    }


def nodes(tree: Any) -> Iterator[s.Node]:
    """All nodes of a tree."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, s.Node):
            yield node
            todo += [getattr(node, part) for part in node.__match_args__ if part != "span"]
        elif isinstance(node, tuple):
            todo += node


def _of_node(node: s.Node) -> Iterator[str]:
    """What a node is, where the grammar does not tell."""
    coded = "with a code" if getattr(node, "code", None) else "without a code"
    match node:
        case s.Quantified():
            yield f"QUANT {node.kind}"
        case s.Operation():
            yield f"KIND {node.kind}"
        case s.Require():
            foresees = any(isinstance(n, s.Call) and n.name == "next" for n in nodes(node.cond))
            yield f"require {'next ' * foresees}{coded}"
        case s.Pick():
            yield f"pick {len(node.binders)} {'where ' * (node.where is not None)}{coded}"
        case s.Called():
            if any(isinstance(a, s.Name) and a.text == "_" for _, a in node.args):
                yield "an open argument"
        case s.Change():
            yield f"node Change {node.kind}"
        case s.Set():
            yield from _of_assignment(node)


def _of_assignment(node: s.Set) -> Iterator[str]:
    """What stands on the two sides of an assignment, and in its `for all`."""
    yield f"set {type(node.target).__name__}"
    if isinstance(node.value, s.Record):
        yield "set a record by its fields"
        if any(isinstance(v, s.Anything) for _, v in node.value.fields):
            yield "set any value of a field"
    if isinstance(node.value, s.Anything):
        yield f"set any value{' for all' * bool(node.binders)}{' where' * (node.where is not None)}"
    if not node.binders:
        return
    yield f"for all {len(node.binders)}"
    indices = [n.text for n in nodes(node.target) if isinstance(n, s.Name)]
    bound = [b.name for b in node.binders]
    if any(indices.count(name) > 1 for name in bound):
        yield "for all, on the diagonal"
    if any(name not in indices for name in bound) and node.where is not None:
        yield "for all, of the condition only"


def _of_items(items: Iterable[s.Item]) -> Iterator[str]:
    """What the items of a component say together: whose condition a fault changes, and which assignments copy a record."""
    given = list(items)
    records = {i.name for i in given if isinstance(i, s.StateItem) and i.fields[0].name}
    defines = {i.name for i in given if isinstance(i, s.DefineItem)}
    operations = {i.name: i for i in given if isinstance(i, s.Operation)}
    for node in nodes(tuple(given)):
        if isinstance(node, s.Set) and not isinstance(node.value, s.Record | s.Anything):
            target = node.target.base if isinstance(node.target, s.Index) else node.target
            if isinstance(target, s.Name) and target.text in records:
                yield "set a record as another"
        if isinstance(node, s.Change) and node.kind in ("drop_check", "replace_check"):
            head = node.path.partition(".")[0]
            if head in defines:
                yield f"{node.kind} of a define"
            elif head in operations:
                yield from (f"{node.kind} of a {place}" for place in _places(operations[head], node.old))


def _places(op: s.Operation, cond: s.Expr) -> Iterator[str]:
    """The places where an operation has this condition."""

    def has(whole: s.Expr | None) -> bool:
        return whole == cond or (isinstance(whole, s.Operator) and whole.op == "and" and any(has(a) for a in whole.args))

    if has(op.when):
        yield "when"
    for st in op.body:
        if isinstance(st, s.Require) and st.cond == cond:
            yield "require"
        if isinstance(st, s.Pick) and has(st.where):
            yield "pick"
        if isinstance(st, s.Set) and has(st.where):
            yield "set"


def _of_labels(system: System) -> Iterator[str]:
    """The kinds of labels of the outcomes of a system's steps."""
    parties = {label for label in (st.label for st in system.steps) if label.startswith("write_")}
    for step in system.steps:
        if step.label in parties:
            yield "label of a party"
        later = "later" if "." in step.label else "first"
        for outcome in step.outcomes():
            _, mark, code = outcome.label.partition("!")
            if not mark:
                yield f"label {later}"
            elif outcome.label.endswith(FAILED):
                yield f"label {later} fails"
            else:
                yield f"label undone{' again' * ('#' in code)}"


def count(seeds: Iterable[int]) -> tuple[int, Counter[str]]:
    """How many systems there are, and how many contain each form."""
    systems, found = 0, Counter[str]()
    for seed in seeds:
        try:
            found.update(forms_of(draft(seed).text()))
        except (LookupError, RulesError):
            continue
        systems += 1
    return systems, found


def report(seeds: Iterable[int]) -> tuple[str, list[str]]:
    """A table of all forms, the rarest first; and those that no system contains."""
    systems, found = count(seeds)
    forms = sorted(all_forms(), key=lambda form: (found[form], form))
    absent = [form for form in forms if not found[form]]
    lines = [f"{found[form]:7} {form}" for form in forms]
    head = f"{len(forms)} forms of the language in {systems} systems; {len(absent)} in none"
    return "\n".join([head, *lines]), absent


__all__ = ["REFERENCE", "ROWS", "all_forms", "count", "forms_of", "report"]
