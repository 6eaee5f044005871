"""Messages about text that the grammar refuses: what does not fit, where, what could stand there, and a hint.

The hints know words of the language in a wrong place, documentation strings that are not closed, and signs of other
languages (foreign.py). Not here: what is refused before or after Lark parses (parser.py).
"""

from __future__ import annotations

import re
from typing import Any, Final

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from bulkhead.model.diagnostics import Problem, Span
from bulkhead.model.foreign import foreign

SPOKEN = {
    "NAME": "a name",
    "STRING": "a documentation string in double quotes",
    "KIND": "an operation",
    "INT": "a number",
    "$END": "the end of the file",
    "QUANT": "`forall` or `exists`",
    "STAR": "`*`",
    "EQ": "`=`",
    "NE": "`!=`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "COMMA": "`,`",
    "DOT": "`.`",
    "COLON": "`:`",
    "VBAR": "`|`",
    "ANY_STEPS": "`...`",
    "__ANON_0": "`->`",
}
# Where a word belongs that stands elsewhere.
BELONGS: Final = {
    "uses": 'It follows the string of a component or system: `component NAME "..." uses NAME, NAME(ARGUMENTS)`.',
    "expect": "It belongs to a system: after its `uses`, and after its `scope`.",
    "breaks": "It belongs to a fault: after its string.",
    "writable": "It belongs to a state: after its sort.",
    "when": "It belongs to an operation: after its arguments and string, before its statements.",
    "undo": "It belongs to a check: after its code.",
    "where": "It follows the variables of a `pick`, or the `for all` of a `set`.",
    "then": "It follows the condition of an `if` in a formula.",
}


# What to do about words where only a value, or a part of a scenario, can stand: what could begin there, and the hint.
_BRACKETS = "Behind `=`, `!=` and `else` it needs brackets: `a = ({})`."
INSIDE: Final = {
    "not": ("LPAR", _BRACKETS.format("not b")),
    "forall": ("LPAR", _BRACKETS.format("forall x: S. b")),
    "exists": ("LPAR", _BRACKETS.format("exists x: S. b")),
    "end": ("ANY_STEPS", "A scenario has one part or more: a step, an `assert`, or `...`."),
}


def syntax_problem(error: UnexpectedInput, text: str, file: str, parser: Lark) -> Problem:
    """The one problem to tell of a text that Lark refused with `error`."""
    ended = isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END")
    found = None if ended else foreign(text, error.pos_in_stream or 0)
    if found is not None:
        place = place_of(text, found.start, file)._replace(width=len(found.text))
        return Problem("E0112", place, f"`{found.text}` does not fit here", "", found.instead)
    if isinstance(error, UnexpectedToken) and (word := _word_for_a_name(text, parser)) is not None:
        token, accepted = word
        span = Span(file, token.line or 0, token.column or 0, len(token))
        needed, told = INSIDE.get(str(token), ("", ""))
        hint = told if needed in accepted else "It is a word of the language."
        return Problem("E0101", span, f"`{token}` does not fit here", _expected(accepted), hint)
    if isinstance(error, UnexpectedToken) and not isinstance(error, UnexpectedEOF) and error.token.type != "$END":
        span = Span(file, error.line, error.column, len(error.token))
        return Problem(
            "E0101",
            span,
            f"`{_short(error.token)}` does not fit here",
            _expected(error.accepts or error.expected),
            BELONGS.get(str(error.token)) or _long_string(text, error.pos_in_stream or 0),
        )
    if isinstance(error, UnexpectedCharacters):
        offset = error.pos_in_stream or 0
        if text[offset] == '"':
            return Problem(
                "E0102",
                Span(file, error.line, error.column),
                "this documentation string is not closed",
                hint='Close it with `"`.',
            )
        return Problem(
            "E0103",
            Span(file, error.line, error.column),
            f"the character {text[offset]!r} does not fit here",
            _expected(error.allowed or set()),
            _long_string(text, offset),
        )
    wanted: set[str] | list[str] = getattr(error, "accepts", None) or getattr(error, "expected", None) or set()
    return Problem("E0104", place_of(text, len(text.rstrip()), file), "the file ends too early", _expected(wanted))


def _word_for_a_name(text: str, parser: Lark) -> tuple[Token, set[str]] | None:
    """The last token before a syntax error, and what could stand there, if it is a word of the language read as a name."""
    patterns = [t.pattern.to_regexp() for t in parser.terminals if t.name != "NAME"]
    taken = list[Token]()
    state: Any = parser.parse_interactive(text)  # Lark's methods have no types
    try:
        for token in state.lexer_thread.lex(state.parser_state):
            state.feed_token(token)
            taken.append(token)
    except UnexpectedInput:
        pass
    if not taken or taken[-1].type != "NAME" or not any(re.fullmatch(p, taken[-1]) for p in patterns):
        return None
    before: Any = parser.parse_interactive(text)
    for token in taken[:-1]:
        before.feed_token(token)
    accepted: set[str] = before.accepts()
    return taken[-1], accepted


def _short(token: str) -> str:
    line = token.split("\n")[0]
    return line if line == token and len(line) <= 60 else f"{line[:60]}..."


def _long_string(text: str, offset: int) -> str:
    """A hint on a documentation string of several lines just before a syntax error: its closing quote may be missing."""
    last = None
    for match in re.finditer(r'"[^"]*"|--[^\n]*', text[:offset]):
        last = match if match[0].startswith('"') else last
    if last is None or "\n" not in last[0]:
        return ""
    line = text.count("\n", 0, last.start()) + 1
    return f"The documentation string before it, from line {line}, spans several lines: is it closed?"


def _expected(names: set[str] | list[str]) -> str:
    spoken = sorted({SPOKEN.get(n, f"`{n.lower()}`") for n in names})
    if not spoken:
        return ""
    if len(spoken) > 8:
        spoken = [*spoken[:8], "..."]
    return "Expected " + (" or ".join(spoken) if len(spoken) < 3 else "one of " + ", ".join(spoken)) + "."


def place_of(text: str, offset: int, file: str) -> Span:
    """The place of a character of the text."""
    return Span(file, text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1)
