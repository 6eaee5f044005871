"""Symbolic runs of the implementation's handlers: they are proved, and one-line faults are found."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import z3
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bulkhead.impl.xen import grant_admin, grant_copy, grant_entries, grant_map, grant_unmap, lifecycle
from bulkhead.proofs.cli import __main__ as cli
from bulkhead.proofs.faults.catalogue import Fault
from bulkhead.proofs.faults.laying import installed
from bulkhead.proofs.refinement.handlers.objects import base
from bulkhead.proofs.refinement.handlers.symbolic_xen import Policy, SymbolicXen
from bulkhead.proofs.refinement.handlers.table import HANDLERS, prove_handler, prove_handlers, report_lines, unreached
from bulkhead.proofs.symbolic import terms as t
from bulkhead.proofs.symbolic.engine import Engine, Int
from bulkhead.proofs.symbolic.inputs import Found, Input, negated_input
from bulkhead.proofs.symbolic.rewriting import rewrite
from bulkhead.proofs.symbolic.solver import TOLD, Solver
from bulkhead.proofs.symbolic.to_z3 import as_z3, bound_z3

# --- terms: simplification by the constructors keeps the meaning ---

X, Y = t.variable("x"), t.variable("y", bits=16)
P, Q = t.variable("p", t.BOOL), t.variable("q", t.BOOL)
NUMBERS = st.one_of(
    st.sampled_from([X, Y, t.apply("f", (X,)), t.apply("g", (Y,), bits=8)]),
    st.integers(-70, 300).map(t.number),
    st.integers(0, 40).map(lambda n: t.number(1 << n)),
)
TRUTHS = st.sampled_from([P, Q, t.TRUE, t.FALSE])
# Each operation, as terms make it and as Z3 has it, on numbers.
BINARY: dict[str, tuple[Any, Any]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b),
    "sub": (lambda a, b: a - b, lambda a, b: a - b),
    "and": (lambda a, b: a & b, lambda a, b: a & b),
    "or": (lambda a, b: a | b, lambda a, b: a | b),
    "xor": (lambda a, b: a ^ b, lambda a, b: a ^ b),
    "shl": (lambda a, b: a << 9, lambda a, b: a << 9),
    "shr": (lambda a, b: b >> 3, lambda a, b: b >> 3),
    "times": (lambda a, b: a * 3, lambda a, b: a * 3),
}
COMPARED: dict[str, tuple[Any, Any]] = {
    "eq": (t.eq, lambda a, b: a == b),
    "lt": (lambda a, b: a < b, lambda a, b: a < b),
    "ult": (t.ULT, z3.ULT),
    "ule": (t.ULE, z3.ULE),
    "ge": (lambda a, b: a >= b, lambda a, b: a >= b),
}


@st.composite
def built(draw: Any, depth: int = 4, truth: bool = True) -> tuple[t.Term, Any]:
    """A term, and the same in Z3 without simplification."""
    if depth == 0 or draw(st.integers(0, 5)) == 0:
        leaf = draw(TRUTHS if truth else NUMBERS)
        return leaf, as_z3(leaf)
    if not truth:
        kind = draw(st.sampled_from([*BINARY, "ite"]))
        (a, za), (b, zb) = draw(built(depth - 1, False)), draw(built(depth - 1, False))
        if kind == "ite":
            c, zc = draw(built(depth - 1))
            return t.If(c, a, b), z3.If(zc, za, zb)
        mine, theirs = BINARY[kind]
        return mine(a, b), theirs(za, zb)
    kind = draw(st.sampled_from([*COMPARED, "and", "or", "not", "iff", "ite"]))
    if kind in COMPARED:
        (a, za), (b, zb) = draw(built(depth - 1, False)), draw(built(depth - 1, False))
        mine, theirs = COMPARED[kind]
        return mine(a, b), theirs(za, zb)
    (a, za), (b, zb) = draw(built(depth - 1)), draw(built(depth - 1))
    match kind:
        case "and":
            return t.And(a, b), z3.And(za, zb)
        case "or":
            return t.Or(a, b), z3.Or(za, zb)
        case "iff":
            return t.eq(a, b), za == zb
        case "ite":
            c, zc = draw(built(depth - 1))
            return t.If(c, a, b), z3.If(zc, za, zb)
    return t.Not(a), z3.Not(za)


def differ(one: t.Term, other: Any, given_: t.Term = t.TRUE) -> bool:
    """Is there an input on which a term and a Z3 term are different?"""
    solver = z3.Solver()
    solver.set("timeout", 10000)
    bounded = set(t.bounds(one)) | {Y, t.apply("g", (Y,), bits=8)} | set(t.bounds(given_))
    solver.add(as_z3(one) != other, as_z3(given_), *[bound_z3(part) for part in bounded])
    answer = solver.check()
    assume(answer != z3.unknown)  # another example, then
    return bool(answer == z3.sat)


@settings(max_examples=250, deadline=None)
@given(built())
def test_terms_mean_what_they_meant(pair: tuple[t.Term, Any]) -> None:
    assert not differ(*pair)


@settings(max_examples=120, deadline=None)
@given(built(), st.sampled_from(["p", "not q", "x = y", "f = 3"]))
def test_rewriting_keeps_the_meaning_where_the_fact_holds(pair: tuple[t.Term, Any], fact: str) -> None:
    facts: dict[str, tuple[t.Term, dict[t.Term, t.Term]]] = {
        "p": (P, {P: t.TRUE}),
        "not q": (t.Not(Q), {Q: t.FALSE}),
        "x = y": (t.eq(X, Y), {X: Y}),
        "f = 3": (t.eq(t.apply("f", (X,)), t.number(3)), {t.apply("f", (X,)): t.number(3)}),
    }
    holds, known = facts[fact]
    assert not differ(rewrite(pair[0], known, {}), pair[1], holds)


def test_numbers_and_truth_values_are_not_mixed_up() -> None:
    assert t.If(P, 1, 0).sort == t.BITS and t.If(P, True, False).sort == t.BOOL


# --- inputs and known unsat cores ---


def model_of(*conditions: t.Term) -> z3.ModelRef | None:
    """Some input of conditions, as Z3 finds it."""
    solver = z3.Solver()
    solver.set("timeout", 10000)
    solver.add(*[as_z3(c) for c in conditions], *[bound_z3(p) for c in conditions for p in t.bounds(c)])
    answer = solver.check()
    assume(answer != z3.unknown)
    return solver.model() if answer == z3.sat else None


@settings(max_examples=250, deadline=None)
@given(built(), built(3))
def test_an_input_gives_the_values_that_the_solver_gives(asked: tuple[t.Term, Any], other: tuple[t.Term, Any]) -> None:
    term = asked[0]
    model = model_of(other[0])
    assume(model is not None)
    assert model is not None
    given_ = Input(Found(model))
    got = model.eval(as_z3(term), model_completion=True)
    assume(all(z3.is_true(model.eval(bound_z3(part), model_completion=True)) for part in t.bounds(term)))
    assert bool(given_.value(term)) == z3.is_true(got)


@settings(max_examples=250, deadline=None)
@given(built(3), st.lists(built(3), max_size=3))
def test_an_input_turned_over_is_one_of_all_facts(asked: tuple[t.Term, Any], others: list[tuple[t.Term, Any]]) -> None:
    condition, facts = asked[0], [fact for fact, _ in others]
    assume(condition.op not in ("true", "false"))
    model = model_of(*facts, condition)
    assume(model is not None)
    assert model is not None
    given_ = Input(Found(model))
    assert given_.value(condition) and all(map(given_.value, facts))
    found = negated_input(given_, condition, facts)
    if found is not None:
        assert not found.value(condition) and all(map(found.value, facts))
        assert model_of(*facts, t.Not(condition)) is not None


def test_a_model_without_a_plain_value_for_the_rest_is_asked() -> None:
    solver = z3.Solver()
    solver.add(as_z3(t.apply("f", (X,)) > t.apply("f", (Y + 1,))))
    assert solver.check() == z3.sat
    model = solver.model()
    asked = [X, t.apply("f", (X,)), t.apply("f", (X + 7,)), t.apply("f", (t.number(3),))]
    plain = [Input(Found(model)).value(term) for term in asked]
    entries = z3.FuncInterp.as_list
    with mock.patch.object(z3.FuncInterp, "as_list", lambda self: [*entries(self)[:-1], None]):
        assert [Input(Found(model)).value(term) for term in asked] == plain


def test_what_few_facts_exclude_is_excluded_wherever_they_hold() -> None:
    solver = Solver(5000)
    small, other = X < 3, t.eq(Y, t.number(7))
    assert solver.input(X > 5, {small: None, other: None}.keys()) is None
    asked = solver.queries
    assert solver.input(X > 5, {small: None, P: None}.keys()) is None and solver.queries == asked
    found = solver.input(X > 5, {other: None}.keys())
    assert found is not None and found.value(X) > 5 and found.value(Y) == 7


def test_a_solver_that_has_been_told_much_is_replaced() -> None:
    solver = Solver(5000)
    for n in range(3 * TOLD):
        below = t.number(n + 1) > X
        assert solver.input(t.eq(X, t.number(n)), {below: None}.keys()) is not None
        assert solver.input(t.eq(X, t.number(n + 1)), {below: None}.keys()) is None


# --- the engine ---


def test_engine_takes_every_path_and_covers_all_inputs() -> None:
    engine = Engine()
    seen = []

    def body() -> None:
        x = Int(t.variable("x"))
        seen.append("low" if x < 3 else "top" if x & 1 else "even")

    assert len(list(engine.paths(body))) == 3
    assert sorted(seen) == ["even", "low", "top"]
    assert engine.covered()
    node = engine.tree
    while node.sides:
        node = node.sides[True]
    node.ended = False  # as if that path had not been run
    assert not engine.covered()


def test_an_assumption_that_contradicts_itself_is_found() -> None:
    contradicted = replace(HANDLERS["release_mapping"], body=lambda path: path.engine.assume(t.FALSE))
    with mock.patch.dict(HANDLERS, {"release_mapping": contradicted}):
        report = prove_handler("release_mapping")
    assert not report.proved and "contradict" in " ".join(report.findings)


# --- the handlers ---


def test_all_handlers_are_proved() -> None:
    reports = prove_handlers(tuple(HANDLERS))
    assert [r.name for r in reports if not r.proved] == []
    assert len(report_lines(reports)) == len(reports)


def test_unsupported_operations_are_findings() -> None:
    with mock.patch.object(lifecycle, "GNTMAP_HOST_MAP", "2"):
        report = prove_handler("release_mapping")
    assert not report.proved and "Unsupported" in " ".join(report.findings)


def _any_frame(xen: Any, gfn: Any, domain: Any) -> Any:
    frame = xen.frames.table.get(gfn)
    if frame is not None:
        frame.count += 1
    return frame


# One-line faults: place, replacement, and the handler whose proof must fail.
FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "a device unmap drops another pin": (lifecycle, "PIN_DEVW", 1, "release_mapping"),
    "bits are kept at release": (grant_entries.GrantTable, "reduce_status", lambda *_: None, "release_mapping"),
    "a type is kept at release": (lifecycle, "put_page_type", lambda *_: None, "release_mapping"),
    "a pin of the wrong mode is dropped": (lifecycle, "GNTMAP_READONLY", 8, "release_mapping"),
    "map without policy": (Policy, "grant_map", lambda *_: 0, "map_grant_ref"),
    "map of any frame": (grant_map, "get_paged_frame", _any_frame, "map_grant_ref"),
    "map with the wrong pin": (grant_map, "PIN_DEVR", 1, "map_grant_ref"),
    "map takes no type": (grant_map, "host_needs_type", lambda *_: False, "map_grant_ref"),
    "unmap keeps the host pin": (grant_unmap, "PIN_HSTW", 0, "unmap_grant_ref"),
    "unmap keeps the device bit": (grant_unmap, "GNTMAP_DEVICE_MAP", 0, "unmap_grant_ref"),
    "copy without policy": (Policy, "grant_copy", lambda *_: 0, "copy: element"),
    "copy by number": (grant_copy, "DOMID_SELF", 5, "copy: source"),
    "copy from any frame": (grant_copy, "get_paged_frame", _any_frame, "copy: source"),
    "copy into page tables": (grant_copy, "get_page_type", lambda *_: 0, "copy: destination"),
    "copy pins as a reader where it writes": (grant_copy, "PIN_HSTW", 0x100, "copy: destination"),
    "copy past the page": (grant_copy, "PAGE_SIZE", 8192, "copy: element"),
    "copy keeps its page": (grant_copy, "put_page_type", lambda *_: None, "copy: destination let go"),
    "a version is changed under pins": (grant_admin, "EBUSY", 0, "set_version"),
    "in-use bits are forgotten": (grant_admin, "IN_USE", 0, "set_version"),
    "reserved grants are not kept": (grant_admin, "GTF_PERMIT_ACCESS", 3, "set_version"),
    "dead at once": (lifecycle, "DYING", 2, "destroydomain"),
    "never dead": (lifecycle, "DEAD", 1, "destroydomain"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(fault: str) -> None:
    module, name, value, handler = FAULTS[fault]
    with mock.patch.object(module, name, value):
        assert not prove_handler(handler, stop_early=True).proved


@pytest.mark.parametrize("new", ["reserved.append((0, 0, 0))", "reserved.append((flags, domid, frame))"])
def test_reserved_entries_lost_on_the_way_to_version_1_are_noticed(new: str) -> None:
    old = "reserved.append((flags | U16.unpack_from(data, off)[0], domid, frame))"
    with installed(Fault("lost", "grant_admin:set_version", old, new, "a reserved grant, or its use, is lost")):
        assert not prove_handler("set_version", stop_early=True).proved


def test_a_proof_that_assumes_too_much_is_noticed() -> None:
    """A type reference that goes with a general one, where Xen's own pages have one more: then no status frame ever goes."""
    whole = SymbolicXen.assume_frame

    def too_much(self: SymbolicXen, mfn: t.Term) -> None:
        whole(self, mfn)
        held = t.If(base("frame.allocated", mfn), t.number(1), t.number(0))
        Engine.running().assume(t.ULE(base("frame.tcount", mfn) + held, base("frame.count", mfn)))

    with mock.patch.object(SymbolicXen, "assume_frame", too_much):
        report = prove_handler("set_version")
    assert not report.proved and not report.outcomes["set_version_1"]
    assert "no input has the outcome set_version_1: the proof assumes too much, or a reason is missing" in report.findings


def test_every_reason_explains_an_outcome() -> None:
    found = list(unreached({"a = EIO (x)": False, "b": True}, {"EIO": "why", "EBUSY": "never"}))
    assert found == ["inputs have all outcomes with `EBUSY`, which are said to be impossible"]
    assert list(unreached({"a": False}, {})) != [] == list(unreached({"a": True}, {}))


# --- the command ---


def test_refine_writes_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["refine", "put_domain", "destroydomain", "--json", str(tmp_path / "r.json")]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    assert [h["name"] for h in told["handlers"]] == ["put_domain", "destroydomain"]
    assert all(h["proved"] and h["paths"] for h in told["handlers"])
    assert f"{sum(h['paths'] for h in told['handlers'])} paths" in capsys.readouterr().out


def test_refine_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["refine", "put_domian"]) == 2
    assert "put_domain" in capsys.readouterr().err


def test_refine_fails_where_a_handler_is_wrong() -> None:
    with mock.patch.object(lifecycle, "DEAD", 1):
        assert cli.run(["refine", "destroydomain", "--jobs", "1"]) == 1
