"""Rules written to fool the proof: obviously false claims, or names with a meaning to the engine.

Each trap is a whole system with the verdict that a person determines. A refuted claim must have an attack that
replays; a refused file, a message with the place. One system is tested under every name that the engine or a solver
may use, and must have the same verdicts as under harmless names.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from bulkhead.model.diagnostics import RulesError
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.ir import System
from bulkhead.model.loader import load
from bulkhead.model.trace import TraceError, replay
from bulkhead.proofs.report.trace_text import read_back
from bulkhead.proofs.theorems.attack import find_attacks
from bulkhead.proofs.theorems.export import export, folder_of
from bulkhead.proofs.theorems.induction import Settings, prove
from bulkhead.proofs.theorems.shortening import violated

HEAD = 'component c "c"\nsort T "t"\nsort U "u"\n'


def system_of(folder: Path, text: str, claims: str = "", head: str = HEAD) -> System:
    path = folder / "trap.rules"
    path.write_text(f'{head}{text}\nsystem y "y" uses c {f"expect proved {claims}" if claims else ""}\n')
    return load(str(path))


def verdicts(system: System, jobs: int = 1) -> dict[str, str]:
    """The verdict on each claim; a refuted claim has an attack, which replays to a state or step that violates it."""
    proof = prove(system, Settings(limit=5.0, jobs=jobs))
    assert not proof.disagreements
    open_claims = [n for n in system.claims() if n not in proof.proved]
    found = {n: "proved" for n in proof.proved}
    for name, trace in find_attacks(system, open_claims).items():
        found[name] = "unknown"
        if trace is not None:
            machine = ExecutableModel(system, trace.world)
            assert violated(system, system.claims()[name], machine, trace, replay(trace, machine)) == len(trace.events)
            found[name] = "refuted"
    return found


# name of the trap: (rules, the verdict on each claim)
TRAPS: dict[str, tuple[str, dict[str, str]]] = {
    "records whose fields stand in another order": (
        """state r[T]: { a: bool, b: T }
        state q: { b: T, a: bool }
        internal mark(x: T) set r[x].a = true
        internal copy(x: T) set r[x] = q
        internal back(x: T)
            let o = r[x]
            set r[x] = { b: x, a: true }
          step late
            set q = o
        transition kept forall x: T. next(r[x]) = r[x] or next(r[x].a) or next(r[x]) = q
        transition fields forall x: T. next(r[x] = q) iff next(r[x].a = q.a and r[x].b = q.b)
        transition copied next(q) = q or exists c: Call. at[c] = back.late and back.o[c] = next(q)
        transition still forall x: T. next(r[x]) = r[x]""",
        {"kept": "proved", "fields": "proved", "copied": "proved", "still": "refuted"},
    ),
    "a step that writes nothing a transition claim reads": (
        """state used[T]: bool
        state other[T]: bool
        init forall t: T. not used[t]
        internal use(t: T)
            require forall u: T. not used[u] else E
            set used[t] = true
        internal noise(t: T)
            set other[t] = true
        transition odd forall t: T. used[t] implies not next(used[t])
        transition kept forall t: T. used[t] implies next(used[t])""",
        {"odd": "refuted", "kept": "proved"},
    ),
    "a step that fails and changes nothing": (
        """state used[T]: bool
        internal use(t: T)
            require not used[t] else E
            set used[t] = true
        transition never_fails not failed
        transition harmless failed implies forall t: T. used[t] iff next(used[t])""",
        {"never_fails": "refuted", "harmless": "proved"},
    ),
    "a step that fails and undoes something": (
        """state used[T]: bool
        state busy: bool
        init busy
        internal use(t: T)
            require not used[t] else E undo set busy = false end
            set used[t] = true
        transition never_fails not failed
        transition harmless failed implies (busy iff next(busy))""",
        {"never_fails": "refuted", "harmless": "refuted"},
    ),
    "no step fails": (
        """state used[T]: bool
        internal use(t: T)
            set used[t] = true
        transition never_fails not failed""",
        {"never_fails": "proved"},
    ),
    "a check that cannot fail is no failing step": (
        """state used[T]: bool
        init forall t: T. used[t]
        internal use(t: T)
            require used[t] else E
            set used[t] = true
        invariant all_used forall t: T. used[t]
        transition never_fails not failed""",
        {"never_fails": "proved"},
    ),
    "an element of a batch that fails stays, and that is a step": (
        """state used[T]: bool
        state started: bool
        init not started
        init forall c: Call. at[c] = idle
        hypercall take()
            set started = true
          each one(t: T)
            require not used[t] else E
            set used[t] = true
          done
            set started = true
        transition never_fails not failed
        transition fails_quietly failed implies forall c: Call. at[c] = next(at[c])""",
        {"never_fails": "refuted", "fails_quietly": "proved"},
    ),
    "a check in a later step that does not fail": (
        """state busy: bool
        state lost: bool
        init busy and not lost
        init forall c: Call. at[c] = idle
        internal go()
            set lost = false
          step on
            require busy else EIO
        theorem stays busy
        transition ends_well forall c: Call. at[c] = go.on and next(at[c]) = idle implies not failed""",
        {"stays": "proved", "ends_well": "proved"},
    ),
    "the second check fails where the first has passed": (
        """state a: bool
        state b: bool
        state seen: bool
        init not seen
        internal go()
            require a else EA undo set seen = true end
            require b else EB
            set seen = false
        internal flip()
            set a = a
            set b = b
        theorem unseen a implies not seen""",
        {"unseen": "proved"},
    ),
    "x0 as a parameter": (
        """state s[T]: bool
        init forall t: T. not s[t]
        internal op(x0: T)
            set s[x0] = true
        theorem all_alike forall a: T, b: T. s[a] iff s[b]""",
        {"all_alike": "refuted"},
    ),
    "an operation called init": (
        """state s[T]: bool
        init forall t: T. s[t]
        internal init(t: T)
            set s[t] = true
        internal follows(t: T)
            set s[t] = true
        theorem none forall t: T. not s[t]""",
        {"none": "refuted"},
    ),
    "an error code called error": (
        """state s: bool
        state u: bool
        init s and not u
        init forall c: Call. at[c] = idle
        internal op(t: T, w: bool)
            set s = true
          step second(v: bool)
            require v else error undo set u = true end
            require w else E
            set s = s
        theorem kept s
        theorem quiet not u""",
        {"kept": "proved", "quiet": "refuted"},
    ),
    "a record local and a local that reads like its field": (
        """state box[T]: { live: bool, full: bool }
        state out: bool
        init forall t: T. box[t].live
        init not out
        init forall c: Call. at[c] = idle
        internal op(t: T)
            let old = box[t]
            let old_live = false
          step second
            set out = old_live
            set box[t].full = old.live
        invariant saved forall c: Call. at[c] = op.second implies not op.old_live[c] and op.old[c].live
        invariant alive forall t: T. box[t].live
        theorem never_out not out""",
        {"never_out": "proved"},
    ),
    "state called a and a_next": (
        """state a: bool
        state a_next: bool
        init a and not a_next
        internal op()
            set a = false
        theorem one a or a_next
        transition two next(a) or a_next""",
        {"one": "refuted", "two": "refuted"},
    ),
    "constants of an enum may be any member, and equal": (
        """enum Colour = red | green
        const first: Colour
        const second: Colour
        state colour[T]: Colour
        init forall t: T. colour[t] = first
        internal paint(t: T)
            set colour[t] = second
        theorem still forall t: T. colour[t] = first
        theorem not_red forall t: T. colour[t] != red""",
        {"still": "refuted", "not_red": "refuted"},
    ),
    "constants of an enum and what they rule out": (
        """enum Colour = red | green
        const first: Colour
        const second: Colour
        state seen[T]: Colour
        init forall t: T. seen[t] != first
        internal paint(t: T)
            set seen[t] = second
        theorem never forall t: T. seen[t] != first""",
        {"never": "refuted"},
    ),
    "a constant of sort bool": (
        """const yes: bool
        state s: bool
        init s
        internal op()
            set s = yes
        theorem kept s""",
        {"kept": "refuted"},
    ),
    "an enum of one member": (
        """enum One = only
        const some: One
        const other: One
        state s[T]: One
        internal op(t: T)
            set s[t] = other
        theorem alike forall t: T. s[t] = some""",
        {"alike": "proved"},
    ),
    "an argument of a procedure is evaluated once": (
        """state now[T]: U
        state saved[T]: U
        state before[T]: U
        init forall t: T. now[t] = before[t] and saved[t] = before[t]
        init forall c: Call. at[c] = idle
        const one: T
        procedure keep(t: T, u: U)
            set now[t] = now[one]
          step later
            set saved[t] = u
        internal go(t: T)
            perform keep(t, now[t]) as k
        invariant one_stays now[one] = before[one]
        invariant taken_then forall c: Call. at[c] = go.later and go.t[c] = one implies go.k_u[c] = before[one]
        theorem as_it_was forall t: T. t = one implies saved[t] = before[t]""",
        {"as_it_was": "proved"},
    ),
    "a name in a procedure means what it means there": (
        """const special: T
        state touched[T]: bool
        state lock: bool
        init forall t: T. not touched[t]
        init not lock
        procedure touch_special()
            require not lock else E
            set touched[special] = true
        internal go(special: T)
            perform touch_special()
        internal come(lock: bool)
            perform touch_special()
        theorem others forall t: T. touched[t] implies t = special""",
        {"others": "proved"},
    ),
    "for all that some element allows": (
        """state p[T]: bool
        state s: bool
        init not s
        init forall t: T. not p[t]
        internal mark(t: T)
            set p[t] = true
        internal op()
            set s = true for all t: T where p[t]
        invariant so s implies exists t: T. p[t]
        theorem never not s""",
        {"never": "refuted"},
    ),
    "the diagonal": (
        """state s[T, T]: bool
        init forall a: T, b: T. not s[a, b]
        internal op(x: bool)
            set s[h, h] = x for all h: T
        theorem diagonal forall a: T, b: T. s[a, b] implies a = b
        theorem none forall a: T, b: T. not s[a, b]""",
        {"diagonal": "proved", "none": "refuted"},
    ),
}


@pytest.mark.parametrize("name", TRAPS)
def test_trap(name: str, tmp_path: Path) -> None:
    rules, expected = TRAPS[name]
    assert verdicts(system_of(tmp_path, rules, ", ".join(expected))) == expected


# Texts that `check` must refuse, and its messages.
REFUSED: dict[str, tuple[str, str]] = {
    "an axiom over state that an operation writes": (
        "state s: bool\naxiom s\ninternal op()\n    set s = false",
        "an axiom cannot speak of `s`, which is written at",
    ),
    "an axiom over such state through a definition": (
        "state s: bool\ndefine d() = s\naxiom d()\ninternal op()\n    set s = false",
        "an axiom cannot speak of `s`",
    ),
    "an axiom over state that a party writes": (
        "state s[t: T]: bool writable by t\naxiom forall t: T. s[t]",
        "an axiom cannot speak of `s`",
    ),
    "an axiom over state that an undo writes": (
        "state s: bool\naxiom s\ninternal op()\n    require false else E undo set s = false end",
        "an axiom cannot speak of `s`",
    ),
    "an axiom over where calls stand": (
        "state s: bool\naxiom forall c: Call. at[c] = idle\ninternal op()\n    set s = false\n  step two\n    set s = true",
        "an axiom cannot speak of `at`",
    ),
    "a procedure with when": (
        "state s: bool\nprocedure p() when s\n    set s = false\ninternal op()\n    perform p()",
        "the procedure `p` has a `when`",
    ),
    "a value that depends on which element is meant": (
        "state s: T\nstate v[T]: T\ninternal op()\n    set s = v[t] for all t: T",
        "`t` is in the value",
    ),
    "a long name": (f"state {'a' * 20_000}: bool", "this name has 20,000 characters"),
    "very many quantified variables": (
        f"state s[T]: bool\ntheorem many forall {', '.join(f'x{k}: T' for k in range(22))}. s[x1] or not s[x2]",
        "more than 12 quantified variables",
    ),
    "very many quantified variables, one by one": (
        f"state s[T]: bool\ntheorem many {' '.join(f'forall x{k}: T.' for k in range(22))} s[x1]",
        "more than 12 quantified variables",
    ),
    "very many indices": (f"state s[{', '.join(['T'] * 26)}]: bool", "has 26 indices"),
    "very many arguments": (
        f"state s: bool\ninternal op({', '.join(f'a{k}: T' for k in range(30))})\n    set s = true",
        "too many arguments",
    ),
    "a parameter called true": (
        "state s: bool\ninternal op(true: bool)\n    set s = true",
        "`true` is a word of the language",
    ),
    "a variable called this": ("state s[T]: bool\ninit forall this: T. s[this]", "`this` is a word of the language"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    with pytest.raises(RulesError) as caught:
        system_of(tmp_path, text)
    assert any(message in p.what for p in caught.value.problems), caught.value.problems


def test_an_axiom_over_what_nothing_writes_is_fine(tmp_path: Path) -> None:
    rules = "state s: bool\nstate t: bool\naxiom s\ninternal op()\n    set t = s\ntheorem kept s"
    assert verdicts(system_of(tmp_path, rules, "kept")) == {"kept": "proved"}


# Names with a possible meaning to the engine, its texts or a solver.
NASTY = """x0 x1 i0 goal value init follows error op arg Bool Int bv RegEx Seq seq implies and or not ite let select store
    abs a a_next next_a d_a v_a T0 N S W C q0 o k x rnd given picks order result range all any None lambda class
    return _ __ check invariant0 theorem_x wish want par match push assert String Array Set List Point0 call state is as smt
    model core Real""".split()

# One system with a place for a name of each kind; some of its claims are true and some false.
TEMPLATE = """component c "c"
sort {s0} "t"
enum {e0} = {m0} | {m1}
const {c0}: {s0}
state {f0}[{s0}]: bool
state {f1}[{s0}]: {e0}
state {f2}[{b0}: {s0}]: {{ {r0}: bool, {r1}: {e0} }} writable by {b0} as {o3}
define {d0}({p0}: {s0}) = {f0}[{p0}] and {f1}[{p0}] = {m0}
init forall {b1}: {s0}. not {f0}[{b1}] and {f1}[{b1}] = {m1} and not {f2}[{b1}].{r0}
init forall {b1}: Call. at[{b1}] = idle
internal {o0}({p1}: {s0})
    require not {f0}[{p1}] else {x0}
    set {f0}[{p1}] = true
internal {o1}({p2}: {s0})
    let {l0} = {f0}[{p2}]
    set {f1}[{p2}] = {m1}
  step {t0}({p3}: {s0})
    require {p3} != {c0} else {x1} undo set {f1}[{c0}] = {m1} end
    require {l0} else {x0}
    pick {l1}: {s0} where {f0}[{l1}] else {x1}
    set {f1}[{b1}] = {m1} for all {b1}: {s0} where {f0}[{b1}]
internal {o5}({p6}, {p7}: {s0})
    require distinct({p6}, {p7})
    pick {l2}, {l3}: {s0} where {f0}[{l2}] and not {f0}[{l3}] else {x0}
    set {f1}[{b1}] = * for all {b1}: {s0} where {f0}[{b1}]
    set {f0}[{l2}] = *
    require next(forall {b1}: {s0}. {f1}[{b1}] = {m1} and ({f0}[{b1}] implies {b1} != {l3}))
procedure {o2}({p4}: {s0})
    set {f0}[{p4}] = {f2}[{p4}].{r0}
internal {o4}({p5}: {s0})
    perform {o2}({p5})
invariant {i0} forall {b1}: {s0}. {f1}[{b1}] = {m1}
theorem {i1} forall {b1}: {s0}. not {d0}({b1})
theorem {i2} forall {b1}: {s0}, {b2}: {s0}. {f0}[{b1}] iff {f0}[{b2}]
theorem {i3} forall {b1}: {s0}. {f2}[{b1}].{r1} = {m1}
transition {i4} failed implies forall {b1}: {s0}. {f1}[{b1}] = next({f1}[{b1}])
transition {i5} forall {b1}: {s0}. {f0}[{b1}] implies next({f0}[{b1}])
system y "y" uses c expect proved {i1}, {i2}, {i3}, {i4}, {i5}
"""
KINDS = """s0 e0 m0 m1 c0 f0 f1 f2 d0 o0 o1 o2 o3 o4 o5 b0 b1 b2 r0 r1 p0 p1 p2 p3
    p4 p5 p6 p7 l0 l1 l2 l3 t0 x0 x1 i0 i1 i2 i3 i4 i5""".split()
# Names that must differ: all declarations share one name space, and so do the locals of one operation.
LOCAL = set("b0 b1 b2 r0 r1 p0 p1 p2 p3 p4 p5 p6 p7 l0 l1 l2 l3 t0 x0 x1".split())
TRUTH = {"i1": "proved", "i2": "refuted", "i3": "refuted", "i4": "proved", "i5": "refuted"}


def test_names_do_not_matter(tmp_path: Path) -> None:
    """The verdicts on one system are the same under any names, and each of its queries gets a file of its own."""
    rng = random.Random(1)
    count = len(NASTY) // 2
    for turn in range(6):
        shuffled = rng.sample(NASTY, len(NASTY))
        globals_ = iter(shuffled[:count])
        names = {k: next(globals_) for k in KINDS if k not in LOCAL}
        # Locals may have the name of anything global, except for names that the template uses in their scope.
        free = [n for n in shuffled if n not in {names[k] for k in ("c0", "m0", "m1")}]
        names.update(zip(sorted(LOCAL), rng.sample(free, len(LOCAL)), strict=True))
        path = tmp_path / f"turn{turn}.rules"
        path.write_text(TEMPLATE.format(**names))
        try:
            system = load(str(path))
        except RulesError as error:
            raise AssertionError(error.problems[0]) from None
        assert verdicts(system, jobs=1 + turn % 2) == {names[k]: v for k, v in TRUTH.items()}, names
        out = tmp_path / f"queries{turn}"
        assert export(system, out) == len(list(out.rglob("*.smt2")))


def test_folders_of_labels_are_told_apart() -> None:
    labels = [
        "a",
        "a.b",
        "a.b!E",
        "a.b!E#2",
        "a.b!E_2",
        "a.b!*",
        "a!*",
        "a!error",
        "(initial states)",
        "_initial_states_",
        "(invariants)",
        "a.b!any",
        "a_b",
        "(nothing changes)",
        "(failing, nothing changes)",
    ]
    folders = [folder_of(label) for label in labels]
    assert all(a != b for a, b in itertools.combinations(folders, 2)), folders


def test_a_trace_that_begins_nowhere_is_not_believed(tmp_path: Path) -> None:
    rules = "state s: bool\ninit not s\ninternal op()\n    set s = s\ntheorem never not s"
    system_of(tmp_path, rules, "never")
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        '{"format": "bulkhead-trace/1", "system": "y", "faults": [], "claim": "never", "excluded": -1, '
        '"world": {"sizes": {"T": 1, "U": 1, "Call": 1}, "consts": {}}}\n{"initial": {"s": "true"}}\n'
    )
    with pytest.raises(TraceError, match="the first state is no initial state: the init at"):
        read_back(trace, str(tmp_path / "trap.rules"))
