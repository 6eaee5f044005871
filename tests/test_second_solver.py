"""cvc5 as the second solver: one session for the queries of several steps, other ways for what its first way leaves open.

The oracle is a session of its own for each query.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.proofs.theorems import decide
from bulkhead.proofs.theorems.decide import SecondSolver
from bulkhead.proofs.theorems.queries import Block, Query, QueryMaker, Result, name_of
from bulkhead.proofs.theorems.solvers import Cvc5Session, Z3Session

RULES = """component c "Two steps whose parameters have one name and different sorts."
sort A "an a"
sort B "a b"
state p[A]: bool
state q[B]: bool
init (forall a: A. not p[a]) and (forall b: B. not q[b])
internal one(x: A)
    require not p[x] else EBUSY
    set p[x] = true
internal two(x: B)
    require exists a: A. p[a] else EBUSY
    set q[x] = true
invariant none_of_b forall b: B. q[b] implies exists a: A. p[a]
system s "s"
    uses c
"""


def _blocks(system: System, maker: QueryMaker) -> list[Block]:
    claims = (*system.invariants.values(), *system.theorems.values())
    names = {name_of(c) for c in claims}
    made = (maker.step(t, claims, names) for t in maker.transitions)
    return [b for b in made if b is not None]


def _said(query: Query, verdict: str, core: tuple[str, ...]) -> tuple[Query, Result]:
    return query, Result(query.label, query.claim, verdict, core, 0.0)


def _verdicts(system: System, session: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """cvc5's verdicts, asked with everything assumed (as if that were Z3's core)."""
    monkeypatch.setattr(decide, "SESSION", session)
    maker = QueryMaker(system)
    second = SecondSolver(maker.formulas.prelude, 5.0)
    out = []
    for block in _blocks(system, maker):
        core = (*block.assumed, "goal")
        out += [r.second for r in second.decided([_said(q, "unsat", core) for q in block.queries], block)]
    return out


def _alone(system: System) -> list[str]:
    maker = QueryMaker(system)
    out = []
    for block in _blocks(system, maker):
        for query in block.queries:
            session = Cvc5Session(5.0)
            session.tell(maker.formulas.prelude.text)
            out.append(session.ask(block.text() + query.goal).verdict)
    return out


def test_a_session_for_several_steps_answers_as_one_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters of one name and different sorts, declarations that only a later step needs."""
    file = tmp_path / "s.rules"
    file.write_text(RULES, encoding="utf-8")
    system = load(str(file))
    alone = _alone(system)
    assert alone and set(alone) == {"unsat"}
    for session in (1, 2, 100):
        assert _verdicts(system, session, monkeypatch) == alone


def test_a_wrong_core_is_a_disagreement(tmp_path: Path) -> None:
    """What does not follow from the core is answered with `sat`: no other way may turn this into `unknown`."""
    file = tmp_path / "s.rules"
    file.write_text(RULES, encoding="utf-8")
    system = load(str(file))
    maker = QueryMaker(system)
    block = next(b for b in _blocks(system, maker) if b.label == "two")
    (result,) = SecondSolver(maker.formulas.prelude, 5.0).decided([_said(block.queries[0], "unsat", ("goal",))], block)
    assert result.second == "sat"


def test_what_the_first_way_leaves_open_is_decided_in_another() -> None:
    """`only_by_grant` after a page enters an address space: enumeration alone does not end."""
    system = load("disaggregated")
    maker = QueryMaker(system)
    blocks = [b for b in _blocks(system, maker) if b.label == "gntdev_mmap.insert"]
    block = replace(blocks[0], queries=tuple(q for q in blocks[0].queries if q.claim == "only_by_grant"))
    z3 = Z3Session(5.0, fast=True)
    z3.tell(maker.formulas.prelude.text)
    answer = z3.ask(block.text() + block.queries[0].goal)
    assert answer.verdict == "unsat"
    second = SecondSolver(maker.formulas.prelude, 1.0)
    (result,) = second.decided([_said(block.queries[0], "unsat", answer.core)], block)
    assert result.second == "unsat"
