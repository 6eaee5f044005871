"""Faults that this engine once had, put back one at a time: the second encoding or the interpreter notices each.

`tests/oracle/README.md` has the table. Those that cannot be put back by replacing one function are there with the test that
holds them; the last test here keeps the table and this file together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.model import ir, loader, symbols
from bulkhead.model.ir import Lit
from bulkhead.proofs.theorems.frame_rule import AFFIRMED, DENIED, Frame
from bulkhead.proofs.theorems.queries import QueryMaker
from tests.oracle.compare import Budget, Seen, differences

TRAPS = Path(__file__).parent / "traps"
TABLE = Path(__file__).parent / "oracle" / "README.md"
CERTIFY, INTERPRETER = "certify", "interpreter"

CAPTURED = """component c "c"
sort T "t"
state s[T]: bool
init forall t: T. not s[t]
internal op(x0: T)
    set s[x0] = true
theorem alike forall a: T, b: T. s[a] iff s[b]
system y "y" uses c expect proved alike
"""
FAILS = """component c "c"
sort T "t"
state used[T]: bool
init forall t: T. not used[t]
internal use(t: T)
    require not used[t] else E
    set used[t] = true
transition never_fails not failed
system y "y" uses c expect proved never_fails
"""
CONSTANTS = """component c "c"
sort T "t"
enum Level = low | high
const k: Level
state level: Level
init level != high
internal go()
    set level = k
theorem never_high level != high
system y "y" uses c expect proved never_high
"""


class Everything:
    """A container that has everything in it."""

    def __contains__(self, _: object) -> bool:
        return True


def quiet_steps_are_not_asked(patch: pytest.MonkeyPatch) -> None:
    """A transition claim is not asked of steps that write nothing it reads."""
    whole = QueryMaker.step
    patch.setattr(QueryMaker, "step", lambda self, t, c, i, two=(), harmless=(): whole(self, t, c, i, two, Everything()))


def failing_first_steps_are_no_steps(patch: pytest.MonkeyPatch) -> None:
    """A call that fails in its first step is left out."""
    whole = ir.Step.outcomes
    patch.setattr(ir.Step, "outcomes", lambda self: tuple(t for t in whole(self) if not t.changes_nothing))


def slots_are_names_of_users(patch: pytest.MonkeyPatch) -> None:
    """The slots of an assignment are called as a user's `x0` is."""
    patch.setattr(symbols, "slot", lambda number: symbols.variable(f"x{number}"))


def axioms_may_be_written(patch: pytest.MonkeyPatch) -> None:
    """An axiom over state that steps write is accepted."""
    patch.setattr(loader, "refuse_changing_axioms", lambda axioms, steps, d: None)


def constants_differ(patch: pytest.MonkeyPatch) -> None:
    """Constants of an enum are taken for other values than its members."""

    def harmless(_: Frame, asked: Lit | None, way: int, value: ir.Term) -> bool:
        return asked is not None and isinstance(value, Lit) and way == (AFFIRMED if value == asked else DENIED)

    patch.setattr(Frame, "_harmless", harmless)


def checks_fail_always(patch: pytest.MonkeyPatch) -> None:
    """The outcome of a failing check is there although the check holds."""
    patch.setattr(ir.Check, "fails", property(lambda self: ir.TRUE))


def missing_answers_are_good(patch: pytest.MonkeyPatch) -> None:
    """Only every other outcome of a step with a code is asked about: what is not asked is taken for kept."""
    whole = QueryMaker.step
    patch.setattr(
        QueryMaker,
        "step",
        lambda self, t, c, i, two=(), harmless=(): None if not t.code else whole(self, t, c, i, two, harmless),
    )


PutBack = Callable[[pytest.MonkeyPatch], None]
FAULTS: dict[str, tuple[PutBack, str, set[str]]] = {  # how it is put back, the rules, and who notices
    "quiet steps": (quiet_steps_are_not_asked, "transition_of_quiet_step", {CERTIFY, INTERPRETER}),
    "failing first steps": (failing_first_steps_are_no_steps, FAILS, {CERTIFY, INTERPRETER}),
    "captured names": (slots_are_names_of_users, CAPTURED, {CERTIFY, INTERPRETER}),
    "written axioms": (axioms_may_be_written, "axiom_over_written_state", {CERTIFY}),
    "distinct constants": (constants_differ, CONSTANTS, {CERTIFY, INTERPRETER}),
    "checks that cannot fail": (checks_fail_always, "check_that_cannot_fail", {INTERPRETER}),
    "missing answers": (missing_answers_are_good, "order_of_checks", {CERTIFY, INTERPRETER}),
}


def noticed(rules: str) -> dict[str, list[str]]:
    """Who notices something on these rules, and what."""
    text = rules if "\n" in rules else (TRAPS / f"{rules}.rules").read_text()
    found: dict[str, list[str]] = {CERTIFY: [], INTERPRETER: []}
    for seed in range(3):  # other worlds
        for said in differences(text, seed, Budget(worlds=3), Seen()):
            found[CERTIFY if said.startswith("certify:") else INTERPRETER].append(said)
    return found


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_back, rules, who = FAULTS[name]
    if name != "written axioms":  # without its fault the engine refuses these rules
        assert noticed(rules) == {CERTIFY: [], INTERPRETER: []}
    put_back(monkeypatch)
    found = noticed(rules)
    assert {w for w, said in found.items() if said} >= who, found


def test_the_table_tells_all_of_them() -> None:
    """Each fault that is put back here has its row, with those who notice it."""
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\*.*\| ([^|]+) \|$", TABLE.read_text(), re.M))
    for name, (_, _, who) in FAULTS.items():
        assert all(w in rows[name] for w in who), name
