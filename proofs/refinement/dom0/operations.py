"""Calls of Dom0's processes by name: one row per operation, with the function that executes it in lockstep.

A call's caller is `p3`: the process of space 3. Not here: which calls are made (workload/), and guests'
hypercalls (lockstep/operations.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.dom0 import changes, copies, evtchn, gntalloc, gntdev, privcmd, processes
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Proc

OPERATIONS: dict[str, Callable[[Dom0, Proc, Mapping[str, Any]], Answer]] = {
    "open": processes.open_device,
    "close": processes.close,
    "setuid": processes.setuid,
    "fork": processes.fork,
    "exit": processes.leave,
    "store": processes.store,
    "munmap": gntdev.munmap,
    "mprotect": changes.mprotect,
    "mremap": changes.mremap,
    "gntdev_map_grant_ref": gntdev.map_grant_ref,
    "gntdev_mmap": gntdev.mmap,
    "gntdev_mmap_within": gntdev.mmap_within,
    "gntdev_unmap_grant_ref": gntdev.unmap_grant_ref,
    "gntdev_set_unmap_notify": gntdev.set_unmap_notify,
    "gntdev_grant_copy": copies.copy,
    "gntalloc_alloc_gref": gntalloc.alloc_gref,
    "gntalloc_mmap": gntalloc.mmap,
    "gntalloc_dealloc_gref": gntalloc.dealloc_gref,
    "gntalloc_set_unmap_notify": gntalloc.set_unmap_notify,
    "evtchn_bind_interdomain_port": evtchn.bind_interdomain,
    "evtchn_bind_unbound_port": evtchn.bind_unbound,
    "evtchn_tighten_ring": evtchn.tighten,
    "evtchn_unbind": evtchn.unbind,
    "evtchn_notify": evtchn.notify,
    "evtchn_restrict_domid": evtchn.restrict,
    "evtchn_reset_ring": evtchn.reset,
    "poll": evtchn.poll,
    "read": evtchn.read,
    "write": evtchn.write,
    "privcmd_restrict": privcmd.restrict,
    "privcmd_mmap": privcmd.mmap,
    "privcmd_mmapbatch": privcmd.mmapbatch,
    "privcmd_change_part": privcmd.change_part,
    "privcmd_domctl": privcmd.domctl,
    "privcmd_alloc_unbound": privcmd.alloc_unbound,
    "privcmd_populate_physmap": privcmd.populate_physmap,
}


def process_call(space: int, operation: str, /, **arguments: Any) -> Call:
    """A call by a process of Dom0."""
    return Call(operation, f"p{space}", arguments)


def carry_out(d: Dom0, call: Call) -> Answer:
    """Make a call; `not done` if the process has ended."""
    proc = d.procs.get(int(call.by[1:]))
    if proc is None:
        return NOT_DONE
    d.current = proc
    return OPERATIONS[call.operation](d, proc, call.arguments)
