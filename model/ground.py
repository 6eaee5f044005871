"""Initial states of a finite world, from Z3: formulas written out, with one truth value per place and value of the state."""

from __future__ import annotations

import itertools
import random
from typing import Any

from model.ir import BOOL, App, Lit, Op, Quant, System, Term, Use, Var
from model.world import State, World, size_of, table_sizes


class Ground:
    """Formulas written out over a finite world, for Z3: one truth value per place and value of the state."""

    def __init__(self, system: System, world: World) -> None:
        import z3  # slow to import, and needed only where the state of all zeros will not do

        self.z3 = z3
        self.system, self.world = system, world
        self.cells: list[list[list[Any]]] = []
        self.members = {(sort, m): i for sort, ms in self.system.enums.items() for i, m in enumerate(ms)}
        self.number = {name: k for k, name in enumerate(self.system.funcs)}
        for f, n in zip(self.system.funcs.values(), table_sizes(self.system, self.world), strict=True):
            size = size_of(self.system, self.world, f.sort)
            table = []
            for i in range(n):
                if f.sort == BOOL:
                    cell = z3.Bool(f"{f.name}@{i}")
                    table.append([z3.Not(cell), cell])
                else:
                    table.append([z3.Bool(f"{f.name}@{i}={v}") for v in range(size)])
            self.cells.append(table)

    def solve(self, bodies: list[Term], rng: random.Random | None) -> State | None:
        z3 = self.z3
        solver = z3.SolverFor("QF_FD")
        solver.set("random_seed", 0 if rng is None else rng.randrange(2**30))
        for f, table in zip(self.system.funcs.values(), self.cells, strict=True):
            for cell in table:
                if f.sort != BOOL:
                    solver.add(z3.PbEq([(b, 1) for b in cell], 1))
        for body in bodies:
            solver.add(self.truth(body, {}))
        # With `rng`, random values are asked for, and those that contradict the formulas or each other given up.
        wishes = {} if rng is None else {str(w): w for table in self.cells for w in map(rng.choice, table)}
        while (answer := solver.check(*wishes.values())) == z3.unsat and wishes:
            core = [str(c) for c in solver.unsat_core()]
            for name in core or list(wishes):
                wishes.pop(name, None)
        if answer != z3.sat:
            return None
        model = solver.model()
        return [[next(v for v, b in enumerate(cell) if z3.is_true(model.eval(b, model_completion=True)))
                 for cell in table] for table in self.cells]

    def either(self, parts: list[Any]) -> Any:
        if any(p is True for p in parts):
            return True
        kept = [p for p in parts if p is not False]
        return self.z3.Or(kept) if len(kept) > 1 else kept[0] if kept else False

    def both(self, parts: list[Any]) -> Any:
        return self.no(self.either([self.no(p) for p in parts]))

    def no(self, part: Any) -> Any:
        if isinstance(part, bool):
            return not part
        return part.arg(0) if self.z3.is_not(part) else self.z3.Not(part)

    def values(self, term: Term, env: dict[str, dict[int, Any]]) -> dict[int, Any]:
        """Each value the term may have, and when it has it."""
        match term:
            case Var(name):
                return env[name]
            case Lit(name, sort) if sort != BOOL:
                return {self.members[sort, name] if sort in self.system.enums else self.world.consts[name]: True}
            case App(func, args):
                found: dict[int, list[Any]] = {}
                sizes = [size_of(self.system, self.world, s) for s in self.system.funcs[func].args]
                for choice in itertools.product(*(self.values(a, env).items() for a in args)):
                    index = 0
                    for (i, _), n in zip(choice, sizes, strict=True):
                        index = index * n + i
                    for v, cell in enumerate(self.cells[self.number[func]][index]):
                        found.setdefault(v, []).append(self.both([cell, *(when for _, when in choice)]))
                return {v: self.either(parts) for v, parts in found.items()}
            case Use(name, args) if term.sort != BOOL:
                made = self.system.defs[name]
                return self.values(made.body, {p.name: self.values(a, env)
                                               for p, a in zip(made.params, args, strict=True)})
            case Op("ite", (cond, then, other)):
                test, a, b = self.truth(cond, env), self.values(then, env), self.values(other, env)
                other_way = self.no(test)
                return {v: self.either([self.both([test, a.get(v, False)]), self.both([other_way, b.get(v, False)])])
                        for v in {**a, **b}}
        when = self.truth(term, env)
        return {0: self.no(when), 1: when}

    def truth(self, term: Term, env: dict[str, dict[int, Any]]) -> Any:
        match term:
            case Lit(name):
                return name == "true"
            case Use(name, args):
                made = self.system.defs[name]
                return self.truth(made.body, {p.name: self.values(a, env)
                                              for p, a in zip(made.params, args, strict=True)})
            case Op("not", (inner,)):
                return self.no(self.truth(inner, env))
            case Op("=>", (left, right)):
                return self.either([self.no(self.truth(left, env)), self.truth(right, env)])
            case Op("and", args):
                return self.both([self.truth(a, env) for a in args])
            case Op("or", args):
                return self.either([self.truth(a, env) for a in args])
            case Op("=", (left, right)):
                a, b = self.values(left, env), self.values(right, env)
                return self.either([self.both([when, b[v]]) for v, when in a.items() if v in b])
            case Quant(kind, vars_, body):
                ranges = [range(size_of(self.system, self.world, v.sort)) for v in vars_]
                parts = [self.truth(body, env | {v.name: {i: True} for v, i in zip(vars_, choice, strict=True)})
                         for choice in itertools.product(*ranges)]
                return self.both(parts) if kind == "forall" else self.either(parts)
        return self.values(term, env).get(1, False)


__all__ = ["Ground"]
