"""Lays each fault over a checked system by itself, to find what is wrong with its text: names, sorts, limits.

A system's build looks only whether a fault matches; here its new text is type checked. A fault that only removes has none.
Most others change some operations, and only these, and those that perform them, are checked again. Where that finds
anything, or a fault changes what others read (a definition, a `let`), the system is built again with the fault, so that
the messages are those of `--fault`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from bulkhead.model import syntax as s
from bulkhead.model.declare import refuse_changing_axioms
from bulkhead.model.diagnostics import Problem, RulesError
from bulkhead.model.expressions import Declarations
from bulkhead.model.faults import lay
from bulkhead.model.ir import Step, System
from bulkhead.model.limits import refuse_large
from bulkhead.model.operations import elaborate
from bulkhead.model.procedures import performed_by


@dataclass(frozen=True)
class Built:
    """A checked system and what it was built from; `saved` are locals to save for those who read them elsewhere.

    `problems` are those of faults that are not laid: what they change, or the claim that they break, is not there.
    """

    system: System
    declarations: Declarations
    operations: Mapping[str, s.Operation]
    definitions: Mapping[str, s.DefineItem]
    faults: Mapping[str, s.FaultItem]
    saved: frozenset[str]
    problems: tuple[Problem, ...] = ()


REMOVALS = ("drop_check", "drop_assignment", "drop_may_fail", "drop_undo", "skip_undo")  # what is left needs no look


def problems_laid(built: Built, fault: s.FaultItem, whole: Callable[[], object]) -> list[Problem]:
    """What is wrong with a fault once it is laid. `whole` builds the system with it, and raises `RulesError`.

    Nothing is said of a fault that has a problem as it is.
    """
    if {p.span for p in built.problems} & {change.span for change in fault.changes}:
        return []
    if not _surely_fine(built, fault):
        try:
            whole()
        except RulesError as error:
            new = [p for p in error.problems if p not in built.problems]  # what is wrong with others is told of these
            return [replace(p, what=f"with fault `{fault.name}` laid: {p.what}") for p in new]
    return []


def _surely_fine(built: Built, fault: s.FaultItem) -> bool:
    """Is a fault without problems, as far as the operations tell that it changes?"""
    if all(change.kind in REMOVALS for change in fault.changes):
        return True
    heads = {change.path.partition(".")[0] for change in fault.changes}
    if heads & built.definitions.keys() or any(change.kind == "replace_let" for change in fault.changes):
        return False  # others read these, and may read another sort now
    known = built.declarations
    d = replace(known, funcs=dict(known.funcs), problems=[], asked=set(known.asked))
    operations = dict(built.operations)
    for change in fault.changes:
        lay(change, operations, {}, d)
    procedures = {n: o for n, o in operations.items() if o.kind == "procedure"}
    steps: list[Step] = []
    for op in _changed(heads, operations.values()):
        made = elaborate(op, procedures, d, built.saved)
        steps += made if op.kind != "procedure" else []
    refuse_changing_axioms(built.system.axioms, steps, d)
    refuse_large((), steps, d)
    return not d.problems and d.asked == known.asked


def _changed(heads: set[str], operations: Iterable[s.Operation]) -> list[s.Operation]:
    """The operations of these names, and those that perform one of them, directly or not."""
    every, names = list(operations), set(heads)
    while more := {o.name for o in every if o.name not in names and names & performed_by(o)}:
        names |= more
    return [o for o in every if o.name in names]


__all__ = ["Built", "problems_laid"]
