"""Serialises a machine with its rule state in few bytes: for searches that return to many states many times.

Sparse tables are saved as their used entries; numbers of the rule state as bytes. A machine
with calls in flight cannot be saved: a waiting call is a running function.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from bulkhead.impl.xen.grant_entries import Active, GrantTable
from bulkhead.impl.xen.maptrack import Maptrack
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState

Reduced = tuple[Callable[..., Any], tuple[Any, ...], Any, None, None, Callable[[Any, Any], None]]


class Actives(list[Any]):
    """Active entries that are created at first access."""

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        found = list.__getitem__(self, index)
        if found is None:
            found = Active()
            list.__setitem__(self, index, found)
        return found

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))


def _untouched(active: Active | None) -> bool:
    return active is None or not (active.pin or active.frame or active.domid)


def _table_state(table: GrantTable) -> Any:
    """The complete state, with used entries by number, and records as tuples."""
    kept = {name: getattr(table, name) for name in GrantTable.__slots__ if name not in ("active", "maptrack")}
    used = {i: a for i, a in enumerate(list.__iter__(table.active)) if not _untouched(a)}
    records = [(r.ref, r.flags, r.domid, r.vcpu, r.granter) for r in table.maptrack]
    return kept, len(table.active), used, records


def _restore_table(table: GrantTable, state: Any) -> None:
    kept, length, used, records = state
    for name, value in kept.items():
        setattr(table, name, value)
    table.active = Actives([None] * length)
    for i, active in used.items():
        list.__setitem__(table.active, i, active)
    table.maptrack = []
    for ref, flags, domid, vcpu, granter in records:
        record = Maptrack(ref, vcpu)
        record.flags, record.domid, record.granter = flags, domid, granter
        table.maptrack.append(record)


def _spec_state(spec_state: SpecState) -> Any:
    kept = {name: value for name, value in vars(spec_state).items() if name not in ("state", "T")}
    return kept, [bytes(values) for values in spec_state.state]


def _restore_spec_state(spec_state: SpecState, state: Any) -> None:
    kept, values = state
    vars(spec_state).update(kept)
    spec_state.state = [list(v) for v in values]
    spec_state.T = {name: spec_state.state[k] for name, k in spec_state.rules.number.items()}


def _new(kind: type[Any]) -> Any:
    return object.__new__(kind)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """A pickler with special forms for grant tables and rule states."""
        if type(obj) is GrantTable:
            reduced: Reduced = (_new, (GrantTable,), _table_state(obj), None, None, _restore_table)
            return reduced
        if type(obj) is SpecState:
            return (_new, (SpecState,), _spec_state(obj), None, None, _restore_spec_state)
        return NotImplemented


def freeze(lockstep: Lockstep) -> bytes:
    """A machine without calls in flight, as bytes; without the rules themselves."""
    if lockstep.flights:
        raise ValueError("a machine with calls in flight cannot be kept")
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(lockstep)
    return out.getvalue()


def thaw(data: bytes) -> Lockstep:
    """Restore the machine."""
    lockstep: Lockstep = pickle.loads(data)
    return lockstep
