"""Every step of a shown attack is needed: without any of its steps, or any run of them, the rest is no attack.

Steps are left out and the rest is fired on the executable model, from the shown initial state. The suite does this for a
sample of the examples; for the shipped systems, of which a search takes longer, to the stored attacks
(`test_stored_attacks.py`). By hand, over the claims that faults name: `python -m tests.test_needed_steps SYSTEM [FAULT...]`.
Not here: attacks that have the same end by other steps.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import Event, Trace
from bulkhead.model.world import World
from bulkhead.proofs.report.trace_text import log
from bulkhead.proofs.theorems import shortening
from bulkhead.proofs.theorems.attack import find_attack, find_attacks
from bulkhead.proofs.theorems.substitutes import shorter_by_substitutes
from bulkhead.proofs.theorems.unrolling import Unrolling
from tests.attacks.needed import needless

HERE = Path(__file__).parent
SAMPLED = 8  # attacks of the examples
FILES = sorted([*(HERE / "examples").glob("*.rules"), *(HERE / "deep").glob("*.rules")])
FAULTS = [(str(file), fault) for file in FILES for fault in load(str(file)).faults]


def shown(system: System, fault: str) -> list[Trace]:
    """The attacks on the claims that a fault names, else on any claim, first on those that hold without it."""
    named = [n for n in system.faults[fault].breaks if n in system.claims()]
    if named:
        found = [find_attack(system, name, (fault,)) for name in named]
    else:
        every = [n for n in system.claims() if system.expects.get(n) != "refuted"]
        found = list(find_attacks(system, every, (fault,), one=True).values())
        if not any(found):  # a fault by which only a claim falls sooner that is false without it
            found = list(find_attacks(system, system.claims(), (fault,), one=True).values())
    return [trace for trace in found if trace is not None]


@pytest.mark.parametrize(("file", "fault"), random.Random(9).sample(FAULTS, SAMPLED), ids=lambda word: Path(word).stem)
def test_no_step_of_a_sampled_attack_can_be_left_out(file: str, fault: str) -> None:
    """Attacks of small systems."""
    system = load(file, [fault])
    traces = shown(system, fault)
    assert traces
    for trace in traces:
        assert trace.faults == (fault,) and needless(system, trace) == []


DETOUR = """component doors "A door that two ways open."
sort Door "a door"
state key[Door]: bool
state open[Door]: bool
state inside: bool
init forall d: Door. not key[d] and not open[d]
init not inside
internal fetch(d: Door)
    set key[d] = true
internal unlock(d: Door)
    require key[d]      else EACCES
    set open[d] = true
internal push(d: Door)
    set open[d] = true
internal enter(d: Door)
    require open[d]     else EACCES
    set inside = true
theorem nobody_inside not inside
system doors "A system for one test."
    uses doors
    expect refuted nobody_inside
"""


@pytest.mark.parametrize(("first", "labels"), [("    set open", ["push", "enter"]), ("    set key", None)])
def test_one_step_takes_the_place_of_two(
    tmp_path: Path, first: str, labels: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that does what two others do makes an attack shorter, although none of its steps can be left out."""
    file = tmp_path / "doors.rules"
    file.write_text(DETOUR.replace("internal push(d: Door)\n    set open", f"internal push(d: Door)\n{first}"))
    system = load(str(file))
    world = World({sort: 1 for sort in system.sorts}, {})
    machine = ExecutableModel(system, world)
    events = tuple(Event(label, {"d": 0}) for label in ("fetch", "unlock", "enter"))
    trace = Trace("doors", (), "nobody_inside", world, machine.empty_state(), events)
    assert needless(system, trace) == []
    claim = system.claims()["nobody_inside"]
    less, left = shorter_by_substitutes(system, claim, trace, 60.0, 10_000_000)
    assert (None if less is None else [e.label for e in less.events]) == labels and not left
    if labels is not None:  # a solver that gives up is no answer, and that is said
        monkeypatch.setattr(Unrolling, "answer", lambda *_: "unknown")
        less, left = shorter_by_substitutes(system, claim, trace, 60.0, 1)
        assert less is None and left.endswith("ways to put one step in the place of several were left undecided")


def test_the_log_says_whether_there_may_be_a_shorter_attack(tmp_path: Path) -> None:
    """And which attempts to shorten it did not come to an end."""
    file = tmp_path / "doors.rules"
    file.write_text(DETOUR)
    system = load(str(file))
    world = World({sort: 1 for sort in system.sorts}, {})
    machine = ExecutableModel(system, world)
    events = tuple(Event(label, {"d": 0}) for label in ("fetch", "unlock", "enter"))
    trace = Trace("doors", (), "nobody_inside", world, machine.empty_state(), events)

    def length(shown: Trace) -> str:
        text = log(shown, system, machine)
        return text[text.index("  length:") : text.index("  initial state")].strip()

    assert length(replace(trace, excluded=2)) == "length: a shortest one, in the worlds that were searched"
    assert length(trace) == "length: perhaps not a shortest one"
    assert length(replace(trace, excluded=1)).endswith("none of 1 step or fewer was found, in the worlds that were searched")
    told = length(replace(trace, excluded=0, note="the solver gave up"))
    assert told.startswith("length: perhaps not a shortest one\n      none of 0 steps or fewer was found")
    assert told.endswith("shortening it did not come to an end: the solver gave up")


def test_what_cannot_be_shortened_in_time_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the solver nor the search of the same calls has enough effort: the attack is as it was, and says why."""
    file = tmp_path / "doors.rules"
    file.write_text(DETOUR)
    system = load(str(file))
    world = World({sort: 1 for sort in system.sorts}, {})
    events = tuple(Event(label, {"d": 0}) for label in ("fetch", "unlock", "enter"))
    trace = Trace("doors", (), "nobody_inside", world, ExecutableModel(system, world).empty_state(), events)
    monkeypatch.setattr(shortening, "in_smallest_world", lambda _system, _claim, found, _limit: found)
    monkeypatch.setattr(Unrolling, "answer", lambda *_: "unknown")
    shown_one = shortening.believed(system, trace, 60.0, all_seen=False)
    assert len(shown_one.events) == 3
    assert "were left undecided; the search for a shorter one by the same calls stopped at 0 steps" in shown_one.note
    monkeypatch.undo()
    assert [e.label for e in shortening.believed(system, trace, 60.0, all_seen=False).events] == ["push", "enter"]


if __name__ == "__main__":
    wrong = 0
    for name in sys.argv[1:2]:
        for fault in sys.argv[2:] or load(name).faults:
            begun, system = time.perf_counter(), load(name, [fault])
            traces = shown(system, fault)
            for trace in traces:
                runs = needless(system, trace)
                wrong |= bool(runs)
                words = f"{len(trace.events)} steps, none of {trace.excluded} or fewer, " + (
                    f"needless: {runs}" if runs else "every step is needed"
                )
                print(f"{fault} {trace.claim}: {words}, {time.perf_counter() - begun:.0f} s", flush=True)
            if not traces:
                print(f"{fault}: no attack is shown, {time.perf_counter() - begun:.0f} s", flush=True)
    sys.exit(wrong)
