"""All available components and systems: the shipped rules and the user's files, parsed, with their `uses`.

Duplicate names are reported here; everything else in a component is checked only with a system that uses it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bulkhead.model import cache
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
    """The system's components and all they use, in dependency order."""
    order: list[s.Component] = []
    state: dict[str, int] = {}  # 1 while its uses are followed, 2 when done

    def entered(name: s.Name, trail: list[str]) -> Iterator[s.Name] | None:
        """The components that it uses, or None if it is already visited or does not exist."""
        if state.get(name.text) == 1:
            cycle = " -> ".join((*trail[trail.index(name.text) :], name.text))
            problems.append(
                Problem(
                    "E0206",
                    name.span,
                    f"components use each other in a cycle: {cycle}",
                    hint="Move what both need into a component of its own.",
                )
            )
        elif name.text not in library.components:
            problems.append(
                Problem(
                    "E0207", name.span, f"there is no component `{name.text}`", hint=suggest(name.text, library.components)
                )
            )
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


__all__ = ["SPEC", "Library", "closure", "load_library", "shipped_files", "shipped_systems"]
