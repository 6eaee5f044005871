"""From rules files to checked systems: finds components, applies faults, checks every item, reports all problems at once.

`load(name_or_path)` is the way in for everything else. A system is looked for among the shipped ones in `spec/` and then
as a path; a user's file may declare components of its own and use the shipped ones.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from model import kept
from model import syntax as s
from model.diagnostics import Problem, RulesError, Span, UsageError, suggest
from model.expressions import Declarations, Scope
from model.fragment import alternation_warnings
from model.ir import (
    AT,
    CALL,
    IDLE,
    POINT,
    App,
    Claim,
    Definition,
    Func,
    Op,
    Quant,
    Step,
    System,
    Term,
    Use,
    Var,
)
from model.operations import Points, elaborate, generated_write, locals_spoken_of

MAX_DEPTH = 150  # of a formula with its definitions written out
MAX_SIZE = 100_000  # of the same
TRIAL = "(components)"  # a system made up to check some components
RESERVED = frozenset({"bool", "true", "false", "this", "next", "failed", AT, IDLE, CALL, POINT})
# Names that mean something to Z3 or cvc5 already. Sorts, enums, constants, state and definitions reach them as they are.
SOLVER_SORTS = frozenset(re.findall(r"\w+", """
    Int Bool Real Array String Set Seq RegLan BitVec List Bag Tuple RoundingMode FloatingPoint Float16 Float32 Float64
    Float128 Relation UnitTuple Unicode"""))
SOLVER_WORDS = frozenset(re.findall(r"\w+", """
    _ let as par match forall exists lambda select store distinct ite and or not xor abs div mod sin cos tan csc sec cot
    arcsin arccos arctan exp sqrt tuple bag concat to_real to_int is_int ubv_to_int sbv_to_int int_to_bv bvnot bvneg bvand
    bvor bvxor bvnand bvnor bvxnor bvadd bvsub bvmul bvudiv bvurem bvsdiv bvsrem bvsmod bvshl bvlshr bvashr bvult bvule
    bvugt bvuge bvslt bvsle bvsgt bvsge bvcomp bvredor bvredand bvite bvultbv bvsltbv bvnego bvuaddo bvsaddo bvumulo
    bvsmulo bvusubo bvssubo bvsdivo bvsize bv2nat bv2int nat2bv"""))
SPEC = Path(__file__).resolve().parent.parent / "spec"


@dataclass
class Library:
    """All components and systems in reach, and the text they come from."""

    components: dict[str, s.Component] = field(default_factory=dict)
    systems: dict[str, s.System] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    home: dict[str, str] = field(default_factory=dict)  # component -> file
    home_of_system: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Path) -> s.RulesFile | None:
        """Take in one file. Names already taken are reported."""
        from model.parser import parse_file  # brings Lark in, which kept rules do without

        try:
            return self.take(*parse_file(path))
        except RulesError as error:
            self.problems.extend(error.problems)
            self.sources.update(error.sources)
            return None

    def take(self, parsed: s.RulesFile, text: str) -> s.RulesFile:
        """Take in a parsed file."""
        self.sources[parsed.path] = text
        for component in parsed.components:
            if self._new(component.name, component.span, self.home):
                self.components[component.name] = component
        for system in parsed.systems:
            if self._new(system.name, system.span, self.home_of_system):
                self.systems[system.name] = system
        return parsed

    def _new(self, name: str, span: Span, homes: dict[str, str]) -> bool:
        if name in homes:
            self.problems.append(Problem(span, f"`{name}` is declared twice", hint=f"It also stands in {homes[name]}."))
            return False
        homes[name] = span.file
        return True


@functools.cache
def shipped_files() -> tuple[Path, ...]:
    """The rules files that come with Bulkhead."""
    return tuple(sorted(SPEC.rglob("*.rules")))


def shipped_systems() -> list[str]:
    """The names of the shipped systems."""
    return sorted(p.stem for p in (SPEC / "systems").glob("*.rules"))


def load_library(extra: Iterable[Path] = ()) -> Library:
    """The shipped rules and the user's files; a shipped file given once more is taken once."""
    library = Library()
    try:
        for parsed, text in _shipped():
            library.take(parsed, text)
    except RulesError:  # somebody is at work on them: report all problems together
        library = Library()
        for path in shipped_files():
            library.add(path)
    taken = {p.resolve() for p in shipped_files()}
    for path in extra:
        if path.resolve() not in taken:
            library.add(path)
        taken.add(path.resolve())
    return library


@functools.cache
def _shipped() -> kept.Parsed:
    """The shipped files, parsed once. Raises `RulesError`."""
    def parse() -> kept.Parsed:
        from model.parser import parse_file

        return [parse_file(path) for path in shipped_files()]

    return kept.parsed(shipped_files(), parse)


def load(system: str, faults: Iterable[str] = ()) -> System:
    """The checked system of that name, or the only system in the rules file at that path.

    Raises `UsageError` when there is no such system or fault, `RulesError` with all problems of the rules otherwise.
    """
    path = Path(system)
    names = shipped_systems()
    if system in names:
        library = load_library()
    elif path.suffix == ".rules" or (system and path.exists()):
        library = _library_for(path)
        mine = [n for n in library.systems if _same(library.home_of_system[n], path)]
        if library.problems:
            raise RulesError(library.problems, library.sources)
        if len(mine) != 1:
            raise UsageError(f"{path}: holds {len(mine)} systems; a rules file to be proved needs exactly one `system`.")
        system = mine[0]
    else:
        hint = suggest(system, names)
        raise UsageError(f"there is no system `{system}`. {hint} Shipped systems: {', '.join(names)}; "
                         "or give the path of a .rules file.".replace("  ", " "))
    if library.problems:
        raise RulesError(library.problems, library.sources)
    return build(library, system, tuple(faults))


def _library_for(path: Path) -> Library:
    """The user's file, and the shipped rules where it uses some."""
    own = Library()
    parsed = own.add(path)
    if parsed is not None and not own.problems:
        used = {n.text for c in parsed.components for n in c.uses} | {n.text for y in parsed.systems for n in y.uses}
        if used <= set(own.components):
            return own
    return load_library([path])


def _same(home: str, path: Path) -> bool:
    return home == str(path) or Path(home).resolve() == path.resolve()


def check(paths: Iterable[Path]) -> list[Problem]:
    """All problems and warnings of some files; without files, of the shipped systems. Raises `RulesError`."""
    given = list(paths)
    problems: list[Problem] = []
    library = load_library(given)
    if library.problems:
        raise RulesError(library.problems, library.sources)
    homes = {p.resolve() for p in given}
    wanted = [n for n, h in library.home_of_system.items() if not given or Path(h).resolve() in homes]
    used = {c.name for n in wanted for c in _closure(library, library.systems[n], [])}
    loose = [n for n, h in library.home.items() if Path(h).resolve() in homes and n not in used]
    errors: dict[Problem, None] = {}
    for system in (*(library.systems[n] for n in wanted), *_tried(library, loose)):
        library.systems[system.name] = system
        try:
            problems.extend(w for w in build(library, system.name, ()).warnings if w not in problems)
        except RulesError as error:
            errors.update(dict.fromkeys(error.problems))
    if errors:
        raise _error(list(errors), library)
    return problems


def _tried(library: Library, loose: list[str]) -> Iterator[s.System]:
    """Systems for checking components that no system uses: one for each that none of the others uses.

    Those that are left then use each other in a cycle.
    """
    used = {u.text for n in loose for u in library.components[n].uses}
    groups = [[n] for n in loose if n not in used]
    covered = {c.name for g in groups for n in g for c in _closure(library, _trial(library, [n]), [])}
    groups.append([n for n in loose if n not in covered])
    return (_trial(library, g) for g in groups if g)


def _trial(library: Library, names: list[str]) -> s.System:
    uses = tuple(s.Name(n, library.components[n].span) for n in names)
    return s.System(TRIAL, uses, (), "", uses[0].span)


def _error(problems: list[Problem], library: Library) -> RulesError:
    """The problems, each once, in the order in which they stand in the files."""
    files = {name: k for k, name in enumerate(library.sources)}
    once = {(p.span, p.what): p for p in reversed(problems)}.values()
    order = sorted(once, key=lambda p: (files.get(p.span.file, -1), p.span.line, p.span.column, p.what))
    return RulesError(order, library.sources)


def _closure(library: Library, system: s.System, problems: list[Problem]) -> list[s.Component]:
    """The system's components and all they use, each after what it uses."""
    order: list[s.Component] = []
    state: dict[str, int] = {}  # 1 while its uses are followed, 2 when done

    def entered(name: s.Name, trail: list[str]) -> Iterator[s.Name] | None:
        """What the component uses, or None when it is known already or cannot be followed."""
        if state.get(name.text) == 1:
            cycle = " -> ".join((*trail[trail.index(name.text):], name.text))
            problems.append(Problem(name.span, f"components use each other in a cycle: {cycle}",
                                    hint="Move what both need into a component of its own."))
        elif name.text not in library.components:
            problems.append(Problem(name.span, f"there is no component `{name.text}`",
                                    hint=suggest(name.text, library.components)))
        elif name.text not in state:
            state[name.text] = 1
            return iter(library.components[name.text].uses)
        return None

    trail: list[str] = []
    open_uses: list[Iterator[s.Name]] = [iter(system.uses)]
    while open_uses:
        used = next(open_uses[-1], None)
        if used is not None:
            further = entered(used, trail)
            if further is not None:
                open_uses.append(further)
                trail.append(used.text)
            continue
        open_uses.pop()
        if trail:
            name = trail.pop()
            state[name] = 2
            order.append(library.components[name])
    return order


def build(library: Library, name: str, faults: tuple[str, ...]) -> System:
    """Check one system of the library, with some faults laid over it."""
    system = library.systems[name]
    d = Declarations()
    components = _closure(library, system, d.problems)
    if d.problems:
        raise _error(d.problems, library)
    items = [(c, i) for c in components for i in c.items]
    _unique(items, d)
    known_faults = {i.name: i for _, i in items if isinstance(i, s.FaultItem)}
    operations = {i.name: i for _, i in items if isinstance(i, s.Operation)}
    for fault in faults:
        if fault not in known_faults:
            raise UsageError(f"system `{name}` has no fault `{fault}`. {suggest(fault, known_faults)} "
                             f"It has: {', '.join(sorted(known_faults)) or 'none'}.".replace("  ", " "))
        for change in known_faults[fault].changes:
            _apply(change, operations, d)
    for other in known_faults.values():
        if other.name not in faults:  # not laid, but it must find what it changes
            pristine = {i.name: i for _, i in items if isinstance(i, s.Operation)}
            for change in other.changes:
                _apply(change, pristine, d)
    procedures = {n: o for n, o in operations.items() if o.kind == "procedure"}
    actions = [o for o in operations.values() if o.kind != "procedure"]
    _declare_sorts(items, d)
    points = Points(procedures)
    d.enums[POINT] = (IDLE, *dict.fromkeys(p for o in actions for p in points.of(o)))
    d.members[IDLE] = POINT
    _declare_state(items, d)
    d.later = {i.name for _, i in items if isinstance(i, s.DefineItem)}
    for _, item in items:
        if isinstance(item, s.DefineItem):
            _define(item, d)
    steps: list[Step] = []
    for _, item in items:
        if isinstance(item, s.StateItem) and item.writable is not None:
            generated = generated_write(item, d)
            if generated is not None:
                steps.append(generated)
    wanted = frozenset(n for _, i in items if isinstance(i, s.FormulaItem) for n in locals_spoken_of(i.body))
    for op in actions:
        steps.extend(elaborate(op, procedures, d, wanted))
    for op in procedures.values():  # also as they stand; what a call would keep of theirs is not state of the system
        funcs = dict(d.funcs)
        elaborate(op, procedures, d)
        d.funcs = funcs
    claims = _claims(items, d)
    by_kind = {k: {c.name: c for c in claims if c.kind == k} for k in
               ("init", "axiom", "invariant", "theorem", "transition")}
    expects = _expects(system, {**by_kind["theorem"], **by_kind["transition"]}, d)
    if d.problems:
        raise _error(d.problems, library)
    files = tuple(dict.fromkeys(library.home[c.name] for c in components))
    enums = {**d.enums, POINT: (IDLE, *sorted({*d.enums[POINT], *_points_elsewhere(library, components)} - {IDLE}))}
    made = System(name, system.doc, d.sorts, enums, d.consts, d.funcs, d.defs, tuple(by_kind["init"].values()),
                  tuple(by_kind["axiom"].values()), by_kind["invariant"], by_kind["theorem"], by_kind["transition"],
                  tuple(steps), expects, {n: f.doc for n, f in known_faults.items()}, files=files,
                  sources=library.sources)
    return replace(made, warnings=tuple(alternation_warnings(made)))


def _points_elsewhere(library: Library, components: list[s.Component]) -> Iterator[str]:
    """Points of shipped operations that this system leaves out.

    No call of it ever stands there. With them the shipped systems speak of one and the same set of points, so that a
    query of one that is refuted is refuted for all (`proofs/reuse.py`).
    """
    shipped = {str(p) for p in shipped_files()}
    if not any(library.home[c.name] in shipped for c in components):
        return
    used = {c.name for c in components}
    operations = {c.name: [i for i in c.items if isinstance(i, s.Operation)] for c in library.components.values()}
    procedures = {o.name: o for ops in operations.values() for o in ops if o.kind == "procedure"}
    points = Points(procedures)
    for name, ops in operations.items():
        if name not in used and library.home[name] in shipped:
            yield from (p for o in ops if o.kind != "procedure" for p in points.of(o))


def _unique(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    seen: dict[tuple[str, str], Span] = {}
    declared = {i.name for _, i in items if isinstance(i, s.StateItem | s.DefineItem)}
    for _, item in items:
        if isinstance(item, s.FormulaItem):
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
            if item.writable is not None:
                names.append((item.writable.name or f"write_{item.name}", item.writable.span))
        for text, span in names:
            if text in RESERVED:
                d.problem(span, f"`{text}` is a word of the language", hint="Choose another name.")
            elif _means_something_to_solvers(text, item, declared):
                d.problem(span, f"`{text}` means something else to the solvers", hint="Choose another name.")
            first = seen.setdefault((space, text), span)
            if first is not span:
                d.problem(span, f"`{text}` is declared twice", hint=f"First at {first.file}:{first.line}.")


def _means_something_to_solvers(name: str, item: s.Item, declared: set[str]) -> bool:
    """Would a formula that uses the name say something else? `x_next` is how the state after a step is written."""
    if isinstance(item, s.SortItem | s.EnumItem) and name == item.name and name in SOLVER_SORTS:
        return True
    if isinstance(item, s.FormulaItem | s.FaultItem | s.Operation):
        return False
    return name in SOLVER_WORDS or (name.endswith("_next") and name.removesuffix("_next") in declared)


def _declare_sorts(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    d.sorts[CALL] = "one call in flight, between two of its steps"
    for _, item in items:
        if isinstance(item, s.SortItem):
            d.sorts[item.name] = item.doc
        elif isinstance(item, s.EnumItem):
            d.enums[item.name] = tuple(m.text for m in item.members)
            d.members.update((m.text, item.name) for m in item.members)


def _declare_state(items: list[tuple[s.Component, s.Item]], d: Declarations) -> None:
    d.states[AT] = ("",)
    d.funcs[AT] = Func(AT, (CALL,), POINT, doc="where a call in flight stands")
    for _, item in items:
        if isinstance(item, s.ConstItem):
            d.consts[item.name] = item.sort if d.known_sort(s.Binder(item.name, item.sort, item.span)) else "?"
        elif isinstance(item, s.StateItem):
            args = tuple(b.sort if d.known_sort(b) else "?" for b in item.indices)
            d.states[item.name] = tuple(b.name for b in item.fields)
            for b in item.fields:
                name = f"{item.name}.{b.name}" if b.name else item.name
                d.funcs[name] = Func(name, args, b.sort if d.known_sort(b) else "?", item.ghost, item.doc)


def _define(item: s.DefineItem, d: Declarations) -> None:
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
        d.problem(item.span, f"`{item.name}` is {much}, with the definitions it uses written out",
                  hint="Keep chains of definitions short.")
        d.broken.add(item.name)
        return
    d.defs[item.name] = Definition(item.name, params, body, item.sort, item.doc)


def _measure(term: Term, d: Declarations) -> tuple[int, int]:
    """Depth and size of a term with the definitions it uses written out."""
    if isinstance(term, Quant):
        depth, size = _measure(term.body, d)
        return 1 + depth, 1 + size
    if isinstance(term, App | Op | Use):
        inside = [_measure(a, d) for a in term.args]
        own = (d.depth[term.name], d.size[term.name]) if isinstance(term, Use) else (0, 0)
        return 1 + own[0] + max((n for n, _ in inside), default=0), 1 + own[1] + sum(n for _, n in inside)
    return 1, 1


def _claims(items: list[tuple[s.Component, s.Item]], d: Declarations) -> list[Claim]:
    claims = []
    for component, item in items:
        if isinstance(item, s.FormulaItem):
            scope = Scope(d, two_state=item.kind == "transition")
            if item.kind == "transition":
                scope.variables["failed"] = Var("failed", "bool")
            body = scope.boolean(item.body)
            if body is not None:
                name = f"{component.name}.{item.name}" if item.kind in ("init", "axiom") else item.name
                claims.append(Claim(item.kind, name, body, item.doc, item.span, component.name))
    return claims


def _expects(system: s.System, claims: dict[str, Claim], d: Declarations) -> dict[str, str]:
    expects: dict[str, str] = {}
    for verdict, name in system.expects:
        if verdict not in ("proved", "refuted"):
            d.problem(name.span, f"unknown verdict `{verdict}`", "Expected `proved` or `refuted`.")
        elif name.text not in claims:
            d.problem(name.span, f"there is no theorem `{name.text}` in this system", hint=suggest(name.text, claims))
        elif name.text in expects:
            d.problem(name.span, f"the verdict on `{name.text}` is expected twice")
        else:
            expects[name.text] = verdict
    for name_, claim in claims.items():
        if name_ not in expects and system.name != TRIAL:
            d.problem(claim.span, f"system `{system.name}` does not say what it expects of theorem `{name_}`",
                      hint=f"Add `expect proved {name_}` or `expect refuted {name_}` to the system.")
    return expects


def _apply(change: s.Change, operations: dict[str, s.Operation], d: Declarations) -> None:
    """Lay one change over an operation, at the level of its text."""
    name, _, step = change.path.partition(".")
    op = operations.get(name)
    if op is None:
        d.problem(change.span, f"the fault names no operation: `{name}`", hint=suggest(name, operations))
        return
    here = ""
    body: list[s.Statement] = []
    moved: list[s.Statement] = []
    hits = 0
    for st in op.body:
        if isinstance(st, s.Boundary):
            here = st.name
            body.append(st)
            continue
        if step and here != step:
            body.append(st)
            continue
        hit, kept = _changed(st, change)
        hits += hit
        if hit and change.kind == "move_check":
            moved.append(st)
        elif kept is not None:
            body.append(kept)
    if moved:
        places = [k for k, st in enumerate(body) if isinstance(st, s.Boundary) and st.name == change.to]
        if not places:
            d.problem(change.span, f"`{name}` has no step `{change.to}` to move the check to")
        else:
            body[places[0] + 1 : places[0] + 1] = moved
    if not hits:
        d.problem(change.span, f"the fault finds nothing to change in `{change.path}`",
                  hint="It must repeat the check or assignment as it stands there; what a procedure does is changed "
                  "within the procedure.")
    operations[name] = replace(op, body=tuple(body))


def _changed(st: s.Statement, change: s.Change) -> tuple[int, s.Statement | None]:
    if change.kind in ("drop_check", "replace_check", "move_check"):
        if isinstance(st, s.Require) and st.cond == change.old:
            return 1, None if change.new is None else replace(st, cond=change.new)
        if change.kind == "move_check":
            return 0, st
        if isinstance(st, s.Pick) and st.where == change.old:
            return 1, replace(st, where=change.new)
        if isinstance(st, s.Pick) and isinstance(st.where, s.Operator) and st.where.op == "and":
            parts = _conjuncts(st.where)
            if change.old in parts:
                kept = [p for p in parts if p != change.old] if change.new is None else \
                    [change.new if p == change.old else p for p in parts]
                where = kept[0] if len(kept) == 1 else s.Operator("and", tuple(kept), st.where.span) if kept else None
                return 1, replace(st, where=where)
    if isinstance(st, s.Set) and st.target == change.old:
        if change.kind == "drop_assignment":
            return 1, None
        if change.kind == "replace_assignment" and change.new is not None:
            return 1, replace(st, value=change.new)
    return 0, st


def _conjuncts(expr: s.Expr) -> list[s.Expr]:
    if isinstance(expr, s.Operator) and expr.op == "and":
        return [p for a in expr.args for p in _conjuncts(a)]
    return [expr]


__all__ = ["Definition", "Library", "build", "check", "load", "load_library", "shipped_files", "shipped_systems"]
