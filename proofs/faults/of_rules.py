"""Checks that the proof notices a fault of the rules, whose declaration names the claims that it breaks, and the step.

With the fault laid, the step must no longer keep the claim: the proof of the correct rules has not refuted this query,
and a small counterexample to induction, confirmed by the executable model, shows the step that breaks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bulkhead.model import loader
from bulkhead.model.ir import Fault, System
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.cti import Cti, counterexample
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.induction import Proof, prove
from bulkhead.proofs.theorems.queries import QueryMaker, name_of
from bulkhead.proofs.theorems.subsumption import Meanings, Refuted, split


@dataclass(frozen=True)
class Correct:
    """The proof of the correct rules of a system, and its refuted queries: a fault changes few of them."""

    proof: Proof
    refuted: Refuted


@dataclass(frozen=True)
class Noticed:
    """A fault that was laid. `found` has a counterexample for each claim it breaks; `missed` the reasons for the others."""

    fault: Fault
    found: tuple[Cti, ...]
    missed: tuple[str, ...]
    seconds: float


def correct(system: str, workers: Workers | None = None, progress: Callable[[int], None] | None = None) -> Correct:
    """Prove the rules without faults; `system` is the name or path of a system."""
    refuted = Refuted()
    settings = Settings(jobs=1 if workers is None else workers.jobs, cross_check=False)
    return Correct(prove(loader.load(system), settings, workers, progress, refuted=refuted), refuted)


def notice(system: str, name: str, known: Correct) -> Noticed:
    """Lay one fault over the rules and check that it breaks the declared claims. Raises `UsageError` on an unknown fault."""
    begun = time.perf_counter()
    faulty = loader.load(system, [name])
    fault = faulty.faults[name]
    found: list[Cti] = []
    missed: list[str] = []
    if not fault.breaks:
        missed.append("it does not say which claim it breaks, and in which step")
    for claim in fault.breaks:
        said = _one(faulty, fault, claim, known)
        if isinstance(said, Cti):
            found.append(said)
        else:
            missed.append(said)
    return Noticed(fault, tuple(found), tuple(missed), time.perf_counter() - begun)


def _one(faulty: System, fault: Fault, claim: str, known: Correct) -> Cti | str:
    """A counterexample for one claim, or the reason why there is none."""
    maker = QueryMaker(faulty)
    claims = faulty.stated()
    if claim not in claims:
        return f"{faulty.name} claims nothing named {claim}"
    steps = [t for t in maker.transitions if t.label == fault.step]
    if not steps:
        return f"{faulty.name} has no step {fault.step}"
    candidates = [claims[n] for n in known.proof.candidates]
    pairs = [c for c in faulty.step_claims.values() if c.name == claim]
    blocks = [maker.step(t, candidates, {name_of(c) for c in candidates}, pairs) for t in steps]
    ask, _ = split([b for b in blocks if b is not None], known.refuted, Meanings(maker.formulas.prelude), False)
    if claim not in {q.claim for b in ask for q in b.queries}:
        return f"the proof of the correct rules shows that {fault.step} keeps {claim} with the fault, too"
    found = counterexample(faulty, fault.step, claim, list(known.proof.candidates))
    return found if found is not None else f"no counterexample to {claim} in {fault.step} was found in a small world"
