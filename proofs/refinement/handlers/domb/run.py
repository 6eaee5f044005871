"""One run of a handler of DomB along one path: the rules' state beside it, and the steps that are taken in it.

The rules' state is arbitrary but for what the invariants of the rules say of the elements at hand. Each thing DomB does is a
step of the rules with the same arguments, which must be allowed, and must end with the code that DomB's answer stands for.
Xen's own part of a step (which id it finds free, which frame, which port) is a contract: it finds one that is fit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bulkhead.model import loader
from bulkhead.model.caller import OKAY
from bulkhead.model.ir import Step, System
from bulkhead.proofs.refinement.domb.world import SYSTEM
from bulkhead.proofs.refinement.handlers.obligations import Claims
from bulkhead.proofs.refinement.handlers.path import THIS, Run
from bulkhead.proofs.refinement.handlers.spec_terms import Function, RuleState, take
from bulkhead.proofs.symbolic.terms import FALSE, TRUE, ULT, And, Not, Term, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

DOM0, DOMB = constant(0), variable("domb", bits=15)
DOMB_SPACE = variable("domb_space")


@functools.cache
def rules() -> System:
    """The system that DomB is held against."""
    return loader.load(SYSTEM)


@functools.cache
def step(label: str) -> Step:
    """A step of the rules by its label."""
    return next(s for s in rules().steps if s.label == label)


@functools.cache
def member(sort: str, name: str) -> Term:
    """A member of an enumeration."""
    return constant(rules().enums[sort].index(name))


def code_of(status: int, errnos: Mapping[int, str]) -> str:
    """The rules' code of 0 or a negative errno."""
    return OKAY if status == 0 else errnos.get(-status, str(status))


class DombRun(Run):
    """A run of DomB's code, and the rules' state."""

    def __init__(self) -> None:
        super().__init__()
        self.followed: set[str] = set()  # outcomes of rules that this path came to
        functions: dict[str, Function] = {
            "dom0": lambda: DOM0,
            "domb": lambda: DOMB,
            "domb_space": lambda: DOMB_SPACE,
            "gref_console": lambda: constant(0),
            "gref_xenstore": lambda: constant(1),
        }
        begun = RuleState(
            rules(),
            functions,
            # Somebody else's reference to a page is not asked for: what DomB needs has to hold without.
            # A page of its own that DomB's allocator gives out is mapped by nobody: pages.py proves when it gets one back.
            readings={"counted": lambda state, args: FALSE, "referenced": lambda state, args: FALSE},
            elements={
                "Translation": (),
                "Special": tuple(constant(i) for i in range(len(rules().enums["Special"]))),
                "Buffer": (constant(0), constant(1)),
            },
        )
        self.state: RuleState = self.engine.kept.setdefault("begun", begun)
        s = self.state
        # init and invariants `roles`, `only_domb_is_privileged`, `only_two_serve`; domains 0 and DomB stand.
        self.engine.assume(And(DOMB != DOM0, s.at("domb_up"), s.at("privileged", DOMB)))
        self.engine.assume(And(s.at("service", DOMB), s.at("service", DOM0), eq(s.at("space_of", DOMB_SPACE), DOMB)))

    def given(self, functions: Mapping[str, Function], *key: Term) -> None:
        """What the state is here. `key`: the terms on which the functions depend, if these differ from path to path."""
        kept = (id(self.state), *functions, *key)
        found = self.engine.kept.get(kept)
        if found is None:
            begun = replace(self.state, functions={**self.state.functions, **functions})
            found = self.engine.kept[kept] = (self.state, begun)
        self.state = found[1]

    def _after(self, label: str, args: Mapping[str, Term]) -> RuleState:
        """The state after a step. Paths that begin alike share their states, and what these remember."""
        key = (id(self.state), label, *args.items())
        found = self.engine.kept.get(key)
        if found is None:
            found = self.engine.kept[key] = (self.state, self.state.after(step(label).updates, args))
        state: RuleState = found[1]
        return state

    def knows_translation(self, t: Term) -> None:
        """Another translation that DomB has made: all others lead to no guest under construction, by an invariant."""
        key = (id(self.state), t)
        found = self.engine.kept.get(key)
        if found is None:
            known = {**self.state.elements, "Translation": (*self.state.elements["Translation"], t)}
            found = self.engine.kept[key] = (self.state, replace(self.state, elements=known))
        self.state = found[1]

    def stage_is(self, *names: str) -> Term:
        """Is the build under way in one of these stages?"""
        stage = self.state.at("job.stage")
        return Not(And([Not(eq(stage, member("Stage", name))) for name in names]))

    def follow(
        self,
        label: str,
        args: Mapping[str, Term] | None = None,
        code: str = OKAY,
        choices: Mapping[str, Term] | None = None,
        then: Claims = (),  # type: ignore[assignment]
    ) -> None:
        """A step that the rules must allow now, and that must end with this code."""
        this, rule = {"this": THIS, **(args or {})}, step(label)
        self.followed.add(f"{label}: {code}")
        if not self.engine.replaying:
            free = {c.text: TRUE if c.code == code else FALSE for c in rule.checks if c.kind == "may"}
            ends = take(self.state, rule, this, {**free, **(choices or {})})
            allowed = ends.okay if code == OKAY else ends.with_code(code)
            self.prove(
                label,
                [
                    ("the rules do not allow it now", self.state.term(rule.when, this)),
                    (f"the rules do not end it with {code}", allowed),
                    *then,
                ],
            )
        if code == OKAY:
            self.state = self._after(label, this)

    def is_member(self, name: str, *key: Term) -> None:
        """What an enumeration's state function says is one of its members."""
        self.engine.assume(ULT(self.state.at(name, *key), constant(len(rules().enums[rules().funcs[name].sort]))))

    def would_end(self, label: str, code: str, choices: Mapping[str, Term]) -> Term:
        """When a step would end with this code now."""
        ends = take(self.state, step(label), {"this": THIS}, choices)
        return ends.okay if code == OKAY else ends.with_code(code)

    def reach(self, outcomes: dict[str, bool]) -> None:
        """Add the outcomes of the rules' steps on this path; table.py has what no path comes to, with reasons."""
        outcomes.update(dict.fromkeys(self.followed, True))

    def claim(self, where: str, what: str, term: Term | bool) -> None:
        """One more obligation."""
        self.prove(where, [(what, term if isinstance(term, Term) else TRUE if term else FALSE)])

    def assume_picks(self, label: str, args: Mapping[str, Term], picks: Sequence[str]) -> None:
        """Xen's part: what it finds is fit."""
        this = {"this": THIS, **args}
        for check in step(label).checks:
            if check.kind == "pick" and check.var is not None and check.var.name in picks:
                self.engine.assume(self.state.term(check.cond, this))


def fresh(run: Run, name: str, bits: int) -> Any:
    """A new number of so many bits."""
    return variable(run.engine.fresh(name), bits=bits)
