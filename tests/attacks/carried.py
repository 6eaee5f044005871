"""An attack on one system carried to another that has the same fault: by the same calls, from an initial state of the other.

The shipped systems share most of their rules, and so most of their faults and attacks. A solver looks for elements and an
initial state with which the calls of the known attack are one on the other system; that takes a second, where a search
takes many. Shorter attacks are then searched in the attack's own world alone. Not here: the search for attacks
(`proofs/theorems`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.shortening import believed, by_labels


def carried(system: System, fault: str, claim_name: str, calls: Sequence[str]) -> Trace | None:
    """An attack by these calls on the claim, small and without a step that it does without; None if there is none."""
    claim = system.claims().get(claim_name)
    labels = {t.label for s in system.steps for t in s.outcomes()}
    if claim is None or not labels.issuperset(calls):
        return None
    session = by_labels(system, claim, list(calls), grown(system, first_scope(system)), math.inf)
    if session is None:
        return None
    return believed(system, session.decode((fault,), claim_name), math.inf, False)


__all__ = ["carried"]
