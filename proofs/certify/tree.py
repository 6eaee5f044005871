"""The parsed items of one system, the input of `certify`, with faults laid over the operations.

Components with parameters come as instances, with the names replaced: `model/instances.py` is trusted as the parser is, and
`tests/oracle/instances.py` does the same independently, for tests. Not here: checks, because the type checker has already
accepted the rules. Unexpected constructs raise `CannotRead`, and the claims concerned are then undecided.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bulkhead.model import syntax as s
from bulkhead.model.diagnostics import RulesError, UsageError
from bulkhead.model.library import Library, closure, load_library, shipped_systems
from bulkhead.proofs.certify.faults import lay_faults

CALL, POINT, BOOL, AT, IDLE = "Call", "Point", "bool", "at", "idle"


class CannotRead(Exception):
    """The rules contain a construct that this encoding cannot translate; the text names it."""


@dataclass(frozen=True)
class Rules:
    """The items of a system, by name. `operations` has procedures too."""

    name: str
    sorts: tuple[str, ...]
    enums: dict[str, tuple[str, ...]]
    consts: dict[str, str]
    states: dict[str, s.StateItem]
    defines: dict[str, s.DefineItem]
    formulas: tuple[s.FormulaItem, ...]
    operations: dict[str, s.Operation]

    def of_kind(self, *kinds: str) -> dict[str, s.FormulaItem]:
        """The formulas of some kinds (init, axiom, invariant, theorem, transition) by name or place."""
        return {  # two instances of a component have their axioms at the same place
            f"{f.span.file}:{f.name}#{k}" if f.kind in ("init", "axiom") else f.name: f
            for k, f in enumerate(self.formulas)
            if f.kind in kinds
        }


def read(system: str, faults: Iterable[str] = ()) -> Rules:
    """The rules of a shipped system, or of the only system in the file at that path.

    Raises `UsageError` or `RulesError` if there is no such system, `CannotRead` if a fault cannot be laid.
    """
    if system in shipped_systems():
        library, name = load_library(), system
    else:
        library = load_library([Path(system)])
        own = [n for n, home in library.home_of_system.items() if Path(home).resolve() == Path(system).resolve()]
        if len(own) != 1:
            raise UsageError(f"{system}: holds {len(own)} systems; exactly one can be certified.")
        name = own[0]
    if library.problems:
        raise RulesError(library.problems, library.sources)
    return assemble(library, name, faults)


def assemble(library: Library, name: str, faults: Iterable[str] = ()) -> Rules:
    """The rules of one system of a library."""
    system = library.systems[name]
    items = [i for c in closure(library, system, []) for i in c.items]
    operations = {i.name: i for i in items if isinstance(i, s.Operation)}
    defines = {i.name: i for i in items if isinstance(i, s.DefineItem)}
    laid = {i.name: i for i in items if isinstance(i, s.FaultItem)}
    for fault in faults:
        if fault not in laid:
            raise CannotRead(f"there is no fault `{fault}`")
        operations, defines = lay_faults(laid[fault], operations, defines)
    return Rules(
        name,
        (CALL, *(i.name for i in items if isinstance(i, s.SortItem))),
        {i.name: tuple(m.text for m in i.members) for i in items if isinstance(i, s.EnumItem)},
        {i.name: i.sort for i in items if isinstance(i, s.ConstItem)},
        {i.name: i for i in items if isinstance(i, s.StateItem)},
        defines,
        tuple(i for i in items if isinstance(i, s.FormulaItem)),
        operations,
    )


__all__ = ["AT", "BOOL", "CALL", "IDLE", "POINT", "CannotRead", "Rules", "assemble", "read"]
