"""Mutation testing: generation of mutants, laying and removing them, and the detection of some."""

from __future__ import annotations

from pathlib import Path

from bulkhead.impl.xen import frames
from bulkhead.proofs.faults.catalogue import BY_NAME
from bulkhead.proofs.faults.catalogue_tests import FAULTS as OF_TESTS
from bulkhead.proofs.faults.laying import function_at, installed
from tests.lines_run import ROOT, Runner, lines_of
from tests.mutants.advisories import FAULTS
from tests.mutants.asking import fits, function_of, in_order, laid
from tests.mutants.places import Mutant, mutants_of, sample, source_of
from tests.unrun_argued import REASONS, functions
from tests.unrun_lines import report, unrun

TEXT = '''
A = 3
def early(x: int) -> int:
    return x + 1
B = early(2)
class C:
    def f(self, a: int = 5, b: str = "x") -> int:
        """Words, and 7 of them."""
        if a > 3 and b:
            g(a, b)
            self.n += 2
        return 1
def g(a: int, b: str) -> None:
    pass
'''


def test_each_kind_is_made_once_for_each_place() -> None:
    """No mutant changes a signature, a docstring, or code that runs only at import; each changes something."""
    made = mutants_of("xen/c.py", TEXT)
    assert {m.kind for m in made} == {
        "negated condition",
        "dropped condition",
        "operator",
        "constant",
        "dropped statement",
        "swapped arguments",
    }
    assert {m.function for m in made} == {"C.f"} and {m.line for m in made} == {9, 10, 11, 12}
    sources = [source_of(m, TEXT) for m in made]
    assert len(set(sources)) == len(sources)
    assert all("a: int=5" in source and "and 7 of them" in source for source in sources)
    assert any("g(b, a)" in source for source in sources) and any("self.n -= 2" in source for source in sources)


def test_the_same_seed_gives_the_same_sample() -> None:
    one, two, other = sample(30, 5), sample(30, 5), sample(30, 6)
    assert one == two != other and len(set(one)) == 30
    assert sum(map(fits, one)) > 27


def _owner_dropped() -> Mutant:
    made = mutants_of("xen/frames.py", Path(frames.__file__).read_text())
    dropped = [m for m in made if m.function == "get_page" and m.kind == "dropped condition"]
    return next(m for m in dropped if m.after == "frame.count > 0")


def test_a_mutant_is_laid_and_taken_off() -> None:
    """The check of a page's owner, without its first half, takes a reference to any domain's page."""
    mutant = _owner_dropped()
    before = function_of(mutant).__code__
    frame = frames.Frame(5)
    frame.count = 1
    with laid(mutant):
        assert frames.get_page(frame, None) and frames.get_page(frame, object())  # type: ignore[arg-type]
    assert not frames.get_page(frame, object())  # type: ignore[arg-type]
    assert function_of(mutant).__code__ is before


def test_lines_that_nothing_runs() -> None:
    text = "def f(x):\n    if x:\n        return 1\n    return 2\n"
    lines = {"xen/f.py": lines_of(text)}
    assert lines["xen/f.py"] == {2, 3, 4}
    found = [
        Runner("recording", "r", 1.0, {"xen/f.py": frozenset({2, 4})}),
        Runner("unit", "u", 1.0, {"xen/f.py": frozenset({3})}),
    ]
    assert unrun(lines, found, ("campaign", "recording")) == {"xen/f.py": {3}}
    assert unrun(lines, found, ("recording", "unit")) == {}
    assert report(lines, found, {"xen/f.py": text.splitlines()}) == [
        "impl/xen/f.py:3  return 1",
        "1 of 3 lines are run by no campaign, recording or proof: 0 for the reasons above, 1 others; "
        "0 of them by no unit test either (!).",
    ]


def test_reasons_are_about_places_that_there_are() -> None:
    """Each place names a file, a function or class of it, and words of one of its lines."""
    for places in REASONS.values():
        for place in places:
            file, _, rest = place.partition(" ")
            who, _, words = rest.partition(" ")
            text = (ROOT / "impl" / file).read_text()
            names = functions(text)
            lines = [
                line
                for n, line in enumerate(text.splitlines(), 1)
                if who in ("", names.get(n, "").partition(".")[0], names.get(n))
            ]
            assert lines and any(words in line for line in lines), place


def test_a_line_with_a_reason_is_counted_and_not_shown() -> None:
    text = "def run_all(x):\n    if x:\n        return 1\n    return 2\n"
    lines = {"xen/scheduler.py": lines_of(text)}
    told = report(lines, [], {"xen/scheduler.py": text.splitlines()})
    assert (
        told[0].startswith("3 lines: the seeded interleaving")
        and len(told) == 2
        and ": 3 for the reasons above, 0 others" in told[1]
    )


def test_the_faults_of_advisories_stand_in_the_text() -> None:
    """Each can be laid, and none has the name of a fault of `bulkhead faults`."""
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names) >= 40 and not set(names) & {
        *BY_NAME,
        *(f.name for t in OF_TESTS.values() for f in t),
    }
    for fault in FAULTS:
        kept = function_at(fault.where).__code__
        with installed(fault):
            assert function_at(fault.where).__code__ is not kept
        assert function_at(fault.where).__code__ is kept


def test_the_quickest_runners_of_a_line_are_asked_first() -> None:
    """Whatever their kind; of unit tests no more than fit are run, and long campaigns come last in any case."""
    asked = [
        Runner("campaign", "1:5000", 12.0, {}),
        Runner("long campaign", "2:5000", 0.5, {}),
        Runner("unit", "a", 30.0, {}),
        Runner("refine", "x", 13.0, {}),
    ]
    order = [kind for kind in in_order(asked) if kind in {r.kind for r in asked}]
    assert order == ["campaign", "refine", "unit", "long campaign"]
    quick = in_order([*asked[:2], Runner("unit", "b", 3.0, {})])
    assert quick.index("unit") < quick.index("campaign") < quick.index("long campaign")
