"""A rule state whose steps must answer as the implementation does: the steps, the claims about them, and the log.

Both harnesses stand on it: that of the hypervisor and Dom0's drivers (spec_state.py), and DomB's (domb/rule_state.py). Not
here: which object of the implementation is which element of the rules, and which steps are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bulkhead.model.caller import OKAY
from bulkhead.model.world import State
from bulkhead.proofs.refinement.calls import Step
from bulkhead.proofs.refinement.lockstep.claims import StateClaims, StepClaims

ANY = ""  # a code that fits every outcome

Log = list[Step]  # the rules' steps, for a recording


class Mismatch(Exception):
    """Rules and implementation differ. `places` gives the differences: place -> (in the rules, in the implementation)."""

    def __init__(self, what: str, places: dict[str, tuple[object, object]] | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.places = places or {}


class CompiledRules(Protocol):
    """The rules of a system in a campaign's world (spec_world.py, domb/world.py)."""

    number: dict[str, int]
    state_claims: StateClaims
    step_claims: StepClaims

    def step(self, label: str) -> tuple[Callable[..., Any], tuple[str, ...]]:
        """A rule step as a function, with the names of its arguments."""


class RuleSteps:
    """A rule state, by names of its functions in `T`; counts the outcomes that were reached."""

    def __init__(self, rules: CompiledRules, state: State, ports: int, log: Log | None) -> None:
        """`ports`: how many ports a domain has in the rules' world."""
        self._rules = rules
        self._ports = ports
        self.state = state
        self.T: dict[str, list[int]] = {name: state[k] for name, k in rules.number.items()}
        self.log = log
        self.reached: dict[str, int] = {}
        self.steps = 0
        self._keys: dict[tuple[str, str], str] = {}

    def try_step(self, label: str, args: dict[str, int], fail: str | None = None) -> str | None:
        """Take a rule step and check all claims about steps; its code, or None if it is not enabled."""
        made, names = self._rules.step(label)
        assigned: list[tuple[int, int, int]] = []
        code: str | None = made(self.state, *[args[n] for n in names], args, None, fail, assigned)[0]
        self.steps += 1
        if code is not None:
            if self.log is not None:
                self.log.append((label, dict(args), code, fail))
            self.count(label, code)
            broken = self._rules.step_claims.broken(self.state, assigned, label, code != OKAY)
            if broken:
                self.breaks(label, code, broken)
        return code

    def step(self, label: str, args: dict[str, int], expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step that must end with this code; Mismatch."""
        code = self.try_step(label, args, fail)
        if code is None:
            raise Mismatch(f"the rule `{label}` cannot be taken where the implementation took it (args {args})")
        if expect not in (ANY, code):
            raise Mismatch(
                f"`{label}`: the rules say {code}, the implementation {expect} (args {args})",
                {f"{label}: status": (code, expect)},
            )
        return code

    def count(self, label: str, code: str) -> None:
        """Count an outcome; also one that the rules leave open by abstraction (README: normal forms)."""
        key = self._keys.get((label, code))
        if key is None:
            key = self._keys[label, code] = f"{label}: {code}"
        self.reached[key] = self.reached.get(key, 0) + 1

    def breaks(self, label: str, code: str, claims: Sequence[str]) -> None:
        """A step has broken claims."""
        raise Mismatch(f"the step `{label}`, which ends with {code}, breaks {', '.join(claims)}")

    def check_claims(self) -> None:
        """Check all invariants and theorems that hold in this system."""
        broken = self._rules.state_claims.broken(self.state)
        if broken:
            raise Mismatch(f"{', '.join(broken)}: does not hold")

    def port(self, number: int) -> int:
        """The element of a port number; for an impossible number, some port that is closed in every domain."""
        if 0 < number <= self._ports:
            return number - 1
        state = self.T["port.state"]
        for q in range(self._ports):
            if not any(state[q :: self._ports]):
                return q
        raise Mismatch("the world has too few ports")
