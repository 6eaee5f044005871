"""The executable model: the checked rules as Python code over the tables of a finite world.

Every guard, claim and assignment is compiled once, from the same tree as the formulas. A step reads the state before it
and assigns all at once; of two assignments to one place the later wins. The machine chooses nothing: arguments and picks
are given by whoever drives it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from model.ir import App, Lit, Op, Quant, System, Term, Transition, Update, Use, Var
from model.world import State, World, size_of, table_sizes

_BINARY = {"and": " and ", "or": " or "}


class Machine:
    """The rules of one system in one world."""

    def __init__(self, system: System, world: World) -> None:
        self.system = system
        self.world = world
        self._number = {name: k for k, name in enumerate(system.funcs)}
        self._members = {m: i for members in system.enums.values() for i, m in enumerate(members)}
        self._space: dict[str, Any] = {}
        for d in system.defs.values():
            params = ", ".join(["S", *(f"v_{p.name}" for p in d.params)])
            exec(f"def d_{d.name}({params}):\n    return {self._code(d.body)}", self._space)
        self.transitions: dict[str, Transition] = {}
        for step in system.steps:
            for t in step.transitions():
                self.transitions.setdefault(t.label, t)
        self._compiled: dict[str, tuple[Callable[..., bool], Callable[..., list[tuple[int, int, int]]]]] = {}
        self._claims: dict[Term, Callable[..., bool]] = {}

    # Code.

    def _code(self, term: Term) -> str:
        match term:
            case Var(name):
                return f"v_{name}"
            case Lit(name, sort):
                if sort == "bool":
                    return "True" if name == "true" else "False"
                return str(self._members[name] if sort in self.system.enums else self.world.consts[name])
            case App(func, args):
                table = "N" if term.next else "S"
                return f"{table}[{self._number[func]}][{self._index(func, args)}]"
            case Use(name, args):
                table = "N" if term.next else "S"
                return f"d_{name}({', '.join([table, *map(self._code, args)])})"
            case Op("not", (inner,)):
                return f"(not {self._code(inner)})"
            case Op("=>", (left, right)):
                return f"((not {self._code(left)}) or {self._code(right)})"
            case Op("=", (left, right)):
                if left.sort == "bool":
                    return f"(bool({self._code(left)}) == bool({self._code(right)}))"
                return f"({self._code(left)} == {self._code(right)})"
            case Op("ite", (cond, then, other)):
                return f"({self._code(then)} if {self._code(cond)} else {self._code(other)})"
            case Op(op, args):
                return "(" + _BINARY[op].join(map(self._code, args)) + ")"
            case Quant(kind, vars_, body):
                loops = " ".join(f"for v_{v.name} in range({size_of(self.system, self.world, v.sort)})" for v in vars_)
                return f"{'all' if kind == 'forall' else 'any'}({self._code(body)} {loops})"
        raise AssertionError(term)

    def _index(self, func: str, args: tuple[Term, ...]) -> str:
        code = "0"
        for arg, sort in zip(args, self.system.funcs[func].args, strict=True):
            code = f"({code}) * {size_of(self.system, self.world, sort)} + {self._code(arg)}" if code != "0" \
                else self._code(arg)
        return code

    def _compile(self, label: str) -> tuple[Callable[..., bool], Callable[..., list[tuple[int, int, int]]]]:
        if label not in self._compiled:
            t = self.transitions[label]
            params = ", ".join(["S", *(f"v_{p.name}" for p in t.params)])
            exec(f"def guard({params}):\n    return {self._code(t.guard)}", self._space)
            lines = [f"def effect({params}):", "    out = []"]
            for u in t.updates:
                lines += self._effect(u)
            exec("\n".join([*lines, "    return out"]), self._space)
            self._compiled[label] = (self._space.pop("guard"), self._space.pop("effect"))
        return self._compiled[label]

    def _effect(self, u: Update) -> list[str]:
        pad, lines = "    ", []
        for v in u.binders:
            lines.append(f"{pad}for v_{v.name} in range({size_of(self.system, self.world, v.sort)}):")
            pad += "    "
        lines.append(f"{pad}if {self._code(u.cond)}:")
        value = self._code(u.value)
        lines.append(f"{pad}    out.append(({self._number[u.func]}, {self._index(u.func, u.args)}, int({value})))")
        return lines

    # Running.

    def empty_state(self) -> State:
        """The state in which every value is the first of its sort."""
        return [[0] * n for n in table_sizes(self.system, self.world)]

    def can_fire(self, state: State, label: str, args: dict[str, int]) -> bool:
        """Does the guard of the transition hold for these arguments?"""
        guard, _ = self._compile(label)
        return bool(guard(state, *(args[p.name] for p in self.transitions[label].params)))

    def fire(self, state: State, label: str, args: dict[str, int]) -> bool:
        """Take the transition in place; False (and nothing changed) when its guard does not hold."""
        guard, effect = self._compile(label)
        values = [args[p.name] for p in self.transitions[label].params]
        if not guard(state, *values):
            return False
        for table, index, value in effect(state, *values):
            state[table][index] = value
        return True

    def holds(self, state: State, term: Term) -> bool:
        """The truth of a closed formula in a state."""
        if term not in self._claims:
            exec(f"def claim(S):\n    return {self._code(term)}", self._space)
            self._claims[term] = self._space.pop("claim")
        return bool(self._claims[term](state))

    def holds_between(self, before: State, after: State, term: Term, failed: bool) -> bool:
        """The truth of a two-state claim over one step."""
        exec(f"def claim(S, N, v_failed):\n    return {self._code(term)}", self._space)
        return bool(self._space.pop("claim")(before, after, failed))

    def choices(self, label: str) -> itertools.product[tuple[int, ...]]:
        """All argument tuples of a transition, in the order of its parameters."""
        return itertools.product(*(range(size_of(self.system, self.world, p.sort))
                                   for p in self.transitions[label].params))
