"""Processes of Dom0 in the small world of an exhaustive search: their actions on gntdev, and the identity of states.

One process at first, started as in a campaign; it may fork once. Each action is one complete system call: other calls
do not run where the kernel yields (campaigns cover that). The identity of a state ignores addresses, indices and descriptor
numbers, but not the mapped, listed and open objects.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.dom0.gntdev import INVALID_HANDLE, Gntdev
from bulkhead.impl.xen.grant_entries import GrantTable
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW, read_pte
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.operations import carry_out, process_call
from bulkhead.proofs.refinement.dom0.state import MapRecord, Opened, Proc
from bulkhead.proofs.refinement.exhaustive.limits import GRANTER, Action, Limits
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import CHILD, TOOLS, USER

MOST_SLOTS = 2  # pages that the processes map together


class WorldOfProcesses(Lockstep):
    """A machine with Dom0's user space."""

    dom0: Dom0

    def alone(self, in_flight: CallInFlight) -> None:
        """A call of Dom0's kernel, from its start to its end."""
        while in_flight in self.flights:
            self.advance(in_flight)


def add_dom0(lockstep: WorldOfProcesses) -> None:
    """Dom0's user space, and a process in it that is not root."""
    lockstep.dom0 = Dom0(lockstep, lockstep.alone)
    _spawn(lockstep.dom0)


def _spawn(d: Dom0) -> None:
    carry_out(d, process_call(TOOLS, "fork", child=USER))
    for fd in list(d.procs[USER].fds):
        carry_out(d, process_call(USER, "close", fd=fd))
    carry_out(d, process_call(USER, "setuid"))


def _device(opened: Opened) -> Gntdev:
    device = opened.file.device
    if not isinstance(device, Gntdev):
        raise Mismatch("a file that is not gntdev's")
    return device


def _listed(opened: Opened) -> list[MapRecord]:
    return [r for r in opened.maps if r.gmap in _device(opened).maps]


# --- actions ---


def actions(lockstep: WorldOfProcesses, limits: Limits) -> list[Action]:
    """System calls of the processes, with failing ones."""
    d = lockstep.dom0
    out: list[Action] = []
    if USER not in d.procs and CHILD not in d.procs:
        return [("process", "spawn", 0)]
    if limits.processes > 1 and USER in d.procs and CHILD not in d.procs:
        out.append(("process", "fork", USER))
    for space in (USER, CHILD):
        proc = d.procs.get(space)
        if proc is None:
            continue
        out.append(("process", "exit", space))
        if not proc.fds:
            if not d.files:
                out.append(("process", "open", space))
            continue
        out.append(("process", "close", space))
        (opened,) = proc.fds.values()
        listed = _listed(opened)
        if sum(1 for r in d.records if r.gmap.users) < limits.maps:
            out += [("process", "register", space, ref) for ref in limits.refs]
        out += [("process", "unregister", space, n) for n in range(len(listed))]
        if len(d.slots()) < MOST_SLOTS:
            out += [("process", "mmap", space, n, w) for n in range(len(listed)) for w in (0, 1)]
        out += [("process", "munmap", space, n) for n in range(len(proc.slots))]
    return out


def act(lockstep: WorldOfProcesses, action: Action) -> None:
    """Make the call, and compare both sides."""
    d = lockstep.dom0
    _, name, space, *numbers = action
    if name == "spawn":
        _spawn(d)
    else:
        made = carry_out(d, _call(d.procs[space], name, numbers))
        if name == "mmap" and made.code == OKAY:
            carry_out(d, process_call(space, "store", page=made.given >> 12))
    d.sync()
    lockstep.steps += 1
    lockstep.settle()
    lockstep.compare_all()


def _call(proc: Proc, name: str, numbers: list[int]) -> Call:
    """An action of a process as a call."""
    space = proc.space
    if name == "fork":
        return process_call(space, name, child=CHILD)
    if name == "open":
        return process_call(space, name, kind="gntdev")
    if name == "exit":
        return process_call(space, name)
    if name == "munmap":
        return process_call(space, name, addr=sorted(proc.slots)[numbers[0]] << 12, count=1)
    ((fd, opened),) = proc.fds.items()
    if name == "close":
        return process_call(space, name, fd=fd)
    if name == "register":
        return process_call(space, "gntdev_map_grant_ref", fd=fd, grants=[(GRANTER, numbers[0])])
    offset = _listed(opened)[numbers[0]].gmap.index << 12
    if name == "unregister":
        return process_call(space, "gntdev_unmap_grant_ref", fd=fd, offset=offset, count=1)
    return process_call(space, "gntdev_mmap", fd=fd, offset=offset, count=1, writable=bool(numbers[1]))


# --- identity of states ---


def canonical(lockstep: WorldOfProcesses, name_of: Callable[[int], object]) -> list[object]:
    """The data that determine Dom0's further behaviour; `name_of` names frames."""
    d, kernel = lockstep.dom0, lockstep.rig.kernel
    number = {id(r): n for n, r in enumerate(d.records)}
    parts: list[object] = [
        (
            tuple(r.grants),
            r.gmap.users,
            r.gmap.in_use,
            r.gmap.flags,
            tuple(r.gmap.removed),
            [h == INVALID_HANDLE for h in (*r.gmap.handles, *r.gmap.khandles)],
            [_entry(kernel.layout.window_maddr(s), lockstep, name_of) for s in r.gmap.slots],
        )
        for r in d.records
    ]
    parts += [(o.file.refs, [number[id(r)] for r in _listed(o)]) for o in d.files]
    for space, proc in sorted(d.procs.items()):
        if space != TOOLS:
            parts.append(
                (
                    space,
                    [d.files.index(o) for o in proc.fds.values()],
                    sorted(
                        (
                            number[id(s.record)] if s.record is not None else -1,
                            s.writable,
                            _entry(proc.process.space.pte_maddr(s.vpn), lockstep, name_of),
                        )
                        for s in proc.slots.values()
                    ),
                )
            )
    live = {s.vpn for _, s in d.slots()}
    heap = range(lockstep.rig.first_mfn, lockstep.rig.first_mfn + lockstep.spec_state.size.heap)
    parts.append(
        sorted(
            (vpn in live, str(name_of(frame.mfn)), writable)
            for vpn, (frame, writable, _) in kernel.vcpu.tlb.entries.items()
            if frame.mfn in heap
        )
    )
    parts.append(records(lockstep, lockstep.rig.dom0.grant_table))
    return parts


def records(lockstep: Lockstep, table: GrantTable) -> list[tuple[int, int, int, bool]]:
    """The maptrack records of a table that are in use, without their numbers."""
    domains = lockstep.rig.xen.domains
    return sorted(
        (rec.flags, rec.domid, rec.ref, domains.get(rec.domid) is rec.granter) for rec in table.maptrack if rec.flags & 3
    )


def _entry(maddr: int, lockstep: Lockstep, name_of: Callable[[int], object]) -> object:
    pte = read_pte(lockstep.rig.xen.frames.table[maddr >> 12], (maddr & 0xFFF) >> 3)
    return (bool(pte & PTE_RW), str(name_of((pte & PTE_MFN) >> 12))) if pte & PTE_P else ()
