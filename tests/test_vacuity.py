"""The cost of the vacuity checks: their solver time is reported."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bulkhead.model.loader import load
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.solvers import Spent
from bulkhead.proofs.theorems.vacuity import Checker, possible_labels

GT = str(Path(__file__).parent / "benchmarks" / "gt.rules")
EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*.rules"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_it_costs_at_most_what_the_proof_costs_and_a_second(path: Path) -> None:
    """Counted in the processor's time, both in this process."""
    system = load(str(path))
    begun = time.process_time()
    proof = prove(system, Settings(jobs=1, patient=False))
    proved = time.process_time()
    found = Checker(system, 10.0).result(proof.standing)
    assert not found.errors()
    assert time.process_time() - proved <= proved - begun + 1.0


def test_the_solver_time_of_another_process_is_counted() -> None:
    """It is not the time for which this process waits: here the other one has long ended when it is asked."""
    system = load("hypervisor")
    checker = Checker(system, 10.0)
    with Workers(2) as pool:
        checker.start(pool)
        assert checker._searched is not None
        done = checker._searched.result()
        begun = time.perf_counter()
        found = checker.result(system.invariants)
        waited = time.perf_counter() - begun
    assert found.seconds == done.seconds > 2 * waited


def test_the_solver_time_of_what_is_possible_is_counted() -> None:
    """So it is where an invariant has fallen and the question is asked again, in this process."""
    system, spent = load(GT), Spent()
    assert possible_labels(system, tuple(system.invariants), frozenset({"map"}), 10.0, spent) == ("sat", {"map": "sat"})
    assert spent.seconds > 0


BORROW = """component borrow "Variables own values, or borrow them for a lifetime, from an owner or from who borrows."
sort Var "a variable"
sort Val "a value"
sort Life "a lifetime"
state owns[Var]: { some: bool, val: Val }
state borrow[Var]: { some: bool, of: Var, life: Life, val: Val }
state open[Life]: bool
init forall v: Var, l: Life. not owns[v].some and not borrow[v].some and not open[l]
internal make(v: Var, x: Val)
    require not owns[v].some and not borrow[v].some
    set owns[v] = { some: true, val: x }
internal enter(l: Life) set open[l] = true
internal share(v, w: Var, l: Life)
    require owns[v].some and open[l]
    require not owns[w].some and not borrow[w].some
    set borrow[w] = { some: true, of: v, life: l, val: owns[v].val }
internal borrow_again(v, w: Var)
    require borrow[v].some
    require not owns[w].some and not borrow[w].some
    set borrow[w] = borrow[v]
theorem lives forall v: Var. borrow[v].some implies open[borrow[v].life]
system borrow "b" uses borrow expect proved lives
"""


def test_a_step_that_needs_one_element_more_is_reached(tmp_path: Path) -> None:
    """The formulas ask for two variables; only with three can one borrow from one that borrows. That is no warning."""
    path = tmp_path / "borrow.rules"
    path.write_text(BORROW)
    found = Checker(load(str(path)), 10.0).result(["lives"])
    assert found.warnings() == [] and found.errors() == []
