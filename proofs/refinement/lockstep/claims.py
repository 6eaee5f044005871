"""Evaluates claims in lockstep with the implementation: claims about one state, and claims about a step.

A rule step writes few functions. So only claims that read one of those after the step are evaluated; a failing step writes
only its `undo`. For all other claims, such a step is like one that changes nothing. A step logs its assignments, so that the
state before it can be made again in what claims compare, and most claims look only at places that it changed (changes.py).
Not here: the claims themselves, and the choice of states to check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Claim, Op, Quant, System, Term, Use, Var, conj, subterms
from bulkhead.model.narrow import nested, parts, premises
from bulkhead.model.world import State, size_of
from bulkhead.proofs.refinement.lockstep.changes import Changed, causes, changes, undone

PieceOfStep = tuple[tuple[Changed | None, Callable[..., bool]], ...]  # None: about the whole states
Log = Sequence[tuple[int, int, int]]  # the assignments of a step: table, place, value before
LARGE = 100_000  # places; a table of so many truth values is an array of bytes


@dataclass(frozen=True)
class Watched:
    """For one outcome of a step: pieces of claims to evaluate, by table for each place that it changed, and as a whole."""

    places: Mapping[int, tuple[tuple[str, Changed, Callable[..., bool]], ...]]
    whole: tuple[tuple[str, Callable[..., bool]], ...]


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
        self.watched: dict[tuple[str, bool], Watched] = {}  # by a step's label, and whether it failed
        self.compared: dict[str, tuple[int, ...]] = {}  # the tables that claims compare before and after a step
        for step in system.steps:
            success, *failures = step.outcomes()
            written = {update.func for update in success.updates}
            taken_back = {update.func for failure in failures for update in failure.updates}
            self.watched[step.label, False] = _watched([(name, some) for name, _, after, some in pieces if after & written])
            self.watched[step.label, True] = _watched(
                [(name, some) for name, _, after, some in pieces if after & taken_back]
            )
            compared = {
                number[f]
                for _, read, after, _ in pieces
                for f in read & ((written if after & written else set()) | (taken_back if after & taken_back else set()))
            }
            self.compared[step.label] = tuple(sorted(compared))

    def broken(self, state: State, log: Log, label: str, failed: bool) -> list[str]:
        """The claims that a step violates: after it the state is this, and it has made these assignments."""
        watched = self.watched[label, failed]
        changed = changes(log, state) if watched.places else {}
        touched = [k for k in changed if k in watched.places]
        if not touched and not watched.whole:
            return []
        before = undone(state, changed, self.compared[label])
        out = [name for name, holds in watched.whole if not holds(before, state, failed)]
        seen: set[tuple[object, ...]] = set()
        for k in touched:
            for name, place, holds in watched.places[k]:
                for at in changed[k]:
                    values = place.values(at)
                    case = holds, values
                    if values is not None and case not in seen:
                        seen.add(case)
                        if not holds(before, state, failed, *values):
                            out.append(name)
        return list(dict.fromkeys(out))


def _watched(pieces: list[tuple[str, PieceOfStep]]) -> Watched:
    """These pieces of claims, by what they look at."""
    places: dict[int, list[tuple[str, Changed, Callable[..., bool]]]] = {}
    for name, some in pieces:
        for place, holds in some:
            if place is not None:
                places.setdefault(place.table, []).append((name, place, holds))
    whole = tuple((name, holds) for name, some in pieces for place, holds in some if place is None)
    return Watched({k: tuple(each) for k, each in places.items()}, whole)


def _about_one(machine: ExecutableModel, piece: Term) -> Callable[..., bool]:
    """A piece of a claim about states, as a function of a state; about true places of a large table it looks at these."""
    for place, given, rest in _of_places(machine, piece):
        whole = nested(machine.system, rest)
        return _OfTrue(place.table, place.sizes, place.given, machine.compiled_claim(whole, False, given))
    return machine.compiled_claim(nested(machine.system, piece))


def _about_two(machine: ExecutableModel, piece: Term) -> PieceOfStep:
    """A piece of a claim about steps, as functions of the states before and after a step and whether it failed; if only
    places that the step changed matter, one for each kind of such places, and of the values that a place gives."""
    system, found = machine.system, causes(machine.system, piece)
    if found is None:
        return ((None, machine.compiled_claim(nested(system, piece), True)),)
    whole = piece if isinstance(piece, Quant) and piece.kind == "forall" else Quant("forall", (), piece)
    vars_, supposed, then = premises(system, whole)
    body: Term = Op("=>", (conj(supposed), then)) if supposed else then
    numbers = {name: k for k, name in enumerate(system.funcs)}
    out = []
    for func, args in found:
        sizes = tuple(size_of(system, machine.world, sort) for sort in system.funcs[func].args)
        place = Changed(numbers[func], sizes, tuple(a.name if isinstance(a, Var) else "" for a in args))
        rest = tuple(v for v in vars_ if v.name not in place.given)
        term = nested(system, Quant("forall", rest, body)) if rest else body
        out.append((place, machine.compiled_claim(term, True, place.given)))
    return tuple(out)


@dataclass(frozen=True)
class _Places:
    """A large table of truth values, and its indices that are variables of a claim about its places."""

    table: int
    sizes: tuple[int, ...]
    given: tuple[bool, ...]

    def arguments(self, at: int) -> list[int]:
        """The values of these variables at a place."""
        return [int(i) for i, given in zip(np.unravel_index(at, self.sizes), self.given, strict=True) if given]


def _of_places(machine: ExecutableModel, piece: Term) -> Iterator[tuple[_Places, tuple[str, ...], Term]]:
    """The tables such that a piece is about the places that are true there: with the names of the variables that a place
    gives, and the piece without their quantifier.

    `offered` has a place for each life, reference, domain and frame; few are true.
    """
    system, world = machine.system, machine.world
    if not isinstance(piece, Quant) or piece.kind != "forall":
        return
    vars_, supposed, then = premises(system, piece)
    for place in supposed:
        if not isinstance(place, App):
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


@dataclass(frozen=True)
class _OfTrue(_Places):
    """A claim about each true place of a table."""

    holds: Callable[..., bool]

    def __call__(self, state: State) -> bool:
        return all(self.holds(state, *self.arguments(at)) for at in _true(state[self.table]))


def _true(table: Sequence[int]) -> list[int]:
    """The places that are true."""
    if isinstance(table, bytearray):
        found: list[int] = np.flatnonzero(np.frombuffer(table, np.bool_)).tolist()
        return found
    return [k for k, value in enumerate(table) if value]


def with_bytes(state: State) -> State:
    """The state, with large tables as arrays of bytes: they are copied and compared in a fraction of the time."""
    made = [bytearray(table) if len(table) >= LARGE and max(table) < 256 else table for table in state]
    return cast(State, made)


__all__ = ["StateClaims", "StepClaims", "reads", "with_bytes"]
