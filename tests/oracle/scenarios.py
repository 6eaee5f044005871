"""Decides whether a scenario is possible, by the reference: tries every run in one world with the interpreter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from bulkhead.model import syntax as s
from tests.oracle.interpreter import Code, Env, Interpreter, State, Taken


def all_initial(oracle: Interpreter, most: int) -> list[State] | None:
    """Every initial state of the world; None where there are too many states to try."""
    values = [oracle.values(sort) for sort in oracle.places.values()]
    if math.prod(map(len, values)) > most:
        return None
    every = (dict(zip(oracle.places, choice, strict=True)) for choice in itertools.product(*values))
    return [state for state in every if oracle.initial(state)]


def possible(
    oracle: Interpreter,
    name: str,
    starts: list[State],
    between: int | None,
    most: int,
    elements: dict[str, Any] | None = None,
) -> bool | None:
    """Is there a run from one of the states? `between` bounds the steps for `...` in all; None if there is too much to try.

    `elements` maps the names of the scenario to elements; without it, all mappings are tried.
    """
    run = oracle.runs[name]
    slots = list(run.elements.values())
    choices: Iterator[tuple[Any, ...]] = itertools.product(*(oracle.values(str(x.sort)) for x in slots))
    if elements is not None:
        choices = iter([tuple(elements[n] for n in run.elements)])
    tried = 0
    for choice in choices:
        env: Env = {slot.number: value for slot, value in zip(slots, choice, strict=True)}
        queue = [(0, 0, state) for state in starts]  # how far, with how many other steps, and where
        seen: set[tuple[Any, ...]] = set()
        while queue:
            k, spent, state = queue.pop()
            if k == len(run.parts):
                return True
            key = (k, spent if between is not None else 0, tuple(state.values()))
            if key in seen:
                continue
            seen.add(key)
            tried += 1
            if tried > most:
                return None
            part, codes = run.parts[k]
            if isinstance(part, s.Asserted):
                if codes[0] is not None and codes[0](env, state, state):
                    queue.append((k + 1, spent, state))
            elif isinstance(part, s.AnySteps):
                queue.append((k + 1, spent, state))
                if between is None or spent < between:
                    queue += [(k, spent + 1, t.after) for t in oracle.successors(state)]
            elif isinstance(part, s.Called):
                queue += [(k + 1, spent, t.after) for t in oracle.successors(state) if _is(part, codes, t, env, state)]
    return False


def _is(part: s.Called, codes: list[Code | None], taken: Taken, env: Env, state: State) -> bool:
    """Does this step match the scenario?"""
    if taken.label != part.step.text or taken.code != (None if part.code is None else part.code.text):
        return False
    given = dict((*taken.args, *taken.picks))
    in_place = [name for name, _ in taken.args if name != "this"]
    for k, ((name, _), code) in enumerate(zip(part.args, codes, strict=True)):
        name = name or in_place[k]
        if code is not None and (name not in given or given[name] != code(env, state, state)):
            return False
    return True


__all__ = ["all_initial", "possible"]
