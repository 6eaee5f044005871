"""Checks the declarations of a system: sorts, state, definitions, claims, expected verdicts, and unique names.

Problems are collected in the declarations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Span, suggest
from bulkhead.model.expressions import MAX_COMBINATIONS, Declarations, Scope, values_of
from bulkhead.model.ir import (
    AT,
    CALL,
    POINT,
    App,
    Claim,
    Definition,
    Func,
    Op,
    Quant,
    Step,
    Term,
    Use,
    Var,
    subterms,
)

MAX_DEPTH = 150  # depth of a formula with its definitions expanded
MAX_SIZE = 100_000  # size of the same
TRIAL = "(components)"  # a system generated to check some components
MAX_SCOPE = 32  # elements of a sort in searches
MAX_INDICES = 8  # of one state: tables of a small world hold every combination


def unique(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    """Report duplicate names and names that are words of the language."""
    seen: dict[tuple[str, str], tuple[Span, str]] = {}
    for component, item in items:
        if isinstance(item, s.ScopeItem):
            continue
        if isinstance(item, s.ScenarioItem):
            space = "claim"
        elif isinstance(item, s.FormulaItem):
            space = "claim" if item.kind not in ("init", "axiom") else ""
        elif isinstance(item, s.FaultItem):
            space = "fault"
        else:
            space = "name"
        names = [(item.name, item.span)] if space else []
        if isinstance(item, s.EnumItem):
            names += [(m.text, m.span) for m in item.members]
        elif isinstance(item, s.StateItem):
            d.distinct(item.indices)
            d.distinct(item.fields)
            if len(item.indices) > MAX_INDICES:
                d.problem(
                    "E0204", item.span, f"`{item.name}` has {len(item.indices)} indices", f"Expected {MAX_INDICES} at most."
                )
            if item.writable is not None:
                names.append((item.writable.name or f"write_{item.name}", item.writable.span))
        for text, span in names:
            if text in s.RESERVED:
                d.problem("E0201", span, f"`{text}` is a word of the language", hint="Choose another name.")
                d.reserved.add(text)
            first, by = seen.setdefault((space, text), (span, component.name))
            if component.use is not None and (first, by) != (span, component.name):  # said where it is used
                hint = f"First at {first.file}:{first.line}. Give it another name, or write `as NAME` behind the arguments."
                d.problem("E0202", component.use.span, f"`{text}` is declared twice, here by `{component.name}`", hint=hint)
            elif (first, by) != (span, component.name) or first is not span:
                d.problem("E0202", span, f"`{text}` is declared twice", hint=f"First at {first.file}:{first.line}.")


def declare_sorts(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    """Declare sorts and enums."""
    d.sorts[CALL] = "one call in flight, between two of its steps"
    for _, item in items:
        if isinstance(item, s.SortItem):
            d.sorts[item.name] = item.doc
        elif isinstance(item, s.EnumItem):
            d.enums[item.name] = tuple(m.text for m in item.members)
            d.members.update((m.text, item.name) for m in item.members)


def declare_state(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    """Declare constants and state, with one function per field of a record."""
    d.states[AT] = ("",)
    d.funcs[AT] = Func(AT, (CALL,), POINT, doc="where a call in flight stands")
    for _, item in items:
        if isinstance(item, s.ConstItem):
            d.consts[item.name] = item.sort if d.known_sort(s.Binder(item.name, item.sort, item.span)) else "?"
        elif isinstance(item, s.StateItem):
            args = tuple(b.sort if d.known_sort(b) else "?" for b in item.indices)
            d.states[item.name] = tuple(b.name for b in item.fields)
            places = math.prod(values_of(sort, d) for sort in args)
            if places > MAX_COMBINATIONS:
                what = f"`{item.name}` has a place for each of {places:,} combinations of enum members"
                hint = "Searches keep a value for each place; use a sort as the index."
                d.problem("E0204", item.span, what, f"Expected {MAX_COMBINATIONS:,} at most.", hint)
            for b in item.fields:
                name = f"{item.name}.{b.name}" if b.name else item.name
                d.funcs[name] = Func(name, args, b.sort if d.known_sort(b) else "?", item.ghost, item.doc)


def define(item: s.DefineItem, d: Declarations) -> None:
    """Declare one definition."""
    d.later.discard(item.name)
    d.distinct(item.params)
    good = [d.known_sort(b) for b in item.params]
    if not d.known_sort(s.Binder(item.name, item.sort, item.span)) or not all(good):
        d.broken.add(item.name)
        return
    params = tuple(Var(b.name, b.sort) for b in item.params)
    d.later.add(item.name)
    body = Scope(d, {v.name: v for v in params}).of_sort(item.body, item.sort)
    d.later.discard(item.name)
    if body is None:
        d.broken.add(item.name)
        return
    d.depth[item.name], d.size[item.name] = _measure(body, d)
    if d.depth[item.name] > MAX_DEPTH or d.size[item.name] > MAX_SIZE:
        much = f"more than {MAX_DEPTH} deep" if d.depth[item.name] > MAX_DEPTH else "too large"
        d.problem(
            "E0205",
            item.span,
            f"`{item.name}` is {much}, with the definitions it uses written out",
            hint="Keep chains of definitions short.",
        )
        d.broken.add(item.name)
        return
    d.defs[item.name] = Definition(item.name, params, body, item.sort, item.doc)


def _measure(term: Term, d: Declarations) -> tuple[int, int]:
    """Depth and size of a term with its definitions expanded."""
    if isinstance(term, Quant):
        depth, size = _measure(term.body, d)
        return 1 + depth, 1 + size
    if isinstance(term, App | Op | Use):
        inside = [_measure(a, d) for a in term.args]
        own = (d.depth[term.name], d.size[term.name]) if isinstance(term, Use) else (0, 0)
        return 1 + own[0] + max((n for n, _ in inside), default=0), 1 + own[1] + sum(n for _, n in inside)
    return 1, 1


def claims_of(items: list[tuple[s.Component, s.Item]], d: Declarations) -> list[Claim]:
    """Check all formulas of the components."""
    claims = []
    for component, item in items:
        if isinstance(item, s.FormulaItem):
            scope = Scope(d, two_state=item.kind == "transition")
            if item.kind == "transition":
                scope.variables["failed"] = Var("failed", "bool")
            body = scope.boolean(item.body)
            if body is None:
                d.broken_claims.add(item.name)
            else:
                name = f"{component.name}.{item.name}" if item.kind in ("init", "axiom") else item.name
                claims.append(Claim(item.kind, name, body, item.doc, item.span, component.name))
    return claims


def scope_of(
    of_components: Iterable[s.ScopeItem], of_system: Iterable[s.ScopeItem], d: Declarations
) -> dict[str, tuple[int, int]]:
    """The sizes that components give their sorts for searches; a system's own override them."""
    scope: dict[str, tuple[int, int]] = {}
    for items in (of_components, of_system):
        given: dict[str, Span] = {}
        for size in (size for item in items for size in item.sizes):
            if size.name not in d.sorts:
                d.problem(
                    "E0209",
                    size.span,
                    f"there is no sort `{size.name}` to give a size",
                    "Expected a declared sort, or Call.",
                    suggest(size.name, d.sorts),
                )
            elif size.name in given:
                d.problem(
                    "E0210",
                    size.span,
                    f"`{size.name}` is given a size twice",
                    hint=f"First at {given[size.name].file}:{given[size.name].line}.",
                )
            elif not 1 <= size.low <= size.high <= MAX_SCOPE:
                d.problem(
                    "E0211",
                    size.span,
                    f"`{size.name}` cannot have {size.low} to {size.high} elements",
                    f"Expected numbers from 1 to {MAX_SCOPE}, the smaller one first.",
                )
            else:
                given[size.name] = size.span
                scope[size.name] = (size.low, size.high)
    return scope


def refuse_changing_axioms(axioms: Iterable[Claim], steps: Iterable[Step], d: Declarations) -> None:
    """Report axioms that read state which a step writes: they are assumed in every state, so steps must not change it."""
    written: dict[str, Span] = {}
    for step in steps:
        for transition in step.transitions():
            for update in transition.updates:
                written.setdefault(update.func, update.span or step.span)
    for axiom in axioms:
        for func in _state_read(axiom.body, d):
            if func in written:
                place = written[func]
                d.problem(
                    "E0208",
                    axiom.span,
                    f"an axiom cannot speak of `{func}`, which is written at {place.file}:{place.line}",
                    hint="What is so at the start is an `init`; what stays so is an `invariant` or a `theorem`.",
                )
                break


def _state_read(term: Term, d: Declarations) -> Iterator[str]:
    """The state functions that a term reads, also through definitions, in order of occurrence."""
    for part in subterms(term):
        if isinstance(part, App):
            yield part.func
        elif isinstance(part, Use):
            yield from _state_read(d.defs[part.name].body, d)


def expects_of(system: s.System, claims: dict[str, Claim], d: Declarations) -> dict[str, str]:
    """The verdict that the system expects of each claim."""
    expects: dict[str, str] = {}
    for verdict, name in system.expects:
        if verdict not in ("proved", "refuted"):
            d.problem("E0601", name.span, f"unknown verdict `{verdict}`", "Expected `proved` or `refuted`.")
        elif name.text in d.broken_claims - claims.keys():
            continue
        elif name.text not in claims:
            d.problem(
                "E0602", name.span, f"there is no theorem `{name.text}` in this system", hint=suggest(name.text, claims)
            )
        elif name.text in expects:
            d.problem("E0603", name.span, f"the verdict on `{name.text}` is expected twice")
        else:
            expects[name.text] = verdict
    for name_, claim in claims.items():
        if name_ not in expects and system.name != TRIAL:
            d.problem(
                "E0604",
                claim.span,
                f"system `{system.name}` does not say what it expects of theorem `{name_}`",
                hint=f"Add `expect proved {name_}` or `expect refuted {name_}` to the system.",
            )
    return expects


__all__ = [
    "TRIAL",
    "claims_of",
    "declare_sorts",
    "declare_state",
    "define",
    "expects_of",
    "refuse_changing_axioms",
    "scope_of",
    "unique",
]
