"""Runs Lark's LALR tables over a text with a faster loop, in half the time: it makes no tokens that no rule reads.

The tables, the terminals and the rules' callbacks all come from Lark, so there is one grammar. If a text
does not parse here, Lark itself parses it again and produces the error message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lark import Lark, Token
from lark.lexer import PatternStr
from lark.parse_tree_builder import ExpandSingleChild
from lark.parsers.lalr_analysis import Shift

END = "$END"
Reduce = tuple[int, Callable[[list[Any]], Any] | None, str]  # number of parts, callback (None: return the only part), name


class NotParsed(Exception):
    """The text is possibly not in the language."""


class Loop:
    """The tables of one grammar, ready to run. The lexer is contextual: it accepts only terminals that the state allows."""

    def __init__(self, lark: Lark) -> None:
        front: Any = lark.parser
        table, callbacks = front.parser.parser.parse_table, front.parser.parser.callbacks
        self._start: int = table.start_states["start"]
        self._end: int = table.end_states["start"]
        rules = {rule for actions in table.states.values() for action, rule in actions.values() if action is not Shift}
        self._read = {symbol.name for rule in rules for symbol in rule.expansion if symbol.is_term and not symbol.filter_out}
        reduces: dict[Any, Reduce] = {}
        for rule in rules:
            made, size = callbacks[rule], len(rule.expansion)
            reduces[rule] = (size, None if size == 1 and isinstance(made, ExpandSingleChild) else made, rule.origin.name)
        self._states: dict[int, dict[str, int | Reduce]] = {
            state: {name: to if action is Shift else reduces[to] for name, (action, to) in actions.items()}
            for state, actions in table.states.items()
        }
        ignored = set(front.lexer_conf.ignore)
        terminals = [t for t in lark.terminals if t.name not in ignored]
        self._plain = [(t.name, t.pattern.value, t.priority) for t in terminals if isinstance(t.pattern, PatternStr)]
        self._patterns = [
            (t.name, re.compile(t.pattern.to_regexp()), t.priority)
            for t in terminals
            if not isinstance(t.pattern, PatternStr)
        ]
        skipped = "|".join(t.pattern.to_regexp() for t in lark.terminals if t.name in ignored)
        signs = "|".join(sorted((re.escape(v) for _, v, _ in self._plain if not v.isidentifier()), key=len, reverse=True))
        self._next = re.compile(rf'(?:{skipped})*+([A-Za-z_][A-Za-z0-9_]*|[0-9]+|"[^"]*"|{signs}|\Z)').match
        self._known: dict[str, tuple[str, ...]] = {"": (END,)}

    def _types(self, text: str) -> tuple[str, ...]:
        """The terminals that match a word, by priority: a keyword comes before a matching pattern."""
        fits = [(-priority, 0, name) for name, value, priority in self._plain if value == text]
        fits += [(-priority, 1, name) for name, pattern, priority in self._patterns if pattern.fullmatch(text)]
        self._known[text] = tuple(name for _, _, name in sorted(fits))
        return self._known[text]

    def parse(self, text: str) -> Any:
        """Parse the text; returns the value of the start symbol's callback. Raises `NotParsed`."""
        states, known, read, following, end = self._states, self._known, self._read, self._next, self._end
        stack, values = [self._start], list[Any]()
        actions = states[self._start]
        place, line, begin = 0, 1, 0  # of the next character; of the line that holds it
        newline = text.find("\n")
        while (found := following(text, place)) is not None:
            word = found[1]
            place = found.end()
            for kind in known.get(word) or self._types(word):
                if kind in actions:
                    break
            else:
                raise NotParsed
            action = actions[kind]
            while not isinstance(action, int):
                size, make, name = action
                if make is None:
                    stack.pop()
                else:
                    parts = values[-size:] if size else []
                    if size:
                        del values[-size:], stack[-size:]
                    values.append(make(parts))
                goto = states[stack[-1]][name]
                assert isinstance(goto, int)
                if goto == end:
                    return values[-1]
                stack.append(goto)
                if kind not in states[goto]:
                    raise NotParsed
                action = states[goto][kind]
            stack.append(action)
            actions = states[action]
            if kind not in read:
                values.append(None)
                continue
            start = place - len(word)
            while -1 < newline < start:
                line, begin = line + 1, newline + 1
                newline = text.find("\n", begin)
            values.append(Token(kind, word, start, line, start - begin + 1))
        raise NotParsed
