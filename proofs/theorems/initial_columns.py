"""Enumerates the initial states of a small world, as columns.

Places that formulas fix directly are filled first (`grounding.py`); open places are filled one after the
other, and partial states are dropped as soon as all places of a violated formula are filled. Symmetry: of interchangeable
elements, constants name the first ones first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bulkhead.model.ir import App, Op, Quant, Term, Use, conjuncts
from bulkhead.proofs.theorems.columns import Batch, Bytes, Env, Formulas, Layout
from bulkhead.proofs.theorems.grounding import Grounding

CHUNK = 1 << 16


@dataclass(frozen=True)
class Initial:
    """Initial states side by side. `every` says that these are all, but for renamings; `tried` counts what was tried.

    `all` is their number where the rest was left out because they would be too many; else 0.
    """

    columns: Bytes
    every: bool
    tried: int
    all: int = 0


def initial_columns(
    layout: Layout, formulas: Formulas, most: int, room: float = math.inf, starts: float = math.inf
) -> Initial:
    """The initial states of a world, at most `most` of them, with at most `room` half-filled states at a time.

    If they would be more than `starts`, only those in which places that no formula speaks of hold their first value.
    """
    bodies = [c.body for c in (*layout.system.inits, *layout.system.axioms)]
    parts: list[Bytes] = []
    every, tried, count = True, 0, 0
    for consts in _placements(layout):
        left = most - sum(p.shape[1] for p in parts)
        if left <= 0 or tried > 2 * room:
            every = False
            break
        made = _filled(layout, formulas, bodies, consts, left, min(room, 64 * left), starts)
        parts.append(made.columns)
        every = every and made.every
        tried += made.tried
        count += made.all
    return Initial(np.concatenate(parts, axis=1) if parts else np.zeros((layout.width, 0), np.uint8), every, tried, count)


def _placements(layout: Layout) -> Iterator[dict[str, int]]:
    """The elements of constants, up to renaming: each names an earlier one's element or the first free one."""
    names = list(layout.consts)

    def place(k: int, placed: dict[str, int]) -> Iterator[dict[str, int]]:
        if k == len(names):
            yield dict(placed)
            return
        sort = layout.system.consts[names[k]]
        size = layout.size(sort)
        if sort in layout.sizes:  # try distinct elements first, as people expect
            used = {v for n, v in placed.items() if layout.system.consts[n] == sort}
            size = min(size, len(used) + 1)
            choices = range(size - 1, -1, -1)
        else:
            choices = range(size - 1, -1, -1)
        for value in choices:
            placed[names[k]] = value
            yield from place(k + 1, placed)
            del placed[names[k]]

    yield from place(0, {})


def _filled(
    layout: Layout,
    formulas: Formulas,
    bodies: list[Term],
    consts: dict[str, int],
    most: int,
    room: float,
    starts: float,
) -> Initial:
    grounding = Grounding(layout.system, layout.world(consts))
    grounding.require(bodies)
    cells = [cell for table in grounding.cells for cell in table]
    if any(not cell for cell in cells):
        return Initial(np.zeros((layout.width, 0), np.uint8), True, 1)
    offset = len(layout.consts)
    known = set(range(offset))
    states = np.zeros((layout.width, 1), np.uint8)
    for name, k in layout.consts.items():
        states[k] = consts[name]
    for k, cell in enumerate(cells, offset):
        if len(cell) == 1:
            states[k] = next(iter(cell))
            known.add(k)
    waiting = [
        (part, env, _speaks_of(part, env, layout, formulas))
        for body in bodies
        for part, env in _instances(body, {}, formulas)
    ]
    waiting = [w for w in waiting if not w[2] <= known] + [w for w in waiting if w[2] <= known]
    # Fill places of the same formulas together, so that violations are found early.
    order: list[int] = []
    for _, _, columns in sorted(waiting, key=lambda w: len(w[2] - known)):
        order += [c for c in sorted(columns) if c not in known and c not in order]
    free = [k for k in range(offset, layout.width) if k not in known and k not in order]
    spread = math.prod(len(cells[k - offset]) for k in free)  # states for each that the formulas leave
    every, tried = True, 1
    states = _kept(states, [w for w in waiting if w[2] <= known], formulas)
    waiting = [w for w in waiting if not w[2] <= known]
    bare = 0  # the number of states of which some are left out
    for at, k in enumerate([*order, *free]):
        formulas.effort.look()
        values = sorted(cells[k - offset])
        if at == len(order) and states.shape[1] * spread > starts:
            bare, every = states.shape[1] * spread, False
        if bare:
            values = values[:1]
        if states.shape[1] * len(values) > room:  # too many to try: some of them
            states, every = states[:, : max(1, int(min(most, room)) // len(values))], False
        states = np.repeat(states, len(values), axis=1)
        states[k] = np.tile(np.array(values, np.uint8), states.shape[1] // len(values))
        known.add(k)
        tried += states.shape[1]
        states = _kept(states, [w for w in waiting if w[2] <= known], formulas)
        waiting = [w for w in waiting if not w[2] <= known]
    if states.shape[1] > most:
        states, every = states[:, :most], False
    return Initial(states, every, tried, bare)


def _instances(body: Term, env: Env, formulas: Formulas) -> Iterator[tuple[Term, Env]]:
    """A formula split into conjuncts, with universal quantifiers instantiated."""
    for part in conjuncts(body):
        match part:
            case Quant("forall", vars_, inner):
                for choice in formulas.choices(vars_):
                    yield from _instances(inner, {**env, **choice}, formulas)
            case _:
                yield part, env


def _speaks_of(term: Term, env: Env, layout: Layout, formulas: Formulas) -> frozenset[int]:
    """The columns that a formula may read, for all values of its indices."""
    found: set[int] = set()

    def look(t: Term, env: Env) -> None:
        match t:
            case App(func, args):
                ranges = []
                for a, sort in zip(args, layout.system.funcs[func].args, strict=True):
                    look(a, env)
                    fixed = _fixed(a, env, layout, formulas)
                    ranges.append(range(layout.size(sort)) if fixed is None else range(fixed, fixed + 1))
                for choice in itertools.product(*ranges):
                    at = 0
                    for value, sort in zip(choice, layout.system.funcs[func].args, strict=True):
                        at = at * layout.size(sort) + value
                    found.add(layout.base[func] + at)
            case Use(name, args):
                made = layout.system.defs[name]
                inner: Env = {}
                for p, a in zip(made.params, args, strict=True):
                    look(a, env)
                    fixed = _fixed(a, env, layout, formulas)
                    if fixed is not None:
                        inner[p.name] = fixed
                look(made.body, inner)
            case Op(_, args):
                for a in args:
                    look(a, env)
            case Quant(_, vars_, body):
                look(body, {k: v for k, v in env.items() if k not in {v.name for v in vars_}})

    look(term, env)
    return frozenset(found)


def _fixed(term: Term, env: Env, layout: Layout, formulas: Formulas) -> int | None:
    """The value of a variable or member; None for other terms."""
    if isinstance(term, App | Op | Quant | Use) or (formulas.free(term) and not set(formulas.free(term)) <= env.keys()):
        return None
    if getattr(term, "name", None) in layout.consts:
        return None
    value = Batch(formulas, np.zeros((layout.width, 1), np.uint8)).value(term, env)
    return value if isinstance(value, int) else None


def _kept(states: Bytes, asked: list[tuple[Term, Env, frozenset[int]]], formulas: Formulas) -> Bytes:
    """The states in which formulas hold."""
    for part, env, _ in asked:
        kept = []
        for begin in range(0, states.shape[1], CHUNK):
            chunk = states[:, begin : begin + CHUNK]
            holds = Batch(formulas, chunk).truth(part, env)
            kept.append(chunk if holds is True else chunk[:, :0] if holds is False else chunk[:, holds])
        if kept:
            states = np.concatenate(kept, axis=1)
    return states


__all__ = ["Initial", "initial_columns"]
