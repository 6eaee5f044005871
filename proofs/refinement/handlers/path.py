"""One run of a handler along one path: its machine, its arguments, and the claims proved on the path."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from bulkhead.impl.xen import abi
from bulkhead.model import loader
from bulkhead.model.ir import Step, System
from bulkhead.proofs.refinement.handlers.abstraction import before
from bulkhead.proofs.refinement.handlers.memory import LAYOUTS, Pages
from bulkhead.proofs.refinement.handlers.objects import Table
from bulkhead.proofs.refinement.handlers.obligations import Claims
from bulkhead.proofs.refinement.handlers.spec_terms import Ends, RuleState, Values, take
from bulkhead.proofs.refinement.handlers.symbolic_xen import SymbolicXen
from bulkhead.proofs.symbolic.engine import Engine, Int, Unsupported
from bulkhead.proofs.symbolic.terms import And, If, Not, Term, variable
from bulkhead.proofs.symbolic.terms import number as constant

CODES = {value: "GNTST_" + name[6:].lower() for name, value in vars(abi).items() if name.startswith("GNTST_")}
ROUNDS = 1  # of the compare-and-swap of a version 1 entry
THIS = variable("this")
PATCHED_BUILTINS = ("len", "range", "reversed", "max", "min", "sum", "bytes", "bytearray")


@functools.cache
def rules() -> System:
    """The system whose steps the handlers must refine."""
    return loader.load("monolithic")


class Run:
    """One run of a handler along one path, and what was found on the way."""

    def __init__(self) -> None:
        self.engine = Engine.running()
        self.findings: list[str] = []
        self.taken: list[Ends] = []

    def prove(self, where: str, claims: Claims) -> None:
        """Prove every claim for all inputs of the path: all in one query, and one by one if that fails.

        While a run replays the decisions of the previous one, its claims are already proved.
        """
        if self.engine.replaying:
            return
        if not self.engine.proves(And([claim for _, claim in claims])):
            self.findings += [f"{where}: {name}" for name, claim in claims if not self.engine.proves(claim)]

    def reach(self, outcomes: dict[str, bool]) -> None:
        """Add to `outcomes` the possible outcomes of the taken steps, for inputs of this path."""
        for ends in self.taken:
            for name, cond in ends.outcomes():
                if not outcomes.setdefault(name, False):
                    outcomes[name] = not self.engine.proves(Not(cond))

    def argument(self, name: str, width: int) -> Int:
        """An argument of the call: an arbitrary number of so many bits."""
        return Int(variable(name, bits=width))


class Path(Run):
    """A run of a hypercall's handler: with its machine."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = SymbolicXen(rules())

    def take(self, state: RuleState, label: str, args: Values, choices: Values | None = None) -> Ends:
        """A step of the rules from a state; the end of the path decides which of its outcomes are possible."""
        ends = take(state, step(label), args, choices or {})
        self.taken.append(ends)
        return ends

    def entries_now(self, state: RuleState) -> RuleState:
        """The rules' state, with the guests' entries as they were when the current atomic step began."""
        fresh = before(self.machine).functions
        return replace(
            state, functions={**state.functions, **{name: fresh[name] for name in fresh if name.startswith("entry.")}}
        )


@dataclass(frozen=True)
class Handler:
    """A function of the implementation, and the rules that it must refine."""

    body: Callable[[Any], None]
    runs: str
    rules: str
    thorough: bool = False  # its paths are similar to another's: not in a quick run
    never: Mapping[str, str] = field(default_factory=dict)  # part of the name of outcomes that no input has -> the reason
    start: Callable[[], Run] = Path  # what its body gets


@functools.cache
def step(label: str) -> Step:
    """A step of the rules by its label."""
    return next(s for s in rules().steps if s.label == label)


def status_of(result: object) -> int:
    """A handler's status, which must be concrete on every path."""
    if not isinstance(result, int):
        raise Unsupported("a status that is symbolic")
    return result


def code_of(status: int) -> str:
    """The rules' code of a status."""
    return CODES.get(status, str(status))


def side(name: str) -> Term:
    """A side of a call as an element."""
    return constant(rules().enums["Side"].index(name))


@contextlib.contextmanager
def standing_in(*changes: tuple[object, str, object]) -> Iterator[None]:
    """Replace names in modules during a run."""
    with contextlib.ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value, create=name in PATCHED_BUILTINS))
        yield


def layouts(module: object) -> tuple[tuple[object, str, object], ...]:
    """Replace a module's byte layouts by layouts over symbolic memory."""
    return tuple((module, name, layout) for name, layout in LAYOUTS.items() if hasattr(module, name))


def length(table: Any) -> Any:
    """`len` of a table of any size."""
    return table.size() if isinstance(table, Table | Pages) else len(table)


def either(cond: Term, yes: Claims, no: Claims) -> Claims:
    """Choose one of two lists of claims by a condition."""
    return [(name, If(cond, claim, other)) for (name, claim), (_, other) in zip(yes, no, strict=True)]
