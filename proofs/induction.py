"""Proof by induction: which invariants and theorems of a system hold in every reachable state, for any number of things.

All invariants are assumed before a step and asked for after it. Those that fail are dropped and whatever leaned on them
(as its unsat core shows) is asked again, until the rest stands on its own. A theorem is proved when the standing
invariants imply it, or when it is inductive beside them. Work is spread over processes; nothing is proved on `unknown`.
"""

from __future__ import annotations

import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from model.ir import Claim, System
from proofs.queries import Block, Query, QueryMaker, name_of
from proofs.reuse import Meanings, Refuted, split
from proofs.solvers import EAGERNESS, FAST_LIMIT, Answer, Cvc5Session, SolverError, Z3Session

if TYPE_CHECKING:
    from proofs.cti import Cti

DEFAULT_LIMIT = 10.0


@dataclass(frozen=True)
class Result:
    """The answers to one query. `second` is cvc5's verdict, "" when it was not asked."""

    label: str
    claim: str
    verdict: str
    core: tuple[str, ...]
    seconds: float
    second: str = ""
    second_seconds: float = 0.0
    again: bool = False  # refuted earlier in this run, for another system (`reuse.py`)
    cti: Cti | None = None  # for `sat`: the counterexample to induction, confirmed by the executable model


@dataclass(frozen=True)
class Settings:
    """How to prove: time limit per query in seconds, number of processes, and whether cvc5 decides again.

    With `patient`, what is not refuted quickly is pressed: a counterexample to induction is looked for.
    """

    limit: float = DEFAULT_LIMIT
    jobs: int = 2
    cross_check: bool = True
    patient: bool = True


@dataclass
class Proof:
    """What is known of a system after induction."""

    system: System
    results: list[Result] = field(default_factory=list)
    standing: set[str] = field(default_factory=set)  # names of invariants and theorems that are inductive
    proved: set[str] = field(default_factory=set)  # theorems and transition claims
    failing: list[Result] = field(default_factory=list)  # queries that were not unsat, of claims now dropped
    first_failing: list[Result] = field(default_factory=list)  # those of them in which everything was assumed
    candidates: tuple[str, ...] = ()  # what was assumed then: invariants, and theorems that they do not imply
    disagreements: list[Result] = field(default_factory=list)

    @property
    def solver_seconds(self) -> float:
        return sum(r.seconds + r.second_seconds for r in self.results)

    def of_claim(self, claim: str) -> list[Result]:
        return [r for r in self.results if r.claim == claim]


def _begin() -> None:
    """Ctrl-C is for the parent, which ends its workers. Rules and states live long: looking for cycles is in vain."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    gc.set_threshold(500_000, 20, 20)


def solve_batch(prelude: str, blocks: list[Block], settings: Settings) -> list[Result]:
    """Decide every query of some blocks of one system; one solver session for all of them."""
    results: list[Result] = []
    z3 = Z3Session(min(FAST_LIMIT, settings.limit), fast=True)
    z3.tell(prelude)
    second: Cvc5Session | None = None
    if settings.cross_check:
        second = Cvc5Session(settings.limit)
        second.tell(prelude)
    for block in blocks:
        z3.tell("(push)\n" + block.text())
        if second is not None:
            second.tell("(push 1)\n" + block.context)
        for query in block.queries:
            answer = z3.ask(query.goal)
            if answer.verdict != "unsat" and block.label == "follows":
                # Not implied outright: induction will decide, so neither solver is pressed here.
                results.append(Result(block.label, query.claim, "unknown", (), answer.seconds))
                continue
            if answer.verdict != "unsat":
                more = _insist(prelude, block.text() + query.goal, settings)
                answer = replace(more, seconds=answer.seconds + more.seconds)
            result = Result(block.label, query.claim, answer.verdict, answer.core, answer.seconds)
            if second is not None and answer.verdict == "unsat":
                result = _again(result, second, block, query, prelude, settings)
            results.append(result)
        z3.tell("(pop)")
        if second is not None:
            second.tell("(pop 1)")
    return results


def _insist(prelude: str, text: str, settings: Settings) -> Answer:
    """Ask a query that a long session left open in sessions of its own, each with another eagerness to refute it."""
    seconds = 0.0
    for eager in EAGERNESS:
        session = Z3Session(min(FAST_LIMIT, settings.limit), fast=True, eager=eager)
        session.tell(prelude)
        answer = session.ask(text)
        seconds += answer.seconds
        if answer.verdict == "unsat":
            break
    return replace(answer, seconds=seconds)


def _again(result: Result, session: Cvc5Session, block: Block, query: Query, prelude: str, settings: Settings) -> Result:
    """cvc5's word on a query that Z3 refuted. It is asked with the core only: if that is unsat, so is the whole.

    The session knows the block's context already.
    """
    answer = session.ask(block.assertions(result.core) + (query.goal if "goal" in result.core else ""))
    if answer.verdict != "unsat":
        finite = Cvc5Session(settings.limit, finite=True)
        finite.tell(prelude)
        more = finite.ask(block.text() + query.goal)
        answer = replace(more, seconds=answer.seconds + more.seconds)
    return replace(result, second=answer.verdict, second_seconds=answer.seconds)


def press(system: System, prelude: str, block: Block, result: Result, settings: Settings) -> Result:
    """Decide a query that could not be refuted quickly: by a counterexample in a small world, or with more patience."""
    from proofs.cti import counterexample

    begun = time.perf_counter()
    (query,) = [q for q in block.queries if q.claim == result.claim]
    if block.label != "init":
        assumed = [n for n in block.assumed if n.partition("/")[0] in ("invariant", "theorem")]
        try:
            found = counterexample(system, block.label, result.claim, assumed, settings.limit)
        except SolverError:
            found = None
        if found is not None:
            spent = result.seconds + time.perf_counter() - begun
            return replace(result, verdict="sat", core=(), seconds=spent, cti=found)
    session = Z3Session(settings.limit, fast=False)
    session.tell(prelude)
    answer = session.ask(block.text() + query.goal)
    pressed = replace(result, verdict=answer.verdict, core=answer.core, seconds=result.seconds + answer.seconds)
    if answer.verdict != "unsat" or not settings.cross_check:
        return pressed
    second = Cvc5Session(settings.limit)
    second.tell(prelude + block.context)
    return _again(pressed, second, block, query, prelude, settings)


def run_blocks(prelude: str, blocks: list[Block], settings: Settings, pool: ProcessPoolExecutor | None,
               progress: Callable[[int], None] | None = None) -> list[Result]:
    """Decide all blocks, in the order given, over the pool's processes."""
    if pool is None:
        results = solve_batch(prelude, blocks, settings)
        if progress is not None:
            progress(len(results))
        return results
    heavy_first = sorted(range(len(blocks)), key=lambda k: -len(blocks[k].queries))
    parts: list[list[int]] = []
    total = sum(len(b.queries) for b in blocks)
    aim = max(1, total // (settings.jobs * 6))
    for k in heavy_first:
        for part in parts:
            if sum(len(blocks[j].queries) for j in part) + len(blocks[k].queries) <= aim:
                part.append(k)
                break
        else:
            parts.append([k])
    futures = {pool.submit(solve_batch, prelude, [blocks[k] for k in part], settings): part for part in parts}
    found: dict[tuple[str, str], Result] = {}
    todo = set(futures)
    while todo:
        ready, todo = wait(todo, return_when=FIRST_COMPLETED)
        for future in ready:
            results = future.result()
            found.update(((r.label, r.claim), r) for r in results)
            if progress is not None:
                progress(len(results))
    return [found[q.label, q.claim] for b in blocks for q in b.queries]


def make_pool(jobs: int) -> ProcessPoolExecutor | None:
    """A pool of solver processes; None for a single one."""
    if jobs <= 1:
        return None
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("fork"), initializer=_begin)


def prove(system: System, settings: Settings, pool: ProcessPoolExecutor | None = None,
          progress: Callable[[int], None] | None = None, only: Iterable[str] | None = None,
          refuted: Refuted | None = None) -> Proof:
    """Decide the invariants, theorems and transition claims of a system (or only the named claims).

    `refuted` holds the queries refuted for other systems of this run; those of this system are added to it.
    """
    maker = QueryMaker(system)
    memory = Refuted() if refuted is None else refuted
    meanings = Meanings(maker.formulas)
    proof = Proof(system)
    wanted = set(only) if only is not None else set(system.claims())
    # Theorems take part in the induction like invariants, also those that nobody asks about: others lean on them.
    theorems = {n: c for n, c in system.theorems.items() if n in wanted or system.expects.get(n, "proved") == "proved"}
    two_state = [c for n, c in system.transitions.items() if n in wanted]
    invariants = dict(system.invariants)

    def run(blocks: list[Block], patient: bool = False) -> list[Result]:
        """Ask what is not known yet; `patient` presses what stays open, and finds counterexamples."""
        ask, known = split(blocks, memory, meanings, settings.cross_check)
        if known and progress is not None:
            progress(len(known))
        fresh = run_blocks(maker.formulas.prelude, ask, settings, pool, progress)
        if patient:
            fresh = _pressed(system, maker.formulas.prelude, ask, fresh, settings, pool)
        if refuted is not None:
            for (block, query), result in zip(((b, q) for b in ask for q in b.queries), fresh, strict=True):
                memory.add(meanings, block, query, result)
        found = {(r.label, r.claim): r for r in (*known, *fresh)}
        return [found[q.label, q.claim] for b in blocks for q in b.queries]

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
    blocks = [maker.initial(candidates.values())]
    for t in maker.transitions:
        block = maker.step(t, candidates.values(), assumed, two_state)
        if block is not None:
            blocks.append(block)
    answers = {(r.label, r.claim): r for r in run(blocks, settings.patient)}
    keep(answers.values())
    proof.first_failing = [r for r in answers.values() if not _counts(r, settings)]
    while True:
        bad = {r.claim for r in answers.values() if r.claim in candidates and not _counts(r, settings)}
        dropped = {name_of(candidates[n]) for n in bad}
        if not bad:
            break
        proof.failing += [r for r in answers.values() if r.claim in bad and not _counts(r, settings)]
        candidates = {n: c for n, c in candidates.items() if n not in bad}
        assumed -= dropped
        again = [k for k, r in answers.items() if (r.claim in candidates or r.claim in system.transitions)
                 and dropped & set(r.core)]
        answers = {k: r for k, r in answers.items() if r.claim not in bad}
        for label in dict.fromkeys(k[0] for k in again):
            claims = [candidates[c] for lab, c in again if lab == label and c in candidates]
            pairs = [system.transitions[c] for lab, c in again if lab == label and c in system.transitions]
            if label == "init":
                continue
            for t in maker.transitions:
                block = maker.step(t, claims, assumed, pairs) if t.label == label else None
                if block is not None:
                    fresh = run([block])
                    keep(fresh)
                    answers.update({(r.label, r.claim): r for r in fresh})
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
        if all(_counts(r, settings) for r in mine):
            proof.proved.add(claim.name)
        else:
            proof.failing += [r for r in mine if not _counts(r, settings)]
    return proof


def _pressed(system: System, prelude: str, blocks: list[Block], results: list[Result], settings: Settings,
             pool: ProcessPoolExecutor | None) -> list[Result]:
    """The results, with those that were not refuted decided with more effort."""
    by_label = {b.label: b for b in blocks}
    futures = {}
    for k, r in enumerate(results):
        if r.verdict != "unsat":
            job = (system, prelude, by_label[r.label], r, settings)
            futures[k] = press(*job) if pool is None else pool.submit(press, *job)
    done = {k: f if isinstance(f, Result) else f.result() for k, f in futures.items()}
    return [done.get(k, r) for k, r in enumerate(results)]


def maker_axioms(maker: QueryMaker) -> set[str]:
    """The names under which axioms are assumed."""
    return {name_of(c) for c in maker.system.axioms}


def _counts(result: Result, settings: Settings) -> bool:
    """Is this query proved? With the cross-check on, both solvers have to say so."""
    return result.verdict == "unsat" and (not settings.cross_check or result.second == "unsat")


__all__ = ["DEFAULT_LIMIT", "Proof", "Result", "Settings", "SolverError", "make_pool", "prove", "run_blocks"]
