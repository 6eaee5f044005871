"""Drives the executable model: single calls with their error codes, initial states, seeded random walks.

`machine.py` takes transitions whose arguments are given; here calls are made as a caller makes them: checks in order,
picks chosen, one code per outcome. For speed the steps are compiled a second time, with quantifiers written out over
the world and the state's tables held in local names. Nothing here proves a theorem: what a walk misses may still be
reachable.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from model.diagnostics import UsageError, suggest
from model.ir import BOOL, THIS, App, Check, Lit, Op, Quant, Step, Term, Transition, Update, Use, Var, subterms
from model.machine import Machine
from model.world import State, size_of, table_sizes

OKAY = "okay"
UNROLL = 128  # ground copies of one quantifier or assignment that are written out; beyond, a loop
MAY_FAIL = 0.125  # how often a `may fail` check fails in a walk
LEG = 2000  # steps of a walk between two restarts


@dataclass(frozen=True)
class Outcome:
    """What came of a call. `code` is None when it cannot be called now; `result` is what it returned, if anything."""

    code: str | None
    result: int | None = None
    picks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WalkStats:
    """`taken` calls changed the state by a transition, `refused` calls ended otherwise; `fired` counts transitions."""

    taken: int
    refused: int
    fired: dict[str, int]


Env = dict[str, str]  # variable -> the code that stands for it


class _Coder:
    """Terms as Python expressions over tables `T0`, `T1`, ... (`N0`, ... after the step) held in local names."""

    def __init__(self, machine: Machine) -> None:
        self.system = machine.system
        self.world = machine.world
        self.number = {name: k for k, name in enumerate(self.system.funcs)}
        self.members = {(sort, m): i for sort, ms in self.system.enums.items() for i, m in enumerate(ms)}
        self.fresh = itertools.count()

    def size(self, var: Var) -> int:
        return size_of(self.system, self.world, var.sort)

    def place(self, func: str, args: tuple[Term, ...], env: Env, after: bool = False) -> tuple[str, str]:
        """The table and the flat index of an application."""
        parts, known, stride = [], 0, 1
        for arg, sort in reversed(list(zip(args, self.system.funcs[func].args, strict=True))):
            code = self.value(arg, env)
            if code.isdigit():
                known += int(code) * stride
            else:
                parts.append(code if stride == 1 else f"{code}*{stride}")
            stride *= size_of(self.system, self.world, sort)
        if known or not parts:
            parts.append(str(known))
        return f"{'N' if after else 'T'}{self.number[func]}", "+".join(parts)

    def value(self, term: Term, env: Env) -> str:
        """The term as an integer."""
        match term:
            case Var(name):
                return env.get(name, f"v_{name}")
            case Lit(name, sort):
                if sort == BOOL:
                    return "1" if name == "true" else "0"
                return str(self.members[sort, name] if sort in self.system.enums else self.world.consts[name])
            case App(func, args):
                table, index = self.place(func, args, env, term.next)
                return f"{table}[{index}]"
            case Use(_, args) if term.sort != BOOL:
                return self.value(*self._opened(term, args, env))
            case Op("ite", (cond, then, other)):
                test = self.truth(cond, env)
                if test in ("True", "False"):
                    return self.value(then if test == "True" else other, env)
                return f"({self.value(then, env)} if {test} else {self.value(other, env)})"
        test = self.truth(term, env)
        return {"True": "1", "False": "0"}.get(test, f"(1 if {test} else 0)")

    def _opened(self, term: Use, args: tuple[Term, ...], env: Env) -> tuple[Term, Env]:
        """The body of a definition, its parameters standing for the arguments' code."""
        made = self.system.defs[term.name]
        body = _in_next(made.body) if term.next else made.body
        return body, {p.name: self.value(a, env) for p, a in zip(made.params, args, strict=True)}

    def truth(self, term: Term, env: Env) -> str:
        """The term as a condition: `True`, `False`, or an expression in parentheses where it needs them."""
        match term:
            case Use(_, args):
                return self.truth(*self._opened(term, args, env))
            case Op("not", (inner,)):
                return _negated(self.truth(inner, env))
            case Op("=>", (left, right)):
                return joined("or", [_negated(self.truth(left, env)), self.truth(right, env)])
            case Op("=", (left, right)):
                a, b = self.value(left, env), self.value(right, env)
                if a == b:
                    return "True"
                return "False" if a.isdigit() and b.isdigit() else f"({a} == {b})"
            case Op(("and" | "or") as op, args):
                return joined(op, (self.truth(a, env) for a in args))
            case Quant(kind, vars_, body):
                return self._quantified(kind, vars_, body, env)
        code = self.value(term, env)
        return {"1": "True", "0": "False"}.get(code, code)

    def _quantified(self, kind: str, vars_: tuple[Var, ...], body: Term, env: Env) -> str:
        word = "and" if kind == "forall" else "or"
        # A part that does not speak of all the variables is asked once, not again for each of the others.
        guarded = isinstance(body, Op) and body.op == ("=>" if kind == "forall" else "and")
        if guarded and isinstance(body, Op) and len(vars_) > 1:
            first, rest = body.args[0], body.args[1:]
            free = free_variables(first)
            outer = tuple(v for v in vars_ if v.name in free)
            inner = tuple(v for v in vars_ if v.name not in free)
            if outer and inner:
                tail = rest[0] if len(rest) == 1 else Op(body.op, rest)
                return self._quantified(kind, outer, Op(body.op, (first, Quant(kind, inner, tail))), env)
        count = 1
        for v in vars_:
            count *= self.size(v)
        if count <= UNROLL:
            ranges = [range(self.size(v)) for v in vars_]
            return joined(word, (self.truth(body, env | {v.name: str(i) for v, i in zip(vars_, choice, strict=True)})
                                  for choice in itertools.product(*ranges)))
        inside, loops = dict(env), []
        for v in vars_:
            name = f"q{next(self.fresh)}"  # a definition's arguments may speak of the variables around it
            inside[v.name] = name
            loops.append(f"for {name} in range({self.size(v)})")
        return f"{'all' if word == 'and' else 'any'}({self.truth(body, inside)} {' '.join(loops)})"

    def header(self, state: str = "S", prefix: str = "T") -> str:
        return "".join(f"{prefix}{k}, " for k in range(len(self.number))) + f"= {state}" if self.number else "pass"

    # Statements.

    def effect(self, updates: tuple[Update, ...]) -> list[str]:
        """Assignments that read the state before all of them; of two to one place the later wins."""
        if self._ordered(updates):
            return [line for u in updates for line in self._assign(u, "{t}[{i}] = {v}")]
        lines = ["W = []"]
        for u in updates:
            lines += self._assign(u, "W.append(({t}, {i}, {v}))")
        return [*lines, "for wt, wi, wv in W:", "    wt[wi] = wv"]

    def _ordered(self, updates: tuple[Update, ...]) -> bool:
        """May the assignments be made one after the other, because none reads what one before it has written?"""
        written: set[str] = set()
        for u in updates:
            if u.binders:
                written.add(u.func)  # its own later rounds must not read its earlier ones
            if any(f in written for t in (u.cond, u.value, *u.args) for f in self._reads(t)):
                return False
            written.add(u.func)
        return True

    def _reads(self, term: Term) -> Iterator[str]:
        for t in subterms(term):
            if isinstance(t, App):
                yield t.func
            elif isinstance(t, Use):
                yield from self._reads(self.system.defs[t.name].body)

    def _assign(self, u: Update, form: str) -> list[str]:
        count = 1
        for v in u.binders:
            count *= self.size(v)
        lines: list[str] = []
        if count <= UNROLL:
            for choice in itertools.product(*(range(self.size(v)) for v in u.binders)):
                env = {v.name: str(i) for v, i in zip(u.binders, choice, strict=True)}
                lines += self._guarded(u, env, form, "")
            return lines
        pad = ""
        for v in u.binders:
            lines.append(f"{pad}for v_{v.name} in range({self.size(v)}):")
            pad += "    "
        body = self._guarded(u, {}, form, pad)
        return lines + body if body else []

    def _guarded(self, u: Update, env: Env, form: str, pad: str) -> list[str]:
        test = self.truth(u.cond, env)
        if test == "False":
            return []
        table, index = self.place(u.func, u.args, env)
        line = form.format(t=table, i=index, v=self.value(u.value, env))
        return [pad + line] if test == "True" else [f"{pad}if {test}:", f"{pad}    {line}"]


def joined(word: str, parts: Any) -> str:
    """The conjunction or disjunction of conditions, cut short where one decides it."""
    neutral, decisive = ("True", "False") if word == "and" else ("False", "True")
    kept: dict[str, None] = {}
    for part in parts:
        if part == decisive:
            return decisive
        if part != neutral:
            kept[part] = None
    if len(kept) > 1:
        return "(" + f" {word} ".join(kept) + ")"
    return next(iter(kept), neutral)


def _negated(code: str) -> str:
    return {"True": "False", "False": "True"}.get(code, f"(not {code})")


def free_variables(term: Term) -> set[str]:
    match term:
        case Var(name):
            return {name}
        case App(_, args) | Op(_, args) | Use(_, args):
            return {n for a in args for n in free_variables(a)}
        case Quant(_, vars_, body):
            return free_variables(body) - {v.name for v in vars_}
    return set()


def _in_next(term: Term) -> Term:
    """The term, read in the state after the step."""
    match term:
        case App(func, args):
            return App(func, tuple(map(_in_next, args)), term.sort, True)
        case Use(name, args):
            return Use(name, tuple(map(_in_next, args)), term.sort, True)
        case Op(op, args):
            return Op(op, tuple(map(_in_next, args)), term.sort)
        case Quant(kind, vars_, body):
            return Quant(kind, vars_, _in_next(body))
    return term


def _indent(lines: list[str], depth: int = 1) -> list[str]:
    return ["    " * depth + line for line in lines]


def _failing(step: Step, check: Check) -> Transition | None:
    """The transition that a failing check makes, or None when the state stays as it is."""
    if check.undo:
        updates = check.undo + step._at(step.on_error)
        return Transition(step.undone_label(check), step, (), check.fails, updates, check.code)
    if step.point and step.on_error != step.point:
        return Transition(f"{step.label}!error", step, (), check.fails, step._at(step.on_error), check.code)
    return None


class Caller:
    """Makes calls on a machine's states, and finds its initial states."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.steps: dict[str, Step] = {s.label: s for s in machine.system.steps}
        self.transitions: list[Transition] = [t for s in machine.system.steps for t in s.transitions()]
        self.coder = _Coder(machine)
        self._calls: dict[str, Callable[..., Any]] = {}
        self._values: dict[tuple[Term, tuple[str, ...]], Callable[..., int]] = {}
        self._run: Callable[..., None] | None = None
        self._labels: list[str] = []

    # One call.

    def call(self, state: State, label: str, args: dict[str, int], rng: random.Random | None = None,
             force_fail: str | None = None) -> Outcome:
        """Call a step in place. Checks are made in their order; the first that fails gives the code.

        A pick takes the value named in `args`, else the first that satisfies it, or with `rng` a random one. A
        `may fail` check fails only when `force_fail` is its code. A call that cannot be made now has the code None.
        """
        step = self.steps.get(label)
        if step is None:
            raise UsageError(f"there is no step `{label}`. {suggest(label, self.steps)}".strip())
        needed = (*step.params, THIS) if step.after else step.params
        missing = [p.name for p in needed if p.name not in args]
        if missing:
            raise UsageError(f"`{label}` needs the argument `{missing[0]}`.")
        made = self._calls.get(label)
        if made is None:
            made = self._calls[label] = self._compiled_call(step)
        code, result, picks = made(state, *(args[p.name] for p in needed), args, rng and rng.random, force_fail)
        return Outcome(code, result, picks)

    def _compiled_call(self, step: Step) -> Callable[..., Any]:
        c = self.coder
        needed = (*step.params, THIS) if step.after else step.params
        lines = [c.header(), "picks = {}"]
        start = c.truth(step.start(), {})
        if start != "True":
            lines += [f"if not {start}:", "    return None, None, picks"]
        for check in step.checks:
            failing = _failing(step, check)
            gone = [*(c.effect(failing.updates) if failing else []), f"return {check.code!r}, None, picks"]
            if check.kind == "may":
                lines += [f"if force_fail == {check.code!r}:", *_indent(gone)]
            elif check.kind == "pick" and check.var is not None:
                name, size = check.var.name, c.size(check.var)
                lines += [f"if {name!r} in given:", f"    order = (given[{name!r}],)", "else:",
                          f"    o = int(rnd() * {size}) if rnd else 0",
                          f"    order = (*range(o, {size}), *range(o))",
                          f"for v_{name} in order:", f"    if {c.truth(check.cond, {})}:", "        break", "else:",
                          *_indent(gone), f"picks[{name!r}] = v_{name}"]
            else:
                lines += [f"if not {c.truth(check.cond, {})}:", *_indent(gone)]
        result = "None" if step.result is None else c.value(step.result, {})
        lines += [f"result = {result}", *c.effect(step.success().updates), f"return {OKAY!r}, result, picks"]
        params = ", ".join(["S", *(f"v_{p.name}" for p in needed), "given", "rnd", "force_fail"])
        return compiled("call", params, lines)

    def value(self, state: State, term: Term, env: dict[str, int] | None = None) -> int:
        """A term's value in a state: an element or member index, or 0 or 1; `env` gives its free variables."""
        given = env or {}
        key = (term, tuple(given))
        if key not in self._values:
            params = ", ".join(["S", *(f"v_{n}" for n in given)])
            self._values[key] = compiled("value", params, [self.coder.header(), f"return {self.coder.value(term, {})}"])
        return self._values[key](state, *given.values())

    # Walks.

    def run(self, state: State, steps: int, rnd: Callable[[], float]) -> dict[str, int]:
        """So many random calls, in place; counts the transitions that they were."""
        if self._run is None:
            self._run = self._compiled_run()
        counts = [0] * len(self._labels)
        self._run(state, steps, rnd, counts)
        return {la: n for la, n in zip(self._labels, counts, strict=True) if n}

    def _compiled_run(self) -> Callable[..., None]:
        steps = list(self.steps.values())
        bodies = [self._walk_step(s) for s in steps]
        lines = [self.coder.header(), "for _ in range(steps):", f"    x = rnd() * {len(steps)}", "    k = int(x)",
                 *_indent(_dispatch(bodies, 0))]
        return compiled("run", "S, steps, rnd, C", lines if steps else ["pass"])

    def _counted(self, label: str) -> str:
        if label not in self._labels:
            self._labels.append(label)
        return f"C[{self._labels.index(label)}] += 1"

    def _walk_step(self, step: Step) -> list[str]:
        c = self.coder
        needed = [*step.params, *([THIS] if step.after else [])]
        total = 1
        for p in needed:
            total *= c.size(p)
        lines: list[str] = []
        if total > 2**40:  # the fraction left of one random number is too coarse for this many arguments
            lines += [f"v_{p.name} = int(rnd() * {c.size(p)})" for p in needed]
        elif total > 1:
            # What the choice of the step left of the random number is random still, and chooses all arguments.
            lines.append(f"a = int((x - k) * {total})")
            big = [p for p in needed if c.size(p) > 1]
            lines += [f"v_{p.name} = 0" for p in needed if c.size(p) == 1]
            for p in big[:-1]:
                lines += [f"v_{p.name} = a % {c.size(p)}", f"a //= {c.size(p)}"]
            lines.append(f"v_{big[-1].name} = a")
        else:
            lines += [f"v_{p.name} = 0" for p in needed]
        start = c.truth(step.start(), {})
        if start != "True":
            lines += [f"if not {start}: continue"]
        for check in step.checks:
            failing = _failing(step, check)
            gone = [*c.effect(failing.updates), self._counted(failing.label), "continue"] if failing else ["continue"]
            if check.kind == "may":
                if failing is not None:
                    lines += [f"if rnd() < {MAY_FAIL}:", *_indent(gone)]
            elif check.kind == "pick" and check.var is not None:
                size = c.size(check.var)
                lines += [f"o = int(rnd() * {size})", f"for v_{check.var.name} in (*range(o, {size}), *range(o)):",
                          f"    if {c.truth(check.cond, {})}: break", "else:", *_indent(gone)]
            else:
                lines += [f"if not {c.truth(check.cond, {})}:", *_indent(gone)]
        return [*lines, *c.effect(step.success().updates), self._counted(step.label)]

    # Initial states.

    def initial_state(self, rng: random.Random | None = None) -> State | None:
        """A state that satisfies all init formulas and axioms, or None when there is none; the same one every time.

        Without `rng`, the state of all zeros is preferred. Else the formulas are written out over the world and solved.
        """
        bodies = [c.body for c in (*self.machine.system.inits, *self.machine.system.axioms)]
        zeros = [[0] * n for n in table_sizes(self.machine.system, self.machine.world)]
        if rng is None and all(self.value(zeros, b) for b in bodies):
            return zeros
        return _Ground(self.machine).solve(bodies, rng)


def _dispatch(bodies: list[list[str]], first: int) -> list[str]:
    """A binary tree of comparisons on `k` around the bodies."""
    if len(bodies) <= 1:
        return bodies[0] if bodies else ["pass"]
    half = len(bodies) // 2
    return [f"if k < {first + half}:", *_indent(_dispatch(bodies[:half], first)), "else:",
            *_indent(_dispatch(bodies[half:], first + half))]


def compiled(name: str, params: str, lines: list[str]) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec("\n".join([f"def {name}({params}):", *_indent(lines)]), space)
    made: Callable[..., Any] = space[name]
    return made


class _Ground:
    """Formulas written out over a finite world, for Z3: one truth value per place and value of the state."""

    def __init__(self, machine: Machine) -> None:
        import z3  # slow to import, and needed only where the state of all zeros will not do

        self.z3 = z3
        self.system, self.world = machine.system, machine.world
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


@functools.lru_cache(maxsize=8)
def caller_of(machine: Machine) -> Caller:
    """The caller of a machine, compiled once."""
    return Caller(machine)


def walk(machine: Machine, seed: int, steps: int, leg: int = LEG) -> WalkStats:
    """A seeded walk: each step is a random call with random arguments, made to its outcome.

    After every `leg` steps it starts again from an initial state, so that it does not end in a corner it cannot leave.
    """
    caller = caller_of(machine)
    first = caller.initial_state()
    if first is None:
        raise UsageError(f"system `{machine.system.name}` has no initial state in a world this small.")
    rnd = random.Random(seed).random
    fired: dict[str, int] = {}
    for done in range(0, steps, leg):
        for label, n in caller.run([list(t) for t in first], min(leg, steps - done), rnd).items():
            fired[label] = fired.get(label, 0) + n
    taken = sum(fired.values())
    return WalkStats(taken, steps - taken, fired)


__all__ = ["OKAY", "Caller", "Outcome", "WalkStats", "caller_of", "compiled", "free_variables", "joined", "walk"]
