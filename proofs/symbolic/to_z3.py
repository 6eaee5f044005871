"""Translates terms to Z3 terms. Each is translated once and cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import z3

from bulkhead.proofs.symbolic.terms import BOOL, MODULUS, WIDTH, Term


def as_z3(term: Term) -> Any:
    """The Z3 term."""
    if term.translated is None:
        term.translated = TO_Z3[term.op](*term.args)
    return term.translated


def z3_sort(sort: str) -> Any:
    """The Z3 sort."""
    return z3.BoolSort() if sort == BOOL else z3.BitVecSort(WIDTH)


def _apply_z3(name: str, sort: str, bits: int, *args: Term) -> Any:
    # Always of full width, so that solvers need only equality for names; see `bounds`.
    return z3.Function(name, *[z3_sort(a.sort) for a in args], z3_sort(sort))(*[as_z3(a) for a in args])


def bound_z3(term: Term) -> Any:
    """The condition that a part is within its bits."""
    return z3.ULT(as_z3(term), z3.BitVecVal(1 << term.args[2], WIDTH))


def _sum_z3(constant: int, parts: tuple[tuple[Term, int], ...]) -> Any:
    total = None
    for term, times in parts:
        part = as_z3(term) if times in (1, MODULUS - 1) else as_z3(term) * z3.BitVecVal(times, WIDTH)
        if total is None:
            total = -part if times == MODULUS - 1 else part
        else:
            total = total - part if times == MODULUS - 1 else total + part
    return total if constant == 0 else total + z3.BitVecVal(constant, WIDTH)


TO_Z3: dict[str, Callable[..., Any]] = {
    "number": lambda value: z3.BitVecVal(value, WIDTH),
    "true": lambda: z3.BoolVal(True),
    "false": lambda: z3.BoolVal(False),
    "apply": _apply_z3,
    "not": lambda a: z3.Not(as_z3(a)),
    "and": lambda *args: z3.And([as_z3(a) for a in args]),
    "or": lambda *args: z3.Or([as_z3(a) for a in args]),
    "ite": lambda c, a, b: z3.If(as_z3(c), as_z3(a), as_z3(b)),
    "eq": lambda a, b: as_z3(a) == as_z3(b),
    "sum": _sum_z3,
    "band": lambda a, b: as_z3(a) & as_z3(b),
    "bor": lambda a, b: as_z3(a) | as_z3(b),
    "bxor": lambda a, b: as_z3(a) ^ as_z3(b),
    "shl": lambda a, b: as_z3(a) << as_z3(b),
    "ashr": lambda a, b: as_z3(a) >> as_z3(b),
    "slt": lambda a, b: as_z3(a) < as_z3(b),
    "ult": lambda a, b: z3.ULT(as_z3(a), as_z3(b)),
}
