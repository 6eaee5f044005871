"""Worlds without an initial state, and rules with more combinations than anybody can try: a message, or a search that stops.

What a search did not look at it must not call checked, and no rules file may take a search longer than its limits say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model import loader
from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.expressions import Declarations
from bulkhead.model.faults import lay
from bulkhead.model.ir import BOOL, App, Op, Quant, Term, Var, free_variables
from bulkhead.model.loader import load
from bulkhead.model.narrow import substituted
from bulkhead.proofs.certify.check import CONFIRMED, Claims, certify
from bulkhead.proofs.certify.check import Checker as Certifier
from bulkhead.proofs.certify.tree import read
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems.axioms import FOUND, model_of_axioms
from bulkhead.proofs.theorems.columns import Batch, Env, Truth
from bulkhead.proofs.theorems.explore import Limits, explore
from bulkhead.proofs.theorems.scenarios import POSSIBLE, decide
from bulkhead.proofs.theorems.scope import first_scope, heaviest

HEAD = 'component c "c"\nsort T "t"\n'
TWO = "const k: T\nconst l: T\naxiom k != l\n"
PLAIN = "state p[T]: bool\ninit forall t: T. not p[t]\ninternal op(t: T) set p[t] = true\n"


def file(path: Path, body: str, expect: str = "", head: str = HEAD) -> str:
    """A rules file with one component and one system."""
    path.joinpath("y.rules").write_text(f'{head}{body}\nsystem y "y"\n    uses c\n{expect}\n')
    return str(path / "y.rules")


def enum(name: str, count: int) -> str:
    return f"enum {name} = " + " | ".join(f"m{k}" for k in range(count)) + "\n"


def test_a_world_without_an_initial_state_checks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = file(tmp_path, "scope T = 1\n" + TWO + PLAIN + "theorem never forall t: T. not p[t]\n", "expect refuted never")
    assert run(["explore", rules]) == 0, "a scope of the rules is where worlds begin to grow"
    assert "with Call 1, T 2" in capsys.readouterr().out
    assert run(["explore", rules, "--scope", "T=1"]) == 1
    out = capsys.readouterr().out
    assert "NO initial state" in out and "never: NOT checked" in out and "holds" not in out


def test_explore_takes_a_world_that_has_an_initial_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four quantified variables ask for four elements; the axiom allows three at most."""
    few = "axiom forall a, b, d, e: T. a = b or a = d or a = e or b = d or b = e or d = e\n"
    rules = file(tmp_path, few + TWO + PLAIN + "theorem ever exists t: T. p[t] or not p[t]\n", "expect proved ever")
    assert first_scope(load(rules))["T"] == 4
    assert run(["explore", rules]) == 0
    out = capsys.readouterr().out
    assert "with Call 1, T 3" in out and "ever: holds in all of them" in out


def test_axioms_without_a_model_in_the_scope_are_named(tmp_path: Path) -> None:
    rules = file(tmp_path, "scope T = 1\n" + TWO + PLAIN)
    model = model_of_axioms(load(rules), 10.0)
    assert model is not None and model.answer == FOUND and model.scope == "T 1" and model.finding(True)
    assert run(["check", rules]) == 1
    wider = model_of_axioms(load(file(tmp_path, "scope T = 1 to 2\n" + TWO + PLAIN)), 10.0)
    assert wider is not None and not wider.scope and not wider.finding(True)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (enum("E", 200) + "state s[E]: bool\ntheorem t forall a, b, d: E. s[a] or s[b] or s[d]\n", "E0304"),
        (enum("E", 30) + "state s[E, E, E]: bool\ntheorem t true\n", "E0204"),
        (
            enum("E", 60) + "state s[E]: bool\ntheorem t true\ninternal op() pick a, b, d: E where s[a] set s[b] = true\n",
            "E0304",
        ),
        (
            enum("E", 60)
            + "state s[E]: bool\ntheorem t true\ninternal op() set s[a] = true for all a: E where exists b, d: E. s[b]\n",
            "E0304",
        ),
        (
            "state p[T]: bool\ndefine d(a: T) = forall b, e, f, g, h, i, j: T. p[b] or p[a]\n"
            "theorem t forall k, l, m, n, o, q: T. d(k)\n",
            "E0304",
        ),
    ],
)
def test_too_many_combinations_are_refused(tmp_path: Path, body: str, code: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(file(tmp_path, body, "expect proved t"))
    assert {p.code for p in caught.value.problems} == {code}


def test_many_variables_make_the_first_world_small(tmp_path: Path) -> None:
    names = ", ".join(f"v{k}" for k in range(12))
    body = PLAIN + f"theorem t forall {names}: T. distinct({names}) implies not p[v0]\n"
    system = load(file(tmp_path, body, "expect refuted t"))
    assert heaviest(system, first_scope(system)) <= 200_000
    assert heaviest(system, {"Call": 1, "T": 4}) == 4**12


def test_a_search_stops_in_the_midst_of_a_step(tmp_path: Path) -> None:
    """Fifteen arguments with thirty values each: no state is ever stepped to its end."""
    names = ", ".join(f"v{k}" for k in range(15))
    body = enum("E", 30) + f"state s[E]: bool\ninit forall e: E. not s[e]\ninternal op({names}: E)\n"
    body += f"    require distinct({names})\n    set s[v0] = true\ntheorem t forall e: E. not s[e]\n"
    system = load(file(tmp_path, body, "expect refuted t"))
    by_choices = explore(system, first_scope(system), list(system.theorems.values()), Limits(choices=5_000))
    assert not by_choices.complete and "5,000 choices" in by_choices.stopped and by_choices.states == 1
    by_time = explore(system, first_scope(system), (), Limits(seconds=0.5))
    assert not by_time.complete and "time was over" in by_time.stopped and by_time.seconds < 10


def test_a_claim_that_was_not_evaluated_to_its_end_is_not_counted(tmp_path: Path) -> None:
    names = ", ".join(f"v{k}" for k in range(8))
    body = PLAIN + f"theorem t forall {names}: T. distinct({names}) implies p[v0]\n"
    system = load(file(tmp_path, body, "expect refuted t"))
    found = explore(system, {"Call": 1, "T": 4}, list(system.theorems.values()), Limits(choices=1_000))
    assert not found.complete and found.states == 0


def test_a_long_scenario_is_found_if_it_is_expected(tmp_path: Path) -> None:
    body = PLAIN + "scenario five possible for t, u, v, w, x: T\n    assert distinct(t, u, v, w, x)\n    op(t)\n    ...\n"
    system = load(file(tmp_path, body + "    assert p[u] and p[v] and p[w] and p[x]\nend\n"))
    found = decide(system, "five", 10.0)
    assert found.verdict == POSSIBLE and found.trace is not None and len(found.trace.events) == 5


def test_renamed_variables_capture_nothing() -> None:
    """`exists x. r(x, p, q)`, with `x` for p and `x'` for q: the bound variable gets a third name."""
    x, other, p, q = (Var(n, "T") for n in ("x", "x'", "p", "q"))
    term = Quant("exists", (x,), App("r", (x, p, q), BOOL))
    made = substituted(term, {"p": x, "q": other})
    assert free_variables(made) == {"x", "x'"}
    within = Quant("exists", (x,), App("r", (x, p, other), BOOL))
    assert free_variables(substituted(Op("not", (within,)), {"p": x})) == {"x", "x'"}


def test_certify_grows_with_the_checks_of_a_step(tmp_path: Path) -> None:
    """Each condition of 1,500 checks stands once, and not once for every later check."""
    checks = "".join(f"    require p[t] else E{k}\n" for k in range(1500))
    body = PLAIN + f"state q: bool\ninit not q\ninternal many(t: T)\n{checks}    set q = true\n"
    rules = file(tmp_path, body + "theorem kept q implies exists t: T. p[t]\n", "expect proved kept")
    claims = Claims(frozenset({"kept"}))
    checker = Certifier(read(rules), claims, 10.0)
    (failing,) = (o for o in checker.outcomes if o.label == "many!*")
    assert sum(len(way.children()) for way in failing.guard.children()) < 4 * 1500
    assert certify(read(rules), claims).verdict == CONFIRMED


def test_a_search_grows_with_the_checks_of_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each outcome fails at one check and has passed the earlier ones: these are evaluated once for all outcomes."""
    evaluated: list[object] = []
    whole = Batch.truth

    def evaluating(batch: Batch, term: Term, env: Env) -> Truth:
        evaluated.append(term)
        return whole(batch, term, env)

    monkeypatch.setattr(Batch, "truth", evaluating)
    counts = []
    for checks in (40, 80):
        evaluated.clear()
        body = "".join(f"    require p[t] else E{k} undo set q = false end\n" for k in range(checks))
        rules = load(file(tmp_path, PLAIN + f"state q: bool\ninit not q\ninternal many(t: T)\n{body}    set q = true\n"))
        found = explore(rules, first_scope(rules))
        assert found.complete and found.fired == {"op", "many", "many!E0"}
        counts.append(len(evaluated))
    assert counts[1] < 2.2 * counts[0]


def test_a_fault_that_is_not_laid_costs_what_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must match, and so it is tried when rules are read; but not on a copy of all operations for each fault."""
    given: list[int] = []
    whole = lay

    def counted(
        change: s.Change, operations: dict[str, s.Operation], definitions: dict[str, s.DefineItem], d: Declarations
    ) -> None:
        given.append(len(operations) + len(definitions))
        whole(change, operations, definitions, d)

    monkeypatch.setattr(loader, "lay", counted)
    body = "".join(
        f"internal op{k}(t: T)\n    require p[t]\n    set p[t] = true\nfault f{k} within op{k} drop p[t]\n"
        for k in range(50)
    )
    assert len(load(file(tmp_path, PLAIN + body)).faults) == 50
    assert len(given) >= 50 and set(given) == {1}
