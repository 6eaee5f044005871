"""Proof by induction: which invariants and theorems of a system hold in every reachable state, for any number of elements.

All invariants are assumed before a step and checked after it. Those that fail are dropped, and queries that depended on
them (by their unsat cores) are asked again, until the rest is inductive. A theorem is proved when the remaining
invariants imply it, or when it is inductive together with them. `unknown` or a missing answer proves nothing;
`decide.py` runs the solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import Claim, System
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.decide import Settings, retried, run_blocks
from bulkhead.proofs.theorems.queries import Block, QueryMaker, Result, name_of
from bulkhead.proofs.theorems.subsumption import Meanings, Refuted, split


@dataclass
class Proof:
    """The state of a proof after induction."""

    system: System
    results: list[Result] = field(default_factory=list)
    standing: set[str] = field(default_factory=set)  # names of invariants and theorems that are inductive
    proved: set[str] = field(default_factory=set)  # theorems and transition claims
    failing: list[Result] = field(default_factory=list)  # queries of dropped claims that were not unsat
    first_failing: list[Result] = field(default_factory=list)  # those of them that assumed everything
    candidates: tuple[str, ...] = ()  # the assumptions then: invariants, and theorems that they do not imply
    disagreements: list[Result] = field(default_factory=list)

    @property
    def solver_seconds(self) -> float:
        return sum(r.seconds + r.second_seconds for r in self.results)

    def of_claim(self, claim: str) -> list[Result]:
        return [r for r in self.results if r.claim == claim]


def prove(
    system: System,
    settings: Settings,
    pool: Workers | None = None,
    progress: Callable[[int], None] | None = None,
    only: Iterable[str] | None = None,
    refuted: Refuted | None = None,
) -> Proof:
    """Decide the invariants, theorems and transition claims of a system (or only the named claims).

    `refuted` holds the queries refuted for other systems of this run; those of this system are added to it.
    """
    maker = QueryMaker(system)
    memory = Refuted() if refuted is None else refuted
    meanings = Meanings(maker.formulas.prelude)
    proof = Proof(system)
    wanted = set(only) if only is not None else set(system.claims())
    # All theorems take part in the induction like invariants, because others may depend on them.
    theorems = {n: c for n, c in system.theorems.items() if n in wanted or system.expects.get(n, "proved") == "proved"}
    two_state = [c for n, c in system.step_claims.items() if n in wanted]
    invariants = dict(system.invariants)

    def run(blocks: list[Block], patient: bool = False) -> list[Result]:
        """Ask the queries that are still open; `patient` retries them with more effort, and finds counterexamples."""
        ask, known = split(blocks, memory, meanings, settings.cross_check)
        if known and progress is not None:
            progress(len(known))
        fresh = run_blocks(maker.formulas.prelude, ask, replace(settings, patient=patient), pool, progress)
        if patient:
            fresh = retried(system, maker.formulas.prelude, ask, fresh, settings, pool)
        if refuted is not None:
            answered = {r.key: r for r in fresh}
            for block, query in ((b, q) for b in ask for q in b.queries if q.key in answered):
                memory.add(meanings, block, query, answered[query.key])
        found = {r.key: r for r in (*known, *fresh)}
        return [found[q.key] for b in blocks for q in b.queries if q.key in found]

    def keep(results: Iterable[Result]) -> None:
        for r in results:
            proof.results.append(r)
            if {r.verdict, r.second} == {"sat", "unsat"}:
                proof.disagreements.append(r)

    names = [name_of(c) for c in invariants.values()]
    follows = run([maker.follows(theorems.values(), names)]) if theorems else []
    keep(follows)
    implied = {r.claim: r for r in follows if r.verdict == "unsat"}
    candidates: dict[str, Claim] = {**invariants, **{n: c for n, c in theorems.items() if n not in implied}}
    proof.candidates = tuple(candidates)
    assumed = {name_of(c) for c in candidates.values()}
    still = run(maker.unchanged(two_state)) if two_state else []
    keep(r for r in still if r.verdict == "unsat")  # the others are separate queries for each step
    harmless = {r.key for r in still if _counts(r, settings)}
    blocks = [maker.initial(candidates.values())]
    for t in maker.transitions:
        block = maker.step(t, candidates.values(), assumed, two_state, harmless)
        if block is not None:
            blocks.append(block)
    asked_of: dict[str, set[tuple[str, str]]] = {}  # for each claim: the queries that must all be refuted
    for query in (q for b in blocks for q in b.queries):
        asked_of.setdefault(query.claim, set()).add(query.key)
    answers = {r.key: r for r in run(blocks, settings.patient)}
    keep(answers.values())
    proof.first_failing = [r for r in answers.values() if not _counts(r, settings)]
    while True:
        refuted_now = {k for k, r in answers.items() if _counts(r, settings)}
        bad = {n for n in candidates if not asked_of.get(n, set()) <= refuted_now}
        dropped = {name_of(candidates[n]) for n in bad}
        if not bad:
            break
        proof.failing += [r for r in answers.values() if r.claim in bad and not _counts(r, settings)]
        candidates = {n: c for n, c in candidates.items() if n not in bad}
        assumed -= dropped
        again = [
            k
            for k, r in answers.items()
            if (r.claim in candidates or r.claim in system.step_claims) and dropped & set(r.core)
        ]
        answers = {k: r for k, r in answers.items() if r.claim not in bad}
        asked: dict[str, set[str]] = {}
        for label, name in again:
            asked.setdefault(label, set()).add(name)
        blocks = []
        for t in maker.transitions:
            names_of_step = asked.get(t.label, set())
            block = maker.step(
                t,
                [c for n, c in candidates.items() if n in names_of_step],
                assumed,
                [c for n, c in system.step_claims.items() if n in names_of_step],
                harmless,
            )
            if block is not None:
                blocks.append(block)
        fresh = run(blocks)
        keep(fresh)
        for key in again:  # their proofs depended on a failed claim
            del answers[key]
        answers.update({r.key: r for r in fresh})
    proof.standing = set(candidates)
    stale = [theorems[n] for n, r in implied.items() if not set(r.core) <= assumed | {"goal"} | maker_axioms(maker)]
    if stale:
        fresh = run([maker.follows(stale, assumed)])
        keep(fresh)
        implied.update({r.claim: r for r in fresh})
    proof.proved = {n for n, r in implied.items() if r.verdict == "unsat" and _counts(r, settings)}
    proof.proved |= {n for n in theorems if n in candidates}
    for claim in two_state:
        mine = [r for r in answers.values() if r.claim == claim.name]
        if asked_of.get(claim.name, set()) <= {r.key for r in mine if _counts(r, settings)}:
            proof.proved.add(claim.name)
        else:
            proof.failing += [r for r in mine if not _counts(r, settings)]
    return proof


def maker_axioms(maker: QueryMaker) -> set[str]:
    """The names under which axioms are assumed."""
    return {name_of(c) for c in maker.system.axioms}


def _counts(result: Result, settings: Settings) -> bool:
    """Is this query proved? With the cross-check on, both solvers have to say so."""
    return result.verdict == "unsat" and (not settings.cross_check or result.second == "unsat")


__all__ = ["Proof", "Result", "Settings", "prove"]
