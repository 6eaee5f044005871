"""An attack on one system carried to another that has the same fault: by the same calls, from an initial state of the other.

The shipped systems share most of their rules, and so most of their faults and attacks. A solver looks for elements and an
initial state with which the calls of the known attack are one on the other system; that takes a second, where a search
takes many. Nothing is known then of shorter attacks. Not here: the search for attacks (`proofs/theorems`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from bulkhead.model.ir import System
from bulkhead.model.trace import Trace
from bulkhead.proofs.theorems.bmc import Search
from bulkhead.proofs.theorems.least_world import grown
from bulkhead.proofs.theorems.scope import first_scope
from bulkhead.proofs.theorems.shortening import PATIENCE, confirm, in_smallest_world, without_needless_steps


def carried(system: System, fault: str, claim_name: str, calls: Sequence[str]) -> Trace | None:
    """An attack by these calls on the claim, small and without a step that it does without; None if there is none."""
    claim = system.claims().get(claim_name)
    labels = {t.label for s in system.steps for t in s.outcomes()}
    if claim is None or not labels.issuperset(calls):
        return None
    search = Search(system, claim, grown(system, first_scope(system)), math.inf)
    every = search.transitions
    for call in calls:
        search.transitions = [t for t in every if t.label == call]
        search.deepen()
    search.effort(PATIENCE)
    if search.answer(claim) != "sat":
        return None
    trace = replace(search.decode((fault,)), claim=claim_name)
    while True:
        small = without_needless_steps(system, claim, in_smallest_world(system, claim, trace, math.inf))
        if len(small.events) == len(trace.events):
            break
        trace = replace(small, faults=(fault,))
    small = replace(small, faults=(fault,), excluded=-1)
    confirm(system, claim, small)
    return small


__all__ = ["carried"]
