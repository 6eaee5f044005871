"""A machine beside its rules, as few bytes: for searches that go back to many states many times.

Tables that are mostly untouched are kept as what has been touched of them; numbers of the rule state as bytes. A machine
with calls in flight cannot be kept: a call that waits is a running function.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

from bulkhead.impl.xen.grant_entries import Active, GrantTable
from bulkhead.impl.xen.maptrack import Maptrack
from bulkhead.proofs.refinement.lockstep.lockstep import Bench
from bulkhead.proofs.refinement.lockstep.spec_state import Shadow

Reduced = tuple[Callable[..., Any], tuple[Any, ...], Any, None, None, Callable[[Any, Any], None]]


class Actives(list[Any]):
    """Active entries that are made when they are first looked at."""

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
    """Everything, with entries that were ever in use by their number, and records as tuples."""
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


def _shadow_state(shadow: Shadow) -> Any:
    kept = {name: value for name, value in vars(shadow).items() if name not in ("state", "T")}
    return kept, [bytes(values) for values in shadow.state]


def _restore_shadow(shadow: Shadow, state: Any) -> None:
    kept, values = state
    vars(shadow).update(kept)
    shadow.state = [list(v) for v in values]
    shadow.T = {name: shadow.state[k] for name, k in shadow.rules.number.items()}


def _new(kind: type[Any]) -> Any:
    return object.__new__(kind)


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        """Grant tables and rule states go their own way."""
        if type(obj) is GrantTable:
            reduced: Reduced = (_new, (GrantTable,), _table_state(obj), None, None, _restore_table)
            return reduced
        if type(obj) is Shadow:
            return (_new, (Shadow,), _shadow_state(obj), None, None, _restore_shadow)
        return NotImplemented


def freeze(bench: Bench) -> bytes:
    """A machine without calls in flight, as bytes; the rules themselves are not copied."""
    if bench.flights:
        raise ValueError("a machine with calls in flight cannot be kept")
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(bench)
    return out.getvalue()


def thaw(data: bytes) -> Bench:
    """The machine again."""
    bench: Bench = pickle.loads(data)
    return bench
