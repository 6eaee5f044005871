"""Decides queries: Z3 refutes them, cvc5 checks each refutation, and open queries are retried with more effort.

Blocks are distributed over processes. Z3 keeps one session for many blocks; cvc5 gets a new one for each block, with
only the needed declarations, because long sessions of cvc5 become slow. `unknown` never counts as decided.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, replace

from bulkhead.model.ir import System
from bulkhead.model.logic import Prelude
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.cti import breaks
from bulkhead.proofs.theorems.queries import FOLLOWS, PLACES, Block, Query, Result
from bulkhead.proofs.theorems.solvers import (
    CVC5_FINITE,
    CVC5_INTERLEAVED,
    CVC5_REFUTING,
    EAGERNESS,
    FAST_LIMIT,
    Answer,
    Cvc5Session,
    SolverError,
    Z3Session,
)
from bulkhead.proofs.theorems.subsumption import Meanings, Refuted, split

DEFAULT_LIMIT = 10.0
FIRST_PATIENCE = 1.0  # seconds for Z3's default settings before the search for counterexamples, and for cvc5's first way
SESSION = 20  # queries for a session of cvc5, at least
# How cvc5 is asked about a query that its first second left open. Each way refutes at once some of what the others do not.
CVC5_AGAIN = ((CVC5_FINITE, 1.0), (CVC5_INTERLEAVED, 1.0), (CVC5_REFUTING, math.inf), (CVC5_FINITE, math.inf))
PARTS = 6  # parts of the work per process: small ones at the end keep all processes busy,
LEAST = 10  # but a part with fewer queries is not worth a session


@dataclass(frozen=True)
class Settings:
    """Options of a proof: time limit per query in seconds, number of processes, and whether cvc5 checks refutations.

    With an `effort` (Z3's resource limit for a query) instead of the limit, answers are the same on every machine; it takes
    neither `patient` nor a cross-check.

    With `patient`, all queries are asked, and open ones are retried with more effort, which also
    searches for a counterexample to induction. Without it, the first open query of a claim ends its queries in a batch.
    """

    limit: float = DEFAULT_LIMIT
    jobs: int = 2
    cross_check: bool = True
    patient: bool = True
    effort: int = 0


def solve_batch(prelude: Prelude, blocks: list[Block], settings: Settings) -> list[Result]:
    """Decide the queries of some blocks of one system in one session of Z3.

    Most proofs depend on few claims. So each query first assumes only the claim itself and the claims that helped it before,
    which takes a small part of the time. If this does not refute it, it is asked again with the claims that are near, and
    then with all.
    """
    results: list[Result] = []
    failed: set[str] = set()
    memory, meanings = Refuted(), Meanings(prelude)
    helpers: dict[str, set[str]] = {}  # for each claim, the dependencies of its proofs so far: itself, and a few others
    z3 = Z3Session(min(FAST_LIMIT, settings.limit), fast=True, effort=settings.effort)
    z3.tell(prelude.text)
    second = SecondSolver(prelude, settings.limit)
    for whole in blocks:
        ask, known = split([whole], memory, meanings, settings.cross_check)
        results += known
        if not ask:
            continue
        (block,) = ask
        claims, others = block.shared.claims, block.shared.others
        near = block.nearby
        z3.tell("(push)\n" + block.context + block.assertions(block.checks.keys() | (near & others)))
        first = {}
        for query in block.queries:
            own = claims.get(query.claim)
            if own is not None and (settings.patient or query.claim not in failed):
                few = helpers.setdefault(query.claim, {own})
                first[query.claim] = z3.ask(block.assertions(few) + query.goal)
        if any(q.claim not in first or first[q.claim].verdict != "unsat" for q in block.queries):
            z3.tell(block.assertions(near - others))
        found: list[tuple[Query, Result]] = []
        for query in block.queries:
            if query.claim in failed and not settings.patient:
                continue
            answer = first.get(query.claim, Answer("unknown"))
            for everything in (False, True) if len(near) < len(block.shared.names) else (False,):
                if answer.verdict != "unsat":
                    more = z3.ask((block.assertions(block.shared.names - near) if everything else "") + query.goal)
                    answer = replace(more, seconds=answer.seconds + more.seconds)
                    helpers.get(query.claim, set()).update(
                        n for n in more.core if n in block.shared.order and n not in others
                    )
            if answer.verdict != "unsat" and block.label != FOLLOWS:  # what is not implied outright, induction will decide
                more = _retry_eagerly(prelude, block.text() + query.goal, settings)
                answer = replace(more, seconds=answer.seconds + more.seconds)
            if answer.verdict != "unsat":
                answer = replace(answer, verdict="unknown")
                failed.add(query.claim)
            found.append((query, Result(block.label, query.claim, answer.verdict, answer.core, answer.seconds)))
        z3.tell("(pop)")
        decided = second.decided(found, block) if settings.cross_check else [r for _, r in found]
        for (query, _), result in zip(found, decided, strict=True):
            memory.add(meanings, block, query, result)
        results += decided
    return results


def _retry_eagerly(prelude: Prelude, text: str, settings: Settings) -> Answer:
    """Ask a query that a long session left open again in new sessions, each with another eagerness of instantiation."""
    seconds = 0.0
    for eager in EAGERNESS:
        session = Z3Session(min(FAST_LIMIT, settings.limit), fast=True, eager=eager, effort=settings.effort)
        session.tell(prelude.text)
        answer = session.ask(text)
        seconds += answer.seconds
        if answer.verdict == "unsat":
            break
    return replace(answer, seconds=seconds)


class SecondSolver:
    """cvc5, asked about what Z3 refuted: only the core, with only the needed declarations.

    A session is used for a few queries: to begin one takes as long as a query, and long ones become slow.
    """

    def __init__(self, prelude: Prelude, limit: float) -> None:
        self._prelude, self._limit = prelude, limit
        self._told: set[str] = set()  # the names of the declarations that the session has
        self._left = 0  # queries, before a new session is begun
        self._session: Cvc5Session

    def _declare(self, text: str, queries: int) -> None:
        if self._left <= 0:
            self._session, self._told, self._left = Cvc5Session(min(FIRST_PATIENCE, self._limit)), set(), SESSION
        missing = self._prelude.behind(text) - self._told
        self._session.tell(self._prelude.in_order(missing))
        self._told |= missing
        self._left -= queries

    def decided(self, found: list[tuple[Query, Result]], block: Block) -> list[Result]:
        """The results of a block's queries, with cvc5's verdicts on those that Z3 refuted."""
        texts = {
            r.claim: block.assertions(r.core) + (q.goal if "goal" in r.core else "")
            for q, r in found
            if r.verdict == "unsat"
        }
        if not texts:
            return [r for _, r in found]
        self._declare(block.context + "".join(texts.values()), len(texts))
        self._session.tell("(push 1)\n" + block.context)
        out = []
        for _, result in found:
            if result.verdict == "unsat":
                answer = self._session.ask(texts[result.claim])
                for options, most in CVC5_AGAIN:
                    if answer.verdict == "unknown":
                        more = self._alone(block.context, texts[result.claim], options, min(most, self._limit))
                        answer = replace(more, seconds=answer.seconds + more.seconds)
                result = replace(result, second=answer.verdict, second_seconds=answer.seconds)
            out.append(result)
        self._session.tell("(pop 1)\n")
        return out

    def _alone(self, context: str, text: str, options: tuple[str, ...], limit: float) -> Answer:
        """A query in a session of its own."""
        session = Cvc5Session(limit, options)
        session.tell(self._prelude.in_order(self._prelude.behind(context + text)) + context)
        return session.ask(text)


def retry(system: System, prelude: Prelude, block: Block, result: Result, settings: Settings) -> Result:
    """Decide a query that was not refuted quickly, with more effort.

    Z3's default settings refute most of these at once. Then a counterexample is searched in a small world, and then Z3
    gets all its time.
    """
    begun = time.perf_counter()
    (query,) = [q for q in block.queries if q.claim == result.claim]

    def patiently(limit: float) -> Answer:
        session = Z3Session(limit, fast=False)
        session.tell(prelude.text)
        return session.ask(block.text() + query.goal)

    answer = patiently(min(FIRST_PATIENCE, settings.limit))
    if answer.verdict == "unknown" and block.label not in PLACES:
        assumed = [n for n in block.assumed if n.partition("/")[0] in ("invariant", "theorem")]
        with contextlib.suppress(SolverError):
            if breaks(system, block.label, result.claim, assumed, settings.limit):
                answer = Answer("sat")
    if answer.verdict == "unknown" and settings.limit > FIRST_PATIENCE:
        answer = patiently(settings.limit)
    made = replace(result, verdict=answer.verdict, core=answer.core, seconds=result.seconds + time.perf_counter() - begun)
    if answer.verdict != "unsat" or not settings.cross_check:
        return made
    return SecondSolver(prelude, settings.limit).decided([(query, made)], block)[0]


def run_blocks(
    prelude: Prelude,
    blocks: list[Block],
    settings: Settings,
    pool: Workers | None,
    progress: Callable[[int], None] | None = None,
) -> list[Result]:
    """Decide all blocks over the pool's processes; the results are in the order of the queries."""
    if pool is None or pool.jobs == 1:  # one session for all of them
        results = solve_batch(prelude, blocks, settings)
        if progress is not None:
            progress(len(results))
        return results
    alike: dict[str, list[Block]] = {}  # blocks that differ only in their assumptions have most queries in common
    for block in blocks:
        alike.setdefault(block.context, []).append(block)
    parts: list[list[Block]] = []
    total = sum(len(bs[0].queries) for bs in alike.values())
    aim = max(LEAST, total // (settings.jobs * PARTS))
    sizes: list[int] = []
    for same in sorted(alike.values(), key=lambda bs: -len(bs[0].queries)):
        size = len(same[0].queries)
        k = next((k for k, taken in enumerate(sizes) if taken + size <= aim), len(parts))
        if k == len(parts):
            parts.append([])
            sizes.append(0)
        parts[k] += same
        sizes[k] += size
    futures = [pool.submit(solve_batch, prelude, part, settings) for part in parts]
    found: dict[tuple[str, str], Result] = {}
    todo = set(futures)
    while todo:
        ready, todo = wait(todo, return_when=FIRST_COMPLETED)
        for future in ready:
            results = future.result()
            found.update((r.key, r) for r in results)
            if progress is not None:
                progress(len(results))
    return [found[q.key] for b in blocks for q in b.queries if q.key in found]


def retried(
    system: System, prelude: Prelude, blocks: list[Block], results: list[Result], settings: Settings, pool: Workers | None
) -> list[Result]:
    """The results, with open queries retried with more effort."""
    by_label = {b.label: b for b in blocks}
    futures = {}
    for k, r in enumerate(results):
        if r.verdict != "unsat":
            job = (system, prelude, by_label[r.label], r, settings)
            futures[k] = retry(*job) if pool is None else pool.submit(retry, *job)
    done = {k: f if isinstance(f, Result) else f.result() for k, f in futures.items()}
    return [done.get(k, r) for k, r in enumerate(results)]


__all__ = ["DEFAULT_LIMIT", "Settings", "retried", "retry", "run_blocks", "solve_batch"]
