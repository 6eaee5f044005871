"""Type checking of scenarios: runs that a system should allow, or not, as calls of steps with conditions in between.

Contents: resolving names and the sorts of arguments. Not here: deciding whether a run is possible
(`proofs/theorems/scenarios.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import suggest
from bulkhead.model.expressions import Declarations, Scope
from bulkhead.model.ir import Lit, Part, Scenario, Step, Term, Transition, Var, show

OPEN = "_"  # an open argument
MARK = "-"  # prefix of element names; not possible in names of the rules


def expressions_of(item: s.ScenarioItem) -> Iterator[s.Expr]:
    """All expressions of a scenario."""
    for part in item.parts:
        if isinstance(part, s.Asserted):
            yield part.cond
        elif isinstance(part, s.Called):
            yield from (e for _, e in part.args)


def scenarios_of(
    items: Iterable[s.ScenarioItem], steps: Iterable[Step], d: Declarations, faulty: bool
) -> dict[str, Scenario]:
    """The checked scenarios of a system by name; problems are collected in the declarations.

    A laid fault may remove a check that a scenario uses: then the call cannot fail with this code.
    """
    by_label = {step.label: step for step in steps}
    return {item.name: _scenario(item, by_label, d, faulty) for item in items}


def _scenario(item: s.ScenarioItem, steps: dict[str, Step], d: Declarations, faulty: bool) -> Scenario:
    if item.word.text not in ("possible", "impossible"):
        d.problem("E0801", item.word.span, f"unknown verdict `{item.word.text}`", "Expected `possible` or `impossible`.")
    d.distinct(item.elements)
    elements = {b.name: Lit(MARK + b.name, b.sort) for b in item.elements if d.known_sort(b)}
    parts = []
    for part in item.parts:
        scope = Scope(d, elements)
        if isinstance(part, s.AnySteps):
            parts.append(Part("any", "...", part.span))
        elif isinstance(part, s.Asserted):
            condition = scope.boolean(part.cond)
            if condition is not None:
                parts.append(Part("assert", f"assert {_shown(condition)}", part.span, condition))
        else:
            called = _call(part, steps, scope, d, faulty)
            if called is not None:
                parts.append(called)
    return Scenario(item.name, item.word.text == "possible", tuple(elements.values()), tuple(parts), item.doc, item.span)


def _shown(term: Term) -> str:
    return show(term).replace(MARK, "")


def _call(part: s.Called, steps: dict[str, Step], scope: Scope, d: Declarations, faulty: bool) -> Part | None:
    step = steps.get(part.step.text)
    if step is None:
        d.problem("E0802", part.step.span, f"no step is called `{part.step.text}`", hint=suggest(part.step.text, steps))
        return None
    outcomes: tuple[Transition, ...] = (step.success(),)
    if part.code is not None:
        outcomes = tuple(step.failing(part.code.text))
        if not outcomes and not faulty:
            codes = sorted({c.code for c in step.checks if c.code})
            d.problem(
                "E0804",
                part.code.span,
                f"no check of `{step.label}` fails with `{part.code.text}`",
                f"Expected one of {', '.join(codes)}." if codes else "None of its checks has a code.",
            )
            return None
    args = _arguments(part, step, scope, d)
    if args is None:
        return None
    fitting = tuple(t for t in outcomes if {n for n, _ in args} <= {p.name for p in t.params})
    if outcomes and not fitting:
        d.problem("E0803", part.span, f"where `{step.label}` fails so, not all of these arguments have been picked")
        return None
    inside = ", ".join(f"{n}: {_shown(t)}" for n, t in args)
    text = f"{step.label}({inside})" + (f" fails {part.code.text}" if part.code is not None else "")
    return Part("call", text, part.span, outcomes=fitting, args=tuple(args))


def _arguments(part: s.Called, step: Step, scope: Scope, d: Declarations) -> list[tuple[str, Term]] | None:
    """The given arguments, by parameter; None if one is wrong."""
    known: dict[str, Var] = {p.name: p for p in step.all_params}
    args: dict[str, Term] = {}
    good = True
    for k, (name, expr) in enumerate(part.args):
        if not name and k >= len(step.params):
            wanted = ", ".join(p.name for p in step.params)
            d.problem("E0803", expr.span, f"`{step.label}` has fewer arguments", f"Expected {step.label}({wanted}).")
            return None
        name = name or step.params[k].name
        if name not in known or name in args:
            what = f"is given `{name}` twice" if name in args else f"has no argument `{name}`, and picks none"
            names = f"Expected one of {', '.join(known)}." if known else "It has none."
            d.problem("E0803", expr.span, f"`{step.label}` {what}", names)
            good = False
        elif not (isinstance(expr, s.Name) and expr.text == OPEN):
            value = scope.of_sort(expr, known[name].sort)
            good = good and value is not None
            if value is not None:
                args[name] = value
    return list(args.items()) if good else None


__all__ = ["MARK", "expressions_of", "scenarios_of"]
