"""Evaluates claims in lockstep with the implementation: claims about one state, and claims about a step.

A rule step writes few functions. So only the functions that it may write and that some claim reads are copied
before it, and only claims that read one of those after the step are evaluated; a failing step writes only
its `undo`. For all other claims, such a step is like one that changes nothing. Not here: the claims
themselves, and the choice of states to check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Claim, System, Term, Use, subterms
from bulkhead.model.narrow import nested, parts
from bulkhead.model.world import State


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
            f"{claim.kind} {name}": tuple(machine.compiled_claim(nested(system, part)) for part in parts(claim.body))
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
            (name, reads(system, piece), reads(system, piece, True), machine.compiled_claim(piece, True))
            for name, claim in self.claims.items()
            for piece in (nested(system, part) for part in parts(claim.body))
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
            out[k] = list(state[k])
        return out

    def broken(self, before: State, after: State, label: str, failed: bool) -> list[str]:
        """The claims that this step violates."""
        watched = self.watched[label]
        claims = watched.failed if failed else watched.succeeded
        return [name for name, holds in claims if not holds(before, after, failed)]


__all__ = ["StateClaims", "StepClaims", "reads"]
