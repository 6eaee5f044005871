"""The second encoding: traps, shipped systems, seeded faults, and the command line.

Comments in each file of `tests/traps/` give the true and the false claims, as determined by a person.
`certify` and the interpreter of `tests/oracle/` are each compared with them, without the first encoding.
"""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from bulkhead.model import syntax as s
from bulkhead.model.library import Library, shipped_systems
from bulkhead.model.loader import load
from bulkhead.model.parser import parse_file
from bulkhead.proofs.certify.check import CONFIRMED, DENIED, UNDECIDED, Answer, Certificate, Claims, certify
from bulkhead.proofs.certify.tree import assemble, read
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.jobs import Workers
from bulkhead.proofs.report import certified
from bulkhead.proofs.theorems.induction import Settings, prove
from tests.denied import proved_of, verdicts_on
from tests.oracle.interpreter import Interpreter, State, World

TRAPS = sorted((Path(__file__).parent / "traps").glob("*.rules"))


def told(path: Path) -> dict[str, bool]:
    """The verdicts in the comments of a trap."""
    return {name: word == "true" for word, name in re.findall(r"^-- (true|false) (\w+)", path.read_text(), re.M)}


@pytest.mark.parametrize("path", TRAPS, ids=lambda p: p.stem)
def test_certify_confirms_what_is_true_of_a_trap_and_nothing_else(path: Path) -> None:
    """Claims that are true are confirmed together; each false one, added to them, is denied."""
    library = Library()
    library.add(path)
    rules = assemble(library, "y")
    two, one = rules.of_kind("transition").keys(), rules.of_kind("invariant", "theorem").keys()
    true = {n for n, good in told(path).items() if good}
    false = told(path).keys() - true
    assert told(path).keys() == two | one or "-- axiom" in path.read_text()
    whole = certify(rules, Claims(frozenset(true & one), transitions=frozenset(true & two)))
    if "-- axiom" in path.read_text():
        assert whole.verdict == DENIED and whole.open[0].claim in rules.of_kind("axiom")
        return
    assert whole.verdict == CONFIRMED, whole.open
    for name in sorted(false):
        given = Claims(frozenset((true | {name}) & one), transitions=frozenset((true | {name}) & two))
        answer = certify(rules, given)
        assert answer.of_claim(name) == DENIED, (name, answer.open)


def reached(oracle: Interpreter, limit: int = 400) -> tuple[set[str], bool]:
    """The claims violated in reachable states of a world, and whether a step breaks an axiom."""
    rng = random.Random(1)
    violated: set[str] = set()
    queue: list[State] = [s for s in (oracle.find_initial(rng) for _ in range(6)) if s is not None]
    seen = {tuple(s.values()) for s in queue}
    broken = False
    k = 0
    while k < min(len(queue), limit):
        state = queue[k]
        k += 1
        violated |= {n for n, (kind, _, _) in oracle.claims.items() if kind != "transition" and not oracle.holds(n, state)}
        for taken in oracle.successors(state):
            violated |= {
                n
                for n, (kind, _, _) in oracle.claims.items()
                if kind == "transition" and not oracle.holds_of(n, state, taken)
            }
            broken |= not all(a({}, taken.after, taken.after) for a in oracle.axioms)
            key = tuple(taken.after.values())
            if key not in seen:
                seen.add(key)
                queue.append(taken.after)
    return violated, broken


@pytest.mark.parametrize("path", TRAPS, ids=lambda p: p.stem)
def test_the_interpreter_reaches_what_is_false_of_a_trap_and_nothing_else(path: Path) -> None:
    """In all worlds of two elements, with all values of constants, exactly the false claims are violated."""
    parsed, _ = parse_file(path)
    items = [i for c in parsed.components for i in c.items]
    bare = Interpreter([i for i in items if type(i).__name__ in ("SortItem", "EnumItem", "ConstItem")], World({}))
    sorts = [i.name for i in items if isinstance(i, s.SortItem)]
    sizes = {**dict.fromkeys(sorts, 2), "Call": 1}
    bare.world = World(sizes)
    violated: set[str] = set()
    broken = False
    for values in itertools.product(*(bare.values(sort) for sort in bare.consts.values())):
        more, axiom = reached(Interpreter(items, World(sizes, dict(zip(bare.consts, values, strict=True)))))
        violated |= more
        broken |= axiom
    assert violated == {n for n, good in told(path).items() if not good} or broken
    assert broken == ("-- axiom" in path.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_systems())
def test_every_claim_that_is_proved_of_a_shipped_system_is_confirmed(name: str) -> None:
    """All claims that the first encoding proves, checked again by the second."""
    system = load(name)
    settings = Settings(10.0, 2, cross_check=False)
    with Workers(2) as pool:
        wanted = [n for n, verdict in system.expects.items() if verdict == "proved"]
        proof = prove(system, settings, pool, only=wanted)
        answer = certified.certified(proof, name, (), settings, pool)
    assert set(wanted) <= proof.proved
    assert answer.verdict == CONFIRMED, answer.open
    assert answer.questions > 1000


@pytest.mark.slow
def test_what_a_fault_breaks_is_denied() -> None:
    """A counterexample is found, also where no solver finds a model of unbounded size.

    The first encoding claims falsely what it proved of the good rules; `python -m tests.denied SYSTEM` asks of all faults.
    """
    claims, faults = proved_of("hypervisor")
    for fault in random.Random(9).sample(faults, 5):
        assert verdicts_on("hypervisor", fault, claims) == dict.fromkeys(fault.breaks, DENIED), fault.name


SMALL = """component c "c"
sort T "t"
state used[T]: bool
init forall t: T. not used[t]
internal use(t: T)
    require not used[t] else E
    set used[t] = true
transition stays forall t: T. used[t] implies next(used[t])
fault spills within use assign used[t] = false
system y "y" uses c expect proved stays
"""


def test_prove_certify_says_so_and_a_denial_fails_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confirmed run exits with 0; if the second encoding denies, step and claim are named and the exit code is 1."""
    path = tmp_path / "small.rules"
    path.write_text(SMALL.replace("require not used[t]", "require used[t] or not used[t]"))
    assert run(["prove", str(path), "--certify", "--jobs", "1", "--out", str(tmp_path / "out")]) == 0
    assert "certified: confirmed" in capsys.readouterr().out
    monkeypatch.setattr(certified, "read", lambda source, faults: read(source, ["spills"]))
    assert run(["prove", str(path), "--certify", "--jobs", "1", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().out
    assert "certify denies `stays`" in said and "after `use`" in said


def test_what_cannot_be_decided_is_no_success() -> None:
    """An open query makes the certificate undecided, and is a finding of the run."""
    answer = Certificate("y", 10, 2, 0.1, (Answer(UNDECIDED, "use", "stays", "timeout"),))
    assert answer.verdict == UNDECIDED and answer.of_claim("stays") == UNDECIDED and answer.of_claim("other") == CONFIRMED
    assert list(certified.findings(answer)) == ["certify cannot decide `stays` after `use`: timeout"]


def test_a_claim_that_is_not_there_is_not_confirmed(tmp_path: Path) -> None:
    """Unknown names never give a silent success."""
    path = tmp_path / "small.rules"
    path.write_text(SMALL)
    assert certify(read(str(path)), Claims(frozenset({"nothing"}))).verdict == UNDECIDED


MUTUAL = """
component c "Two operations that read each other's locals, and a definition of both above them."
sort T "a thing"
state used[T]: bool
init forall t: T. not used[t]
init forall c: Call. at[c] = idle
define busy(t: T) = exists c: Call. (at[c] = give.done and give.wanted[c] = t) or (at[c] = take.done and take.x[c] = t)
hypercall give(t: T)
    require not busy(t) else EBUSY
    require forall c: Call. not (at[c] = take.done and take.x[c] = t) else EBUSY
    let wanted = t
  step done
    set used[t] = true
hypercall take(t: T)
    require forall c: Call. not (at[c] = give.done and give.wanted[c] = t) else EBUSY
    let x = t
  step done
    set used[t] = false
theorem apart forall c, d: Call. not (at[c] = give.done and at[d] = take.done and give.wanted[c] = take.x[d])
theorem alone forall c, d: Call. at[c] = take.done and at[d] = take.done and take.x[c] = take.x[d] implies c = d
system y "y" uses c expect proved apart expect refuted alone
"""


def test_operations_may_read_each_others_locals(tmp_path: Path) -> None:
    """Wherever operations stand, in both roads: what holds is proved and confirmed, what does not is neither."""
    path = tmp_path / "mutual.rules"
    path.write_text(MUTUAL)
    proof = prove(load(str(path)), Settings(limit=5.0, jobs=1))
    assert proof.proved == {"apart"}
    assert certify(read(str(path)), Claims(frozenset({"apart"}))).verdict == CONFIRMED
    denied = certify(read(str(path)), Claims(frozenset({"apart", "alone"})))
    assert denied.of_claim("alone") == DENIED
