"""All available components and systems: the shipped rules and the user's files, parsed, with their `uses`.

Duplicate names are reported here; everything else in a component is checked only with a system that uses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.model import cache, instances
from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import Problem, RulesError, Span, suggest

SPEC = Path(__file__).resolve().parent.parent / "spec"


@dataclass
class Library:
    """All available components and systems, and their source texts."""

    components: dict[str, s.Component] = field(default_factory=dict)
    systems: dict[str, s.System] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    home: dict[str, str] = field(default_factory=dict)  # component -> file
    home_of_system: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Path) -> s.RulesFile | None:
        """Add one file. Reports names that are already used."""
        from bulkhead.model.parser import parse_file  # brings Lark in, which cached rules do without

        try:
            return self.take(*parse_file(path))
        except RulesError as error:
            self.problems.extend(error.problems)
            self.sources.update(error.sources)
            return None

    def take(self, parsed: s.RulesFile, text: str) -> s.RulesFile:
        """Add a parsed file."""
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
            self.problems.append(
                Problem("E0202", span, f"`{name}` is declared twice", hint=f"It also stands in {homes[name]}.")
            )
            return False
        homes[name] = span.file
        return True


def component_of(component: s.Component) -> str:
    """The name under which a component is declared, an instance of it too."""
    return component.use.text if component.use is not None else component.name


@functools.cache
def shipped_files() -> tuple[Path, ...]:
    """The rules files that come with Bulkhead."""
    return tuple(sorted(SPEC.rglob("*.rules")))


def shipped_systems() -> list[str]:
    """The names of the shipped systems."""
    return sorted(p.stem for p in (SPEC / "systems").glob("*.rules"))


def load_library(extra: Iterable[Path] = ()) -> Library:
    """The shipped rules and the user's files; a shipped file that the user names is added once."""
    library = Library()
    try:
        for parsed, text in _shipped():
            library.take(parsed, text)
    except RulesError:  # the user is editing them: report all problems together
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
def _shipped() -> cache.Parsed:
    """The shipped files, parsed once. Raises `RulesError`."""

    def parse() -> cache.Parsed:
        from bulkhead.model.parser import parse_file  # brings Lark in, which cached rules do without

        return [parse_file(path) for path in shipped_files()]

    return cache.parsed(shipped_files(), parse)


def closure(library: Library, system: s.System, problems: list[Problem]) -> list[s.Component]:
    """The system's components and all they use, in dependency order; one instance for each list of arguments."""
    components = library.components
    order: list[s.Component] = []
    state: dict[str, int] = {}  # 1 while its uses are followed, 2 when done
    with_arguments: list[s.Used] = []
    looked_at: set[str] = set()  # components with parameters

    def entered(use: s.Used, trail: list[s.Used]) -> Iterator[s.Used] | None:
        """The components that it uses, or None if it is already visited or does not exist."""
        name = instances.title(use)
        if use.text in (u.text for u in trail) and (use.args or state.get(name) == 1):
            names = [u.text for u in trail]
            cycle = " -> ".join((*names[names.index(use.text) :], use.text))
            problems.append(
                Problem(
                    "E0206",
                    use.span,
                    f"components use each other in a cycle: {cycle}",
                    hint="Move what both need into a component of its own.",
                )
            )
            return None
        if use.text not in components:
            problems.append(
                Problem("E0207", use.span, f"there is no component `{use.text}`", hint=suggest(use.text, components))
            )
            return None
        if name in state:
            return None
        state[name] = 1
        if components[use.text].params and use.text not in looked_at:
            looked_at.add(use.text)
            before = len(problems)
            instances.check_declared(components, components[use.text], problems.append)
            if len(problems) > before:
                return None
        if not instances.check_use(components, use, problems.append):
            return None
        if use.args:
            with_arguments.append(use)
            if len(with_arguments) > instances.MAX_INSTANCES or sum(bool(u.args) for u in trail) >= instances.MAX_NESTED:
                problems.append(
                    Problem(
                        "E0226",
                        use.span,
                        f"`{name}` is one component with parameters too many",
                        f"Expected {instances.MAX_INSTANCES} at most, and {instances.MAX_NESTED} that use each other.",
                    )
                )
                return None
        return iter(instances.uses_of(components, use))

    trail: list[s.Used] = []
    open_uses: list[Iterator[s.Used]] = [iter(system.uses)]
    while open_uses:
        used = next(open_uses[-1], None)
        if used is not None:
            further = entered(used, trail)
            if further is not None:
                open_uses.append(further)
                trail.append(used)
            continue
        open_uses.pop()
        if trail:
            use = trail.pop()
            state[instances.title(use)] = 2
            order.append(instances.instance(components, use))
    if not problems:
        instances.check_sorts(components, with_arguments, order, problems.append, s.BUILT_IN)
    return order


__all__ = ["SPEC", "Library", "closure", "component_of", "load_library", "shipped_files", "shipped_systems"]
