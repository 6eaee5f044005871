"""Components with parameters, as defined by the reference: each use is expanded as text, with words replaced; for tests.

Bulkhead substitutes names in the syntax tree; here words of the text are replaced, and the result is parsed again. Lark and
the grammar tell which words are names: `init` and `let` may be either. The words around a name tell whether it is a field,
a step, a code or a variable. A replaced name stands in the new text as a word that nobody has written, so that none is taken
for a keyword there; the tree then gets the name that is meant.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lark import Lark, Token

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Span
from bulkhead.model.parser import GRAMMAR, parse_text

WORD = re.compile(r'"[^"]*"|--[^\n]*|[A-Za-z_]\w*|\d+|\s+|->|!=|\.\.\.|.', re.DOTALL)
OPENING, CLOSING = frozenset("([{"), frozenset(")]}")


class Name(str):
    """A word that the grammar takes for a name; the same letters elsewhere may be a keyword."""


class Replaced(Name):
    """A name that a use of a component puts into its text."""


class Behind(str):
    """The dot behind the variables of a quantifier, where other dots are before a field."""


@functools.cache
def _grammar() -> Lark:
    return Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr")


def _words(text: str) -> list[str]:
    """The words of a rules file; those that are names are of class `Name`."""
    tokens = _grammar().parse(text).scan_values(lambda t: isinstance(t, Token) and t.type == "NAME")
    names = {t.start_pos for t in tokens}
    found = [(m.start(), m.group()) for m in WORD.finditer(text)]
    return [Name(w) if at in names else w for at, w in found if not w.isspace() and not w.startswith("--")]


def _keywords(words: list[str]) -> list[str]:
    """The words, and nothing where a name stands."""
    return ["" if isinstance(w, Name) else w for w in words]


def _texts(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The words of each component, by name: from `component` to the next component or system."""
    out: dict[str, list[str]] = {}
    for text in sources.values():
        words = _words(text)
        starts = [k for k, w in enumerate(_keywords(words)) if w in ("component", "system")]
        for first, end in zip(starts, [*starts[1:], len(words)], strict=True):
            if words[first] == "component":
                k = first + 1
                while words[k] != "(" and not words[k].startswith('"'):
                    k += 1
                out["".join(words[first + 1 : k])] = words[first:end]
    return out


def _head(words: list[str]) -> tuple[list[tuple[bool, str]], list[tuple[str, list[str], str]], list[str]]:
    """The parameters (is it a sort?), the uses (name, arguments, prefix), and the remaining words."""
    params: list[tuple[bool, str]] = []
    k = next(k for k, w in enumerate(words) if w == "(" or w.startswith('"'))
    if words[k] == "(":
        end = words.index(")", k)
        for part in " ".join(words[k + 1 : end]).split(","):
            params.append((part.split()[0] == "sort" and len(part.split()) == 2, part.split()[-1]))
        k = end + 1
    k += 1
    uses: list[tuple[str, list[str], str]] = []
    if k < len(words) and words[k] == "uses":
        while words[k] in ("uses", ","):
            k += 1
            name = words[k]
            k += 1
            while k < len(words) and words[k] == ".":
                name += "." + words[k + 1]
                k += 2
            args, prefix = [], ""
            if k < len(words) and words[k] == "(":
                end = words.index(")", k)
                args = [w for w in words[k + 1 : end] if w != ","]
                k = end + 1
                if k < len(words) and words[k] == "as":
                    prefix = words[k + 1]
                    k += 2
            uses.append((name, args, prefix))
            if k >= len(words):
                break
    return params, uses, words[k:]


def _declared(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """The names that the items of a component declare, and the writes named after a state."""
    parsed = parse_text(f'component c "" {" ".join(words)}', "instance")
    out = []
    writes = {}
    for item in parsed.components[0].items:
        if isinstance(item, s.ScopeItem) or (isinstance(item, s.FormulaItem) and item.kind in ("init", "axiom")):
            continue
        out.append(item.name)
        if isinstance(item, s.EnumItem):
            out += [m.text for m in item.members]
        if isinstance(item, s.StateItem) and item.writable is not None:
            if item.writable.name:
                out.append(item.writable.name)
            else:
                writes[f"write_{item.name}"] = item.name
    return out, writes


def _replaced(words: list[str], names: Mapping[str, str]) -> list[str]:
    """The words, with names replaced."""
    keywords = _keywords(words)  # and signs
    out: list[str] = []
    conditions = 0
    binding = False  # between a quantifier and its dot
    brackets: list[bool] = []  # of each that is open: are these the fields of a record?
    field = False  # is a field, a step or a local next?
    for k, word in enumerate(words):
        keyword = keywords[k]
        before = keywords[k - 1] if k else ""
        behind = keywords[k + 1] if k + 1 < len(words) else ""
        code = (before == "else" and conditions == 0) or keywords[max(k - 2, 0) : k] == ["drop", "undo"]
        if before == "else" and conditions:
            conditions -= 1
        conditions += keyword == "if"
        other = (
            field
            or before in ("fail", "fails", "step", "each", "to")
            or code
            or (behind == ":" and before not in ("const", "state"))
            or (k > 1 and keywords[k - 2] == "scenario")  # `possible` or `impossible`
        )
        if keyword and keyword in "([{":
            brackets.append(keyword == "{" and before != "in")
        elif keyword and keyword in ")]}" and brackets:
            brackets.pop()
        grouped = bool(brackets) and brackets[-1] and behind == "," and before in ("{", ",")  # `{ a, b: S }`
        other = other or grouped
        field = keyword == "." and not binding
        binding = (binding or keyword in ("forall", "exists")) and keyword != "."
        out.append(Replaced(names[word]) if isinstance(word, Name) and not other and word in names else word)
    return out


def _written_out(words: list[str]) -> list[str]:
    """The words, without `distinct` and `in`: what the reference says they stand for.

    The parser writes them out in the tree, for all that read it, so nobody else would notice if it did so wrongly.
    """
    out: list[str] = []
    k = 0
    binding = False
    while k < len(words):
        follows = words[k + 1] if k + 1 < len(words) else ""
        if words[k] == "distinct" and follows == "(":
            end = _closing(words, k + 1)
            values = [["(", *_written_out(part), ")"] for part in _parts(words[k + 2 : end])]
            tests = [[*a, "!=", *b] for a, b in itertools.combinations(values, 2)]
            out += ["(", *_joined(tests, "and"), ")"]
            k = end + 1
        elif words[k] == "in" and follows == "{":
            end = words.index("}", k)
            begin = _begin_of_operand(out)
            value, out = ["(", *out[begin:], ")"], out[:begin]
            out += ["(", *_joined([[*value, "=", m] for m in words[k + 2 : end] if m != ","], "or"), ")"]
            k = end + 1
        else:
            out.append(Behind(".") if binding and words[k] == "." else words[k])
            binding = (binding or _quantifies(words[k])) and words[k] != "."
            k += 1
    return out


def _quantifies(word: str) -> bool:
    return word in ("forall", "exists") and not isinstance(word, Name)


def _joined(parts: list[list[str]], word: str) -> list[str]:
    return [w for k, part in enumerate(parts) for w in ([word] * (k > 0) + part)]


def _closing(words: list[str], opening: int) -> int:
    """Where the bracket ends that opens here."""
    depth = 0
    for k in range(opening, len(words)):
        depth += (words[k] in OPENING) - (words[k] in CLOSING)
        if depth == 0:
            return k
    raise AssertionError("the brackets match in what the parser accepts")


def _parts(words: list[str]) -> list[list[str]]:
    """The words between the commas outside of brackets and of lists of variables."""
    parts: list[list[str]] = [[]]
    depth = 0
    binding = False
    for word in words:
        depth += (word in OPENING) - (word in CLOSING)
        binding = (binding or _quantifies(word)) and word != "."
        if word == "," and depth == 0 and not binding:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _begin_of_operand(words: list[str]) -> int:
    """Where the last operand begins: a name, with what it is applied to and its fields, or something in brackets."""
    k = len(words) - 1
    while True:
        if words[k] in CLOSING:
            depth = 1
            bracket = words[k]
            while depth:
                k -= 1
                depth += (words[k] in CLOSING) - (words[k] in OPENING)
            named = words[k - 2] in ("invariant", "theorem", "transition")  # it is the name of the claim that stands before
            if bracket == ")" and (named or not isinstance(words[k - 1], Name)):
                return k
            k -= 1
        elif k and words[k - 1] == "." and not isinstance(words[k - 1], Behind):
            k -= 2
        else:
            return k


def expanded(sources: Mapping[str, str], uses: list[str]) -> list[s.Item]:
    """The items of all that a system uses, `distinct` and `in` written out.

    `sources` are the texts of all files; `uses` components without parameters.
    """
    texts = _texts(sources)
    written: dict[tuple[str, tuple[str, ...], str], list[str]] = {}

    def names_within(name: str, args: list[str], prefix: str) -> list[str]:
        """The names that a use adds: its arguments, and the component's own names."""
        params, further, words = _head(texts[name])
        given = dict(zip([p for _, p in params], args, strict=True))
        own, _ = _declared(words)
        for inner in further:
            if inner[1]:
                own += names_within(*inner)
        brought = [given[p] for is_sort, p in params if not is_sort]
        return brought + [f"{prefix}_{n}" if prefix else n for n in own if n not in given]

    def write(name: str, args: list[str], prefix: str) -> None:
        key = (name, tuple(args), prefix)
        if key in written:
            return
        written[key] = []
        params, further, words = _head(texts[name])
        names: dict[str, str] = {}
        if params:
            own, writes = _declared(words)
            own += [n for u in further if u[1] for n in names_within(*u)]
            names = {n: f"{prefix}_{n}" if prefix else n for n in own}
            names.update(zip([p for _, p in params], args, strict=True))
            names.update({write: f"write_{names[state]}" for write, state in writes.items()})
        for inner, inner_args, inner_prefix in further:
            joined = "_".join(p for p in (prefix, inner_prefix) if p) if inner_args else ""
            write(inner, [names.get(a, a) for a in inner_args], joined)
        written[key] = _written_out(_replaced(words, names))

    for name in uses:
        write(name, [], "")
    everything = [w for words in written.values() for w in words]
    mark = "r"
    while any(w.startswith(mark) for w in everything):
        mark += "r"
    marks = {name: f"{mark}{k}" for k, name in enumerate(sorted({w for w in everything if isinstance(w, Replaced)}))}
    texts_of_parts = [" ".join(marks[w] if isinstance(w, Replaced) else w for w in words) for words in written.values()]
    text = "\n\n".join(f'component part{k} "" {words}' for k, words in enumerate(texts_of_parts))
    meant = {m: str(name) for name, m in marks.items()}
    return [_named(i, meant) for c in parse_text(text, "instances").components for i in c.items]


def _named(node: Any, meant: Mapping[str, str]) -> Any:
    """A part of the tree with the names that the marks stand for."""
    if isinstance(node, str):
        return ".".join(meant.get(word, word) for word in node.split("."))
    if isinstance(node, tuple) and not isinstance(node, Span):
        return tuple(_named(part, meant) for part in node)
    if not isinstance(node, s.Node):
        return node
    return replace(node, **{f: _named(getattr(node, f), meant) for f in node.__match_args__ if f != "span"})  # type: ignore[type-var]


def items_of(text: str, more: Iterable[Path] = ()) -> list[s.Item]:
    """The items of the only system of a rules file; `more` are other files that it may use."""
    sources = {"made": text, **{str(p): p.read_text(encoding="utf-8") for p in more}}
    (system,) = parse_text(text, "made").systems
    return expanded(sources, [u.text for u in system.uses])


__all__ = ["expanded", "items_of"]
