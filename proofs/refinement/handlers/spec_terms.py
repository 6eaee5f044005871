"""Evaluates the rules' terms and steps over a symbolic state: a state function is a Python function from terms to a term.

Steps come unchanged from the loaded system. Taking one gives the state after it; its ordered checks give, for each code,
the condition that the step ends with it. Elements of all sorts are bit vectors, members of enumerations by position.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bulkhead.model.ir import BOOL, App, Lit, Op, Quant, Step, System, Term, Update, Use, Var
from bulkhead.model.ir import TRUE as ALWAYS
from bulkhead.proofs.symbolic.engine import Unsupported
from bulkhead.proofs.symbolic.terms import BITS, FALSE, TRUE, And, If, Implies, Not, Or, apply, eq, variable
from bulkhead.proofs.symbolic.terms import BOOL as TRUTH
from bulkhead.proofs.symbolic.terms import Term as Expr
from bulkhead.proofs.symbolic.terms import number as bits

Function = Callable[..., Expr]
Values = Mapping[str, Expr]
# A definition computed from the implementation's counters instead of the rules' text: it gets the state and its arguments.
Reading = Callable[["RuleState", tuple[Any, ...]], Expr]


def sort_of(sort: str) -> str:
    """The symbolic sort of a sort of the rules."""
    return TRUTH if sort == BOOL else BITS


@dataclass(frozen=True)
class RuleState:
    """A state of the rules. State functions not in `functions` are arbitrary, and the same in all states of a path."""

    system: System
    functions: Mapping[str, Function]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    elements: Mapping[str, tuple[Expr, ...]] = field(default_factory=dict)  # sorts of which only these elements matter
    _seen: dict[tuple[Any, ...], Expr] = field(default_factory=dict, init=False, compare=False)

    def at(self, name: str, *args: Expr) -> Expr:
        """A state function at some arguments."""
        key = (name, *args)
        if key not in self._seen:
            self._seen[key] = self._at(name, args)
        return self._seen[key]

    def _at(self, name: str, args: tuple[Expr, ...]) -> Expr:
        if name in self.functions:
            return self.functions[name](*args)
        func = self.system.funcs[name]
        return apply(name, args, sort_of(func.sort)) if args else variable(name, sort_of(func.sort))

    def term(self, term: Term, env: Values) -> Expr:
        """The value of a term."""
        match term:
            case Var(name):
                return env[name]
            case Lit("true"):
                return TRUE
            case Lit("false"):
                return FALSE
            case Lit(name, sort):
                if sort in self.system.enums:
                    return bits(self.system.enums[sort].index(name))
                if name in self.system.consts:
                    return self.functions[name]() if name in self.functions else variable(name)
                return bits(hash_of(name))
            case App(func, args, _, False):
                return self.at(func, *[self.term(a, env) for a in args])
            case Use(name, args, _, False):
                values = tuple([self.term(a, env) for a in args])
                if name in self.readings:
                    return self.readings[name](self, values)
                definition = self.system.defs[name]
                return self.term(definition.body, dict(zip([p.name for p in definition.params], values, strict=True)))
            case Quant(kind, vars_, body):
                return self._quantified(kind, vars_, body, env)
            case Op(op, args):
                return self._operation(op, [self.term(a, env) for a in args])
        raise Unsupported(f"term {term}")

    def _quantified(self, kind: str, vars_: tuple[Var, ...], body: Term, env: Values) -> Expr:
        if any(v.sort not in self.elements for v in vars_):
            raise Unsupported(f"a quantifier over {', '.join(v.sort for v in vars_)}")
        cases = [
            self.term(body, {**env, **dict(zip([v.name for v in vars_], chosen, strict=True))})
            for chosen in itertools.product(*[self.elements[v.sort] for v in vars_])
        ]
        return And(cases) if kind == "forall" else Or(cases)

    @staticmethod
    def _operation(op: str, args: list[Expr]) -> Expr:
        match op:
            case "not":
                return Not(args[0])
            case "and":
                return And(args)
            case "or":
                return Or(args)
            case "=>":
                return Implies(args[0], args[1])
            case "=":
                return eq(args[0], args[1])
            case "ite":
                return If(args[0], args[1], args[2])
        raise Unsupported(f"operator {op}")

    def after(self, updates: Iterable[Update], env: Values) -> RuleState:
        """The state after some simultaneous assignments."""
        changed = dict(self.functions)
        for update in updates:
            kept = changed.get(update.func)
            # What another state says is asked of that state, which remembers its answers.
            mine = None if kept is self.functions.get(update.func) else kept
            changed[update.func] = self._assigned(update, env, mine, update.func)
        return replace(self, functions=changed)

    def _assigned(self, update: Update, env: Values, before: Function | None, name: str) -> Function:
        def value(*args: Expr) -> Expr:
            bound = {v.name for v in update.binders}
            here = {k: v for k, v in env.items() if k not in bound}
            tests = []
            for slot, arg in zip(args, update.args, strict=True):
                if isinstance(arg, Var) and arg.name in bound and arg.name not in here:
                    here[arg.name] = slot
                else:
                    wanted = self.term(arg, here)
                    if slot is not wanted:
                        tests.append(eq(slot, wanted))
            if update.cond != ALWAYS:
                tests.append(self.term(update.cond, here))
            cond = And(tests)
            if cond is TRUE:
                return self.term(update.value, here)
            old = before(*args) if before is not None else self.at(name, *args)
            return old if cond is FALSE else If(cond, self.term(update.value, here), old)

        return value


def hash_of(name: str) -> int:
    """A number for a point of a call; points need only be different."""
    return int.from_bytes(name.encode()[-8:], "big") % (1 << 60)


@dataclass(frozen=True)
class Ends:
    """The outcomes of a step: the condition of each code and of success, and the states (also of checks with `undo`)."""

    step: Step
    codes: tuple[tuple[str, Expr], ...]
    okay: Expr
    state: RuleState
    undone: tuple[tuple[Expr, RuleState], ...]

    def with_code(self, code: str) -> Expr:
        """The condition that the step ends with this code."""
        return Or([cond for c, cond in self.codes if c == code])

    def outcomes(self) -> Iterator[tuple[str, Expr]]:
        """Every outcome: its name (the step; and the code and text of the check that fails), and its condition."""
        yield self.step.label, self.okay
        for check, (code, cond) in zip(self.step.checks, self.codes, strict=True):
            yield f"{self.step.label} = {code} ({check.text})", cond


def take(state: RuleState, step: Step, args: Values, choices: Mapping[str, Expr]) -> Ends:
    """A step with its arguments and picked values. `choices` gives the conditions that a `may fail` fails (by its text) and
    that a pick finds nothing (by the variable's name; default: it finds its value); a picked value must satisfy it."""
    before: list[Expr] = []
    codes: list[tuple[str, Expr]] = []
    undone: list[tuple[Expr, RuleState]] = []
    for check in step.checks:
        if check.kind == "may":
            fails = choices[check.text]
            holds = Not(fails)
        elif check.kind == "pick":
            fails = choices.get(check.vars[0].name, FALSE)
            holds = And(Not(fails), state.term(check.cond, args))
        else:
            holds = state.term(check.cond, args)
            fails = Not(holds)
        ends = And(*before, fails)
        if check.code:
            codes.append((check.code, ends))
        if check.undo:
            undone.append((ends, state.after(check.undo, args)))
        before.append(holds)
    return Ends(step, tuple(codes), And(before), state.after(step.updates, args), tuple(undone))
