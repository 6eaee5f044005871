"""Splits guards into conjuncts, finds the value that each tests, and compiles a count of the satisfied ones.

For searches directed at the unsatisfied conjuncts of a guard (`directed_search.py`). Not here: the choice of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from bulkhead.model.caller import Caller
from bulkhead.model.compile import Coder, code_name, compiled, joined
from bulkhead.model.ir import (
    BOOL,
    FALSE,
    App,
    Lit,
    Op,
    Quant,
    Term,
    Transition,
    Use,
    Var,
    conj,
    conjuncts,
    free_variables,
    neg,
    subterms,
)

LOOPS = 19  # nested loops: Python's compiler allows no more
WAYS = 8  # alternatives of one goal
TRIED = 20_000  # values of arguments, in one evaluation of a probe: of more a part is tried, each time another one


def alternatives(term: Term) -> list[Term]:
    """Conjunctions one of which holds when the term does: cases of an `if` and disjunctions, each a goal of its own.

    How much of a conjunction a state satisfies can be counted; a disjunction is true or not. At most `WAYS`.
    """
    ways, split = [conjuncts(term)], True
    while split:
        split = False
        for kinds in (("ite",), ("or", "=>")):
            for k, parts in enumerate(ways):
                at = next((n for n, p in enumerate(parts) if isinstance(p, Op) and p.op in kinds), None)
                cases = [] if at is None or split else _cases(parts[at])
                if at is not None and cases and len(ways) + len(cases) - 1 <= WAYS:
                    made = [[*parts[:at], *case, *parts[at + 1 :]] for case in cases]
                    ways[k : k + 1] = [m for m in made if FALSE not in m and not any(neg(p) in m for p in m)]
                    split = True
    return [conj(parts) for parts in ways]


def _cases(part: Term) -> list[list[Term]]:
    """The cases in which a formula holds."""
    match part:
        case Op("ite", (cond, then, other)):
            return [[*conjuncts(cond), *conjuncts(then)], [*conjuncts(neg(cond)), *conjuncts(other)]]
        case Op("or", parts):
            return [conjuncts(p) for p in parts]
        case Op("=>", (left, right)):
            return [conjuncts(neg(left)), conjuncts(right)]
    return []


def opened(part: Term, caller: Caller, some: list[Var], room: int) -> list[Term]:
    """The parts of a conjunct: definitions are expanded, and existential quantifiers are opened.

    The bound variable is added to `some`, under a name that no rule can have, up to `room` variables.
    """
    used = part.args[0] if isinstance(part, Op) and part.op == "not" else part
    if isinstance(part, Quant) and part.kind == "exists" and len(some) + len(part.vars) <= room:
        names: dict[str, Term] = {}
        for v in part.vars:
            some.append(Var(f"{len(some)}{v.name}", v.sort))
            names[v.name] = some[-1]
        inside = conjuncts(part.body)
    elif isinstance(used, Use):
        made = caller.machine.system.defs[used.name]
        inside = conjuncts(made.body if used is part else neg(made.body))
        if len(inside) == 1 and wish_of(inside[0]) is None and not isinstance(inside[0], Quant):
            return [part]
        names = {p.name: a for p, a in zip(made.params, used.args, strict=True)}
    else:
        return [part]
    bound = {v.name for p in inside for t in subterms(p) if isinstance(t, Quant) for v in t.vars}
    if any(bound & free_variables(a) for a in names.values()):
        return [part]
    return [o for p in inside for o in opened(_replaced(p, names), caller, some, room)]


def _replaced(term: Term, names: dict[str, Term]) -> Term:
    match term:
        case Var(name):
            return names.get(name, term)
        case App(func, args):
            return App(func, tuple(_replaced(a, names) for a in args), term.sort, term.next)
        case Use(name, args):
            return Use(name, tuple(_replaced(a, names) for a in args), term.sort, term.next)
        case Op(op, args):
            return Op(op, tuple(_replaced(a, names) for a in args), term.sort)
        case Quant(kind, vars_, body):
            inner = {n: t for n, t in names.items() if n not in {v.name for v in vars_}}
            return Quant(kind, vars_, _replaced(body, inner))
    return term


def reads(term: Term, caller: Caller) -> set[str]:
    """The state functions that a term reads, also through definitions."""
    found: set[str] = set()
    for t in subterms(term):
        if isinstance(t, App):
            found.add(t.func)
        elif isinstance(t, Use):
            found |= reads(caller.machine.system.defs[t.name].body, caller)
    return found


@dataclass(frozen=True)
class Wish:
    """A plain conjunct: a state function has, or has not, a value."""

    func: str
    value: Lit
    equal: bool
    every: bool = False  # at every index, so that a place that has the value already is no help

    def by(self, value: Lit) -> bool:
        """Does assigning this value satisfy it?"""
        return (value == self.value) == self.equal


def wish_of(part: Term) -> Wish | None:
    """The state function of a plain conjunct, and the value that it requires."""
    match part:
        case App(func):
            return Wish(func, Lit("true", BOOL), True)
        case Op("=", (App(func), Lit() as value)) | Op("=", (Lit() as value, App(func))):
            return Wish(func, value, True)
        case Quant("forall", _, Op("=>", (_, inner))) | Quant("forall", _, inner):
            asked = wish_of(inner)
            return asked and replace(asked, every=True)
        case Op("not", (Quant("exists", _, inner),)) | Op("not", (inner,)):
            asked = wish_of(inner)
            return asked and replace(asked, equal=not asked.equal)
    return None


def _partly(coder: Coder, part: Term, before: int, pad: str) -> list[str]:
    """Code that counts, of a conjunct about all elements, those that satisfy it: each is a part of the way."""
    if not isinstance(part, Quant) or part.kind != "forall" or not part.vars:
        return []
    loops = " ".join(f"for {code_name(v.name)} in range({coder.size(v)})" for v in part.vars)
    every = math.prod(coder.size(v) for v in part.vars)
    satisfied = f"sum(1 {loops} if {coder.truth(part.body, {})})"
    return [f"{pad}if best < {before + 1}:", f"{pad}    best = max(best, {before} + {satisfied} / {every + 1})"]


def compiled_probe(
    caller: Caller, t: Transition, parts: list[Term], some: list[Var]
) -> tuple[Callable[..., tuple[float, tuple[int, ...] | None]], list[Term]]:
    """Nested loops over the parameters and `some` that evaluate each conjunct as soon as its variables are chosen.

    Returns the compiled probe, and the conjuncts in order of evaluation. The probe gives up, and tells how far it came,
    after `TRIED` values: fifteen distinct arguments of thirty have more arrangements than anybody can try. Only the loops
    nest: Python nests 100 blocks at most, and a guard may have any number of conjuncts.

    `w_k` has a bit for each outer variable that the conjuncts which failed in loop `k` read. A loop ends where its own
    variable is not among those of the loop within: its other values fail in the same way (backjumping).
    """
    coder = caller.coder
    left, order = [*t.params, *some], list[Var]()
    free = [free_variables(p) for p in parts]
    while left:
        chosen = {v.name for v in order}
        left.sort(key=lambda v: -sum(v.name in f and f <= chosen | {v.name} for f in free))
        order.append(left.pop(0))
    bit = {v.name: 1 << k for k, v in enumerate(order)}
    lines, pad, known = ["best = tried = 0"], "", set[str]()
    ends = ["return best, None"]  # what follows each loop, from the outside in
    asked: list[Term] = []
    # First what no step changes; then plain conjuncts: an implication may hold only because its condition, which another
    # conjunct wants, is not yet true.
    todo = sorted(zip(free, parts, strict=True), key=lambda p: (bool(reads(p[1], caller)), wish_of(p[1]) is None))
    for var in (None, *order):
        if var is not None:
            k, size = len(known), coder.size(var)
            lines += [
                f"{pad}tried += {size}",
                f"{pad}if tried > {TRIED}: return best, None",
                f"{pad}o_{k} = int(rnd() * {size})",
                f"{pad}w_{k} = 0",
                f"{pad}for {code_name(var.name)} in (*range(o_{k}, {size}), *range(o_{k})):",
            ]
            if known:
                outer = bit[order[k - 1].name]
                ends += [f"{pad}w_{k - 1} |= w_{k} & ~{outer}", f"{pad}    break", f"{pad}    w_{k - 1} = w_{k}"]
                ends.append(f"{pad}if not w_{k} & {outer}:")
            known.add(var.name)
            pad += "    "
        for f, part in [(f, p) for f, p in todo if f <= known]:
            test = joined("and", [coder.truth(part, {})])
            if test != "True":
                lines += _partly(coder, part, len(asked), pad)
                asked.append(part)
                otherwise = f"w_{len(known) - 1} |= {sum(bit[n] for n in f - {var.name})}; continue" if var else ends[0]
                lines += [f"{pad}if not {test}: {otherwise}", f"{pad}if best < {len(asked)}: best = {len(asked)}"]
        todo = [(f, p) for f, p in todo if not f <= known]
    lines.append(f"{pad}return best, ({''.join(f'{code_name(p.name)}, ' for p in t.params)})")
    lines += reversed(ends)
    return compiled("probe", "S, rnd", coder.with_tables(lines)), [*asked, Lit("true", BOOL)]


__all__ = ["Wish", "alternatives", "compiled_probe", "opened", "reads", "wish_of"]
