"""Scenarios: runs that rules allow or not, decided by searches, and by the interpreter in the same worlds.

The outside oracle is `oracle/scenarios.py`, which tries every run with the interpreter that was written from the reference.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import validate

from bulkhead.model import loader
from bulkhead.model.ir import FALSE, System
from bulkhead.model.loader import load
from bulkhead.proofs import results
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems import scenarios
from bulkhead.proofs.theorems.scenarios import IMPOSSIBLE, POSSIBLE, UNKNOWN, decide
from bulkhead.proofs.theorems.solvers import SolverError
from tests.oracle.compare import Budget, Seen, Tables, differences
from tests.oracle.instances import items_of
from tests.oracle.interpreter import Interpreter, World
from tests.oracle.scenarios import all_initial, possible
from tests.test_language import CHAPTERS

EXAMPLES = Path(__file__).parent / "examples"
LOANS = """component share "A page can be lent."
sort Domain "a domain"
sort Page   "a page"
state owner[Page]: Domain
state lent[Page, Domain]: bool
state maps[Domain, Page]: bool
init forall d: Domain, p: Page. not lent[p, d] and not maps[d, p]
init forall c: Call. at[c] = idle
hypercall lend(caller: Domain, p: Page, peer: Domain)
    require owner[p] = caller                       else EPERM
    set lent[p, peer] = true
hypercall map(caller: Domain, p: Page)
    require owner[p] = caller or lent[p, caller]    else EPERM
    set maps[caller, p] = true
hypercall unmap(caller: Domain, p: Page)
    require maps[caller, p]                         else EINVAL
  step flush
    set maps[caller, p] = false
hypercall take_back(caller: Domain, p: Page, peer: Domain)
    require owner[p] = caller                       else EPERM
    require not maps[peer, p]                       else EBUSY
    set lent[p, peer] = false
theorem only_on_loan forall d: Domain, p: Page. maps[d, p] implies owner[p] = d or lent[p, d]
fault take_back_in_use within take_back drop not maps[peer, p]
"""
# The expected answer for each scenario.
RUNS = {
    "life": (
        POSSIBLE,
        """for a: Domain, b: Domain, p: Page, c: Call
    assert a != b
    lend(a, p, b)
    map(b, p)
    take_back(a, p, b) fails EBUSY
    unmap(caller: b, this: c)
    take_back(a, p, b) fails EBUSY
    unmap.flush(this: c)
    take_back(_, p, b)
    map(b, p) fails EPERM
    assert not maps[b, p]
""",
    ),
    "taken_while_mapped": (
        IMPOSSIBLE,
        """for a: Domain, b: Domain, p: Page
    assert a != b
    lend(a, p, b)
    map(b, p)
    take_back(a, p, b)
""",
    ),
    "in_between": (
        POSSIBLE,
        """for b: Domain, p: Page
    assert owner[p] != b
    ...
    assert maps[b, p]
    ...
    map(b, p) fails EPERM
""",
    ),
    "never_stolen": (
        IMPOSSIBLE,
        """for a: Domain, p: Page
    assert owner[p] = a
    ...
    assert owner[p] != a
""",
    ),
    "both_codes": (IMPOSSIBLE, "for a: Domain, p: Page\n    lend(a, p, a)\n    lend(a, p, a) fails EPERM\n"),
    "nothing": (POSSIBLE, "\n    assert exists d: Domain, p: Page. owner[p] = d\n"),
}


def _rules(word: str = "") -> str:
    runs = "".join(f"scenario {name} {word or said} {text}end\n" for name, (said, text) in RUNS.items())
    return f'{LOANS}{runs}system share "x" uses share expect proved only_on_loan\n'


def _system(folder: Path, fault: str = "") -> System:
    path = folder / "share.rules"
    path.write_text(_rules())
    return load(str(path), [fault] if fault else [])


@pytest.mark.parametrize("name", RUNS)
def test_verdicts_are_those_of_the_interpreter(tmp_path: Path, name: str) -> None:
    """Both say the same in the same world; a run that was found is one of the interpreter's, step by step."""
    system = _system(tmp_path)
    found = decide(system, name, 20.0)
    assert found.verdict == RUNS[name][0]
    items = items_of(_rules())
    if found.trace is not None:
        oracle = Interpreter(items, World({"Call": 1, **found.trace.world.sizes}))
        start = Tables(system, oracle).state(found.trace.initial)
        assert oracle.initial(start)
        assert possible(oracle, name, [start], len(found.trace.events), 100_000, dict(found.elements))
    for world in ({"Call": 1, "Domain": 2, "Page": 1}, {"Call": 2, "Domain": 2, "Page": 1}):
        decided = decide(system, name, 20.0, world)
        oracle = Interpreter(items, World(world))
        starts = all_initial(oracle, 20_000_000 if name == "nothing" else 200_000)
        if starts is not None:
            assert possible(oracle, name, starts, decided.between, 100_000) == (decided.verdict == POSSIBLE)


@pytest.mark.parametrize("name", ["hypervisor", "monolithic", "disaggregated", "lock_server", "two_phase_commit", "paxos"])
def test_shipped_scenarios_come_out_as_they_say(name: str) -> None:
    """Those of the shipped systems and of the examples; each has some of both kinds."""
    path = EXAMPLES / f"{name}.rules"
    system = load(str(path) if path.exists() else name)
    assert {scenario.possible for scenario in system.scenarios.values()} == {True, False}
    for scenario in system.scenarios.values():
        assert decide(system, scenario.name, 30.0).verdict == (POSSIBLE if scenario.possible else IMPOSSIBLE), scenario.name


def test_scenarios_of_the_reference(tmp_path: Path) -> None:
    """Their verdicts are as expected."""
    path = tmp_path / "example.rules"
    path.write_text(next(text for title, text in CHAPTERS.items() if title.startswith("6.")))
    library = loader.load_library([path])
    system = loader.build(library, "counters_tried", ())
    assert set(system.scenarios) == {"used_once", "used_again", "somebody_finishes", "nothing_is_used"}
    for name, scenario in system.scenarios.items():
        assert decide(system, name, 20.0).verdict == (POSSIBLE if scenario.possible else IMPOSSIBLE)


def test_a_fault_makes_a_scenario_come_out_otherwise(tmp_path: Path) -> None:
    """Without its check a page is taken back in use, and the call cannot fail with a code that nothing gives any more."""
    faulty = _system(tmp_path, "take_back_in_use")
    assert decide(faulty, "taken_while_mapped", 20.0).verdict == POSSIBLE
    assert decide(faulty, "life", 20.0).verdict == IMPOSSIBLE


@pytest.mark.parametrize("word", [POSSIBLE, IMPOSSIBLE])
def test_prove_fails_if_one_comes_out_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str) -> None:
    """Exit code 1, in text, JSON, JUnit and SARIF; alone by its name, and its run on request."""
    path = tmp_path / "share.rules"
    path.write_text(_rules())
    out = ["--jobs", "1", "--out", str(tmp_path / "out")]
    assert run(["prove", str(path), "--theorem", "life", "--why", "life", *out]) == 0
    assert "4. hypercall unmap" in (said := capsys.readouterr().out) and "only_on_loan" not in said
    path.write_text(_rules(word))
    wrong = [n for n, (verdict, _) in RUNS.items() if verdict != word]
    assert run(["prove", str(path), "--format", "json", *out]) == 1
    given = json.loads(capsys.readouterr().out)
    schema = json.loads((Path(results.__file__).parent / "schemas" / "bulkhead-prove-1.json").read_text())
    validate(given, schema)
    told = given["systems"][0]["scenarios"]
    assert [s["name"] for s in told if s["verdict"] != s["expected"]] == wrong
    assert all((s["steps"] is not None) == (s["verdict"] == POSSIBLE) for s in told)
    assert run(["prove", str(path), "--format", "junit", *out]) == 1
    assert capsys.readouterr().out.count("<failure") == len(wrong)
    assert run(["prove", str(path), "--format", "sarif", *out]) == 1
    assert f"{wrong[0]} of share" in capsys.readouterr().out
    assert run(["prove", str(path), *out]) == 1
    assert f"scenario {wrong[0]}: " in capsys.readouterr().out


def test_unknown_is_never_as_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no search comes to an end, neither word is true."""
    path = tmp_path / "share.rules"
    path.write_text(_rules())
    monkeypatch.setattr(scenarios, "_bounded", lambda *_: None)
    monkeypatch.setattr(scenarios, "_searched", lambda *_: None)
    assert decide(load(str(path)), "taken_while_mapped", 20.0).verdict == UNKNOWN
    assert run(["prove", str(path), "--theorem", "taken_while_mapped", "--jobs", "1", "--out", str(tmp_path)]) == 1


def test_a_run_that_is_none_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that forgets the arguments is found out by the executable model."""
    whole = scenarios.staged_system

    def forgetful(system: System, scenario: object) -> object:
        made, meaning = whole(system, scenario)  # type: ignore[arg-type]
        steps = tuple(
            replace(s, when=s.when.args[0]) if "assert" not in s.op and hasattr(s.when, "args") else s for s in made.steps
        )
        return replace(made, steps=steps), meaning

    monkeypatch.setattr(scenarios, "staged_system", forgetful)
    with pytest.raises(SolverError, match="does not confirm"):
        decide(_system(tmp_path), "taken_while_mapped", 20.0)


def test_a_search_that_misses_runs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which no call can be made says `impossible`, and the interpreter finds the run in the same world."""
    text = _rules().replace("state owner", "scope Domain = 2, Page = 1\nstate owner")
    budget = Budget(worlds=0, prove=False)
    assert not list(differences(text, 3, budget, Seen()))
    monkeypatch.setattr(scenarios, "_given", lambda *_: [FALSE])
    assert any(d.startswith("scenario:") for d in differences(text, 3, budget, Seen()))
