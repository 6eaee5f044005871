"""Checks that `certify` denies false claims about faulty rules: `python -m tests.denied SYSTEM...`

Each fault of a shipped system that names the claims and the step that it breaks is laid, and certify checks these
claims after that step, assuming all claims proved for the correct rules. Claims that it does not deny are printed.
"""

from __future__ import annotations

import sys
from collections import Counter

from bulkhead.model.ir import Fault
from bulkhead.model.loader import load
from bulkhead.proofs.certify.check import Claims, decide
from bulkhead.proofs.certify.tree import read
from bulkhead.proofs.report.certified import claims_of
from bulkhead.proofs.theorems.induction import Settings, prove

LIMIT = 3.0  # seconds for one query


def proved_of(name: str) -> tuple[Claims, list[Fault]]:
    """The proved claims of a system without faults, and its faults that name the claims they break."""
    system = load(name)
    claims = claims_of(prove(system, Settings(10.0, 1, cross_check=False)))
    known = claims.inductive | claims.implied | claims.transitions
    return claims, [f for f in system.faults.values() if f.breaks and known >= set(f.breaks)]


def verdicts_on(name: str, fault: Fault, claims: Claims, limit: float = LIMIT) -> dict[str, str]:
    """certify's verdict on each claim that the fault breaks."""
    rules = read(name, [fault.name])
    return {claim: decide(rules, claims, fault.step, claim, limit) for claim in fault.breaks}


def main(names: list[str]) -> None:
    for name in names:
        claims, faults = proved_of(name)
        verdicts: Counter[str] = Counter()
        for fault in faults:
            for claim, verdict in verdicts_on(name, fault, claims).items():
                verdicts[verdict] += 1
                if verdict != "denied":
                    print(f"{name}: {fault.name}: {claim} after {fault.step}: {verdict}", flush=True)
        print(f"{name}: {len(faults)} faults: {dict(verdicts)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
