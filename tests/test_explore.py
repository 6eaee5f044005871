"""All states of small worlds: the same counts as other tools, shortest attacks, independence of names and order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import replay, start_breaks
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.explore import Limits, explore, explore_graph
from bulkhead.proofs.theorems.shortening import violated, without_needless_steps

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
UP = """component c "c"
sort {sort} "s"
state up[{sort}]: bool
init forall n: {sort}. not up[n]
internal rise(n: {sort})
    require not up[n] else EBUSY
    set up[n] = true
theorem two forall a: {sort}, b: {sort}, c: {sort}. up[a] and up[b] and up[c] implies a = b or b = c or a = c
system y "y" uses c expect refuted two
"""


def sizes_of(system: System, **sizes: int) -> dict[str, int]:
    return {sort: sizes.get(sort, 1) for sort in system.sorts}


# Spin's numbers of states for models of the same protocols written by hand (examples/promela); TLC documents 288, too.
@pytest.mark.parametrize(
    ("name", "sort", "size", "states"),
    [
        ("two_phase_commit", "Manager", 2, 56),
        ("two_phase_commit", "Manager", 3, 288),
        ("two_phase_commit", "Manager", 4, 1568),
        ("lock_server", "Node", 2, 28),
        ("lock_server", "Node", 3, 80),
        ("lock_server", "Node", 4, 208),
    ],
)
def test_as_many_states_as_other_tools_see(name: str, sort: str, size: int, states: int) -> None:
    system = load(str(EXAMPLES / f"{name}.rules"))
    every = explore(system, sizes_of(system, **{sort: size}), limits=Limits(renamed=True))
    assert every.complete and every.states == states and every.hidden == 0.0
    fewer = explore(system, sizes_of(system, **{sort: size}))
    assert fewer.complete and fewer.states < every.states and fewer.depth == every.depth


def test_a_counter_is_seen_to_its_end() -> None:
    system = load(str(EXAMPLES / "counter.rules"))
    found = explore(system, sizes_of(system), list(system.theorems.values()))
    (trace,) = found.attacks.values()
    assert len(trace.events) == 31 and found.depth == 31


def test_a_search_that_is_cut_off_says_so() -> None:
    system = load(str(EXAMPLES / "two_phase_commit.rules"))
    for limits in (Limits(depth=3), Limits(states=5), Limits(taken=20)):
        found = explore(system, sizes_of(system, Manager=3), limits=limits)
        assert not found.complete and found.stopped and found.never == ()


FORKS = """component table "Two philosophers and two forks; `left` sits where fork `a` is on the left."
sort Fork "a fork"
const a: Fork
const b: Fork
axiom a != b and forall f: Fork. f = a or f = b
enum Place = thinks | one | both
state left: Place
state right: Place
state taken[Fork]: bool
init left = thinks and right = thinks and forall f: Fork. not taken[f]
internal left_first()
    require left = thinks and not taken[a]
    set left = one
    set taken[a] = true
internal left_second()
    require left = one and not taken[b]
    set left = both
    set taken[b] = true
internal left_leaves()
    require left = both
    set left = thinks
    set taken[f] = false for all f: Fork
internal right_first()
    require right = thinks and not taken[{first}]
    set right = one
    set taken[{first}] = true
internal right_second()
    require right = one and not taken[{second}]
    set right = both
    set taken[{second}] = true
internal right_leaves()
    require right = both
    set right = thinks
    set taken[f] = false for all f: Fork
"A question changes nothing, and gets nobody out of a deadlock."
internal ask()
    require left = one
    set left = one
theorem one_eats not (left = both and right = both)
system table "y" uses table expect proved one_eats
"""


SIX = """component c "c"
sort T "t"
const a: T  const b: T  const d: T  const e: T  const f: T  const g: T
axiom distinct(a, b, d, e, f, g)
state s[T]: bool
init forall t: T. not s[t]
internal op(t: T) set s[t] = true
theorem few not (s[a] and s[b] and s[d] and s[e] and s[f] and s[g])
system y "y" uses c expect refuted few
"""


def test_a_world_without_initial_states_grows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `--scope`, the world has as many elements as the axioms ask for; with it, what is asked is searched."""
    path = tmp_path / "six.rules"
    path.write_text(SIX)
    assert run(["explore", str(path)]) == 0
    out = capsys.readouterr().out
    assert "y with Call 1, T 6" in out and "few: FALSE after 6 steps" in out
    assert run(["explore", str(path), "--scope", "T=5"]) == 1
    assert "NO initial state" in capsys.readouterr().out


@pytest.mark.parametrize(("first", "second", "final"), [("b", "a", 1), ("a", "b", 0)])
def test_states_that_no_step_leaves_are_told(
    first: str, second: str, final: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The deadlock of philosophers; there is none if both take the same fork first."""
    path = tmp_path / "table.rules"
    path.write_text(FORKS.format(first=first, second=second))
    assert run(["explore", str(path), "--scope", "Fork=2"]) == 0
    told = "no step leads on from 1 of the states (an end, or a deadlock); a shortest way to one: "
    out = capsys.readouterr().out
    assert ("no step leads on" in out) == (told in out) == bool(final)
    system = load(str(path))
    found = explore(system, sizes_of(system, Fork=2), limits=Limits(whole=True))
    assert found.complete and found.final == final
    if found.to_final is not None:
        last = replay(found.to_final, ExecutableModel(system, found.to_final.world))[-1]
        assert sorted(e.label for e in found.to_final.events) == ["left_first", "right_first"]
        machine = ExecutableModel(system, found.to_final.world)
        for label in machine.transitions:  # none has a parameter
            after = [list(table) for table in last]
            machine.fire(after, label, {})
            assert after == last


@pytest.mark.parametrize("sort", ["node", "Domain", "T", "Frame", "epoch"])
def test_the_name_of_a_sort_does_not_matter(sort: str, tmp_path: Path) -> None:
    path = tmp_path / "up.rules"
    path.write_text(UP.format(sort=sort))
    trace = find_attack(load(str(path)), "two")
    assert trace is not None and len(trace.events) == 3


@pytest.mark.parametrize("fault", ["b1", "b2"])
def test_every_step_of_an_attack_is_needed(fault: str) -> None:
    system = load(str(HERE / "benchmarks" / "gt.rules"), [fault])
    trace = find_attack(system, "cover", (fault,))
    assert trace is not None
    machine = ExecutableModel(system, trace.world)
    assert start_breaks(machine, trace.initial) is None
    assert violated(system, system.claims()["cover"], machine, trace, replay(trace, machine)) == len(trace.events)
    assert without_needless_steps(system, system.claims()["cover"], trace).events == trace.events


def test_a_step_that_is_not_needed_is_left_out() -> None:
    system = load(str(EXAMPLES / "two_phase_commit.rules"), ["abort_after_prepare"])
    claim = system.claims()["all_or_nothing"]
    found = explore(system, sizes_of(system, Manager=3), [claim]).attacks["all_or_nothing"]
    machine = ExecutableModel(system, found.world)
    state = replay(found, machine)[-1]
    label, args = next(
        (t, dict(zip((p.name for p in machine.transitions[t].params), choice, strict=True)))
        for t in machine.transitions
        for choice in machine.choices(t)
        if not machine.transitions[t].changes_nothing
        and machine.can_fire(state, t, dict(zip((p.name for p in machine.transitions[t].params), choice, strict=True)))
    )
    longer = type(found)(
        found.system,
        found.faults,
        found.claim,
        found.world,
        found.initial,
        (*found.events, type(found.events[0])(label, args)),
    )
    assert without_needless_steps(system, claim, longer).events == found.events


def test_the_graph_has_all_states_and_steps() -> None:
    system = load(str(EXAMPLES / "peterson.rules"))
    graph = explore_graph(system, sizes_of(system), 100)
    assert graph is not None and len(graph.states) == 74 and len(graph.edges) == 164
    assert explore_graph(system, sizes_of(system), 10) is None


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(EXAMPLES / "two_phase_commit.rules")
    assert run(["explore", file, "--scope", "Manager=3"]) == 0
    said = capsys.readouterr().out
    assert "All reachable states of this world were visited." in said and "all_or_nothing: holds in all of them" in said
    assert run(["explore", file, "--fault", "abort_after_prepare", "--scope", "Manager=2"]) == 1
    assert re.search(r"all_or_nothing: FALSE after 7 steps, and not before", capsys.readouterr().out)
    for words in (["--scope", "Manger=2"], ["--scope", "Manager=0"], ["--scope", "Manager"]):
        assert run(["explore", file, *words]) == 2
        assert "--scope" in capsys.readouterr().err


def test_it_says_what_begins_with_any_value(capsys: pytest.CaptureFixture[str]) -> None:
    """Forgotten `init`s are a common reason for many initial states; what is written and fixed is not named."""
    assert run(["explore", str(HERE / "deep" / "sequence_lock.rules"), "--scope", "Number=2,Reader=1,Writer=1"]) == 0
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "No `init` speaks of" in line)
    assert "reader.one" in line and "word.one" not in line and "spent" not in line
    assert run(["explore", str(EXAMPLES / "two_phase_commit.rules"), "--scope", "Manager=2"]) == 0
    assert "No `init` speaks of" not in capsys.readouterr().out
