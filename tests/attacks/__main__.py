"""Searches the attacks again and stores them: `python -m tests.attacks SYSTEM [FAULT...]`.

SYSTEM is one of those in `SYSTEMS`. Without a FAULT all are searched; `--left` leaves out those whose stored attack still
holds. It takes seconds to minutes for a fault, and writes after each, so that it can be stopped.
"""

from __future__ import annotations

import argparse
import sys
import time

from bulkhead.model.loader import load
from bulkhead.model.trace import TraceError
from bulkhead.proofs.theorems.attack import find_attacks
from bulkhead.proofs.theorems.shortening import confirm
from bulkhead.proofs.theorems.solvers import SolverError
from bulkhead.proofs.theorems.waypoints import Doubts
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
    given = parser.parse_args()
    known, wrong = read(given.system), 0
    faults = load(SYSTEMS[given.system]).faults
    unknown = [f for f in given.fault if f not in faults]
    if unknown:
        parser.error(f"{given.system} has no fault {', '.join(unknown)}")
    for fault in given.fault or faults:
        if given.left and fault in known and holds(given.system, known[fault]):
            continue
        begun = time.process_time()
        outcome = known[fault] = search(given.system, fault)
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
