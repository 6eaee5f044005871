"""Rewrites closed formulas to equivalent ones that are faster to evaluate over a finite world (miniscoping).

`parts` splits a claim into an equivalent set of formulas, each over as few variables as possible; `nested` makes a
quantifier first evaluate conditions on few of its variables, and bind the others only if these hold. Definitions
are expanded if a conjunct is one. Not here: the semantics of terms (compile.py, logic.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bulkhead.model.ir import BOOL, App, Op, Quant, System, Term, Use, Var, conj, conjuncts, free_variables


def parts(term: Term) -> Iterator[Term]:
    """An equivalent set of formulas: `forall d, h. a(d) implies b(h) and c(d)` gives one over both, and one over d."""
    match term:
        case Op("and", args):
            for arg in args:
                yield from parts(arg)
        case Op("=>", (left, right)):
            for part in parts(right):
                yield Op("=>", (left, part))
        case Quant("forall", vars_, body):
            for part in parts(body):
                free = free_variables(part)
                kept = tuple(v for v in vars_ if v.name in free)
                yield Quant("forall", kept, part) if kept else part
        case _:
            yield term


def nested(system: System, term: Term) -> Term:
    """An equivalent formula; a `forall` over an implication tests premises on some variables before it binds the others."""
    if not isinstance(term, Quant) or term.kind != "forall":
        return term
    supposed: list[Term] = []
    then: Term = term.body
    while isinstance(then, Op) and then.op == "=>":
        supposed += conjuncts(then.args[0])
        then = then.args[1]
    supposed = [c for s in supposed for c in _opened(system, s)]
    return _nest(term.vars, supposed, then)


def _nest(vars_: tuple[Var, ...], supposed: list[Term], then: Term) -> Term:
    names = {v.name for v in vars_}
    about = [free_variables(c) & names for c in supposed]
    few = min((a for a in about if a < names), key=len, default=None)
    if few is None or not vars_:
        whole = Op("=>", (conj(supposed), then)) if supposed else then
        return Quant("forall", vars_, whole) if vars_ else whole
    first = [c for c, a in zip(supposed, about, strict=True) if a <= few]
    rest = [c for c, a in zip(supposed, about, strict=True) if not a <= few]
    inner = _nest(tuple(v for v in vars_ if v.name not in few), rest, then)
    outer = tuple(v for v in vars_ if v.name in few)
    whole = Op("=>", (conj(first), inner))
    return Quant("forall", outer, whole) if outer else whole


def _opened(system: System, term: Term) -> list[Term]:
    """The conjuncts of a formula, with those of definitions."""
    out: list[Term] = []
    for part in conjuncts(term):
        if isinstance(part, Use) and part.sort == BOOL:
            made = system.defs[part.name]
            body = after(made.body) if part.next else made.body
            given = {p.name: a for p, a in zip(made.params, part.args, strict=True)}
            out += _opened(system, substituted(body, given))
        else:
            out.append(part)
    return out


def after(term: Term) -> Term:
    """The term, read after the step."""
    match term:
        case App(func, args, sort):
            return App(func, tuple(map(after, args)), sort, True)
        case Use(name, args, sort):
            return Use(name, tuple(map(after, args)), sort, True)
        case Op(op, args, sort):
            return Op(op, tuple(map(after, args)), sort)
        case Quant(kind, vars_, body):
            return Quant(kind, vars_, after(body))
    return term


def substituted(term: Term, given: Mapping[str, Term]) -> Term:
    """The term with its free variables substituted; bound variables are renamed to avoid capture."""
    match term:
        case Var(name):
            return given.get(name, term)
        case App(func, args, sort, next_):
            return App(func, tuple(substituted(a, given) for a in args), sort, next_)
        case Use(name, args, sort, next_):
            return Use(name, tuple(substituted(a, given) for a in args), sort, next_)
        case Op(op, args, sort):
            return Op(op, tuple(substituted(a, given) for a in args), sort)
        case Quant(kind, vars_, body):
            coming = {n for a in given.values() for n in free_variables(a)}
            new = tuple(Var(v.name + "'" if v.name in coming else v.name, v.sort) for v in vars_)
            inside = {**given, **{v.name: n for v, n in zip(vars_, new, strict=True)}}
            return Quant(kind, new, substituted(body, inside))
    return term


__all__ = ["after", "nested", "parts", "substituted"]
