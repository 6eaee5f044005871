"""Instantiates components with parameters: each list of arguments gives an instance, with names substituted.

A `sort` parameter denotes a sort, any other parameter a name that the component declares. Its other declarations
keep their names, or get the word after `as` as a prefix. An instance is an ordinary component:
later stages (checker, certificate, searches) see no parameters. Name capture and wrong arguments are refused
here. Not here: type checking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem, Span, suggest

MAX_NESTED = 8  # nesting depth of components with parameters
MAX_INSTANCES = 1000  # of one system
Report = Callable[[Problem], None]


def title(use: s.Used) -> str:
    """The name of an instance, unique for its arguments."""
    if not use.args:
        return use.text
    return f"{use.text}({', '.join(a.text for a in use.args)})" + (f".{use.prefix}" if use.prefix else "")


@dataclass(frozen=True)
class Meaning:
    """The substitution of a component's names in one instance; other names stay."""

    names: Mapping[str, str]
    prefix: str

    def of(self, name: str) -> str:
        """The new name; for `operation.step`, the first part is replaced."""
        head, dot, rest = name.partition(".")
        return self.names.get(head, head) + dot + rest


def meaning(components: Mapping[str, s.Component], use: s.Used) -> Meaning:
    """The substitution for an instance of a component."""
    component = components[use.text]
    names = {p.name: a.text for p, a in zip(component.params, use.args, strict=True)}
    if use.prefix:
        for name in own_names(components, component):
            names.setdefault(name, f"{use.prefix}_{name}")
    for item in component.items:
        if isinstance(item, s.StateItem) and item.writable is not None and not item.writable.name:
            names[f"write_{item.name}"] = f"write_{names.get(item.name, item.name)}"
    return Meaning(names, use.prefix)


def uses_of(components: Mapping[str, s.Component], use: s.Used) -> tuple[s.Used, ...]:
    """The uses of an instance, with names substituted."""
    component = components[use.text]
    if not component.params:
        return component.uses
    made = meaning(components, use)
    prefix = f"{use.prefix}_" if use.prefix else ""
    return tuple(
        replace(
            inner,
            args=tuple(replace(a, text=made.of(a.text)) for a in inner.args),
            prefix=prefix + inner.prefix if inner.prefix else use.prefix if inner.args else "",
        )
        for inner in component.uses
    )


def instance(components: Mapping[str, s.Component], use: s.Used) -> s.Component:
    """The component with its names substituted; unchanged if it has no parameters."""
    component = components[use.text]
    if not component.params:
        return component
    made = meaning(components, use)
    items: tuple[s.Item, ...] = _renamed(component.items, made)
    return replace(component, name=title(use), params=(), uses=uses_of(components, use), items=items, use=use)


def own_names(components: Mapping[str, s.Component], component: s.Component, depth: int = 0) -> dict[str, Span]:
    """The declarations of a component with parameters, with those of its instances of others, under its own names."""
    names = dict(declared(component))
    if depth <= MAX_NESTED:
        for inner in component.uses:
            used = components.get(inner.text)
            if used is not None and len(inner.args) == len(used.params):
                names.update(dict.fromkeys(_brought(components, inner, used, depth), inner.span))
    return names


def _brought(components: Mapping[str, s.Component], use: s.Used, used: s.Component, depth: int) -> Iterator[str]:
    """The names that an instance adds to the component that uses it."""
    if not used.params:
        return
    given = {p.name: a.text for p, a in zip(used.params, use.args, strict=True)}
    yield from (given[p.name] for p in used.params if p.kind == "name")
    for name in own_names(components, used, depth + 1):
        if name not in given:
            yield f"{use.prefix}_{name}" if use.prefix else name


def declared(component: s.Component) -> Iterator[tuple[str, Span]]:
    """The names that the items of a component declare, with their places."""
    for item in component.items:
        if isinstance(item, s.ScopeItem) or (isinstance(item, s.FormulaItem) and item.kind in ("init", "axiom")):
            continue
        yield item.name, item.span
        if isinstance(item, s.EnumItem):
            yield from ((m.text, m.span) for m in item.members)
        if isinstance(item, s.StateItem) and item.writable is not None and item.writable.name:
            yield item.writable.name, item.writable.span


# Errors.


def check_declared(components: Mapping[str, s.Component], component: s.Component, report: Report) -> None:
    """Report errors in the parameters of a component, independent of its uses."""
    seen: dict[str, Span] = {}
    own = own_names(components, component)
    for p in component.params:
        if p.name in s.RESERVED:
            report(Problem("E0201", p.span, f"`{p.name}` is a word of the language", hint="Choose another name."))
        if p.name in seen:
            first = seen[p.name]
            report(Problem("E0202", p.span, f"`{p.name}` is declared twice", hint=f"First at {first.file}:{first.line}."))
        seen.setdefault(p.name, p.span)
        if p.kind == "name" and p.name not in own:
            hint = f"Write `sort {p.name}` if a sort is meant, or declare `{p.name}` in the component."
            report(Problem("E0222", p.span, f"`{component.name}` does not declare its parameter `{p.name}`", hint=hint))
        if p.kind == "sort" and p.name in own:
            hint = "A parameter that the component declares itself stands without `sort`."
            report(Problem("E0222", p.span, f"`{component.name}` declares `{p.name}`, a sort that it is given", hint=hint))
    for name, span in variables(component.items):
        if _hides(name, {**own, **seen}):
            hint = "In a component with parameters a variable has a name of its own: it cannot hide another."
            report(Problem("E0224", span, f"the variable `{name}` hides what `{component.name}` declares", hint=hint))


def check_use(components: Mapping[str, s.Component], use: s.Used, report: Report) -> bool:
    """Report arguments that do not match a component's parameters."""
    component = components[use.text]
    if len(use.args) != len(component.params):
        wanted = ", ".join(f"sort {p.name}" if p.kind == "sort" else p.name for p in component.params)
        takes = f"Expected {use.text}({wanted})." if component.params else "It has no parameters."
        count = len(use.args)
        what = f"`{use.text}` is used with {count} argument{'s' * (count != 1)}, and takes {len(component.params)}"
        report(Problem("E0221", use.span, what, takes))
        return False
    if not component.params:
        return True
    good = True
    names = {p.name for p in component.params if p.kind == "name"}
    brought = {a.text: a.span for p, a in zip(component.params, use.args, strict=True) if p.kind == "name"}
    for text, span in brought.items():
        if text in s.RESERVED:
            report(Problem("E0201", span, f"`{text}` is a word of the language", hint="Choose another name."))
            good = False
    kept = [] if use.prefix else [n for n in own_names(components, component) if n not in names]
    made = meaning(components, use)
    brought.update({made.of(n): use.span for n in own_names(components, component) if use.prefix and n not in names})
    again = [a for a in use.args if a.text in kept or (sum(a.text == b.text for b in use.args) > 1 and a.text in brought)]
    for arg in again[:1]:
        hint = "Give it another name." if arg.text not in kept else "Give it another name, or write `as NAME` behind."
        report(Problem("E0202", arg.span, f"`{arg.text}` is declared twice by `{title(use)}`", hint=hint))
        good = False
    inside = dict(variables(component.items))
    for text, span in brought.items():
        there = next((at for name, at in inside.items() if _hides(name, [text])), None)
        if there is not None:
            report(
                Problem(
                    "E0225",
                    span,
                    f"`{text}` is the name of a variable in `{use.text}`, which would hide it",
                    hint=f"Give it another name; the variable stands at {there.file}:{there.line}.",
                )
            )
            good = False
    return good


def check_sorts(
    components: Mapping[str, s.Component], uses: list[s.Used], made: list[s.Component], report: Report, known: frozenset[str]
) -> None:
    """Report arguments that are not sorts for `sort` parameters, or are sorts for others. `made` is the whole system."""
    items = [i for c in made for i in c.items]
    sorts = {i.name for i in items if isinstance(i, s.SortItem | s.EnumItem)} | known
    for use in uses:
        own = {i.name for i in components[use.text].items if isinstance(i, s.SortItem | s.EnumItem)}
        given = {a.text for a in use.args}
        elsewhere = {
            i.name
            for c in made
            if c.use is None or not given & {a.text for a in c.use.args}
            for i in c.items
            if isinstance(i, s.SortItem)
        }
        for p, arg in zip(components[use.text].params, use.args, strict=True):
            if p.kind == "sort" and arg.text not in sorts:
                report(Problem("E0203", arg.span, f"there is no sort `{arg.text}`", hint=suggest(arg.text, sorts)))
            elif p.kind == "name" and p.name not in own and arg.text in elsewhere:
                what = f"`{arg.text}` is a sort; `{p.name}` is a name for what `{use.text}` declares"
                report(Problem("E0223", arg.span, what, hint="Give a new name, or put the arguments in their order."))


def _hides(variable: str, names: Iterable[str]) -> bool:
    """May a variable hide one of the names? Names from `perform ... as x` begin with `x_`, and appear so here."""
    if variable.endswith("_*"):
        return any(n.startswith(variable[:-1]) for n in names)
    return variable in names


def variables(node: Any) -> Iterator[tuple[str, Span]]:
    """All variables, parameters and locals in a part of the tree, with their places."""
    if isinstance(node, tuple):
        for part in node:
            yield from variables(part)
        return
    if not isinstance(node, s.Node):
        return
    if isinstance(node, s.StateItem):
        if node.writable is not None:  # the indices and fields are variables of the write
            yield from ((b.name or "value", b.span) for b in (*node.indices, *node.fields))
            yield from variables((node.writable.when, node.writable.then))
        return
    if (isinstance(node, s.Binder) and node.name) or isinstance(node, s.Let):
        yield node.name, node.span
    elif isinstance(node, s.Perform) and node.result:
        yield node.result, node.span
        yield f"{node.result}_*", node.span
    for name in node.__match_args__:
        yield from variables(getattr(node, name))


# Substitution.

_NAMED = (
    s.SortItem,
    s.EnumItem,
    s.ConstItem,
    s.StateItem,
    s.DefineItem,
    s.Operation,
    s.FaultItem,
    s.Call,
    s.Perform,
    s.Size,
)


def _renamed(node: Any, made: Meaning) -> Any:
    """A part of the tree with substituted names. The parser bounds the nesting depth of expressions."""
    if isinstance(node, tuple) and not isinstance(node, Span):
        return tuple(_renamed(part, made) for part in node)
    if not isinstance(node, s.Node):
        return node
    changed = {f.name: _renamed(getattr(node, f.name), made) for f in fields(node) if f.name != "span"}  # type: ignore[arg-type]
    if isinstance(node, s.Name):
        changed["text"] = made.of(node.text)
    elif (
        isinstance(node, _NAMED)
        or (isinstance(node, s.FormulaItem) and node.kind not in ("init", "axiom"))
        or (isinstance(node, s.Writable) and node.name)
    ):
        changed["name"] = made.of(node.name)
    elif isinstance(node, s.Change):
        changed["path"] = made.of(node.path)
        if node.kind in ("drop_may_fail", "drop_undo"):  # it is a code
            changed["old"] = node.old
    elif isinstance(node, s.ScenarioItem):
        changed.update(name=made.of(node.name), word=node.word)
    elif isinstance(node, s.Called):
        changed["code"] = node.code
    if isinstance(node, s.Binder | s.ConstItem | s.DefineItem):
        changed["sort"] = made.of(node.sort)
    if isinstance(node, s.Operation) and node.result is not None:
        changed["result"] = made.of(node.result)
    return replace(node, **changed)


__all__ = [
    "MAX_INSTANCES",
    "MAX_NESTED",
    "check_declared",
    "check_sorts",
    "check_use",
    "instance",
    "own_names",
    "title",
    "uses_of",
]
