"""Components with parameters: instances are equal to their expanded text, and the library's axioms have models.

The outside oracle is the text itself: a system expanded by hand, without parameters, has the same checked form, and a
second expansion (`oracle/instances.py`) gives the same items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.model import instances, loader
from bulkhead.model import syntax as s
from bulkhead.model.library import closure, load_library
from bulkhead.model.loader import SPEC, load
from bulkhead.proofs.cli.__main__ import run
from bulkhead.proofs.report.certified import certified
from bulkhead.proofs.theorems.axioms import CONTRADICTORY, FOUND, UNKNOWN, model_of_axioms
from bulkhead.proofs.theorems.decide import Settings
from bulkhead.proofs.theorems.induction import prove
from tests.oracle.compare import Budget, Seen, _shape, differences
from tests.oracle.instances import items_of

EXAMPLES = Path(__file__).parent / "examples"
LIBRARY = sorted((SPEC / "library").glob("*.rules"))
USERS = ["chord_ring", "paxos", "reliable_broadcast", "ring_leader"]

LEVELS = """
component order(sort T, le) "A total order."
state le[T, T]: bool
axiom forall a: T. le[a, a]
axiom forall a: T, b: T, c: T. le[a, b] and le[b, c] implies le[a, c]
axiom forall a: T, b: T. le[a, b] and le[b, a] implies a = b
axiom forall a: T, b: T. le[a, b] or le[b, a]
define below(a: T, b: T) = le[a, b] and a != b
state top: T
internal raise_top(a: T)
    require below(top, a) else EINVAL
    set top = a
invariant top_is_one forall a: T. top = a implies le[top, a]
fault sinks within raise_top drop below(top, a)

component both "Levels of two kinds."
uses order(Level, lv), order(Floor, fl) as floors
sort Level "a level"
sort Floor "a floor"
transition rises lv[top, next(top)]
transition floors_rise fl[floors_top, next(floors_top)]
system both "Two orders."
    uses both
    expect proved rises, floors_rise
"""

BY_HAND = """
component both "Levels of two kinds."
sort Level "a level"
sort Floor "a floor"
state lv[Level, Level]: bool
axiom forall a: Level. lv[a, a]
axiom forall a: Level, b: Level, c: Level. lv[a, b] and lv[b, c] implies lv[a, c]
axiom forall a: Level, b: Level. lv[a, b] and lv[b, a] implies a = b
axiom forall a: Level, b: Level. lv[a, b] or lv[b, a]
define below(a: Level, b: Level) = lv[a, b] and a != b
state top: Level
internal raise_top(a: Level)
    require below(top, a) else EINVAL
    set top = a
invariant top_is_one forall a: Level. top = a implies lv[top, a]
fault sinks within raise_top drop below(top, a)
state fl[Floor, Floor]: bool
axiom forall a: Floor. fl[a, a]
axiom forall a: Floor, b: Floor, c: Floor. fl[a, b] and fl[b, c] implies fl[a, c]
axiom forall a: Floor, b: Floor. fl[a, b] and fl[b, a] implies a = b
axiom forall a: Floor, b: Floor. fl[a, b] or fl[b, a]
define floors_below(a: Floor, b: Floor) = fl[a, b] and a != b
state floors_top: Floor
internal floors_raise_top(a: Floor)
    require floors_below(floors_top, a) else EINVAL
    set floors_top = a
invariant floors_top_is_one forall a: Floor. floors_top = a implies fl[floors_top, a]
fault floors_sinks within floors_raise_top drop floors_below(floors_top, a)
transition rises lv[top, next(top)]
transition floors_rise fl[floors_top, next(floors_top)]
system both "Two orders."
    uses both
    expect proved rises, floors_rise
"""


def _file(folder: Path, text: str) -> str:
    path = folder / "made.rules"
    path.write_text(text)
    return str(path)


def test_instances_are_as_written_by_hand(tmp_path: Path) -> None:
    """Two instances of a component with state, a definition, an operation, an invariant and a fault."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made, hand = load(_file(tmp_path / "a", LEVELS)), load(_file(tmp_path / "b", BY_HAND))
    for part in ("sorts", "consts", "funcs", "expects"):
        assert getattr(made, part) == getattr(hand, part), part
    assert {n: d.body for n, d in made.defs.items()} == {n: d.body for n, d in hand.defs.items()}
    assert sorted(repr(a.body) for a in made.axioms) == sorted(repr(a.body) for a in hand.axioms)
    assert {n: c.body for n, c in made.invariants.items()} == {n: c.body for n, c in hand.invariants.items()}
    assert set(made.faults) == set(hand.faults) == {"sinks", "floors_sinks"}
    for one, other in zip(made.steps, hand.steps, strict=True):
        assert [(t.label, t.guard, t.updates) for t in one.outcomes()] == [
            (t.label, t.guard, t.updates) for t in other.outcomes()
        ]


def test_instances_are_proved_certified_and_their_faults_noticed(tmp_path: Path) -> None:
    """Each instance has its own fault, which breaks only its own claim."""
    path = _file(tmp_path, LEVELS)
    settings = Settings(jobs=1)
    proof = prove(load(path), settings)
    assert proof.proved == {"rises", "floors_rise"}
    certificate = certified(proof, path, (), settings, None)
    assert certificate is not None and certificate.verdict == "confirmed"
    assert prove(load(path, ["sinks"]), settings).proved == {"floors_rise"}
    assert prove(load(path, ["floors_sinks"]), settings).proved == {"rises"}


@pytest.mark.parametrize("name", USERS)
def test_examples_have_the_items_that_their_text_has(name: str) -> None:
    """The examples' uses of the library, substituted in the tree and in the text."""
    path = EXAMPLES / f"{name}.rules"
    library = load_library([path])
    items = [i for c in closure(library, library.systems[name], []) for i in c.items]
    assert sorted(map(_shape, items)) == sorted(map(_shape, items_of(path.read_text(), LIBRARY)))
    assert any(c.use is not None and c.use.text.startswith("library.") for c in closure(library, library.systems[name], []))


WORDS_OF_THE_LANGUAGE = """
component c(sort T, k) "Names that are keywords elsewhere."
state k[T]: bool
enum each = fail | step | undo
state let: T
state check: T
state to[T]: { owner: bool, init: each }
init let = check and (forall t: T. not to[t].owner)
define if_(t: T) = to[t].owner and let = t
internal init(t: T)
    pick check2: T where k[check2] else fail
    let case = to[check2]
    require let = t else undo
    set to[t] = { owner: if k[t] then true else false, init: step } where t = let
internal fails(let2: T)
    set let = let2
    set check = let2
theorem owners forall t: T. to[t].owner implies k[t]
transition same forall check3: T. to[check3].owner implies next(to[check3].owner)
fault drops within fails skip let
fault opens within init drop k[check2]

component d "Its users."
uses c(Thing, member), c(Other, may) as as_
sort Thing "a thing"
sort Other "another"
system y "y"
    uses d
    expect refuted owners, as__owners
    expect proved same, as__same
"""


def test_names_that_are_keywords_elsewhere_can_be_replaced() -> None:
    """The text's expansion tells a name from a keyword; otherwise random systems with such names are compared by nobody."""
    assert list(differences(WORDS_OF_THE_LANGUAGE, 1, Budget(worlds=1, attack=True), Seen())) == []


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.stem)
def test_axioms_of_the_library_have_models(path: Path) -> None:
    """Models with several elements of each sort, so the axioms are nontrivial and consistent."""
    for system in loader.checked([path]):
        model = model_of_axioms(system, 10.0)
        assert model is not None and model.answer == FOUND and set(model.sizes.values()) == {3}


@pytest.mark.parametrize(
    ("axioms", "answer", "lines"),
    [
        (
            "axiom forall a: T. r[a, a]\naxiom exists a: T, b: T. a != b\naxiom exists a: T. not r[a, a]\n",
            CONTRADICTORY,
            [3, 5],
        ),
        (
            "axiom forall a: T. not r[a, a]\naxiom forall a: T. exists b: T. r[a, b]\n"
            "axiom forall a: T, b: T, c: T. r[a, b] and r[b, c] implies r[a, c]\n",
            UNKNOWN,
            [],
        ),
    ],
)
def test_axioms_without_a_finite_model_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], axioms: str, answer: str, lines: list[int]
) -> None:
    """Contradictory axioms are named, and no model is found for axioms with only infinite models; both give exit code 1,
    and `prove` refuses the first even without the vacuity checks."""
    text = f'component odd(sort T, r) "x"\nstate r[T, T]: bool\n{axioms}'
    path = _file(tmp_path, text)
    (system,) = loader.checked([Path(path)])
    model = model_of_axioms(system, 5.0)
    assert model is not None and model.answer == answer and [a.span.line for a in model.against] == lines
    assert run(["check", path]) == 1
    if answer == CONTRADICTORY:
        used = '\ncomponent user "x"\nuses odd(Thing, r)\nsort Thing "x"\nstate s: bool\ninternal mark()\n    set s = true\n'
        path = _file(tmp_path, text + used + 'theorem never not s\nsystem user "x" uses user expect proved never\n')
        assert run(["prove", path, "--no-vacuity", "--jobs", "1", "--out", str(tmp_path / "out")]) == 1
        assert "contradict each other" in capsys.readouterr().out


def test_one_list_of_arguments_is_one_instance(tmp_path: Path) -> None:
    """Two uses with the same arguments give one instance; `as` gives a second one."""
    text = (
        LEVELS.replace(
            "component both",
            'component more "x"\nuses order(Level, lv)\ntheorem same forall a: Level. lv[a, a]\ncomponent both',
        )
        .replace("uses both", "uses both, more")
        .replace("expect proved", "expect proved same,")
    )
    system = load(_file(tmp_path, text))
    assert len(system.axioms) == 8 and prove(system, Settings(jobs=1)).proved == {"rises", "floors_rise", "same"}


def test_an_instance_that_loses_something_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with the text sees an axiom that is missing from an instance."""
    whole = instances.instance

    def lossy(components: Mapping[str, s.Component], use: s.Used) -> s.Component:
        made = whole(components, use)
        return replace(made, items=tuple(i for i in made.items if not (isinstance(i, s.FormulaItem) and i.kind == "axiom")))

    budget = Budget(worlds=0, prove=False)
    assert not list(differences(LEVELS, 1, budget, Seen()))
    monkeypatch.setattr(instances, "instance", lossy)
    assert any(d.startswith("instances:") for d in differences(LEVELS, 1, budget, Seen()))
