"""Random systems: all semantics in Bulkhead are compared with the interpreter of `tests/oracle/`, from fixed seeds.

`python -m tests.oracle.fuzz --systems N --seed S` compares any number of systems. The last tests seed faults in the engine,
which the comparison must notice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.model import choices, ir, operations
from bulkhead.model import syntax as s
from bulkhead.model.after import told_before
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems import induction
from bulkhead.proofs.theorems.export import text_of
from bulkhead.proofs.theorems.frame_rule import Frame
from bulkhead.proofs.theorems.induction import Proof
from tests.oracle import compare
from tests.oracle.compare import Budget, Seen, differences
from tests.oracle.fuzz import first_difference, fuzz, shrunk
from tests.oracle.generate import draft

PART = 250  # of 2,000


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_two_thousand_systems_mean_the_same_everywhere(part: int) -> None:
    """No difference, and no comparison is missing."""
    seen, found = fuzz(PART, 100_000 + part * PART, jobs=1)
    assert not found, "\n".join(map(str, found))
    assert seen.uncompared == 0 and seen.systems > PART * 0.8
    assert seen.steps > PART * 20 and seen.states > PART * 4
    assert seen.proved > 20 and seen.violated > 20 and seen.certified > PART // 2
    assert seen.exported > PART and seen.exported_open > PART // 4
    assert seen.attacks > 2 and seen.faults > 5 and seen.counterexamples > 2


def test_some_systems_mean_the_same_everywhere() -> None:
    """The same for few."""
    seen, found = fuzz(40, 7, jobs=1)
    assert not found, "\n".join(map(str, found))
    assert seen.uncompared == 0 and seen.systems > 30 and seen.steps > 400 and seen.certified > 20


def test_every_system_of_a_seeded_run_can_be_compared() -> None:
    """No name that the language accepts, `init` or `let` among them, keeps the interpreter from reading a system."""
    nothing = Budget(worlds=0, prove=False)
    seen = Seen()
    said = [first_difference(draft(seed), seed, nothing, seen) for seed in range(200)]
    assert not any(said) and seen.uncompared == 0 and seen.systems > 170 and seen.instances > 40


def test_what_cannot_be_compared_is_counted_and_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter that does not understand a system is not taken for one that agrees."""

    def lost(text: str) -> list[s.Item]:
        raise RulesError([])

    monkeypatch.setattr(compare, "items_of", lost)
    seen = Seen()
    said = first_difference(draft(1), 1, Budget(worlds=0, prove=False), seen)
    assert said is not None and said.startswith("instances:") and seen.uncompared == 1 and seen.refused == 0


def _found(begin: int = 0, count: int = 400) -> Iterator[str]:
    """The differences in random systems, one by one."""
    for seed in range(begin, begin + count):
        found = first_difference(draft(seed), seed, Budget(worlds=1), Seen())
        if found is not None:
            yield found


def test_a_seed_gives_the_same_system_in_every_process() -> None:
    """A printed failure is reproducible: it does not depend on the order of sets, which differs between processes."""
    program = "from tests.oracle.generate import draft; print([draft(s).text() for s in range(3, 30) if s != 12])"
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(said) == 1 and len(said.pop()) > 10_000


def test_an_engine_without_failing_steps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a call that fails in its first step is omitted."""
    whole = ir.Step.outcomes
    monkeypatch.setattr(ir.Step, "outcomes", lambda self: tuple(t for t in whole(self) if not t.changes_nothing))
    assert any(d.startswith("model:") for d in _found())


def test_an_engine_whose_failures_forget_what_passed_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later check fails although an earlier one has already failed."""
    monkeypatch.setattr(ir.Check, "fails", property(lambda self: ir.TRUE))
    assert any(d.startswith("model:") for d in _found())


def test_a_model_in_which_the_first_assignment_wins_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two assignments to one place the later is dropped."""
    whole = ir.Step.success

    def first_wins(self: ir.Step) -> ir.Transition:
        t = whole(self)
        return ir.Transition(t.label, t.step, t.params, t.guard, t.updates[::-1], t.code)

    monkeypatch.setattr(ir.Step, "success", first_wins)
    assert any(d.startswith(("model:", "call:")) for d in _found())


def test_a_proof_that_believes_everything_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first encoding accepts every query as refuted, the second denies, or a violation is found."""
    monkeypatch.setattr(induction, "_counts", lambda result, settings: True)
    found: list[str] = []
    for seed in range(40):
        with contextlib.suppress(RulesError):  # refused before anything is proved
            found += differences(draft(seed).text(), seed, Budget(worlds=1), Seen())
    assert any(d.startswith("proof:") for d in found) and any(d.startswith("certify:") for d in found)
    assert not any("confirmed" in d for d in found)


EXPORTED = """component c "c"
    sort thing "t"
    state s[thing]: bool
    state n: bool
    init not n and forall t: thing. not s[t]
    internal op(t: thing) set s[t] = true
    internal other() set n = false
    theorem never forall t: thing. not s[t]
    theorem always not n
    system y "y" uses c expect refuted never expect proved always"""


def _exported() -> list[str]:
    return list(differences(EXPORTED, 3, Budget(worlds=1, certify=False, export=True), Seen()))


def test_exported_texts_agree() -> None:
    """A claim that falls and one that holds, as texts."""
    assert _exported() == []


def test_a_query_that_is_not_exported_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame rule says of every step that it keeps every claim, so no text asks after the step that breaks one."""
    monkeypatch.setattr(Frame, "keeps", lambda self, transition, claim: True)
    monkeypatch.setattr(compare, "prove", lambda system, settings: Proof(system))
    assert any("no query asks for it" in d for d in _exported())


def test_an_exported_text_that_says_less_or_more_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with a contradiction in it hides violations; one without the guard and the next state is sat too often."""
    whole = text_of
    monkeypatch.setattr(compare, "text_of", lambda *given: whole(*given).replace("(check-sat)", "(assert false)(check-sat)"))
    monkeypatch.setattr(compare, "prove", lambda system, settings: Proof(system))
    assert any("are unsat" in d for d in _exported())
    monkeypatch.undo()
    monkeypatch.setattr(compare, "text_of", lambda *given: "(check-sat)")
    assert any("refuted by the proof" in d for d in _exported())


def test_a_crash_says_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may never come again, so the places it went through are told with it."""

    def broken(self: ExecutableModel, state: State, term: ir.Term) -> bool:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(ExecutableModel, "holds", broken)
    told = [first_difference(draft(s), s, Budget(prove=False, worlds=1), Seen()) for s in (5, 6, 7)]
    assert any(d is not None and d.startswith("crash OSError") and "test_oracle_fuzz.py" in d for d in told)


def test_what_differs_is_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that any operation shows is shrunk to one operation."""
    monkeypatch.setattr(ExecutableModel, "fire", lambda self, state, label, args: False)
    seed = next(s for s in range(50) if first_difference(draft(s), s, Budget(prove=False, worlds=1), Seen()))
    small, what = shrunk(draft(seed), seed, Budget(prove=False, worlds=1), "model:")
    assert what.startswith("model:") and len(small.parts) <= 3


def test_an_engine_that_takes_steps_in_spite_of_a_check_without_a_code_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks without a code are left out of every step."""
    whole = ir.Step.success

    def unchecked(self: ir.Step) -> ir.Transition:
        t = whole(self)
        guard = ir.conj([self.start(), *(c.cond for c in self.checks if c.code and c.kind != "may")])
        return ir.Transition(t.label, t.step, t.params, guard, t.updates, t.code, t.choices)

    monkeypatch.setattr(ir.Step, "success", unchecked)
    assert any(d.startswith(("model:", "proof:")) for d in _found())


def test_an_engine_in_which_a_check_without_a_code_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check without a code, which only disables a step, makes the call fail."""
    whole = ir.Step.failures

    def failing(self: ir.Step) -> Iterator[ir.Transition]:
        return whole(replace(self, checks=tuple(replace(c, code=c.code or "E") for c in self.checks)))

    monkeypatch.setattr(ir.Step, "failures", failing)
    assert any(d.startswith("model:") for d in _found())


def test_an_engine_that_chooses_the_first_value_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`= *` gives every place the first value of its sort."""
    whole = choices.step_in_world

    def first(system: ir.System, world: World, step: ir.Step) -> ir.Step:
        made = whole(system, world, step)
        picks = {v.name for c in made.checks if c.text == choices.PICKED for v in c.vars}
        updates = [
            replace(u, value=ir.element(0, u.value.sort)) if isinstance(u.value, ir.Var) and u.value.name in picks else u
            for u in made.updates
        ]
        return replace(made, updates=tuple(updates))

    monkeypatch.setattr(choices, "step_in_world", first)
    assert any(d.startswith("model:") for d in _found())


def test_an_engine_that_asks_of_the_state_before_the_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`require next(A)` is read as `require A`. One system of 300 shows it, one of them not far from 450."""
    monkeypatch.setattr(operations, "told_before", lambda term, updates, defs, most: told_before(term, (), defs))
    assert any(d.startswith(("model:", "call:")) for d in _found(450))


def test_an_argument_kept_by_a_procedure_whose_result_has_no_name_is_compared() -> None:
    """It has a name that no rule can write; in both meanings a later step reads the value from when it was performed."""
    text = """component c "c"
        sort thing "t"
        enum side = left | right
        state p[side]: thing
        state q[side]: { one: thing, two: side }
        procedure store(w: thing, v: thing)
            step then_(x: bool)
            set p[s] = w for all s: side
            set q[s].one = v for all s: side
        internal op(w: side)
            perform store(p[w], q[w].one)
        system y "y" uses c"""
    seen = Seen()
    assert list(differences(text, 3, Budget(worlds=4), seen)) == [] and seen.steps > 50


MUTUAL = """component c "c"
sort T "t"
state p[T]: bool
init forall x: T. not p[x]
internal one(t: T)
    require not p[t]
    pick u: T where p[u] or two.a[this] != t else EPERM
    step more
    require two.v[this] != u or u = t else EBUSY
    set p[t] = true
internal two(a: T)
    require forall k: Call. one.t[k] = one.u[k] else EPERM
    let v = one.u[this]
    step more
    set p[a] = one.u[this] = a or v = a
invariant same forall k: Call. at[k] = one.more implies one.u[k] = one.t[k]
theorem none forall t: T. not p[t]
system y "y" uses c expect proved none
"""


@pytest.mark.parametrize("seed", range(3))
def test_operations_that_read_each_others_locals_are_compared(seed: int) -> None:
    """Neither can be read wholly before the other; a fault of a random system asked for this."""
    seen = Seen()
    assert list(differences(MUTUAL, seed, Budget(worlds=3, attack=True, export=True), seen)) == [] and seen.violated
