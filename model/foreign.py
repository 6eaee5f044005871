"""Hints for users of Ivy, mypyvy or TLA+: maps syntax of these languages to this language.

Tables for symbols, words, sorts, and names in formulas: on an error, the parser and the checker search these tables,
and the message shows the form in this language. This changes no accepted texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Foreign:
    """A symbol or word of another language, its place in the text, and a hint."""

    start: int
    text: str
    instead: str


_ORDER = "There are no numbers: declare a `sort`, and an order on it as a state `le[S, S]: bool` with axioms."
_SETS = "There are no sets: a state `member[S]: bool` says of each element whether it belongs."
_ALWAYS = "Leave it out: an `invariant` or `theorem` is claimed of every reachable state."
_LIVENESS = "Leave it out: nothing here says that something will happen, only what may never happen."
_COMMENT = "A comment begins with `--` and ends with the line."

# Longest first if one is a prefix of another; a match must cover the place of the error.
SIGNS: tuple[tuple[str, str], ...] = (
    (r"<->|<=>|\\equiv\b", "Write `iff`."),
    (r"->|=>", "Write `implies`; `->` stands only before the sort of what an operation gives back."),
    (r"/\\|\\land\b|&&?", "Write `and`."),
    (r"\\/|\\lor\b|\|\|?", "Write `or`; `|` stands only between the members of an `enum`."),
    (r"\\A\b", "Write `forall x: S. A`."),
    (r"\\E\b", "Write `exists x: S. A`."),
    (r"\\notin\b|\\in\b", "Write `x: S` where a variable gets its sort, and `a in { m, n }` for one of several members."),
    (r"\\(?:cup|cap|union|intersect|subseteq|setminus)\b", _SETS),
    (r"\\\*|\(\*|//|/\*", _COMMENT),
    (r"~>|<>", _LIVENESS),
    (r"~=|/=|\\neq\b", "Write `!=`."),
    (r"~|!(?!=)|\\lnot\b|\\neg\b", "Write `not`."),
    (r"#", f"Write `!=` for a difference. {_COMMENT}"),
    (r":=", "Write `set place = value`."),
    (r"==", "Write `=`; a definition is `define name(x: S) = A`."),
    (r"<=|>=|=<|<|>|\+|-|\d+", _ORDER),
    (r"\*", "It stands only behind the `=` of a `set`, for any value; there are no numbers to multiply."),
    (r"'", "Write `next(a)` for the value after a step; it may stand in a `transition` and in a `require`."),
    (r";", "Leave it out: the next statement or item ends the one before."),
)

WORDS: dict[str, str] = {
    "relation": "Write `state NAME[S, T]: bool`.",
    "function": "Write `state NAME[S]: T`.",
    "individual": "Write `state NAME: S`, or `const NAME: S` if it never changes.",
    "immutable": "Leave it out: what no operation sets never changes, and axioms may speak of it. Write `state NAME[S]: T`.",
    "mutable": "Leave it out: write `state NAME[S]: T`.",
    "constant": "Write `const NAME: S`.",
    "variable": "Write `state NAME[S]: T`.",
    "var": "Write `state NAME: S`, or `let NAME = a` in an operation.",
    "local": "Write `let NAME = a`, or `pick NAME: S where A`.",
    "type": 'Write `sort NAME "what it is"`, or `enum NAME = a | b`.',
    "action": "Write `internal NAME(x: S)` and its statements, or another kind of operation.",
    "modifies": "Leave it out: what a step does not set stays as it is.",
    "after": "Write `init A` for each condition on the initial states.",
    "assume": "Write `require A`, without a code, in an operation; `axiom A` of what never changes.",
    "assert": "Write `invariant NAME A` or `theorem NAME A`.",
    "ensure": "Write `require next(A)`.",
    "ensures": "Write `require next(A)`.",
    "requires": "Write `require A`.",
    "safety": "Write `theorem NAME A`.",
    "conjecture": "Write `invariant NAME A`.",
    "property": "Write `theorem NAME A`, or `axiom A` of what never changes.",
    "definition": "Write `define NAME(x: S) = A`.",
    "derived": "Write `define NAME(x: S) = A`.",
    "call": "Write `perform NAME(a)`.",
    "while": "There are no loops: `for all` assigns many places at once, `each` takes elements one by one.",
    "module": 'Write `component NAME "what it is"`, and `uses NAME` where it is needed.',
    "object": 'Write `component NAME "what it is"`, and `uses NAME` where it is needed.',
    "isolate": "Leave it out: a `system` says which components are proved together.",
    "instance": "Write `uses NAME`.",
    "instantiate": "Write `uses NAME`.",
    "include": "Write `uses NAME`.",
    "import": "Write `uses NAME`.",
    "export": "Leave it out: every operation but a `procedure` may be called at any moment.",
    "interpret": "Leave it out: a sort has no meaning but what axioms say.",
    "if": "There is no `if` for statements: write `set place = a where A`, or `set place = if A then a else b`.",
}

# Written with capitals; in small letters they may be names of anybody's.
CAPITALS: dict[str, str] = {
    "VARIABLE": WORDS["variable"],
    "CONSTANT": WORDS["constant"],
    "ASSUME": "Write `axiom A`.",
    "AXIOM": "Write `axiom A`.",
    "THEOREM": "Write `theorem NAME A`.",
    "INVARIANT": "Write `invariant NAME A`.",
    "MODULE": WORDS["module"],
    "INSTANCE": WORDS["instance"],
    "LET": "Write `let NAME = a` in an operation, or `define NAME(x: S) = A`.",
    "IF": "Write `if A then a else b`.",
    "EXTENDS": "Write `uses NAME`.",
    "VARIABLES": "Write `state NAME[S]: T` for each.",
    "CONSTANTS": "Write `const NAME: S` for each.",
    "ASSUMPTION": "Write `axiom A`.",
    "CHOOSE": "Write `pick x: S where A`.",
    "EXCEPT": "Write `set place = a`: all other places stay as they are.",
    "UNCHANGED": "Leave it out: what a step does not set stays as it is.",
    "ENABLED": "Write the condition under which the step can be taken.",
    "SUBSET": _SETS,
    "UNION": _SETS,
    "DOMAIN": "Write the sort of the index.",
    "CASE": "Write `if A then a else b`.",
}

SORTS: dict[str, str] = {
    **dict.fromkeys(("int", "Int", "nat", "Nat", "Integer", "integer", "Real", "Naturals", "Integers"), _ORDER),
    **dict.fromkeys(("Bool", "BOOLEAN", "Boolean", "boolean"), "Write `bool`."),
    **dict.fromkeys(("set", "Set", "SUBSET"), _SETS),
    **dict.fromkeys(
        ("Seq", "seq", "list", "array"), "Declare a `sort` of positions, and a state with it as index: `item[Position]: S`."
    ),
    **dict.fromkeys(("string", "STRING"), "Declare a `sort`, or an `enum` of the texts that matter."),
}

NAMES: dict[str, str] = {
    "TRUE": "Write `true`.",
    "FALSE": "Write `false`.",
    "True": "Write `true`.",
    "False": "Write `false`.",
    "new": "Write `next(a)`.",
    "old": "Leave it out: all but `next(a)` reads the state before the step.",
    "UNCHANGED": "Write `next(a) = a` in a claim; in an operation leave it out.",
}

_TRANSITION = re.compile(r"transition\s+\w+\s*\(\s*\w+\s*(?:,\s*\w+\s*)*\Z|transition\s+\w+\s*\(\s*\Z")
_NAMED = re.compile(r"(?:invariant|theorem|axiom|init|transition)\s*\Z")
_UNSORTED = re.compile(r"(?:forall|exists)\s+(?:\w+\s*(?::\s*\w+\s*)?,\s*)*(\w+)\s*\Z")
_WORD = re.compile(r"[A-Za-z]+\b(?!\[|\s*[=.,:)\]])")  # no place that is set, and no name in a list
_ASSIGNED = re.compile(r"\w+(?:\[[^\]\n]*\]|\([^)\n]*\))?(?:\.\w+)?\s*:=")
_TAKEN = re.compile(r"\b(\w+)\s+\Z")
_LONGER = frozenset({"constant", "requires", "assume", "assert"})  # they begin with a word of the language
_REACH = 8  # the longest sign


def foreign(text: str, offset: int) -> Foreign | None:
    """The syntax of another language at the place of an error; None if there is none."""
    before, rest = text[max(0, offset - 300) : offset], text[offset:]
    if rest[:1] in (":", ")", ",") and _TRANSITION.search(before):
        return Foreign(
            offset,
            rest[0],
            "A `transition` is a claim about steps here; a step is `internal NAME(x: S)` and its statements.",
        )
    if rest[:1] == "[" and _NAMED.search(before):
        if rest.startswith("[]"):
            return Foreign(offset, "[]", _ALWAYS)
        return Foreign(offset, "[", "Write the name without brackets: `invariant NAME A`; `axiom` and `init` have none.")
    if rest.startswith("[]"):
        return Foreign(offset, "[]", _ALWAYS)
    if rest[:1] == "." and (found := _UNSORTED.search(before)):
        return Foreign(
            offset, ".", f"Every variable has a sort: `{found[1]}: S`; names of one sort may share it, as in `x, y: S`."
        )
    if (found := _ASSIGNED.match(text, offset)) is not None:
        return Foreign(offset, found[0], dict(SIGNS)[":="])
    word = _WORD.match(text, offset)
    if word is not None and (said := WORDS.get(word[0]) or CAPITALS.get(word[0])):
        return Foreign(offset, word[0], said)
    if (found := _TAKEN.search(before)) is not None:  # it was taken for a name, or for a word of the language and a name
        said = CAPITALS.get(found[1]) or WORDS.get(found[1] if found[1] in _LONGER else "")
        if said is not None:
            return Foreign(offset - len(found[0]), found[1], said)
    covering = [
        (len(m[0]), Foreign(m.start(), m[0], instead))
        for pattern, instead in SIGNS
        for m in re.compile(pattern).finditer(text, max(0, offset - _REACH), offset + _REACH)
        if m.start() <= offset < m.end()
    ]
    return max(covering, key=lambda c: c[0])[1] if covering else None


def of_name(name: str) -> str:
    """A hint for an unknown name, if it is a name of another language; else ""."""
    if re.fullmatch(r"[A-Z][0-9]*", name):
        return f"It is no variable unless it is bound: `forall {name}: S. A`."
    return NAMES.get(name, "")


def of_sort(name: str) -> str:
    """A hint for an unknown sort, if another language has it; else ""."""
    return SORTS.get(name, "")


__all__ = ["CAPITALS", "NAMES", "SIGNS", "SORTS", "WORDS", "Foreign", "foreign", "of_name", "of_sort"]
