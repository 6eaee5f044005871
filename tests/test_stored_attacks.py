"""Every step of each stored attack on the shipped rules, with a fault laid, is needed.

The attacks are stored (`attacks/`), because to search them takes hours; here each is held against the rules as they are
now: it begins in an initial state, its steps can be taken with the fault laid, the claim is false after the last one and not
before, no run of steps can be left out, and without the fault it is no attack. Not here: whether a shorter one exists.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import Trace, TraceError
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.solvers import SolverError
from tests.attacks.needed import attacks, needless
from tests.attacks.stored import SYSTEMS, Outcome, attacked, read
from tests.attacks.table import TABLE, text

STORED = {name: read(name) for name in SYSTEMS}
ATTACKS = [(name, fault) for name, outcomes in STORED.items() for fault, o in outcomes.items() if o.rows]


@functools.cache
def correct(name: str) -> System:
    """A system without faults."""
    return load(SYSTEMS[name])


def held(name: str, outcome: Outcome) -> tuple[System, Trace]:
    """The system with the fault, and the attack; fails with what to do if it is none of these rules."""
    system = load(SYSTEMS[name], [outcome.fault])
    again = f"search it again: python -m tests.attacks {name} {outcome.fault}"
    try:
        trace = outcome.trace(system)
        assert trace.claim in system.claims(), again
        assert trace.faults == (outcome.fault,)
        confirm(system, system.claims()[trace.claim], trace)
    except (TraceError, SolverError) as error:
        pytest.fail(f"the stored attack on {name} with {outcome.fault} is none of these rules ({error}): {again}")
    return system, trace


@pytest.mark.parametrize("name", SYSTEMS)
def test_stored_outcomes_are_those_of_faults(name: str) -> None:
    """In their order; a fault that is gone, or renamed, has none."""
    assert list(STORED[name]) == [f for f in correct(name).faults if f in STORED[name]]


@pytest.mark.parametrize(("name", "fault"), ATTACKS)
def test_no_step_of_a_stored_attack_can_be_left_out(name: str, fault: str) -> None:
    system, trace = held(name, STORED[name][fault])
    assert needless(system, trace) == []
    whole = correct(name)
    machine = ExecutableModel(whole, trace.world)
    possible = all(event.label in machine.transitions for event in trace.events)
    assert not (possible and attacks(whole.claims()[trace.claim], machine, trace, trace.events)), "it needs no fault"


def test_the_table_is_the_one_of_the_stored_attacks() -> None:
    """A new fault makes it untrue: it is to be searched, or stands there as not searched yet."""
    assert TABLE.read_text() == text(), "python -m tests.attacks SYSTEM FAULT... searches new faults and writes it again"


def test_a_stored_attack_that_is_none_is_noticed() -> None:
    """A step too many, a step too few, a place that is not there, another fault."""
    outcome = STORED["hypervisor"]["no_scrub"]
    system, trace = held("hypervisor", outcome)
    twice = replace(trace, events=(trace.events[0], *trace.events))
    assert needless(system, twice) == [(1, 1), (2, 2)]
    fewer = attacked("no_scrub", replace(trace, events=trace.events[:-1]), system)
    with pytest.raises(pytest.fail.Exception, match=r"python -m tests\.attacks hypervisor no_scrub"):
        held("hypervisor", fewer)
    elsewhere = replace(outcome, rows=(outcome.rows[0], json.dumps({"initial": {"nowhere[x]": "true"}}), *outcome.rows[2:]))
    with pytest.raises(pytest.fail.Exception, match="there is no place"):
        held("hypervisor", elsewhere)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        held("hypervisor", replace(outcome, fault="foreign_for_all"))
