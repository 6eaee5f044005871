"""From rules files to checked systems: finds components, applies faults, checks every item, reports all problems at once.

`load(name_or_path)` is the entry point. It looks for a shipped system in `spec/`, then for a file
with that path; a user's file may declare its own components and use the shipped ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bulkhead.model import syntax as s
from bulkhead.model.declare import (
    TRIAL,
    claims_of,
    declare_sorts,
    declare_state,
    define,
    expects_of,
    refuse_changing_axioms,
    scope_of,
    unique,
)
from bulkhead.model.diagnostics import Problem, RulesError, Span, UsageError, suggest
from bulkhead.model.expressions import Declarations
from bulkhead.model.faults import check_breaks, lay
from bulkhead.model.fragment import alternation_warnings
from bulkhead.model.ir import IDLE, POINT, Fault, Func, Step, System
from bulkhead.model.library import SPEC, Library, closure, component_of, load_library, shipped_files, shipped_systems
from bulkhead.model.limits import refuse_large
from bulkhead.model.operations import elaborate, generated_write, locals_spoken_of
from bulkhead.model.procedures import OF_PERFORM, Points, where_performed
from bulkhead.model.reworded import reworded_claims
from bulkhead.model.scenarios import expressions_of, scenarios_of
from bulkhead.model.trial_faults import Built, problems_laid


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
        raise UsageError(
            f"there is no system `{system}`. {hint} Shipped systems: {', '.join(names)}; "
            "or give the path of a .rules file.".replace("  ", " ")
        )
    if library.problems:
        raise RulesError(library.problems, library.sources)
    return build(library, system, tuple(faults))


def _library_for(path: Path) -> Library:
    """The user's file, and the shipped rules if it uses any."""
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
    return list(dict.fromkeys(w for system in checked(paths) for w in system.warnings))


def checked(paths: Iterable[Path]) -> list[System]:
    """The systems of some files, and a system for the components that none of them uses; without files, the shipped ones.

    Components with parameters stand there with their parameters for themselves. Each fault is laid once, to check its
    text. Raises `RulesError`.
    """
    given = list(paths)
    made: list[System] = []
    library = load_library(given)
    if library.problems:
        raise RulesError(library.problems, library.sources)
    homes = {p.resolve() for p in given}
    wanted = [n for n, h in library.home_of_system.items() if not given or Path(h).resolve() in homes]
    used = {component_of(c) for n in wanted for c in closure(library, library.systems[n], [])}
    loose = [
        n
        for n, h in library.home.items()
        if n not in used and (Path(h).resolve() in homes or (not given and library.components[n].params))
    ]
    errors: dict[Problem, None] = {}
    tried: set[tuple[Span, tuple[s.Change, ...]]] = set()
    for system in (*(library.systems[n] for n in wanted), *_tried(library, loose)):
        library.systems[system.name] = system
        try:
            built = _built(library, system.name, ())
            used_here = "; ".join(u.text for u in system.uses if " " not in u.text)
            made.append(replace(built.system, name=used_here) if system.name == TRIAL else built.system)
            errors.update(dict.fromkeys(built.problems))
            for fault in built.faults.values():
                if (at := (fault.span, fault.changes)) not in tried:  # systems share faults
                    tried.add(at)
                    laid = partial(build, library, system.name, (fault.name,))
                    errors.update(dict.fromkeys(problems_laid(built, fault, laid)))
        except RulesError as error:
            errors.update(dict.fromkeys(error.problems))
    if errors:
        raise _error(list(errors), library)
    return made


def _tried(library: Library, loose: list[str]) -> Iterator[s.System]:
    """Systems for checking components that no system uses: one for each that none of the others uses.

    The remaining ones use each other in a cycle.
    """
    used = {u.text for n in loose for u in library.components[n].uses}
    groups = [[n] for n in loose if n not in used]
    covered = {component_of(c) for g in groups for n in g for c in closure(library, _trial(library, [n]), [])}
    left = [n for n in loose if n not in covered]
    groups += [[n] for n in left if library.components[n].params]  # each declares its parameters
    groups.append([n for n in left if not library.components[n].params])
    return (_trial(library, g) for g in groups if g)


def _trial(library: Library, names: list[str]) -> s.System:
    uses = tuple(u for n in names for u in _for_itself(library, n))
    return s.System(TRIAL, uses, (), (), "", uses[0].span)


def _for_itself(library: Library, name: str) -> Iterator[s.Used]:
    """A use of a component with its parameters as arguments; a helper component declares its sorts."""
    component = library.components[name]
    sorts = tuple(s.SortItem(p.name, f"a sort given to {name}", p.span) for p in component.params if p.kind == "sort")
    if sorts:
        beside = f"{name} (sorts)"
        library.components[beside] = s.Component(beside, (), (), sorts, "", component.span)
        library.home[beside] = library.home[name]
        yield s.Used(beside, (), "", component.span)
    yield s.Used(name, tuple(s.Name(p.name, p.span) for p in component.params), "", component.span)


def _error(problems: list[Problem], library: Library) -> RulesError:
    """The problems without duplicates, in the order of the files."""
    files = {name: k for k, name in enumerate(library.sources)}
    once = {(p.span, p.what): p for p in reversed(problems)}.values()
    order = sorted(once, key=lambda p: (files.get(p.span.file, -1), p.span.line, p.span.column, p.what))
    return RulesError(order, library.sources)


def build(library: Library, name: str, faults: tuple[str, ...]) -> System:
    """Check one system of the library, with some faults laid over it."""
    built = _built(library, name, faults)
    if built.problems:
        raise _error(list(built.problems), library)
    return built.system


def _built(library: Library, name: str, faults: tuple[str, ...]) -> Built:
    """The same, with what it was built from.

    Definitions and operations may read locals of any operation (`op.local[call]`), wherever it stands. The sorts of
    those that were not known yet are taken from a first reading, until no more are found.
    """
    asked: set[str] = set()
    known: dict[str, Func] = {}
    while True:
        d = Declarations()
        try:
            return _build(library, name, faults, d, frozenset(asked), known)
        except RulesError:
            found = {n: f for n, f in d.funcs.items() if f.sort != "?" and ".".join(n.split(".")[:2]) in asked | d.asked}
            if d.asked <= asked and found.keys() <= known.keys():
                raise
            asked |= d.asked
            known |= found


def _build(
    library: Library, name: str, faults: tuple[str, ...], d: Declarations, asked: frozenset[str], known: dict[str, Func]
) -> Built:
    """`asked` are locals to save, beside those that claims and later steps read; of `known` ones the sorts are known."""
    system = library.systems[name]
    components = closure(library, system, d.problems)
    if d.problems:
        raise _error(d.problems, library)
    items = [(c, i) for c in components for i in c.items]
    unique(items, d)
    known_faults = {i.name: i for _, i in items if isinstance(i, s.FaultItem)}
    of_faults = replace(d, problems=[])
    operations, definitions = _with_faults(name, faults, known_faults, items, d, of_faults)
    procedures = {n: o for n, o in operations.items() if o.kind == "procedure"}
    actions = [o for o in operations.values() if o.kind != "procedure"]
    declare_sorts(items, d)
    points = Points(procedures)
    d.enums[POINT] = (IDLE, *dict.fromkeys(p for o in actions for p in points.of(o)))
    d.members[IDLE] = POINT
    declare_state(items, d)
    d.funcs |= known
    d.later = {i.name for _, i in items if isinstance(i, s.DefineItem)}
    for _, item in items:
        if isinstance(item, s.DefineItem):
            laid = definitions[item.name]
            define(laid if laid.span == item.span else item, d)  # of two with one name each is checked
    spoken = [i.body for _, i in items if isinstance(i, s.FormulaItem)]
    spoken += [e for _, i in items if isinstance(i, s.ScenarioItem) for e in expressions_of(i)]
    wanted = asked.union(*map(locals_spoken_of, spoken))
    steps = _steps_of(items, actions, procedures, wanted, d)
    claims = claims_of(items, d)
    by_kind = {
        k: {c.name: c for c in claims if c.kind == k} for k in ("init", "axiom", "invariant", "theorem", "transition")
    }
    here = {component_of(k) for k in components}
    elsewhere = [i for n, c in library.components.items() if n not in here for i in c.items]
    check_breaks(known_faults.values(), items, elsewhere, {t.label for t in steps}, of_faults)
    scope = scope_of([i for _, i in items if isinstance(i, s.ScopeItem)], system.scopes, d)
    refuse_changing_axioms(by_kind["axiom"].values(), steps, d)
    refuse_large(claims, steps, d)
    scenarios = scenarios_of([i for _, i in items if isinstance(i, s.ScenarioItem)], steps, d, bool(faults))
    expects = expects_of(system, {**by_kind["theorem"], **by_kind["transition"]}, d)
    if d.problems:
        raise _error([*d.problems, *of_faults.problems], library)
    files = tuple(dict.fromkeys(library.home[component_of(c)] for c in components))
    enums = {**d.enums, POINT: (IDLE, *sorted({*d.enums[POINT], *_points_elsewhere(library, components)} - {IDLE}))}
    made = System(
        name,
        system.doc,
        d.sorts,
        enums,
        d.consts,
        d.funcs,
        d.defs,
        tuple(by_kind["init"].values()),
        tuple(by_kind["axiom"].values()),
        by_kind["invariant"],
        by_kind["theorem"],
        by_kind["transition"],
        tuple(steps),
        expects,
        {n: _fault(f) for n, f in known_faults.items()},
        scenarios=scenarios,
        scope=scope,
        files=files,
        home=library.home_of_system.get(name, ""),
        sources=library.sources,
    )
    made = replace(made, warnings=(*alternation_warnings(made), *reworded_claims(made, known_faults.values())))
    return Built(made, d, operations, definitions, known_faults, wanted, tuple(of_faults.problems))


def _with_faults(
    name: str,
    faults: tuple[str, ...],
    known: dict[str, s.FaultItem],
    items: list[tuple[s.Component, s.Item]],
    d: Declarations,
    of_faults: Declarations,
) -> tuple[dict[str, s.Operation], dict[str, s.DefineItem]]:
    """The operations and definitions with some faults laid; `of_faults` collects what is wrong with the others."""
    operations = {i.name: i for _, i in items if isinstance(i, s.Operation)}
    definitions = {i.name: i for _, i in items if isinstance(i, s.DefineItem)}
    as_written = dict(operations), dict(definitions)
    for fault in faults:
        if fault not in known:
            raise UsageError(
                f"system `{name}` has no fault `{fault}`. {suggest(fault, known)} "
                f"It has: {', '.join(sorted(known)) or 'none'}.".replace("  ", " ")
            )
        for change in known[fault].changes:
            lay(change, operations, definitions, d)
    for other in known.values():
        if other.name not in faults:  # not laid, but it must match
            pristine = _changed_by(other, *as_written)
            for change in other.changes:
                lay(change, *pristine, of_faults)
    return operations, definitions


def _steps_of(
    items: list[tuple[s.Component, s.Item]],
    actions: list[s.Operation],
    procedures: dict[str, s.Operation],
    wanted: frozenset[str],
    d: Declarations,
) -> list[Step]:
    """The steps of all operations, and writes that `writable by` generates; procedures are checked by themselves, too."""
    steps: list[Step] = []
    for _, item in items:
        if isinstance(item, s.StateItem) and item.writable is not None:
            generated = generated_write(item, d)
            if generated is not None:
                steps.append(generated)
    for op in actions:
        steps.extend(elaborate(op, procedures, d, wanted))
    broken: set[str] = set()
    for op in procedures.values():  # check them unperformed, too; their saved locals are not state of the system
        funcs, before = dict(d.funcs), len(d.problems)
        elaborate(op, procedures, d)
        broken |= {op.name} if len(d.problems) > before else set()
        d.funcs = funcs
    if broken:  # told once, where it stands
        said_there = where_performed(broken, [*procedures.values(), *actions])
        d.problems[:] = [p for p in d.problems if p.span not in said_there or p.code in OF_PERFORM]
    return steps


def _changed_by(
    fault: s.FaultItem, operations: dict[str, s.Operation], definitions: dict[str, s.DefineItem]
) -> tuple[dict[str, s.Operation], dict[str, s.DefineItem]]:
    """The operations and definitions that a fault may change; all, for the message, where it names one that is not there."""
    heads = {change.path.partition(".")[0] for change in fault.changes}
    if not all(h in operations or h in definitions for h in heads):
        return dict(operations), dict(definitions)
    return {h: operations[h] for h in heads if h in operations}, {h: definitions[h] for h in heads if h in definitions}


def _fault(item: s.FaultItem) -> Fault:
    return Fault(item.name, item.doc, tuple(n.text for n in item.breaks), item.step.text if item.step else "", item.span)


def _points_elsewhere(library: Library, components: list[s.Component]) -> Iterator[str]:
    """Program points of shipped operations that this system does not use.

    No call ever reaches them. With them, all shipped systems have the same set of points, so that a refuted
    query of one is refuted for all (`proofs/theorems/subsumption.py`).
    """
    shipped = {str(p) for p in shipped_files()}
    if not any(c.use is None and library.home[c.name] in shipped for c in components):
        return
    used = {c.name for c in components}
    plain = [c for c in library.components.values() if not c.params]
    operations = {c.name: [i for i in c.items if isinstance(i, s.Operation)] for c in plain}
    procedures = {o.name: o for ops in operations.values() for o in ops if o.kind == "procedure"}
    points = Points(procedures)
    for name, ops in operations.items():
        if name not in used and library.home[name] in shipped:
            yield from (p for o in ops if o.kind != "procedure" for p in points.of(o))


__all__ = [
    "SPEC",
    "TRIAL",
    "Library",
    "build",
    "check",
    "checked",
    "load",
    "load_library",
    "shipped_files",
    "shipped_systems",
]
