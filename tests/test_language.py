"""The language and its reference: every example of `spec/README.md` is checked, and together they use all of the grammar.

The blocks of one chapter form one rules file. The semantics in the reference (simultaneous assignment,
order of checks, undo, batches, ...) is tested here on the executable model, and its expected verdicts are proved.
"""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest
from lark import Lark

from bulkhead.model import loader, parser
from bulkhead.model.caller import Caller, Outcome, caller_of
from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System, show
from bulkhead.model.lalr import NotParsed
from bulkhead.model.parser import GRAMMAR
from bulkhead.model.world import State, World
from bulkhead.proofs.theorems.attack import find_attack
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.queries import name_of
from bulkhead.proofs.theorems.random_walk import walk

REFERENCE = Path(__file__).parent.parent / "spec" / "README.md"


def chapters() -> dict[str, str]:
    """The rules of each chapter of the reference, by its title."""
    out = {}
    for part in re.split(r"^## ", REFERENCE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```rules\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            out[part.split("\n")[0]] = "\n".join(blocks)
    return out


CHAPTERS = chapters()


def library(title: str, folder: Path) -> loader.Library:
    path = folder / "example.rules"
    path.write_text(CHAPTERS[title])
    return loader.load_library([path])


# The examples.


@pytest.mark.parametrize("title", CHAPTERS)
def test_examples_are_good(title: str, tmp_path: Path) -> None:
    path = tmp_path / "example.rules"
    path.write_text(CHAPTERS[title])
    assert loader.check([path]) == []


@pytest.mark.parametrize("title", CHAPTERS)
def test_expected_verdicts(title: str, tmp_path: Path) -> None:
    """The expected verdicts of a system of the reference are correct."""
    lib = library(title, tmp_path)
    for name, home in lib.home_of_system.items():
        if home != str(tmp_path / "example.rules"):
            continue
        system = loader.build(lib, name, ())
        proof = prove(system, Settings(jobs=1, cross_check=False))
        for claim, verdict in system.expects.items():
            assert (claim in proof.proved) == (verdict == "proved"), (name, claim)
            if verdict == "refuted":
                assert find_attack(system, claim, ()) is not None


@pytest.mark.parametrize("component", ["values", "order"])
def test_invariants_of_examples(component: str, tmp_path: Path) -> None:
    """Invariants of components that no system uses hold, too."""
    system = example(component, tmp_path)
    assert system.invariants
    proof = prove(system, Settings(jobs=1, cross_check=False))
    assert proof.standing >= set(system.invariants)


def used_rules(texts: list[str]) -> tuple[set[Any], set[Any]]:
    """All rules of the compiled grammar (every alternative is one), and those that parsing the texts used."""
    lark = Lark(GRAMMAR.read_text(), parser="lalr", maybe_placeholders=True)
    callbacks = lark.parser.parser.parser.callbacks
    used: set[Any] = set()

    def noted(rule: Any, made: Any) -> Any:
        def call(children: Any) -> Any:
            used.add(rule)
            return made(children)

        return call

    for rule, made in list(callbacks.items()):
        callbacks[rule] = noted(rule, made)
    for text in texts:
        lark.parse(text)
    return set(lark.rules), used


def test_reference_uses_all_of_the_grammar() -> None:
    """Every rule and alias of the grammar; every part of it, and where a part may be left out, once without it."""
    rules, used = used_rules(list(CHAPTERS.values()))
    missing = []
    for key in sorted({(str(r.origin.name), r.alias or "") for r in rules}):
        forms = [{s.name for s in r.expansion} for r in rules if (str(r.origin.name), r.alias or "") == key]
        seen = [{s.name for s in r.expansion} for r in used if (str(r.origin.name), r.alias or "") == key]
        if key[0].startswith("__") or key[0] == "start":  # repetitions; a file cannot be empty
            continue
        if not seen:
            missing.append(f"{key}: never")
            continue
        optional = set.union(*forms) - set.intersection(*forms)
        if key[0] in ("require_stmt", "pick_stmt"):  # the checker requires the code that the grammar makes optional
            optional -= {"ELSE", "NAME"}
        missing += [f"{key}: never with {s}" for s in sorted(set.union(*forms) - set.union(*seen))]
        missing += [f"{key}: never without {s}" for s in sorted(optional & set.intersection(*seen))]
    assert not missing, "\n".join(missing)


def example(component: str, folder: Path) -> System:
    """The component of the reference as a separate system."""
    title = next(t for t, text in CHAPTERS.items() if f"\ncomponent {component} " in f"\n{text}")
    lib = library(title, folder)
    lib.systems[loader.TRIAL] = loader._trial(lib, [component])
    return loader.build(lib, loader.TRIAL, ())


def rules(text: str, folder: Path) -> System:
    """A system of its own from the items of one component."""
    path = folder / "try.rules"
    path.write_text(f'component try "Tried."\nsort Thing "a thing"\n{text}\nsystem try "Tried." uses try\n')
    return loader.load(str(path))


class Tried:
    """A system in a world with so many elements of each sort, its calls, and its state by the names of places."""

    def __init__(self, system: System, sizes: int = 3, **more: int) -> None:
        self.system = system
        self.machine = ExecutableModel(
            system, World({s: more.get(s, sizes) for s in system.sorts}, dict.fromkeys(system.consts, 0))
        )
        self.caller: Caller = caller_of(self.machine)
        self.state: State = self.machine.empty_state()

    def table(self, place: str) -> list[int]:
        return self.state[list(self.system.funcs).index(place)]

    def call(self, label: str, **args: int) -> Outcome:
        """Make the call; the machine's transitions agree with the caller's result."""
        before = [list(t) for t in self.state]
        out = self.caller.call(self.state, label, args)
        again = [list(t) for t in before]
        taken = label if out.code == "okay" else ""
        if taken:
            assert self.machine.fire(again, label, args | out.picks)
            assert again == self.state
        else:
            tried = [t for t in self.machine.transitions if t == label or t.startswith(f"{label}!")]
            given = {**args, **out.picks}
            fired = [
                t
                for t in tried
                if t != label
                and all(p.name in given for p in self.machine.transitions[t].params)
                and self.machine.can_fire(before, t, given)
            ]
            states = []
            for t in fired:
                states.append([list(table) for table in before])
                self.machine.fire(states[-1], t, given)
            assert self.state in (states or [before])
        return out


# The semantics of rules.


def test_all_is_read_before_all_is_assigned(tmp_path: Path) -> None:
    tried = Tried(example("order", tmp_path))
    tried.table("holds")[:] = [1, 2]
    assert tried.call("swap").code == "okay"
    assert tried.table("holds") == [2, 1]


def test_checks_and_locals_read_the_state_before_the_step(tmp_path: Path) -> None:
    tried = Tried(
        rules(
            """state on[Thing]: bool
state copy[Thing]: bool
request go(t: Thing) -> bool
    set on[t] = true
    require not on[t] else EBUSY
    let was = on[t]
    set copy[t] = was
    return on[t]
""",
            tmp_path,
        )
    )
    out = tried.call("go", t=1)
    assert (out.code, out.result) == ("okay", 0)
    assert tried.table("on") == [0, 1, 0] and tried.table("copy") == [0, 0, 0]
    assert tried.call("go", t=1).code == "EBUSY"


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ("set on[s] = false for all s: Thing", "set on[t] = true", [0, 1, 0]),
        ("set on[t] = true", "set on[s] = false for all s: Thing", [0, 0, 0]),
        ("set on[t] = false", "set on[t] = true", [1, 1, 1]),
        ("set on[t] = true", "set on[t] = false", [1, 0, 1]),
        ("set on[t] = false", "set on[t] = true where not on[t]", [1, 0, 1]),
        ("set box[t] = { on: true, of: t }", "set box[t].on = false", [1, 1, 1]),
    ],
)
def test_the_later_assignment_wins(first: str, second: str, left: list[int], tmp_path: Path) -> None:
    tried = Tried(
        rules(
            f"""state on[Thing]: bool
state box[Thing]: {{ on: bool, of: Thing }}
request go(t: Thing)
    {first}
    {second}
""",
            tmp_path,
        )
    )
    tried.table("on")[:] = [1, 1, 1]
    assert tried.call("go", t=1).code == "okay"
    assert tried.table("on") == left
    assert tried.table("box.on") == [0, 0, 0] and tried.table("box.of") == [0, int("box" in first), 0]


def test_checks_are_made_in_their_order(tmp_path: Path) -> None:
    """The first check that fails gives the code, and a call that fails changes nothing."""
    tried = Tried(
        rules(
            """state a[Thing]: bool
state b[Thing]: bool
state c[Thing]: bool
request go(t: Thing) when not c[t]
    require a[t] else EA
    set a[t] = false
    pick u: Thing where b[u] else EB
    require u != t else EC
    set b[u] = false
""",
            tmp_path,
        )
    )
    for a, b, expected in itertools.product((0, 1), ([0, 0, 0], [1, 0, 0], [0, 1, 0]), (0,)):
        tried.table("a")[:] = [a, a, a]
        tried.table("b")[:] = b
        before = [list(t) for t in tried.state]
        code = tried.call("go", t=expected).code
        assert code == ("EA" if not a else "EB" if not any(b) else "EC" if b[0] else "okay")
        assert (tried.state == before) == (code != "okay")
    tried.table("c")[0] = 1
    assert tried.call("go", t=0).code is None  # `when`: it is not enabled


def test_picks(tmp_path: Path) -> None:
    """Any element that satisfies the condition may be picked, and no other."""
    system = example("grants", tmp_path)
    tried = Tried(system, sizes=3)
    tried.table("runs")[:] = [1, 1, 1]
    tried.table("rights")[:] = [1] * 9
    tried.table("mapping.live")[1] = 1
    args = {"caller": 0, "f": 2}
    assert [h for h in range(3) if tried.machine.can_fire(tried.state, "map", args | {"h": h})] == [0, 2]
    out = tried.call("map", **args)
    assert (out.code, out.result, out.picks) == ("okay", 0, {"h": 0})
    assert tried.call("map", **args).picks == {"h": 2}
    assert tried.call("map", **args).code == "ENOSPC"
    tried.table("mapping.live")[:] = [0, 0, 0]
    assert tried.caller.call(tried.state, "map", args, force_fail="ENOMEM").code == "ENOMEM"
    assert tried.table("mapping.live") == [0, 0, 0]


def test_whole_records(tmp_path: Path) -> None:
    tried = Tried(example("grants", tmp_path))
    tried.table("runs")[:] = [1, 1, 1]
    assert tried.call("grant", caller=0, f=1, to=2, r=2).code == "okay"
    assert tried.call("map", caller=2, f=1).code == "okay"
    assert tried.table("mapping.live") == [1, 0, 0] and tried.table("mapping.frame") == [1, 0, 0]
    assert tried.call("revoke", caller=0, f=1).code == "EBUSY"
    assert tried.call("revoke", caller=1, f=1).code == "EPERM"
    assert tried.call("forget", caller=1).code == "EINVAL"
    assert tried.call("forget", caller=2).code == "okay"
    assert tried.table("mapping.live") == [0, 0, 0] and tried.table("mapping.by")[0] == 2
    assert tried.call("revoke", caller=0, f=1).code == "okay"
    assert not any(tried.table("rights"))


def test_formulas_without_a_name_are_told_apart(tmp_path: Path) -> None:
    """Two on one line once had one name, and the proof assumed the last of them only."""
    system = rules(
        "state a[Thing]: bool\nstate b[Thing]: bool\n"
        "init forall t: Thing. a[t] init forall t: Thing. b[t]\n"
        "invariant both forall t: Thing. a[t] and b[t]",
        tmp_path,
    )
    assert len({name_of(c) for c in system.inits}) == 2
    assert "both" in prove(system, Settings(jobs=1)).standing


def test_undo_and_its_labels(tmp_path: Path) -> None:
    """A failing later check keeps the effects of earlier steps, except for its own undo; equal codes are distinguished."""
    tried = Tried(example("flight", tmp_path), Call=2)
    labels = set(tried.machine.transitions)
    assert {"unmap", "unmap.flush", "read", "read.copy"} <= labels
    assert {"read.copy!EPERM", "read.copy!EPERM#2", "read.copy!ENOMEM"} <= labels
    assert tried.call("map", f=0, who=1).code == "okay"
    assert tried.call("read", f=0, this=0).code == "okay"
    assert tried.call("read.copy", who=0, this=1).code is None  # this call is at another point
    assert tried.table("pinned") == [1, 0, 0]
    assert tried.call("read.copy", who=0, this=0).code == "EPERM"
    assert tried.table("pinned") == [0, 0, 0] and tried.table("at") == [0, 0]
    assert tried.table("cached") == [1, 0, 0]
    fired = walk(tried.machine, seed=5, steps=30_000).fired
    assert fired["read.copy!EPERM"] and fired["read.copy!EPERM#2"]


def test_calls_interleave_between_steps_and_keep_their_locals(tmp_path: Path) -> None:
    tried = Tried(example("flight", tmp_path), Call=2)
    for f in (0, 1):
        tried.call("map", f=f, who=0)
    assert tried.call("unmap", f=0, this=0).code == "okay"
    assert tried.call("unmap", f=1, this=1).code == "okay"
    assert tried.call("unmap", f=0, this=0).code is None  # on its way already
    assert tried.table("cached") == [1, 1, 0]
    assert tried.call("unmap.flush", this=1).code == "okay"
    assert tried.table("cached") == [1, 0, 0]
    assert tried.call("map", f=1, who=2).code == "okay"
    assert tried.call("unmap.flush", this=0).code == "okay"
    assert tried.table("cached") == [0, 1, 0] and tried.table("at") == [0, 0]


def test_elements_of_a_batch(tmp_path: Path) -> None:
    """A failing element ends only itself; a batch has any number of elements and ends at some point."""
    tried = Tried(example("batch", tmp_path), Call=2)
    tried.table("wanted")[:] = [1, 0, 1]
    assert tried.call("take_pages.page", p=0, this=0).code is None
    assert tried.call("take_pages", this=0).code == "okay"
    head = tried.table("at")[0]
    assert tried.call("take_pages.page", p=1, this=0).code == "EINVAL"
    assert tried.table("at")[0] == head
    assert tried.call("take_pages.page", p=0, this=0).code == "okay"
    assert tried.table("at")[0] != head
    tried.table("owner")[0] = 1
    before = list(tried.table("taken"))
    assert tried.call("take_pages.mark", this=0).code == "EAGAIN"
    assert tried.table("at")[0] == head and tried.table("taken") == before  # the first step of the element stays done
    assert not tried.machine.transitions["take_pages.mark!*"].changes_nothing
    assert tried.machine.transitions["take_pages.page!*"].changes_nothing
    assert tried.call("take_pages.page", p=0, this=0).code == "EBUSY"
    assert tried.call("take_pages.page", p=2, this=0).code == "okay"
    assert tried.call("take_pages.done", this=0).code is None  # not in the middle of an element
    assert tried.call("take_pages.mark", this=0).code == "okay"
    assert tried.table("marked") == [0, 0, 1]
    assert tried.call("take_pages.done", this=0).code == "okay"
    assert tried.table("marked") == [0, 0, 0] and tried.table("at")[0] == 0


def test_perform(tmp_path: Path) -> None:
    """Procedures are inlined: one step, separate locals for each `as`, one code for all with `else`."""
    system = example("shared", tmp_path)
    assert [s.op for s in system.steps] == ["populate", "reserve", "populate_two"]
    tried = Tried(system)
    tried.table("free")[:] = [0, 1, 1]
    two = tried.caller.call(tried.state, "populate_two", {"d": 1, "a_p": 1, "b_p": 1})
    assert two.code == "EAGAIN" and tried.table("free") == [0, 1, 1]
    two = tried.call("populate_two", d=1, a_p=1, b_p=2)
    assert two.code == "okay" and two.picks == {"a_p": 1, "b_p": 2}
    assert tried.table("free") == [0, 0, 0] and tried.table("owner") == [0, 1, 1]
    assert tried.call("populate_two", d=0).code == "EAGAIN"
    assert tried.call("populate", d=0).code == "ENOMEM"
    tried.table("free")[0] = 1
    assert tried.call("populate", d=2).result == 0 and tried.table("owner") == [2, 1, 1]


def test_a_procedure_brings_its_steps(tmp_path: Path) -> None:
    system = rules(
        """state on[Thing]: bool
procedure twice(t: Thing)
    set on[t] = true
  step second
    set on[t] = false
internal go(u: Thing)
    require not on[u] else EBUSY
    perform twice(u)
""",
        tmp_path,
    )
    assert [s.label for s in system.steps] == ["go", "go.second"] and "go.u" in system.funcs


def test_writable_by(tmp_path: Path) -> None:
    """The party writes any value to its own places, only `when`, and `then` happens with it."""
    tried = Tried(example("values", tmp_path), sizes=2)
    assert [s.label for s in tried.system.steps] == ["write_entry", "write_doorbell"]
    assert [p.name for p in tried.machine.transitions["write_entry"].params] == ["owner", "i1", "valid", "grantee"]
    args = {"owner": 1, "i1": 0, "valid": 1, "grantee": 0}
    assert tried.call("write_entry", **args).code is None  # absent: it cannot write
    tried.table("domain.phase")[1] = 1
    assert tried.call("write_entry", **(args | {"valid": 0})).code == "okay"
    assert not any(tried.table("offered"))
    assert tried.call("write_entry", **args).code == "okay"
    assert tried.table("entry.valid") == [0, 0, 1, 0] and tried.table("offered") == [0, 0, 1, 0]
    assert tried.call("write_doorbell", who=1, value=1).code == "okay"
    assert tried.table("doorbell") == [0, 1]


@pytest.mark.parametrize(
    ("formula", "same"),
    [
        ("a implies b implies c", "a implies (b implies c)"),
        ("a iff b iff c", "a iff (b iff c)"),
        ("a or b and c", "a or (b and c)"),
        ("not a and b", "(not a) and b"),
        ("not a = b", "not (a = b)"),
        ("a and b implies c or a", "(a and b) implies (c or a)"),
        ("a or b implies c iff a", "(a or b) implies (c iff a)"),
        ("forall t: Thing. on[t] and a", "forall t: Thing. (on[t] and a)"),
        ("a and forall t: Thing. on[t] or b", "a and (forall t: Thing. (on[t] or b))"),
        ("a implies exists t: Thing. on[t] implies b", "a implies (exists t: Thing. (on[t] implies b))"),
        ("if a then b else c and a", "(if a then b else c) and a"),
        ("if a then b else not c or b", "(if a then b else (not c)) or b"),
        ("if a then b else b = c", "if a then b else (b = c)"),
        ("if a then b iff c else c", "if a then (b iff c) else c"),
        ("k in { x, z } and a", "(k = x or k = z) and a"),
        ("not k in { x }", "k != x"),
    ],
)
def test_precedence(formula: str, same: str, tmp_path: Path) -> None:
    head = "state on[Thing]: bool\nstate a: bool\nstate b: bool\nstate c: bool\nenum K = x | y | z\nstate k: K\n"
    one, two = (rules(f"{head}invariant i {f}\n", tmp_path).invariants["i"].body for f in (formula, same))
    assert one == two


def test_transition_claims_tell_failing_steps(tmp_path: Path) -> None:
    """`failed` and `next` refer to the step's end, in proof and in the executable model."""
    system = loader.build(library("6. Claims", tmp_path), "counters", ())
    tried = Tried(system, sizes=2)
    claim = system.step_claims["used_for_good"].body
    before = [list(t) for t in tried.state]
    tried.call("use_token", t=1, this=0)
    assert tried.machine.holds_between(before, tried.state, claim, False)
    assert not tried.machine.holds_between(tried.state, before, claim, False)
    harmless = system.step_claims["failing_is_harmless"].body
    assert tried.machine.holds_between(tried.state, before, harmless, False)
    assert not tried.machine.holds_between(tried.state, before, harmless, True)


@pytest.mark.parametrize("fault", ["no_lock", "wrong_look"])
def test_faults_of_the_reference_are_noticed(fault: str, tmp_path: Path) -> None:
    system = loader.build(library("7. Faults", tmp_path), "doors", (fault,))
    assert (system.faults["no_lock"].breaks, system.faults["no_lock"].step) == (("locked_is_shut",), "open_door")
    assert system.faults["silent"].breaks == ()
    assert find_attack(system, "locked_is_shut", (fault,)) is not None


def test_what_faults_change(tmp_path: Path) -> None:
    def steps(*faults: str) -> dict[str, list[str]]:
        system = loader.build(library("7. Faults", tmp_path), "doors", faults)
        return {s.label: [c.text for c in s.checks] + [f"{u.func} := {u.value}" for u in s.updates] for s in system.steps}

    plain = steps()
    assert [k for k, v in steps("late_look").items() if v != plain[k]] == ["close_any", "close_any.note"]
    assert [k for k, v in steps("silent").items() if v != plain[k]] == [
        "open_door",
        "close_any",
        "close_any.note",
    ]  # the door that the note no longer needs is not saved
    assert [k for k, v in steps("no_lock", "wrong_look").items() if v != plain[k]] == ["lock", "open_door"]


@pytest.mark.parametrize("fault", ["open_is_free", "other_box", "opened"])
def test_faults_of_other_things_are_noticed(fault: str, tmp_path: Path) -> None:
    """A `when`, a `let`, a definition, the `where` of an assignment; and an assignment more."""
    system = loader.build(library("7. Faults", tmp_path), "boxes", (fault,))
    assert find_attack(system, "used_is_shut", (fault,)) is not None


def test_what_faults_change_in_an_undo(tmp_path: Path) -> None:
    def outcomes(*faults: str) -> dict[str, list[str]]:
        """Of each outcome: what it makes of `shut` where `undo` assigns it."""
        (step,) = loader.build(library("7. Faults", tmp_path), "boxes", faults).steps
        return {t.label: [show(u.value) for u in t.updates] for t in step.outcomes()}

    plain = outcomes()
    assert plain["take!EIO"] == ["false"]
    assert "take!EIO" not in outcomes("lock_works") and outcomes("lock_shuts") == {**plain, "take!EIO": ["true"]}
    for fault in ("lock_stays", "lock_stays_too"):  # it fails as the other check does, and changes nothing
        assert outcomes(fault).keys() == {"take", "take!*"} and outcomes(fault)["take"] == plain["take"]


def test_warning_of_the_reference(tmp_path: Path) -> None:
    system = rules(
        """state edge[Thing, Thing]: bool
invariant chain forall x: Thing. exists y: Thing. edge[x, y]
""",
        tmp_path,
    )
    (warning,) = system.warnings
    assert f"    warning: {warning.what} [{warning.code}]\n".replace("Thing", "Node") in REFERENCE.read_text()


def test_kinds_of_the_reference() -> None:
    """The reference lists the kinds of operations and the words of statements that the grammar has."""
    kinds = re.search(r"^KIND\.2: /\((.*?)\)", GRAMMAR.read_text(), flags=re.MULTILINE)
    assert kinds is not None
    assert all(f"`{kind}`" in REFERENCE.read_text() for kind in kinds[1].split("|"))


@pytest.mark.parametrize(
    "word",
    [
        "require",
        "may",
        "pick",
        "let",
        "set",
        "return",
        "perform",
        "step",
        "each",
        "done",
        "undo",
        "writable",
        "ghost",
        "fault",
        "breaks",
        "transition",
        "theorem",
        "invariant",
        "axiom",
        "init",
        "const",
        "enum",
        "sort",
        "define",
    ],
)
def test_words_are_explained(word: str) -> None:
    """Every word occurs in the reference's prose, not only in its examples."""
    prose = re.sub(r"^```.*?^```$", "", REFERENCE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert re.search(rf"\b{word}s?\b", prose)


# Parsing.


def test_the_loop_takes_what_lark_takes_and_makes_the_same_of_it() -> None:
    """Lark parses texts that our own loop over its tables refuses; texts that the loop accepts, Lark must accept, too."""
    lark, loop, transformer = parser._parser()
    transformer.file = "t.rules"
    rng = random.Random(7)
    taken = 0
    for path in loader.shipped_files():
        text = path.read_text()
        assert loop.parse(text) == lark.parse(text)
        assert repr(loop.parse(text)) == repr(lark.parse(text)), "places are no part of equality"
    words = re.findall(r"\S+|\s+", (loader.SPEC / "dom0" / "privcmd.rules").read_text())
    for _ in range(300):
        broken = list(words)
        k = rng.randrange(len(words))
        broken[k : k + rng.randrange(1, 4)] = rng.choices(words, k=rng.randrange(3))
        try:
            made = loop.parse("".join(broken))
        except NotParsed:
            continue
        taken += 1
        assert repr(made) == repr(lark.parse("".join(broken)))
    assert 10 < taken < 290


def test_what_does_not_parse_is_refused_at_once() -> None:
    for text in (" " * 100_000 + "$", "-- nothing\n" * 10_000 + "$", '"' + " " * 100_000):
        with pytest.raises(RulesError):
            parser.parse_text(text, "t.rules")
