"""The goal-directed search: what one evaluation of a guard costs, and which goals it counts as progress.

Not here: attacks (test_attack.py), claims about steps (test_step_goals.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.model.caller import caller_of
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import conjuncts, disj, neg
from bulkhead.model.loader import load
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import World
from bulkhead.proofs.theorems.directed_search import reach
from bulkhead.proofs.theorems.explore import shorter
from bulkhead.proofs.theorems.guard_conjuncts import TRIED, WAYS, alternatives, compiled_probe
from bulkhead.proofs.theorems.known_runs import longest_run

RULES = """component c "c"
sort T "t"
enum Stage = empty | half | full | sealed | broken
state on[T]: bool
state ready[T]: bool
state stage: Stage
init forall t: T. not on[t] and not ready[t]
init stage = empty
internal wide(a, b, c, d, e, f, g, h: T) when a != b
    require c != d                                   else EINVAL
    require on[h] and ready[a]                       else EINVAL
    set ready[b] = true
internal all_of_them(a, b, c, d, e, f, g, h: T)
    require on[a] or on[b] or on[c] or on[d] or on[e] or on[f] or ready[g] or ready[h]   else EINVAL
    set on[b] = true
internal prepare(t: T)
    set ready[t] = true
internal seal(x, y: T)
    require stage = half or stage = full             else EBUSY
    require ready[x]                                 else EINVAL
    require ready[y]                                 else EINVAL
    require x != y                                   else EINVAL
    set stage = sealed
internal fill()
    require stage = empty                            else EBUSY
    set stage = full
internal spoil(t: T)
    require stage = sealed                           else EBUSY
    set stage = broken
theorem never_sealed stage != sealed
system s "s" uses c expect refuted never_sealed
"""


@pytest.fixture
def machine(tmp_path: Path) -> ExecutableModel:
    """The rules above, with five elements."""
    file = tmp_path / "s.rules"
    file.write_text(RULES)
    return ExecutableModel(load(str(file)), World({"Call": 1, "T": 5}, {}))


def looked(machine: ExecutableModel, label: str) -> tuple[int, float, tuple[int, ...] | None]:
    """The loops that one evaluation of a guard begins in the first state, and what it finds."""
    t = machine.transitions[label]
    probe, _ = compiled_probe(caller_of(machine), t, conjuncts(t.guard), [])
    begun = 0

    def rnd() -> float:
        nonlocal begun
        begun += 1
        return 0.0

    depth, args = probe(machine.empty_state(), rnd)
    return begun, depth, args


def test_arguments_that_do_not_matter_are_not_multiplied(machine: ExecutableModel) -> None:
    """Without `on[h]` nothing helps: not other values of the seven other arguments, 78,125 combinations."""
    begun, _, args = looked(machine, "wide")
    assert args is None and begun < 100


def test_one_evaluation_of_a_guard_has_an_end(machine: ExecutableModel) -> None:
    """390,625 combinations that all matter, and none fits: a part of them is looked at."""
    begun, _, args = looked(machine, "all_of_them")
    assert args is None and 5 * begun <= TRIED


def test_what_no_step_changes_is_asked_first(machine: ExecutableModel) -> None:
    """One element is ready, so the second is what is missing, and not that the two differ; a disjunction has helpers."""
    found = reach(machine, 1, 200)
    assert {"seal", "fill", "prepare", "spoil"} <= found.labels


def test_cases_are_goals_of_their_own(machine: ExecutableModel) -> None:
    """A disjunction is split into its parts, but not into more than `WAYS`; what contradicts itself is left out."""
    stage, *rest = conjuncts(machine.transitions["seal"].guard)
    ways = [conjuncts(w) for w in alternatives(machine.transitions["seal"].guard)]
    assert len(ways) == 2 and all(set(rest) <= set(w) and stage not in w for w in ways)
    a, b, c = rest
    assert [conjuncts(w) for w in alternatives(disj([a, b, c]))] == [[a], [b], [c]]
    assert alternatives(neg(disj([a, neg(b)]))) and len(alternatives(disj([a, b]))) <= WAYS


@pytest.mark.parametrize(("steps", "said"), [(100_000, ""), (2, "after 2")])
def test_a_search_for_a_shorter_attack_says_where_it_stopped(machine: ExecutableModel, steps: int, said: str) -> None:
    """It is bounded by a count, so that the same run prints the same, and an exhausted budget is said."""
    calls = [("prepare", {"t": 3}), ("prepare", {"t": 0}), ("prepare", {"t": 1}), ("fill", {}), ("seal", {"x": 0, "y": 1})]
    events = tuple(Event(label, args) for label, args in calls)
    system = machine.system
    trace = Trace("s", (), "never_sealed", machine.world, machine.empty_state(), events)
    found, stopped = shorter(system, trace, system.claims()["never_sealed"], steps)
    assert (found is None) == bool(said) and stopped.startswith(said)
    assert found is None or len(found.events) == 4


def test_a_search_may_begin_on_the_way_of_a_run_that_a_scenario_shows() -> None:
    """The run is looked for only if it takes a step that is not known yet, and what is known is no goal."""
    system = load(str(Path(__file__).parent / "examples" / "two_phase_commit.rules"))
    every = {t.label for s in system.steps for t in s.transitions()}
    assert longest_run(system, 10.0, every) is None
    run = longest_run(system, 10.0, every - {"obey_commit"})
    assert run is not None and [p.label for p in run.paths][-1] == "obey_commit"
    known = every - {"obey_commit"}
    assert reach(run.machine, 1, 50, run.paths[-2:], known).labels == {"obey_commit"}
    assert reach(run.machine, 1, 50, run.paths, every).labels == frozenset()
