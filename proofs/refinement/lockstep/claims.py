"""Claims, evaluated beside the implementation: those about one state, and those about a step.

A rule step writes few functions. So what is copied before it are the functions that it may write and that some claim
reads, and what is evaluated after it are the claims that read one of those as it is after the step; where a step fails, what
it undoes is all it writes. All other claims say of such a step what they say of one that changes nothing. What is not here:
which claims there are, and when a state is looked at.
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
    """Of one rule step: which functions are copied before it, and which claims are evaluated when it succeeded or failed."""

    copied: tuple[int, ...]
    succeeded: tuple[tuple[str, Callable[..., bool]], ...]
    failed: tuple[tuple[str, Callable[..., bool]], ...]


def reads(system: System, term: Term, after_only: bool = False) -> set[str]:
    """The state functions that a term reads, through definitions, too; `after_only`: those that it reads after the step."""
    out: set[str] = set()
    for part in subterms(term):
        if isinstance(part, App) and (part.next or not after_only):
            out.add(part.func)
        elif isinstance(part, Use) and (part.next or not after_only):
            out |= reads(system, system.defs[part.name].body)
    return out


class StateClaims:
    """All invariants, and the theorems that a system proves."""

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
    """The claims about steps that a system proves, for one machine."""

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
        """What `broken` needs of the state before a step: a state that shares with it all that no claim compares."""
        out = list(state)
        for k in self.watched[label].copied:
            out[k] = list(state[k])
        return out

    def broken(self, before: State, after: State, label: str, failed: bool) -> list[str]:
        """The claims that do not hold of this step."""
        watched = self.watched[label]
        claims = watched.failed if failed else watched.succeeded
        return [name for name, holds in claims if not holds(before, after, failed)]


__all__ = ["StateClaims", "StepClaims", "reads"]
