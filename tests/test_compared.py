"""The table of references for operations: complete, consistent with recordings and rules, and equal to the README's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bulkhead.impl.xen import hypercall
from bulkhead.proofs.refinement.compared import (
    HYPERCALLS,
    NEITHER,
    RECORDED,
    RULES,
    ioctls,
    lines,
    markdown,
    names,
    operations,
    others,
    recorded,
    table,
)
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from tests.compared import count

README = Path(__file__).resolve().parents[1] / "proofs" / "README.md"


def test_each_hypercall_and_device_has_its_operations() -> None:
    """Every dispatched operation has a row, and there are no other rows."""
    assert {**HYPERCALLS, **others()}.keys() == hypercall.TABLE.keys()
    assert {*HYPERCALLS.values(), *others().values()} == set(names()) and all(names().values()) and all(ioctls().values())
    assert len(set(operations())) == len(operations())
    assert not {*RULES, *NEITHER, *recorded()} - set(operations())


def test_the_rules_beside_an_operation_exist() -> None:
    known = {pair.partition(":")[0].partition(".")[0] for pair in rules_for(Size()).outcomes}
    assert {rule for beside in RULES.values() for rule in beside} <= known


def test_what_is_compared_with_nothing_is_argued_and_little() -> None:
    neither = {row.key for row in table() if row.beside == "neither"}
    assert neither == set(NEITHER) and len(neither) < 12
    assert lines()[0].startswith(f"{len(operations())} operations")


def test_the_readme_has_the_table() -> None:
    assert markdown() in README.read_text()


@pytest.mark.slow
def test_recordings_are_counted() -> None:
    """The numbers match the project's recordings: `python -m tests.compared` computes them."""
    assert json.loads(RECORDED.read_text()) == count()
