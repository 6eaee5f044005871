"""One run of a handler of DomB along one path, with the rules' state and the rule steps taken in it.

The rules' state is arbitrary, except that it satisfies the rules' invariants at the relevant elements. Each action of DomB
is a step of the rules with the same arguments, which must be enabled, and must end with the code of DomB's answer.
Xen's own choices in a step (a free id, frame or port) are a contract: it finds a valid one.
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
    """The system that DomB must refine."""
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
        self.followed: set[str] = set()  # outcomes of rules reached on this path
        functions: dict[str, Function] = {
            "dom0": lambda: DOM0,
            "domb": lambda: DOMB,
            "domb_space": lambda: DOMB_SPACE,
            "gref_console": lambda: constant(0),
            "gref_xenstore": lambda: constant(1),
            "translated": lambda d: FALSE,  # invariants `services_are_pv`, `pv_is_built`: DomB maps no others
        }
        begun = RuleState(
            rules(),
            functions,
            # References of other parties to a page are not modelled: DomB's properties must hold without them.
            # A page from DomB's allocator is unmapped: pages.py proves this for freed pages.
            readings={"counted": lambda state, args: FALSE, "referenced": lambda state, args: FALSE},
            elements={
                "Translation": (),
                "Special": tuple(constant(i) for i in range(len(rules().enums["Special"]))),
                "Buffer": (constant(0), constant(1)),
            },
        )
        self.state: RuleState = self.engine.kept.setdefault("begun", begun)
        s = self.state
        # init and invariants `roles`, `only_domb_is_privileged`, `only_two_serve`; domains 0 and DomB exist.
        self.engine.assume(And(DOMB != DOM0, s.at("domb_up"), s.at("privileged", DOMB)))
        self.engine.assume(And(s.at("service", DOMB), s.at("service", DOM0), eq(s.at("space_of", DOMB_SPACE), DOMB)))

    def given(self, functions: Mapping[str, Function], *key: Term) -> None:
        """Replace state functions here. `key`: the terms on which the functions depend, if they differ between paths."""
        kept = (id(self.state), *functions, *key)
        found = self.engine.kept.get(kept)
        if found is None:
            begun = replace(self.state, functions={**self.state.functions, **functions})
            found = self.engine.kept[kept] = (self.state, begun)
        self.state = found[1]

    def _after(self, label: str, args: Mapping[str, Term]) -> RuleState:
        """The state after a step. Paths with a common prefix share their states and caches."""
        key = (id(self.state), label, *args.items())
        found = self.engine.kept.get(key)
        if found is None:
            found = self.engine.kept[key] = (self.state, self.state.after(step(label).updates, args))
        state: RuleState = found[1]
        return state

    def knows_translation(self, t: Term) -> None:
        """Another translation that DomB has made: by an invariant, all others map no guest under construction."""
        key = (id(self.state), t)
        found = self.engine.kept.get(key)
        if found is None:
            known = {**self.state.elements, "Translation": (*self.state.elements["Translation"], t)}
            found = self.engine.kept[key] = (self.state, replace(self.state, elements=known))
        self.state = found[1]

    def stage_is(self, *names: str) -> Term:
        """Is the current build in one of these stages?"""
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
        """Take a step, which must be enabled now and must end with this code."""
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
        """Assume that an enumeration's state function has one of its members as value."""
        self.engine.assume(ULT(self.state.at(name, *key), constant(len(rules().enums[rules().funcs[name].sort]))))

    def would_end(self, label: str, code: str, choices: Mapping[str, Term]) -> Term:
        """The condition that a step ends with this code now."""
        ends = take(self.state, step(label), {"this": THIS}, choices)
        return ends.okay if code == OKAY else ends.with_code(code)

    def reach(self, outcomes: dict[str, bool]) -> None:
        """Add the outcomes of the rules' steps on this path; table.py lists unreachable ones, with reasons."""
        outcomes.update(dict.fromkeys(self.followed, True))

    def claim(self, where: str, what: str, term: Term | bool) -> None:
        """Add an obligation."""
        self.prove(where, [(what, term if isinstance(term, Term) else TRUE if term else FALSE)])

    def assume_picks(self, label: str, args: Mapping[str, Term], picks: Sequence[str]) -> None:
        """Xen's choice: it is valid."""
        this = {"this": THIS, **args}
        for check in step(label).checks:
            if any(v.name in picks for v in check.vars):
                self.engine.assume(self.state.term(check.cond, this))


def fresh(run: Run, name: str, bits: int) -> Any:
    """A fresh number of so many bits."""
    return variable(run.engine.fresh(name), bits=bits)
