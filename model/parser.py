"""Parses the text of a rules file to its syntax tree, by Lark and the grammar `spec/language.lark`.

A file that is too large, not text, or nested too deeply is refused with a reason. Not here: how the tree is built
(to_syntax.py), messages about syntax errors (syntax_errors.py), checks of names and types (loader.py).
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from lark import Lark
from lark.exceptions import UnexpectedInput

from bulkhead.model import cache
from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem, RulesError, Span, UsageError
from bulkhead.model.lalr import Loop, NotParsed
from bulkhead.model.syntax_errors import place_of, syntax_problem
from bulkhead.model.to_syntax import ToSyntax

MAX_BYTES = 2_000_000
MAX_NESTING = 60
MAX_NAME = 100
LONG_NAME = rf"\w{{{MAX_NAME + 1},}}"
GRAMMAR = Path(__file__).resolve().parent.parent / "spec" / "language.lark"


@functools.cache
def _parser() -> tuple[Lark, Loop, ToSyntax]:
    transformer = ToSyntax()
    lark = Lark(
        GRAMMAR.read_text(encoding="utf-8"),
        parser="lalr",
        maybe_placeholders=True,
        cache=cache.grammar() or False,
        transformer=transformer,
    )
    return lark, Loop(lark), transformer


def prepare() -> None:
    """Load or make Lark's tables."""
    _parser()


def parse_text(text: str, file: str) -> s.RulesFile:
    """The syntax tree of one rules file. Raises `RulesError` with one problem when the text is not in the language."""
    try:
        _refuse_nonsense(text, file)
        parser, loop, transformer = _parser()
        transformer.file = file
        try:
            parsed: s.RulesFile = loop.parse(text)
        except NotParsed:
            parsed = parser.parse(text)  # type: ignore[assignment]
        if not parsed.components and not parsed.systems:
            raise RulesError([_empty(file)])
        _refuse_deep(parsed, file)
        return parsed
    except UnexpectedInput as error:
        raise RulesError([syntax_problem(error, text, file, _parser()[0])], {file: text}) from None
    except RulesError as error:
        error.sources = {file: text}
        raise


def parse_file(path: Path) -> tuple[s.RulesFile, str]:
    """The syntax tree and the text of the file at `path`. Raises `UsageError` when it cannot be read."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise UsageError(f"{path}: is not a regular file; rules are read from files.")
        if about.st_size > MAX_BYTES and not stat.S_ISDIR(about.st_mode):
            raise UsageError(
                f"{path}: {about.st_size:,} bytes is too large for a rules file (limit {MAX_BYTES:,}); "
                "split it into components."
            )
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot read this rules file ({error.strerror}); check the name.") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8")
        problem = Problem(
            "E0106", place_of(before, len(before), str(path)), f"not a rules file: byte {error.start} is not UTF-8 text"
        )
        raise RulesError([problem], {str(path): raw.decode("utf-8", "replace")}) from None
    return parse_text(text, str(path)), text


def _empty(file: str) -> Problem:
    return Problem("E0105", Span(file, 1, 1), "the file is empty", "Expected a `component` or a `system`.")


def _too_deep(span: Span) -> RulesError:
    return RulesError(
        [Problem("E0108", span, f"nested more than {MAX_NESTING} deep", hint="Name a part of the expression with `define`.")]
    )


def _refuse_nonsense(text: str, file: str) -> None:
    if "\0" in text:
        raise RulesError(
            [Problem("E0107", place_of(text, text.index("\0"), file), "not a rules file: it holds a NUL character")]
        )
    if not text.strip():
        raise RulesError([_empty(file)])
    depth = 0
    for match in re.finditer(r'"[^"]*"|--[^\n]*|[(\[{]|[)\]}]|' + LONG_NAME, text):
        if match[0][0] not in '"-([{)]}':
            raise RulesError(
                [
                    Problem(
                        "E0109",
                        place_of(text, match.start(), file),
                        f"this name has {len(match[0]):,} characters",
                        f"Expected {MAX_NAME} at most.",
                    )
                ]
            )
        if match[0] in "([{":
            depth += 1
            if depth > MAX_NESTING:
                raise _too_deep(place_of(text, match.start(), file))
        elif match[0] in ")]}":
            depth -= 1


_EXPRESSIONS = frozenset(get_args(s.Expr))
# Types in the tree besides nodes and tuples of nodes.
_NO_EXPRESSIONS = frozenset({str, int, bool, type(None), Span, s.Binder})


def _refuse_deep(parsed: s.RulesFile, file: str) -> None:
    """Refuse deep nesting without brackets, too (`not not ...`), so that other code may recurse over the tree."""
    todo: list[tuple[Any, int, Span]] = [(parsed.components, 0, Span(file, 1, 1))]
    while todo:
        node, depth, span = todo.pop()
        parts: Iterable[Any]
        if type(node) is tuple:
            parts = node
        else:
            span = node.span
            depth += type(node) in _EXPRESSIONS
            if depth > MAX_NESTING:
                raise _too_deep(span)
            parts = [getattr(node, name) for name in node.__match_args__]
        for part in parts:
            kind = type(part)
            if part and kind not in _NO_EXPRESSIONS and (kind is not s.Name or depth == MAX_NESTING):
                todo.append((part, depth, span))


__all__ = ["GRAMMAR", "MAX_BYTES", "MAX_NESTING", "parse_file", "parse_text", "prepare"]
