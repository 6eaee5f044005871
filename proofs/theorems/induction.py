"""Proof by induction: which invariants and theorems of a system hold in every reachable state, for any number of elements.

All invariants are assumed before a step and checked after it. Those that fail are dropped, and queries that depended on
them (by their unsat cores) are asked again, until the rest is inductive. A theorem is proved when the remaining
invariants imply it, or when it is inductive together with them. `unknown` or a missing answer proves nothing;
`decide.py` runs the solvers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from bulkhead.model.ir import Claim, System
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.decide import Settings, retried, run_blocks
from bulkhead.proofs.theorems.queries import Block, QueryMaker, Result, name_of
from bulkhead.proofs.theorems.subsumption import Meanings, Refuted, split

Wanted = Mapping[str, set[str]] | None  # the names of claims, by the label of a step


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

    def keep(self, results: Iterable[Result]) -> None:
        """Add answers of the solvers."""
        for r in results:
            self.results.append(r)
            if {r.verdict, r.second} == {"sat", "unsat"}:
                self.disagreements.append(r)


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
    asking = _Asking(system, settings, pool, progress, refuted)
    proof = Proof(system)
    wanted = set(only) if only is not None else set(system.claims())
    # All theorems take part in the induction like invariants, because others may depend on them.
    theorems = {n: c for n, c in system.theorems.items() if n in wanted or system.expects.get(n, "proved") == "proved"}
    two_state = {n: c for n, c in system.step_claims.items() if n in wanted}

    names = [name_of(c) for c in system.invariants.values()]
    follows = asking.run([asking.maker.follows(theorems.values(), names)]) if theorems else []
    proof.keep(follows)
    implied = {r.claim: r for r in follows if r.verdict == "unsat"}
    candidates: dict[str, Claim] = {**system.invariants, **{n: c for n, c in theorems.items() if n not in implied}}
    proof.candidates = tuple(candidates)

    still = asking.run(asking.maker.unchanged(two_state.values())) if two_state else []
    proof.keep(r for r in still if r.verdict == "unsat")  # the others are separate queries for each step
    asking.harmless = {r.key for r in still if _counts(r, settings)}
    rounds = _Rounds(asking, proof, candidates)
    rounds.first(two_state)
    while rounds.again():
        pass
    proof.standing = set(rounds.candidates)

    stale = [
        theorems[n] for n, r in implied.items() if not set(r.core) <= rounds.assumed | {"goal"} | maker_axioms(asking.maker)
    ]
    if stale:
        fresh = asking.run([asking.maker.follows(stale, rounds.assumed)])
        proof.keep(fresh)
        implied.update({r.claim: r for r in fresh})
    proof.proved = {n for n, r in implied.items() if r.verdict == "unsat" and _counts(r, settings)}
    proof.proved |= theorems.keys() & rounds.candidates.keys()
    for name in two_state:
        mine = [r for r in rounds.answers.values() if r.claim == name]
        if rounds.asked_of.get(name, set()) <= {r.key for r in mine if _counts(r, settings)}:
            proof.proved.add(name)
        else:
            proof.failing += [r for r in mine if not _counts(r, settings)]
    return proof


class _Asking:
    """The queries of one system, and the solvers that they are asked of."""

    def __init__(
        self,
        system: System,
        settings: Settings,
        pool: Workers | None,
        progress: Callable[[int], None] | None,
        refuted: Refuted | None,
    ) -> None:
        self.system, self.settings, self.pool, self.progress = system, settings, pool, progress
        self.maker = QueryMaker(system)
        self.meanings = Meanings(self.maker.formulas.prelude)
        self.refuted = refuted
        self.memory = Refuted() if refuted is None else refuted
        self.harmless: set[tuple[str, str]] = (
            set()
        )  # claims about steps that hold of each step that changes nothing they read

    def run(self, blocks: list[Block], patient: bool = False) -> list[Result]:
        """Ask the queries that are still open; `patient` retries them with more effort, and finds counterexamples."""
        prelude, settings = self.maker.formulas.prelude, self.settings
        ask, known = split(blocks, self.memory, self.meanings, settings.cross_check)
        if known and self.progress is not None:
            self.progress(len(known))
        fresh = run_blocks(prelude, ask, replace(settings, patient=patient), self.pool, self.progress)
        if patient:
            fresh = retried(self.system, prelude, ask, fresh, settings, self.pool)
        if self.refuted is not None:
            answered = {r.key: r for r in fresh}
            for block, query in ((b, q) for b in ask for q in b.queries if q.key in answered):
                self.memory.add(self.meanings, block, query, answered[query.key])
        found = {r.key: r for r in (*known, *fresh)}
        return [found[q.key] for b in blocks for q in b.queries if q.key in found]

    def steps(
        self, states: Mapping[str, Claim], steps: Mapping[str, Claim], wanted: Wanted, assumed: set[str]
    ) -> list[Block]:
        """The queries of all steps about those of the claims that are wanted of a step; all claims without `wanted`."""
        made = []
        for t in self.maker.transitions:
            names = None if wanted is None else wanted.get(t.label, set())
            of_states, of_steps = ([c for n, c in cs.items() if names is None or n in names] for cs in (states, steps))
            block = self.maker.step(t, of_states, assumed, of_steps, self.harmless)
            if block is not None:
                made.append(block)
        return made


class _Rounds:
    """The rounds of an induction: in each, the claims that are not kept are dropped, and what depended on them is asked
    again."""

    def __init__(self, asking: _Asking, proof: Proof, candidates: dict[str, Claim]) -> None:
        self.asking, self.proof, self.candidates = asking, proof, candidates
        self.assumed = {name_of(c) for c in candidates.values()}
        self.asked_of: dict[str, set[tuple[str, str]]] = {}  # for each claim: the queries that must all be refuted
        self.answers: dict[tuple[str, str], Result] = {}

    def first(self, two_state: Mapping[str, Claim]) -> None:
        """Ask everything, with everything assumed."""
        asking = self.asking
        blocks = [asking.maker.initial(self.candidates.values())]
        blocks += asking.steps(self.candidates, two_state, None, self.assumed)
        for query in (q for b in blocks for q in b.queries):
            self.asked_of.setdefault(query.claim, set()).add(query.key)
        self.answers = {r.key: r for r in asking.run(blocks, asking.settings.patient)}
        self.proof.keep(self.answers.values())
        self.proof.first_failing = [r for r in self.answers.values() if not _counts(r, asking.settings)]

    def again(self) -> bool:
        """Drop the claims that are not kept. False if there is none: the others are inductive."""
        asking, proof, answers = self.asking, self.proof, self.answers
        refuted = {k for k, r in answers.items() if _counts(r, asking.settings)}
        bad = {n for n in self.candidates if not self.asked_of.get(n, set()) <= refuted}
        if not bad:
            return False
        dropped = {name_of(self.candidates[n]) for n in bad}
        proof.failing += [r for r in answers.values() if r.claim in bad and not _counts(r, asking.settings)]
        self.candidates = {n: c for n, c in self.candidates.items() if n not in bad}
        self.assumed -= dropped
        step_claims = asking.system.step_claims
        again = [
            k for k, r in answers.items() if (r.claim in self.candidates or r.claim in step_claims) and dropped & set(r.core)
        ]
        wanted: dict[str, set[str]] = {}
        for label, name in again:
            wanted.setdefault(label, set()).add(name)
        fresh = asking.run(asking.steps(self.candidates, step_claims, wanted, self.assumed))
        proof.keep(fresh)
        stale = set(again)  # the old proofs of these depended on a claim that failed.
        self.answers = {k: r for k, r in answers.items() if r.claim not in bad and k not in stale}
        self.answers.update({r.key: r for r in fresh})
        return True


def maker_axioms(maker: QueryMaker) -> set[str]:
    """The names under which axioms are assumed."""
    return {name_of(c) for c in maker.system.axioms}


def _counts(result: Result, settings: Settings) -> bool:
    """Is this query proved? With the cross-check on, both solvers have to say so."""
    return result.verdict == "unsat" and (not settings.cross_check or result.second == "unsat")


__all__ = ["Proof", "Result", "Settings", "prove"]
