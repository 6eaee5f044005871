"""Searches the attacks again and stores them: `python -m tests.attacks SYSTEM [FAULT...]`.

SYSTEM is one of those in `SYSTEMS`. Without a FAULT all are searched; `--left` leaves out those whose stored attack still
holds. With `--from OTHER` nothing is searched: stored attacks on the other system are carried over (`carried.py`). It takes
seconds to minutes for a fault, and writes after each, so that it can be stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from bulkhead.model.loader import load
from bulkhead.model.trace import TraceError
from bulkhead.proofs.theorems.attack import find_attacks
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.waypoints import Doubts
from tests.attacks.carried import carried
from tests.attacks.needed import needless
from tests.attacks.stored import SYSTEMS, Outcome, attacked, read, write
from tests.attacks.table import write_table


def search(name: str, fault: str) -> Outcome:
    """What `bulkhead attack` finds without a theorem."""
    system = load(SYSTEMS[name], [fault])
    doubts = Doubts(system)
    likely = [n for n in system.claims() if system.expects.get(n) != "refuted"]
    found = [t for t in find_attacks(system, likely, (fault,), one=True, doubts=doubts).values() if t is not None]
    if found:
        return attacked(fault, found[0], system)
    return Outcome(fault, proved=not doubts.about(likely), broken=doubts.first)


def carry(name: str, fault: str, other: Outcome) -> Outcome | None:
    """The attack on another system, on this one; None if it is none here."""
    if not other.rows:
        return None
    head, _, *steps = (json.loads(row) for row in other.rows)
    system = load(SYSTEMS[name], [fault])
    trace = carried(system, fault, head["claim"], [row["call"] for row in steps])
    return None if trace is None else attacked(fault, trace, system)


def holds(name: str, outcome: Outcome) -> bool:
    """Is a stored attack one of the rules as they are now? What has no attack is to be searched again."""
    if not outcome.rows:
        return False
    system = load(SYSTEMS[name], [outcome.fault])
    try:
        trace = outcome.trace(system)
        confirm(system, system.claims()[trace.claim], trace)
        return not needless(system, trace)
    except (TraceError, SolverError, KeyError, AssertionError):
        return False


def main() -> int:
    """Search, store, and print a line for each fault; 1 if something has needless steps, or neither attack nor proof."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("fault", nargs="*")
    parser.add_argument("--left", action="store_true", help="only those without a stored attack that still holds")
    parser.add_argument("--from", dest="other", choices=SYSTEMS, help="carry the stored attacks on this system over")
    given = parser.parse_intermixed_args()
    known, wrong = read(given.system), 0
    others = read(given.other) if given.other else {}
    faults = load(SYSTEMS[given.system]).faults
    unknown = [f for f in given.fault if f not in faults]
    if unknown:
        parser.error(f"{given.system} has no fault {', '.join(unknown)}")
    for fault in given.fault or faults:
        if given.left and fault in known and holds(given.system, known[fault]):
            continue
        begun = time.process_time()
        if given.other is None:
            outcome: Outcome | None = search(given.system, fault)
        else:
            outcome = carry(given.system, fault, others[fault]) if fault in others else None
        if outcome is None:
            continue  # the other system has no attack that is one here
        known[fault] = outcome
        if outcome.rows:
            system = load(SYSTEMS[given.system], [fault])
            trace = outcome.trace(system)
            runs = needless(system, trace)
            said = f"{trace.claim}, {len(trace.events)} steps, none of {trace.excluded} or fewer"
            said += f", NEEDLESS {runs}" if runs else ""
        else:
            runs, said = [], f"{'all is proved' if outcome.proved else 'NOTHING FOUND'}, without {', '.join(outcome.broken)}"
        wrong |= bool(runs) or not (outcome.rows or outcome.proved)
        print(f"{given.system} {fault}: {said}, {time.process_time() - begun:.1f} s", flush=True)
        write(given.system, [known[f] for f in faults if f in known])
    write_table()
    return wrong


if __name__ == "__main__":
    sys.exit(main())
