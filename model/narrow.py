"""Rewrites closed formulas to equivalent ones that are faster to evaluate over a finite world (miniscoping).

`parts` splits a claim into an equivalent set of formulas, each over as few variables as possible; `nested` makes a
quantifier first evaluate conditions on few of its variables, and bind the others only if these hold. Definitions
are expanded if a conjunct is one. Not here: the semantics of terms (compile.py, logic.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bulkhead.model.ir import BOOL, FALSE, App, Op, Quant, System, Term, Use, Var, conj, conjuncts, free_variables, subterms


def parts(term: Term) -> Iterator[Term]:
    """An equivalent set of formulas: `forall d, h. a(d) implies b(h) and c(d)` gives one over both, and one over d."""
    match term:
        case Op("and", args):
            for arg in args:
                yield from parts(arg)
        case Op("=", (left, right)) if left.sort == BOOL:
            yield from parts(Op("=>", (left, right)))
            yield from parts(Op("=>", (right, left)))
        case Op("=>", (Op("or", args), right)):
            for arg in args:
                yield from parts(Op("=>", (arg, right)))
        case Op("=>", (Quant("exists", vars_, body), right)):  # a premise "exists" is a "forall" outside
            new = {v.name: _fresh(v, free_variables(right) | free_variables(body)) for v in vars_}
            yield from parts(Quant("forall", tuple(new.values()), Op("=>", (substituted(body, new), right))))
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


def _fresh(var: Var, taken: set[str]) -> Var:
    """A fresh variable of the same sort."""
    name = var.name + "'"
    while name in taken:
        name += "'"
    return Var(name, var.sort)


def nested(system: System, term: Term) -> Term:
    """An equivalent formula; a `forall` over an implication tests premises on some variables before it binds the others."""
    if not isinstance(term, Quant) or term.kind != "forall":
        return term
    vars_, supposed, then = _one_point(*premises(system, term))
    return conj([_nest(vars_, case, then) for case in _cases(system, vars_, supposed)])


def _one_point(vars_: tuple[Var, ...], supposed: list[Term], then: Term) -> tuple[tuple[Var, ...], list[Term], Term]:
    """A variable that a premise says is equal to a term is that term: `forall f. a = f and b(f) implies c(f)` is `b(a)
    implies c(a)`."""
    for i, each in enumerate(supposed):
        if isinstance(each, Op) and each.op == "=":
            for var, term in (each.args, each.args[::-1]):
                if isinstance(var, Var) and var in vars_ and var.name not in free_variables(term):
                    left = [substituted(c, {var.name: term}) for c in (*supposed[:i], *supposed[i + 1 :])]
                    return _one_point(tuple(v for v in vars_ if v != var), left, substituted(then, {var.name: term}))
    return vars_, supposed, then


def premises(system: System, term: Quant) -> tuple[tuple[Var, ...], list[Term], Term]:
    """The variables, the premises and the conclusion of a `forall` over an implication."""
    vars_, supposed = term.vars, list[Term]()
    then: Term = term.body
    while True:
        match then:
            case Op("=>", (left, right)):
                supposed += conjuncts(left)
                then = right
            case Op("not", (inner,)):
                supposed.append(inner)
                then = FALSE
            case Quant("forall", more, body):
                taken = {v.name for v in vars_} | free_variables(body)
                new = {v.name: _fresh(v, taken) for v in more}
                vars_ += tuple(new.values())
                then = substituted(body, new)
            case _:
                break
    return vars_, [c for s in supposed for c in _opened(system, s)], then


def _cases(system: System, vars_: tuple[Var, ...], supposed: list[Term]) -> list[list[Term]]:
    """The premises, once for each alternative of a disjunction, if each alternative begins with fewer variables."""
    names = {v.name for v in vars_}
    for i, each in enumerate(supposed):
        if isinstance(each, Op) and each.op == "or":
            ways = [[c for part in conjuncts(arg) for c in _opened(system, part)] for arg in each.args]
            about = free_variables(each) & names
            if all(any(free_variables(c) & names < about for c in way) for way in ways):
                return [case for way in ways for case in _cases(system, vars_, [*supposed[:i], *way, *supposed[i + 1 :]])]
    return [supposed]


def _nest(vars_: tuple[Var, ...], supposed: list[Term], then: Term) -> Term:
    names = {v.name for v in vars_}
    about = [free_variables(c) & names for c in supposed]
    choice = ((a, c) for a, c in zip(about, supposed, strict=True) if a < names)
    few, _ = min(choice, key=lambda each: (not _reads_next(each[1]), len(each[0])), default=(None, None))
    if few is None or not vars_:
        whole = Op("=>", (conj(supposed), then)) if supposed else then
        return Quant("forall", vars_, whole) if vars_ else whole
    first = [c for c, a in zip(supposed, about, strict=True) if a <= few]
    rest = [c for c, a in zip(supposed, about, strict=True) if not a <= few]
    inner = _nest(tuple(v for v in vars_ if v.name not in few), rest, then)
    outer = tuple(v for v in vars_ if v.name in few)
    whole = Op("=>", (conj(first), inner))
    return Quant("forall", outer, whole) if outer else whole


def _reads_next(term: Term) -> bool:
    """Does it read the state after a step? A step changes little, so such parts are evaluated first."""
    return any(isinstance(part, App | Use) and part.next for part in subterms(term))


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
            taken = {n for a in given.values() for n in free_variables(a)} | (free_variables(body) - {v.name for v in vars_})
            new = tuple(_fresh(v, taken) if v.name in taken else v for v in vars_)
            inside = {**given, **{v.name: n for v, n in zip(vars_, new, strict=True)}}
            return Quant(kind, new, substituted(body, inside))
    return term


__all__ = ["after", "nested", "parts", "substituted"]
