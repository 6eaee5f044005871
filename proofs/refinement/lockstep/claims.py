"""Evaluates claims in lockstep with the implementation: claims about one state, and claims about a step.

A rule step writes few functions. So only the functions that it may write and that some claim reads are copied
before it, and only claims that read one of those after the step are evaluated; a failing step writes only
its `undo`. For all other claims, such a step is like one that changes nothing. Not here: the claims
themselves, and the choice of states to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Claim, Op, Quant, System, Term, Use, Var, conj, neg, subterms
from bulkhead.model.narrow import nested, parts, premises
from bulkhead.model.world import State, size_of

LARGE = 100_000  # places; a table of so many truth values is an array of bytes


@dataclass(frozen=True)
class Watched:
    """For one rule step: the functions to copy before it, and the claims to evaluate after success or failure."""

    copied: tuple[int, ...]
    succeeded: tuple[tuple[str, Callable[..., bool]], ...]
    failed: tuple[tuple[str, Callable[..., bool]], ...]


def reads(system: System, term: Term, after_only: bool = False) -> set[str]:
    """The state functions that a term reads, also through definitions; `after_only`: only those read after the step."""
    out: set[str] = set()
    for part in subterms(term):
        if isinstance(part, App) and (part.next or not after_only):
            out.add(part.func)
        elif isinstance(part, Use) and (part.next or not after_only):
            out |= reads(system, system.defs[part.name].body)
    return out


class StateClaims:
    """All invariants, and the theorems that a system expects to prove."""

    def __init__(self, machine: ExecutableModel) -> None:
        system = machine.system
        proved = {name: claim for name, claim in system.theorems.items() if system.expects.get(name) == "proved"}
        self.claims = {
            f"{claim.kind} {name}": tuple(_about_one(machine, part) for part in parts(claim.body))
            for name, claim in {**system.invariants, **proved}.items()
        }

    def broken(self, state: State) -> list[str]:
        """The claims that do not hold in this state."""
        return [name for name, pieces in self.claims.items() if not all(holds(state) for holds in pieces)]


class StepClaims:
    """The claims about steps that a system expects to prove, for one model."""

    def __init__(self, machine: ExecutableModel) -> None:
        self.machine = machine
        system = machine.system
        self.claims: Mapping[str, Claim] = {
            name: claim for name, claim in system.step_claims.items() if system.expects.get(name) == "proved"
        }
        number = {name: k for k, name in enumerate(system.funcs)}
        pieces = [
            (name, reads(system, piece), reads(system, piece, True), _about_two(machine, piece))
            for name, claim in self.claims.items()
            for piece in parts(claim.body)
        ]
        self.watched: dict[str, Watched] = {}
        for step in system.steps:
            success, *failures = step.outcomes()
            written = {update.func for update in success.updates}
            undone = {update.func for failure in failures for update in failure.updates}
            done = [(name, holds) for name, _, after, holds in pieces if after & written]
            gone = [(name, holds) for name, _, after, holds in pieces if after & undone]
            copied = {
                number[f]
                for _, read, after, _ in pieces
                for f in read & ((written if after & written else set()) | (undone if after & undone else set()))
            }
            self.watched[step.label] = Watched(tuple(sorted(copied)), tuple(done), tuple(gone))

    def before(self, state: State, label: str) -> State:
        """The state before a step, for `broken`: copies only the functions that claims compare and shares the others."""
        out = list(state)
        for k in self.watched[label].copied:
            out[k] = state[k][:]
        return out

    def broken(self, before: State, after: State, label: str, failed: bool) -> list[str]:
        """The claims that this step violates."""
        watched = self.watched[label]
        claims = watched.failed if failed else watched.succeeded
        return [name for name, holds in claims if not holds(before, after, failed)]


def _about_one(machine: ExecutableModel, piece: Term) -> Callable[..., bool]:
    """A piece of a claim about states, as a function of a state; about true places of a large table it looks at these."""
    for place, given, rest in _of_places(machine, piece):
        whole = nested(machine.system, rest)
        return _OfTrue(place.table, place.sizes, place.given, machine.compiled_claim(whole, False, given))
    return machine.compiled_claim(nested(machine.system, piece))


def _about_two(machine: ExecutableModel, piece: Term) -> Callable[..., bool]:
    """A piece of a claim about steps, as a function of the states before and after a step and whether it failed; about
    places of a large table that the step makes true it looks at these.
    """
    for place, given, rest in _of_places(machine, piece, new=True):
        whole = nested(machine.system, rest)
        return _OfNew(place.table, place.sizes, place.given, machine.compiled_claim(whole, True, given))
    return machine.compiled_claim(nested(machine.system, piece), True)


@dataclass(frozen=True)
class _Places:
    """A large table of truth values, and its indices that are variables of a claim about its places."""

    table: int
    sizes: tuple[int, ...]
    given: tuple[bool, ...]

    def arguments(self, at: int) -> list[int]:
        """The values of these variables at a place."""
        return [int(i) for i, given in zip(np.unravel_index(at, self.sizes), self.given, strict=True) if given]


def _of_places(machine: ExecutableModel, piece: Term, new: bool = False) -> Iterator[tuple[_Places, tuple[str, ...], Term]]:
    """The tables such that a piece is about the places that are true there, or that become true in a step (`new`): with the
    names of the variables that a place gives, and the piece without their quantifier.

    `offered` has a place for each life, reference, domain and frame; few are true.
    """
    system, world = machine.system, machine.world
    if not isinstance(piece, Quant) or piece.kind != "forall":
        return
    vars_, supposed, then = premises(system, piece)
    for place in supposed:
        if not isinstance(place, App) or place.next != new or (new and not _is_new(place, supposed)):
            continue
        sizes = [size_of(system, world, sort) for sort in system.funcs[place.func].args]
        if np.prod(sizes, dtype=float) < LARGE:
            continue
        given = [a.name if isinstance(a, Var) and a in vars_ else "" for a in place.args]
        if len(set(filter(None, given))) < sum(map(bool, given)):
            continue
        rest = tuple(v for v in vars_ if v.name not in given)
        body: Term = Op("=>", (conj(supposed), then))
        table = list(system.funcs).index(place.func)
        yield (
            _Places(table, tuple(sizes), tuple(map(bool, given))),
            tuple(g for g in given if g),
            Quant("forall", rest, body) if rest else body,
        )


def _is_new(place: App, supposed: list[Term]) -> bool:
    """Was the place false before the step, by another premise? Its indices must be the same before and after."""
    return all(isinstance(a, Var) for a in place.args) and neg(App(place.func, place.args, place.sort)) in supposed


@dataclass(frozen=True)
class _OfTrue(_Places):
    """A claim about each true place of a table."""

    holds: Callable[..., bool]

    def __call__(self, state: State) -> bool:
        return all(self.holds(state, *self.arguments(at)) for at in _true(state[self.table]))


@dataclass(frozen=True)
class _OfNew(_Places):
    """A claim about each place of a table that a step makes true."""

    holds: Callable[..., bool]

    def __call__(self, before: State, after: State, failed: bool) -> bool:
        risen = _risen(before[self.table], after[self.table])
        return all(self.holds(before, after, failed, *self.arguments(at)) for at in risen)


def _true(table: Sequence[int]) -> list[int]:
    """The places that are true."""
    if isinstance(table, bytearray):
        found: list[int] = np.flatnonzero(np.frombuffer(table, np.uint8)).tolist()
        return found
    return [k for k, value in enumerate(table) if value]


def _risen(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """The places at which a truth value became true."""
    if before is after or before == after:
        return []
    if isinstance(before, bytearray) and isinstance(after, bytearray):
        found: list[int] = np.flatnonzero(np.frombuffer(after, np.uint8) > np.frombuffer(before, np.uint8)).tolist()
        return found
    return [k for k, (old, new) in enumerate(zip(before, after, strict=True)) if new > old]


def with_bytes(state: State) -> State:
    """The state, with large tables as arrays of bytes: they are copied and compared in a fraction of the time."""
    made = [bytearray(table) if len(table) >= LARGE and max(table) < 256 else table for table in state]
    return cast(State, made)


__all__ = ["StateClaims", "StepClaims", "reads", "with_bytes"]
