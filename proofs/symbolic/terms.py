"""Terms of the symbolic runs: bit vectors and booleans, simplified while they are built.

Equal terms are one object, so `is` compares them. Sums are kept as linear combinations and conditions are lifted out of
comparisons: old and new values of a counter cancel, and most queries are decided without a solver. The
rest goes to Z3 (to_z3.py). All numbers have `WIDTH` bits, so wide that no value of the implementation overflows
them; they are signed, as Python's are. Not here: the meaning of the terms.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

WIDTH = 72
MODULUS = 1 << WIDTH
BITS, BOOL = "bits", "bool"


class Term:
    """A term: an operator and its arguments (terms, numbers, names)."""

    __slots__ = ("args", "op", "serial", "sort", "translated")
    __hash__ = object.__hash__

    def __init__(self, op: str, args: tuple[Any, ...], sort: str, serial: int) -> None:
        self.op, self.args, self.sort, self.serial = op, args, sort, serial
        self.translated: Any = None  # cache of to_z3.py

    def __repr__(self) -> str:
        return f"({' '.join([self.op, *map(repr, self.args)])})" if self.args else self.op

    def __bool__(self) -> bool:
        raise TypeError("a term has no truth value; ask the engine")

    def __eq__(self, other: object) -> Term:  # type: ignore[override]
        return eq(self, lift(other))

    def __ne__(self, other: object) -> Term:  # type: ignore[override]
        return Not(eq(self, lift(other)))

    def __add__(self, other: Any) -> Term:
        return add(self, lift(other))

    def __radd__(self, other: Any) -> Term:
        return add(lift(other), self)

    def __sub__(self, other: Any) -> Term:
        return sub(self, lift(other))

    def __rsub__(self, other: Any) -> Term:
        return sub(lift(other), self)

    def __mul__(self, times: int) -> Term:
        constant, parts = _linear(self)
        return _sum(constant * times, {term: n * times for term, n in parts.items()})

    def __neg__(self) -> Term:
        return sub(ZERO, self)

    def __and__(self, other: Any) -> Term:
        return bitand(self, lift(other))

    __rand__ = __and__

    def __or__(self, other: Any) -> Term:
        return bitwise("bor", self, lift(other))

    __ror__ = __or__

    def __xor__(self, other: Any) -> Term:
        return bitwise("bxor", self, lift(other))

    def __invert__(self) -> Term:
        return sub(number(-1), self)

    def __lshift__(self, other: Any) -> Term:
        return shift("shl", self, lift(other))

    def __rshift__(self, other: Any) -> Term:
        return shift("ashr", self, lift(other))

    def __lt__(self, other: Any) -> Term:
        return less("slt", self, lift(other))

    def __gt__(self, other: Any) -> Term:
        return less("slt", lift(other), self)

    def __le__(self, other: Any) -> Term:
        return Not(less("slt", lift(other), self))

    def __ge__(self, other: Any) -> Term:
        return Not(less("slt", self, lift(other)))


_serials = itertools.count()


@functools.cache
def _made(op: str, args: tuple[Any, ...], sort: str) -> Term:
    """The unique term of this form. Serials order terms by creation, the same in every run."""
    return Term(op, args, sort, next(_serials))


def _in_order(terms: Iterable[Term]) -> list[Term]:
    return sorted(terms, key=lambda term: term.serial)


def number(value: int) -> Term:
    """A number."""
    return _made("number", (value % MODULUS,), BITS)


def signed(value: int) -> int:
    """The signed number of these bits."""
    return value - MODULUS if value >= MODULUS >> 1 else value


ZERO = number(0)
TRUE = _made("true", (), BOOL)
FALSE = _made("false", (), BOOL)


def boolean(value: bool) -> Term:
    """A boolean constant."""
    return TRUE if value else FALSE


def lift(value: Any) -> Term:
    """A term, or the term of a Python number or boolean."""
    if isinstance(value, Term):
        return value
    return boolean(value) if isinstance(value, bool) else number(int(value))


def variable(name: str, sort: str = BITS, bits: int = WIDTH) -> Term:
    """A free constant; with fewer `bits` it is a natural number below 2**bits (`bounds` asserts that in a solver)."""
    return apply(name, (), sort, bits)


@functools.cache
def bounds(term: Term) -> frozenset[Term]:
    """The parts of a term that are natural numbers with fewer bits."""
    if term.op == "number":
        return frozenset()
    parts: set[Term] = set()
    for arg in term.args:
        if isinstance(arg, Term):
            parts |= bounds(arg)
        elif isinstance(arg, tuple):
            for part, _ in arg:
                parts |= bounds(part)
    if term.op == "apply" and term.args[2] < WIDTH:
        parts.add(term)
    return frozenset(parts)


def apply(name: str, args: tuple[Term, ...], sort: str = BITS, bits: int = WIDTH) -> Term:
    """An uninterpreted function; with fewer `bits` its values are natural numbers below 2**bits."""
    return _made("apply", (name, sort, bits, *args), sort)


def is_number(term: Term) -> bool:
    """Is it a plain number?"""
    return term.op == "number"


# --- booleans ---


def Not(a: Term) -> Term:
    """Negation."""
    if a is TRUE:
        return FALSE
    if a is FALSE:
        return TRUE
    if a.op == "not":
        negated: Term = a.args[0]
        return negated
    return _made("not", (a,), BOOL)


def And(*args: Term | Iterable[Term]) -> Term:
    """Conjunction of terms, or of the terms of one iterable."""
    return _junction("and", args, TRUE, FALSE)


def Or(*args: Term | Iterable[Term]) -> Term:
    """Disjunction of terms, or of the terms of one iterable."""
    return _junction("or", args, FALSE, TRUE)


def _junction(op: str, args: tuple[Any, ...], unit: Term, zero: Term) -> Term:
    if len(args) == 1 and not isinstance(args[0], Term):
        args = tuple(args[0])
    parts: dict[Term, None] = {}
    for arg in args:
        arg = lift(arg)
        for part in arg.args if arg.op == op else (arg,):
            if part is zero or Not(part) in parts:
                return zero
            if part is not unit:
                parts[part] = None
    if len(parts) < 2:
        return next(iter(parts), unit)
    return _made(op, tuple(parts), BOOL)


def Implies(a: Term, b: Term) -> Term:
    """Implication."""
    return Or(Not(a), b)


@functools.lru_cache(maxsize=None, typed=True)  # 1 and True are different terms
def If(cond: Term, yes: Any, no: Any) -> Term:
    """One of two terms of one sort."""
    yes, no = lift(yes), lift(no)
    if cond is TRUE or yes is no:
        return yes  # type: ignore[no-any-return]
    if cond is FALSE:
        return no  # type: ignore[no-any-return]
    if cond.op == "not":
        return If(cond.args[0], no, yes)
    if yes.op == "ite" and yes.args[0] is cond:
        return If(cond, yes.args[1], no)
    if no.op == "ite" and no.args[0] is cond:
        return If(cond, yes, no.args[2])
    if yes.sort == BOOL:
        if yes is TRUE or yes is cond:
            return Or(cond, no)
        if yes is FALSE:
            return And(Not(cond), no)
        if no is TRUE:
            return Or(Not(cond), yes)
        if no is FALSE or no is cond:
            return And(cond, yes)
    return _made("ite", (cond, yes, no), yes.sort)


# --- numbers ---

Linear = tuple[int, dict[Term, int]]  # a constant, and the coefficient of each term


def _linear(term: Term) -> Linear:
    if term.op == "number":
        return term.args[0], {}
    if term.op == "sum":
        return term.args[0], dict(term.args[1])
    return 0, {term: 1}


def _sum(constant: int, parts: dict[Term, int]) -> Term:
    kept = {t: n % MODULUS for t, n in parts.items() if n % MODULUS}
    if not kept:
        return number(constant)
    if len(kept) == 1 and constant % MODULUS == 0:
        ((term, times),) = kept.items()
        if times == 1:
            return term
    return _made("sum", (constant % MODULUS, tuple((t, kept[t]) for t in _in_order(kept))), BITS)


def _combined(a: Term, b: Term, sign: int) -> Linear:
    constant, parts = _linear(a)
    more, others = _linear(b)
    for term, times in others.items():
        parts[term] = parts.get(term, 0) + sign * times
    return constant + sign * more, parts


@functools.cache
def add(a: Term, b: Term) -> Term:
    """Addition."""
    return _sum(*_combined(a, b, 1))


@functools.cache
def sub(a: Term, b: Term) -> Term:
    """Subtraction."""
    return _sum(*_combined(a, b, -1))


@functools.cache
def bits_of(term: Term) -> int:
    """An upper bound on the number of low bits that can be nonzero."""
    match term.op:
        case "number":
            return int(term.args[0]).bit_length()
        case "apply":
            return int(term.args[2])
        case "ite":
            return int(max(bits_of(term.args[1]), bits_of(term.args[2])))
        case "band":
            return int(min(bits_of(a) for a in term.args))
        case "bor" | "bxor":
            return int(max(bits_of(a) for a in term.args))
        case "shl" if is_number(term.args[1]):
            return min(WIDTH, bits_of(term.args[0]) + int(term.args[1].args[0]))
        case "ashr" if is_number(term.args[1]) and bits_of(term.args[0]) < WIDTH:
            return max(0, int(bits_of(term.args[0])) - int(term.args[1].args[0]))
        case "sum" if term.args[0] < MODULUS >> 1 and all(n < MODULUS >> 1 for _, n in term.args[1]):
            most = term.args[0] + sum(((1 << bits_of(t)) - 1) * n for t, n in term.args[1])
            return min(WIDTH, int(most).bit_length())
    return WIDTH


def _numbers_only(term: Term) -> bool:
    """Is it a number, or a choice between numbers?"""
    return is_number(term) or (term.op == "ite" and _numbers_only(term.args[1]) and _numbers_only(term.args[2]))


def _choice(parts: Iterable[Term]) -> Term | None:
    """An addend that is a choice between numbers."""
    return next((t for t in parts if t.op == "ite" and _numbers_only(t)), None)


def _lifted(term: Term, then: Callable[[Term], Term]) -> Term | None:
    """Lift a choice between numbers out of a comparison of a sum."""
    constant, parts = _linear(term)
    choice = _choice(parts)
    if choice is None:
        return None
    times = parts.pop(choice)

    def case(value: Term) -> Term:
        added = number(value.args[0] * times) if is_number(value) else _sum(0, {value: times})
        return then(add(_sum(constant, parts), added))

    return If(choice.args[0], case(choice.args[1]), case(choice.args[2]))


@functools.cache
def eq(a: Term, b: Term) -> Term:
    """Equality."""
    if a is b:
        return TRUE
    if a.sort == BOOL:
        return _iff(a, b)
    if a.op == "ite" and b.op == "ite" and a.args[0] is b.args[0]:
        return If(a.args[0], eq(a.args[1], b.args[1]), eq(a.args[2], b.args[2]))
    for one, other in ((a, b), (b, a)):
        if one.op == "ite" and (one.args[1] is other or one.args[2] is other):
            return If(one.args[0], eq(one.args[1], other), eq(one.args[2], other))
    return _is_zero(sub(a, b))


@functools.cache
def _is_zero(difference: Term) -> Term:
    constant, parts = _linear(difference)
    if not parts:
        return boolean(constant % MODULUS == 0)
    lifted = _lifted(difference, _is_zero)
    if lifted is not None:
        return lifted
    if len(parts) == 1:
        ((term, times),) = parts.items()
        if times in (1, MODULUS - 1):
            return _equals_number(term, -constant if times == 1 else constant)
    if len(parts) == 2 and sorted(parts.values()) == [1, MODULUS - 1]:
        one, other = _in_order(parts)
        if constant == 0:
            return _made("eq", (one, other), BOOL)
    return _made("eq", (difference, ZERO), BOOL)


def _equals_number(term: Term, value: int) -> Term:
    if value % MODULUS >> bits_of(term):
        return FALSE
    if term.op == "ite":
        return If(term.args[0], eq(term.args[1], number(value)), eq(term.args[2], number(value)))
    if term.op == "band" and value == 0 and is_number(term.args[1]) and term.args[1].args[0].bit_count() in (2, 3):
        # None of a few bits: each bit is tested separately elsewhere.
        bits = [1 << i for i in range(WIDTH) if term.args[1].args[0] >> i & 1]
        return And([eq(bitand(term.args[0], number(bit)), ZERO) for bit in bits])
    return _made("eq", (term, number(value)), BOOL)


def _iff(a: Term, b: Term) -> Term:
    if b is TRUE or b is FALSE:
        a, b = b, a
    if a is TRUE:
        return b
    if a is FALSE:
        return Not(b)
    if Not(a) is b:
        return FALSE
    return _made("eq", tuple(_in_order((a, b))), BOOL)


@functools.cache
def bitand(a: Term, b: Term) -> Term:
    """Bitwise and."""
    if is_number(a):
        a, b = b, a
    for one, other in ((a, b), (b, a)):
        lifted = _lifted(one, functools.partial(bitand, other))
        if lifted is not None:
            return lifted
    if is_number(b):
        mask = b.args[0]
        if is_number(a):
            return number(a.args[0] & mask)
        width = bits_of(a)
        if mask & ((1 << width) - 1) == (1 << width) - 1:
            return a
        if mask & ((1 << width) - 1) == 0:
            return ZERO
        if a.op == "ite":
            return If(a.args[0], bitand(a.args[1], b), bitand(a.args[2], b))
        if a.op == "bor":
            return bitwise("bor", bitand(a.args[0], b), bitand(a.args[1], b))
        if a.op == "band" and is_number(a.args[1]):
            return bitand(a.args[0], number(a.args[1].args[0] & mask))
    return a if a is b else _made("band", (a, b), BITS)


@functools.cache
def bitwise(op: str, a: Term, b: Term) -> Term:
    """`bor` or `bxor`."""
    if is_number(a) and is_number(b):
        return number(a.args[0] | b.args[0] if op == "bor" else a.args[0] ^ b.args[0])
    if a is ZERO:
        return b
    if b is ZERO:
        return a
    if a is b:
        return a if op == "bor" else ZERO
    return _made(op, (a, b), BITS)


def shift(op: str, a: Term, by: Term) -> Term:
    """`shl` or `ashr`."""
    if by is ZERO or a is ZERO:
        return a
    if is_number(by):
        n = by.args[0]
        if is_number(a):
            return number(a.args[0] << n if op == "shl" else signed(a.args[0]) >> n)
        if op == "ashr" and bits_of(a) <= n:
            return ZERO
        if a.op == "ite":
            return If(a.args[0], shift(op, a.args[1], by), shift(op, a.args[2], by))
    return _made(op, (a, by), BITS)


@functools.cache
def less(op: str, a: Term, b: Term) -> Term:
    """Signed (`slt`) or unsigned (`ult`) order."""
    if a is b:
        return FALSE
    if is_number(a) and is_number(b):
        x, y = a.args[0], b.args[0]
        return boolean(signed(x) < signed(y) if op == "slt" else x < y)
    if bits_of(a) < WIDTH and is_number(b):  # both are natural numbers
        if op == "slt" and signed(b.args[0]) <= 0:
            return FALSE
        if b.args[0] >> bits_of(a):
            return TRUE
    if bits_of(b) < WIDTH and is_number(a) and (signed(a.args[0]) < 0 if op == "slt" else False):
        return TRUE
    if is_number(a) and b is not a and bits_of(b) < WIDTH and a.args[0] >> bits_of(b) and signed(a.args[0]) >= 0:
        return FALSE
    if op == "ult" and b is ZERO:
        return FALSE
    for one, other, swapped in ((a, b, False), (b, a, True)):
        if is_number(other):
            lifted = _lifted(one, lambda case, o=other, s=swapped: less(op, o, case) if s else less(op, case, o))  # type: ignore
            if lifted is not None:
                return lifted
    return _made(op, (a, b), BOOL)


def ULT(a: Any, b: Any) -> Term:
    """Less, as natural numbers."""
    return less("ult", lift(a), lift(b))


def ULE(a: Any, b: Any) -> Term:
    """At most, as natural numbers."""
    return Not(less("ult", lift(b), lift(a)))


def UGE(a: Any, b: Any) -> Term:
    """At least, as natural numbers."""
    return Not(less("ult", lift(a), lift(b)))
