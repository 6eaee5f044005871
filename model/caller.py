"""Makes calls on the executable model as a caller does: checks in order, picks chosen, one code per outcome.

`executable.py` takes transitions with given arguments. For speed, each step with its checks is compiled in fast mode
(`compile.py`), and a run of random calls as one function. This module searches no states:
its callers supply one.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bulkhead.model.choices import step_in_world
from bulkhead.model.compile import Coder, code_name, compiled, indent
from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import FAILED, THIS, Check, Step, Term, Transition
from bulkhead.model.world import State

OKAY = "okay"
NOT_NOW = "return None, None, picks"
MAY_FAIL = 0.125  # how often a `may fail` check fails in a walk


@dataclass(frozen=True)
class Outcome:
    """The outcome of a call. `code` is None when it is not enabled; `result` is the returned value, if there is one."""

    code: str | None
    result: int | None = None
    picks: dict[str, int] = field(default_factory=dict)


def _listed(check: Check) -> str:
    """The variables of a pick, as loop variables."""
    return "".join(f"{code_name(v.name)}, " for v in check.vars)


def _failing(step: Step, check: Check) -> Transition | None:
    """The transition of a failing check, or None if the state does not change."""
    if check.undo:
        updates = check.undo + step._at(step.on_error)
        return Transition(step.undone_label(check), step, (), check.fails, updates, check.code)
    if step.point and step.on_error != step.point:
        return Transition(step.label + FAILED, step, (), check.fails, step._at(step.on_error), check.code)
    return None


class Caller:
    """Makes calls on a machine's states."""

    def __init__(self, machine: ExecutableModel) -> None:
        self.machine = machine
        self.steps = {s.label: step_in_world(machine.system, machine.world, s) for s in machine.system.steps}
        self.transitions: list[Transition] = [t for s in self.steps.values() for t in s.transitions()]
        self.coder = Coder(machine.system, machine.world)
        self._calls: dict[str, Callable[..., Any]] = {}
        self._values: dict[tuple[Term, tuple[str, ...]], Callable[..., int]] = {}
        self._run: Callable[..., None] | None = None
        self._labels: list[str] = []

    # One call.

    def call(
        self, state: State, label: str, args: dict[str, int], rng: random.Random | None = None, force_fail: str | None = None
    ) -> Outcome:
        """Execute a step in place. Checks run in order; the first that fails gives the code.

        A pick takes the value named in `args`, else the first that satisfies it, or with `rng` a random one. A
        `may fail` check fails only when `force_fail` is its code. A call that is not enabled has the code None.
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

    def compiled_call(self, label: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """A step as a function of the state, its arguments (whose names are returned too), all given values, random numbers,
        a code to fail with, and a list that gets the table, the place and the value before of each assignment."""
        step = self.steps[label]
        needed = (*step.params, THIS) if step.after else step.params
        return self._compiled_call(step, True), tuple(p.name for p in needed)

    def _compiled_call(self, step: Step, logged: bool = False) -> Callable[..., Any]:
        c = self.coder
        needed = (*step.params, THIS) if step.after else step.params
        lines = ["picks = {}"]
        start = c.truth(step.start(), {})
        if start != "True":
            lines += [f"if not {start}:", f"    {NOT_NOW}"]
        lines += self._asked(step, 0, NOT_NOW, logged)
        more = ["log"] if logged else []
        params = ", ".join(["S", *(code_name(p.name) for p in needed), "given", "rnd", "force_fail", *more])
        return compiled("call", params, c.with_tables(lines), {"product": itertools.product})

    def _asked(self, step: Step, first: int, blocked: str, logged: bool) -> list[str]:
        """The checks from the `first` on, and what the step does then. `blocked` is what to do where it cannot be taken.

        Where a check without a code comes after a pick, all that may be picked is tried.
        """
        c, lines = self.coder, list[str]()
        for k, check in enumerate(step.checks[first:], first):
            failing = _failing(step, check)
            gone = [*(c.effect(failing.updates, logged) if failing else []), f"return {check.code!r}, None, picks"]
            gone = gone if check.code else [blocked]
            if check.kind == "may":
                lines += [f"if force_fail == {check.code!r}:", *indent(gone)]
            elif check.kind == "pick":
                for n, var in enumerate(check.vars):
                    lines += [
                        f"if {var.name!r} in given:",
                        f"    order{n} = (given[{var.name!r}],)",
                        "else:",
                        f"    o = int(rnd() * {c.size(var)}) if rnd else 0",
                        f"    order{n} = (*range(o, {c.size(var)}), *range(o))",
                    ]
                orders = ", ".join(f"order{n}" for n in range(len(check.vars)))
                lines += [f"for {_listed(check)} in product({orders}):"]
                told = [f"picks[{v.name!r}] = {code_name(v.name)}" for v in check.vars]
                cond = c.truth(check.cond, {})
                if any(not later.code for later in step.checks[k + 1 :]):
                    rest = [
                        f"if not {cond}: continue",
                        f"some{k} = True",
                        *told,
                        *self._asked(step, k + 1, "continue", logged),
                    ]
                    lines = [*lines[:-1], f"some{k} = False", lines[-1], *indent(rest)]
                    return [*lines, f"if not some{k}:", *indent(gone), blocked]
                lines += [f"    if {cond}:", "        break", "else:", *indent(gone), *told]
            else:
                lines += [f"if not {c.truth(check.cond, {})}:", *indent(gone)]
        result = "None" if step.result is None else c.value(step.result, {})
        done = c.effect(step.success().updates, logged)
        return [*lines, f"result = {result}", *done, f"return {OKAY!r}, result, picks"]

    def value(self, state: State, term: Term, env: dict[str, int] | None = None) -> int:
        """A term's value in a state: an element or member index, or 0 or 1; `env` gives its free variables."""
        given = env or {}
        key = (term, tuple(given))
        if key not in self._values:
            params = ", ".join(["S", *map(code_name, given)])
            lines = [f"return {self.coder.value(term, {})}"]
            self._values[key] = compiled("value", params, self.coder.with_tables(lines))
        return self._values[key](state, *given.values())

    # Walks.

    def run(self, state: State, steps: int, rnd: Callable[[], float]) -> dict[str, int]:
        """Make so many random calls in place; counts each transition taken."""
        if self._run is None:
            self._run = self._compiled_run()
        counts = [0] * len(self._labels)
        self._run(state, steps, rnd, counts)
        return {la: n for la, n in zip(self._labels, counts, strict=True) if n}

    def _compiled_run(self) -> Callable[..., None]:
        steps = list(self.steps.values())
        bodies = [self._walk_step(s) for s in steps]
        lines = [
            "for _ in range(steps):",
            f"    x = rnd() * {len(steps)}",
            "    k = int(x)",
            *indent(_dispatch(bodies, 0)),
        ]
        body = self.coder.with_tables(lines) if steps else ["pass"]
        return compiled("run", "S, steps, rnd, C", body, {"product": itertools.product})

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
        if total > 2**40:  # one random number has too few bits for this many arguments
            lines += [f"{code_name(p.name)} = int(rnd() * {c.size(p)})" for p in needed]
        elif total > 1:
            # The rest of the random number, after the choice of the step, chooses all arguments.
            lines.append(f"a = int((x - k) * {total})")
            big = [p for p in needed if c.size(p) > 1]
            lines += [f"{code_name(p.name)} = 0" for p in needed if c.size(p) == 1]
            for p in big[:-1]:
                lines += [f"{code_name(p.name)} = a % {c.size(p)}", f"a //= {c.size(p)}"]
            lines.append(f"{code_name(big[-1].name)} = a")
        else:
            lines += [f"{code_name(p.name)} = 0" for p in needed]
        start = c.truth(step.start(), {})
        if start != "True":
            lines += [f"if not {start}: continue"]
        for check in step.checks:
            failing = _failing(step, check)
            gone = [*c.effect(failing.updates), self._counted(failing.label), "continue"] if failing else ["continue"]
            gone = gone if check.code else ["continue"]
            if check.kind == "may":
                if failing is not None:
                    lines += [f"if rnd() < {MAY_FAIL}:", *indent(gone)]
            elif check.kind == "pick":
                for n, var in enumerate(check.vars):
                    size = c.size(var)
                    lines += [f"o = int(rnd() * {size})", f"order{n} = (*range(o, {size}), *range(o))"]
                lines += [
                    f"for {_listed(check)} in product({', '.join(f'order{n}' for n in range(len(check.vars)))}):",
                    f"    if {c.truth(check.cond, {})}: break",
                    "else:",
                    *indent(gone),
                ]
            else:
                lines += [f"if not {c.truth(check.cond, {})}:", *indent(gone)]
        return [*lines, *c.effect(step.success().updates), self._counted(step.label)]


def _dispatch(bodies: list[list[str]], first: int) -> list[str]:
    """Dispatch on `k` to the bodies by a binary tree of comparisons."""
    if len(bodies) <= 1:
        return bodies[0] if bodies else ["pass"]
    half = len(bodies) // 2
    return [
        f"if k < {first + half}:",
        *indent(_dispatch(bodies[:half], first)),
        "else:",
        *indent(_dispatch(bodies[half:], first + half)),
    ]


@functools.lru_cache(maxsize=8)
def caller_of(machine: ExecutableModel) -> Caller:
    """The caller of a machine, compiled once."""
    return Caller(machine)


__all__ = ["OKAY", "Caller", "Outcome", "caller_of"]
