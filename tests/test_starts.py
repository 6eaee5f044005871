"""Initial states from a SAT solver, and searches directed at unsatisfied conjuncts of a guard."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import App, Lit, System, Var, eq
from bulkhead.model.loader import load
from bulkhead.model.world import World
from bulkhead.proofs.theorems.directed_search import reach
from bulkhead.proofs.theorems.grounding import Grounding
from bulkhead.proofs.theorems.initial_states import NoInitialState, initial_states


def rules(path: Path, text: str) -> System:
    """A system of a few rules."""
    path.write_text(f'component c "All there is."\nsort Thing "a thing"\n{text}\nsystem c "All."\n    uses c\n')
    return load(str(path))


def test_constants_name_different_elements_unless_the_rules_want_it_otherwise(tmp_path: Path) -> None:
    text = "const one: Thing\nconst two: Thing\nstate on[Thing]: bool\ninit on[one] and not on[two]"
    machine, states = initial_states(rules(tmp_path / "a.rules", text), 10.0, random.Random(1))
    assert machine.world.consts["one"] != machine.world.consts["two"]
    assert all(state[-1][machine.world.consts["one"]] == 1 for state in states)
    text = "const one: Thing\nconst two: Thing\nstate on[Thing]: bool\ninit one = two and on[one]"
    machine, states = initial_states(rules(tmp_path / "b.rules", text), 10.0, random.Random(1))
    assert machine.world.consts["one"] == machine.world.consts["two"]
    with pytest.raises(NoInitialState):
        initial_states(rules(tmp_path / "c.rules", f"{text}\ninit not on[two]"), 10.0, random.Random(1))


def test_of_wishes_that_contradict_each_other_the_last_gives_in(tmp_path: Path) -> None:
    text = "state on[Thing]: bool\nstate off[Thing]: bool\ninit forall x: Thing. not (on[x] and off[x])"
    system = rules(tmp_path / "a.rules", text)
    grounding = Grounding(system, World({"Call": 1, "Thing": 3}, {}))
    grounding.require(c.body for c in system.inits)
    on, off = (
        [grounding.truth(App(name, (Var("x", "Thing"),), "bool"), {"x": {i: True}}) for i in range(3)]
        for name in ("on", "off")
    )
    grounding.wish([on[0], off[0], off[1], on[1], grounding.both([on[2], off[2]]), on[2], False])
    assert grounding.state()[-2:] == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize("count", [20, 200])
def test_wishes_that_exclude_each_other_take_a_few_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The first of them is granted, and with it the solver is rid of the others, however many there are."""
    text = (
        f"enum Mode = {' | '.join(f'm{k}' for k in range(count))}\nstate mode: Mode\nstate on[Thing]: bool\ninit not on[x]"
    )
    system = rules(tmp_path / "a.rules", text.replace("not on[x]", "exists x: Thing. not on[x]"))
    grounding = Grounding(system, World({"Call": 1, "Thing": 2}, {}))
    grounding.require(c.body for c in system.inits)
    asked: list[str] = []
    whole = Grounding._eval

    def asking(self: Grounding, said: str) -> str:
        asked.append(said)
        return whole(self, said)

    monkeypatch.setattr(Grounding, "_eval", asking)
    modes = [grounding.truth(eq(App("mode", (), "Mode"), Lit(f"m{k}", "Mode")), {}) for k in range(count)]
    on = [grounding.truth(App("on", (Var("x", "Thing"),), "bool"), {"x": {i: True}}) for i in range(2)]
    assert grounding.wish([*modes[3:], *on, *modes[:3]]) == "sat"
    assert sum("(check-sat" in said or "(get-consequences" in said for said in asked) < 30
    assert grounding.state()[-2:] == [[3], [1, 0]]


def test_what_formulas_say_outright_needs_no_solver(tmp_path: Path) -> None:
    text = """enum Mode = red | green | blue
state on[Thing]: bool
state mode[Thing]: Mode
define lit(x: Thing) = on[x] and mode[x] = green
init forall x: Thing. lit(x)"""
    system = rules(tmp_path / "a.rules", text)
    grounding = Grounding(system, World({"Call": 1, "Thing": 2}, {}))
    grounding.require(c.body for c in system.inits)
    assert all(len(cell) == 1 for table in grounding.cells[-2:] for cell in table)
    assert grounding.possible() == "sat" and grounding.state()[-2:] == [[1, 1], [1, 1]]


def test_the_search_makes_a_step_assign_what_another_asks_for(tmp_path: Path) -> None:
    """The caller supplies the value, and only one of many works; `exists` is searched place by place."""
    modes = " | ".join(f"m{k}" for k in range(60))
    text = (
        f"enum Mode = {modes}"
        + """
state mode[Thing]: Mode
state key[Thing]: Mode
state seen: bool
init forall x: Thing. mode[x] = m0 and key[x] = m0 and not seen
hypercall set_mode(x: Thing, m: Mode)
    set mode[x] = m
hypercall set_key(x: Thing, m: Mode)
    require mode[x] = m3    else EPERM
    set key[x] = m
define found(x: Thing) = key[x] = m8 and mode[x] = m3
hypercall look()
    require exists x: Thing. found(x)   else ENOENT
    set seen = true"""
    )
    machine = ExecutableModel(rules(tmp_path / "a.rules", text), World({"Call": 1, "Thing": 3}, {}))
    for seed in range(5):
        assert "look" in reach(machine, seed, 40).labels
