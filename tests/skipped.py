"""Asks all queries that frame rule and subsumption skip: `python -m tests.skipped [SYSTEM...] [--sample N] [--seed S]`.

A step is not asked about a claim that reads nothing it writes, nor about one that its values can only make true, nor about
a transition claim that holds of every step that changes nothing it reads; and a query is not asked where the same query was
refuted from fewer assumptions. Here each of these is asked with all of its guard, its assignments and the claims before it,
for the shipped systems and for each of their faults (there: the steps that the fault changes). Any answer but `unsat` is
printed and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bulkhead.model.ir import Transition
from bulkhead.model.loader import load, shipped_systems
from bulkhead.proofs.theorems.export import blocks_of
from bulkhead.proofs.theorems.queries import Block, Query, QueryMaker, goal, name_of
from bulkhead.proofs.theorems.solvers import Z3Session
from bulkhead.proofs.theorems.subsumption import Meanings, Refuted, split

LIMIT = 10.0
FRAME, STEP_CLAIM, SUBSUMED = "frame rule", "claims about steps", "subsumption"


@dataclass(frozen=True)
class Skipped:
    """One skipped query: the reason, and a block of its own."""

    reason: str
    block: Block


def of_a_step(maker: QueryMaker, t: Transition) -> Iterator[Skipped]:
    """The queries of a step that the frame rule skips."""
    f, system = maker.formulas, maker.system
    claims = {**system.invariants, **system.theorems}
    assumed = [name_of(c) for c in claims.values()]
    every = {(label, name) for block in maker.unchanged(()) for label in [block.label] for name in system.step_claims}
    asked = maker.step(t, claims.values(), assumed, system.step_claims.values(), every)
    left_in = {q.claim for q in asked.queries} if asked is not None else set()
    after = f.affected(t)
    whole = f.parameters(t) + f.next_state(t)
    checks = {f"check/{k}": text for k, text in enumerate(f.guard_parts(t))}
    shared = maker.assumptions(assumed)
    for name, claim in claims.items():
        if name not in left_in:
            query = Query(t.label, name, goal(f.claim(claim, after)))
            yield Skipped(FRAME, Block(t.label, whole, checks, shared, (query,)))
    for name, claim in system.step_claims.items():
        if name not in left_in and unchanged_holds(maker, name, bool(t.code)):
            query = Query(t.label, name, goal(f.transition_claim(claim, after, bool(t.code))))
            yield Skipped(STEP_CLAIM, Block(t.label, whole, checks, shared, (query,)))


def unchanged_holds(maker: QueryMaker, name: str, failed: bool) -> bool:
    """Is the claim true of every step that changes nothing it reads? Only then it is left out."""
    known: dict[tuple[str, bool], bool] = maker.__dict__.setdefault("_unchanged_for_tests", {})
    if (name, failed) not in known:
        block = maker.unchanged([maker.system.step_claims[name]])[failed]
        known[name, failed] = refuted_one(maker, block)
    return known[name, failed]


def subsumed(maker: QueryMaker, refuted: Refuted, only: Iterable[str] | None = None) -> Iterator[Skipped]:
    """The queries that subsumption skips, given the queries refuted before; `only` these labels."""
    wanted = None if only is None else set(only)
    blocks = [b for b in blocks_of(maker.system, maker) if wanted is None or b.label in wanted]
    _, known = split(blocks, refuted, Meanings(maker.formulas.prelude), False)
    by_key = {q.key: (b, q) for b in blocks for q in b.queries}
    for result in known:
        block, query = by_key[result.key]
        yield Skipped(SUBSUMED, replace(block, queries=(query,)))


def changed_steps(maker: QueryMaker, good: QueryMaker) -> list[Transition]:
    """The outcomes of a faulty system that the correct one does not have."""
    known = {(t.label, t.guard, t.updates, t.params) for t in good.transitions}
    return [t for t in maker.transitions if (t.label, t.guard, t.updates, t.params) not in known]


class Asker:
    """Asks blocks one by one, each with everything that it assumes."""

    def __init__(self, maker: QueryMaker) -> None:
        self.maker = maker
        self.fast = Z3Session(LIMIT, cores=False, fast=True)
        self.fast.tell(maker.formulas.prelude.text)
        self._told = ""

    def refuted(self, block: Block) -> bool:
        """Is the query of a block refuted?"""
        text = block.text()
        if text != self._told:
            if self._told:
                self.fast.tell("(pop)")
            self.fast.tell("(push)\n" + text)
            self._told = text
        return self.fast.ask(block.queries[0].goal).verdict == "unsat" or refuted_one(self.maker, block)


def refuted_one(maker: QueryMaker, block: Block) -> bool:
    """The same in sessions of its own."""
    for fast in (True, False):
        session = Z3Session(LIMIT, cores=False, fast=fast)
        session.tell(maker.formulas.prelude.text)
        if session.ask(block.text() + block.queries[0].goal).verdict == "unsat":
            return True
    return False


@dataclass
class Count:
    """The numbers of skipped and asked queries, and those not refuted."""

    skipped: dict[str, int]
    asked: int
    wrong: list[tuple[str, str]]


def ask(maker: QueryMaker, every: list[Skipped], sample: int | None, rng: random.Random) -> Count:
    """Ask what is skipped, or a sample of it."""
    count: dict[str, int] = {}
    for s in every:
        count[s.reason] = count.get(s.reason, 0) + 1
    numbers = range(len(every)) if sample is None else sorted(rng.sample(range(len(every)), min(sample, len(every))))
    asker = Asker(maker)
    chosen = [every[k] for k in numbers]
    return Count(count, len(chosen), [s.block.queries[0].key for s in chosen if not asker.refuted(s.block)])


def of_system(name: str, sample: int | None, rng: random.Random, refuted: Refuted) -> tuple[QueryMaker, Count]:
    """A shipped system without faults. What is skipped because of `refuted` is asked, too."""
    maker = QueryMaker(load(name))
    every = [s for t in maker.transitions for s in of_a_step(maker, t)] + list(subsumed(maker, refuted))
    return maker, ask(maker, every, sample, rng)


def of_fault(name: str, fault: str, good: QueryMaker, sample: int | None, rng: random.Random, refuted: Refuted) -> Count:
    """A shipped system with one fault: the steps that it changes."""
    maker = QueryMaker(load(name, [fault]))
    steps = changed_steps(maker, good)
    every = [s for t in steps for s in of_a_step(maker, t)]
    return ask(maker, every + list(subsumed(maker, refuted, {t.label for t in steps})), sample, rng)


def main(arguments: list[str] | None = None) -> int:
    from bulkhead.proofs.theorems.induction import Settings, prove  # not needed by the test, which proves nothing

    parser = argparse.ArgumentParser(prog="python -m tests.skipped", description=__doc__)
    parser.add_argument("systems", nargs="*", default=shipped_systems())
    parser.add_argument("--sample", type=int, metavar="N", help="so many of each system and of each fault (default: all)")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    given = parser.parse_args(arguments)
    rng, refuted, wrong = random.Random(given.seed), Refuted(), 0
    for name in given.systems:
        begun = time.perf_counter()
        # What the systems before this one and its own proof have refuted, as in one run of `bulkhead prove`.
        prove(load(name), Settings(jobs=1, cross_check=False, patient=False), refuted=refuted)
        good, count = of_system(name, given.sample, rng, refuted)
        print(f"{name}: skipped {count.skipped}, asked {count.asked}, wrong {count.wrong}", flush=True)
        wrong += len(count.wrong)
        for fault in good.system.faults:
            count = of_fault(name, fault, good, given.sample, rng, refuted)
            wrong += len(count.wrong)
            print(f"  {fault}: skipped {count.skipped}, asked {count.asked}, wrong {count.wrong}", flush=True)
        print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
