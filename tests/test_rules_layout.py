"""The rules as a manual: behaviour comes first and alone, and `uses` names all components that a component needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.model import syntax as s
from bulkhead.model.library import SPEC, closure, load_library, shipped_files
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.induction import Settings, prove

LIBRARY = load_library()
BEHAVIOUR = sorted(p for room in ("xen", "dom0") for p in (SPEC / room).glob("*.rules"))
ABOUT = sorted(p for room in ("xen", "dom0") for p in (SPEC / room / "claims").glob("*.rules"))
KINDS = {"claims": ("theorem", "transition"), "why": ("invariant",), "faults": (), "scenarios": ()}


def components(path: Path) -> list[s.Component]:
    return [c for name, c in LIBRARY.components.items() if Path(LIBRARY.home[name]).resolve() == path.resolve()]


def names(node: object) -> Iterator[str]:
    """Every word of an item that may name something declared elsewhere."""
    if isinstance(node, s.Binder):
        yield node.sort
    if isinstance(node, s.Perform | s.Call):
        yield node.name
    if isinstance(node, s.Change):
        yield node.path.partition(".")[0]
    if isinstance(node, s.Name):
        yield node.text
    if isinstance(node, tuple):
        for part in node:
            yield from names(part)
    elif isinstance(node, s.Node):
        for field in node.__match_args__:
            yield from names(getattr(node, field))


def declared(c: s.Component) -> set[str]:
    """The exported names; operations also as points of calls in claims."""
    found = {
        i.name
        for i in c.items
        if isinstance(i, s.SortItem | s.EnumItem | s.ConstItem | s.StateItem | s.DefineItem | s.Operation)
    }
    return found | {m.text for i in c.items if isinstance(i, s.EnumItem) for m in i.members}


@pytest.mark.parametrize("path", BEHAVIOUR, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_behaviour_stands_alone_and_says_what_it_is(path: Path) -> None:
    """No claim, no invariant, no fault; and a string above each operation that says which call it is."""
    for c in components(path):
        assert c.name == f"{path.parent.name}.{path.stem}"
        for i in c.items:
            assert not isinstance(i, s.FaultItem), i.name
            assert not isinstance(i, s.FormulaItem) or i.kind in ("init", "axiom"), i.name
            assert not isinstance(i, s.Operation) or i.doc, f"{i.name} says nothing of itself"


@pytest.mark.parametrize("path", ABOUT, ids=lambda p: f"{p.parent.parent.name}-{p.stem}")
def test_claims_why_and_faults_have_components_of_their_own(path: Path) -> None:
    of = f"{path.parent.parent.name}.{path.stem}"
    assert of in LIBRARY.components and f"{of}.claims" in LIBRARY.components
    for c in components(path):
        base, _, part = c.name.rpartition(".")
        assert base == of
        for i in c.items:
            assert isinstance(i, s.FaultItem) == (part == "faults"), i
            assert isinstance(i, s.ScenarioItem) == (part == "scenarios"), i
            assert isinstance(i, s.FaultItem | s.DefineItem | s.ScenarioItem) or (
                isinstance(i, s.FormulaItem) and i.kind in KINDS[part]
            ), i


@pytest.mark.parametrize("name", sorted(n for n in LIBRARY.components if n.startswith(("xen.", "dom0."))))
def test_uses_names_all_that_a_component_speaks_of(name: str) -> None:
    """Otherwise it works only together with others, and a reader cannot find the origin of a name."""
    c = LIBRARY.components[name]
    system = s.System("one", (s.Used(name, (), "", c.span),), (), (), "", c.span)
    reached = set().union(*(declared(k) for k in closure(LIBRARY, system, [])))
    elsewhere = set().union(*(declared(k) for k in LIBRARY.components.values())) - reached
    own = {b.name for i in c.items for b in _binders(i)}
    assert not (set(names(c.items)) & elsewhere) - own


def _binders(node: object) -> Iterator[s.Binder]:
    if isinstance(node, s.Binder):
        yield node
    elif isinstance(node, tuple):
        for part in node:
            yield from _binders(part)
    elif isinstance(node, s.Node):
        for field in node.__match_args__:
            yield from _binders(getattr(node, field))


def test_behaviour_is_had_without_claims_and_claims_bring_why_and_faults(tmp_path: Path) -> None:
    """`uses xen.grants` is only the manual; `uses xen.grants.claims` is provable by itself."""
    (tmp_path / "alone.rules").write_text('system alone "Behaviour." uses xen.grants')
    alone = load(str(tmp_path / "alone.rules"))
    assert any(step.label == "map_grant_ref.insert" for step in alone.steps)
    assert not alone.theorems and not alone.step_claims and not alone.invariants and not alone.faults
    expected = "free_is_unreachable, free_is_clean, clean_handover, foreign_by_privilege, domctls_by_privilege"
    (tmp_path / "memory.rules").write_text(f'system memory "All of it." uses xen.memory.claims expect proved {expected}')
    memory = load(str(tmp_path / "memory.rules"))
    assert "no_scrub" in memory.faults
    assert prove(memory, Settings(jobs=1)).proved >= set(memory.expects)


def test_the_manual_is_short_and_its_lines_fit() -> None:
    """The grant operations, with all that they perform, on three screens; lines of 125 characters at most."""
    text = (SPEC / "xen" / "grants.rules").read_text()
    operations = text[text.index("-- Operations.") : text.index("-- Who pins an entry.")]
    assert operations.count("\n") <= 150
    for path in shipped_files():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert len(line) <= 125, f"{path}:{number}"
    assert re.search(r"Source: .*grant_table\.h, gnttab_map_grant_ref", text)
