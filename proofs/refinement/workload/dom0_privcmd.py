"""Chooses a Dom0 process's calls on /dev/xen/privcmd: foreign mappings, raw domctls, and the toolstack's own calls."""

from __future__ import annotations

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import DEAD
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.dom0.privcmd import CONTROL
from bulkhead.proofs.refinement.dom0.state import MOST_SLOTS, Proc
from bulkhead.proofs.refinement.lockstep.testbed import PvhGuest
from bulkhead.proofs.refinement.workload.caller import Caller
from bulkhead.proofs.refinement.workload.dom0_evtchn import peer
from bulkhead.proofs.refinement.workload.physmap import granted, slot_number

NO_FRAME = 0x7FFFFFFF


def privcmd(d: Caller, proc: Proc) -> str:
    """One call on privcmd; its mappings are soon unmapped, so that guests can be destroyed."""
    x = d.rng.random()
    if proc.slots and x < 0.5:
        first, count = next(iter(proc.slots.values())).area
        d.call(proc, "munmap", addr=first << 12, count=count)
        return f"munmap {first:#x}"
    if x < 0.12:
        return restrict(d, proc)
    if x < 0.45:
        return mmapbatch(d, proc)
    return populate(d, proc) if x < 0.6 else alloc_unbound(d, proc) if x < 0.7 else control(d, proc)


def restrict(d: Caller, proc: Proc) -> str:
    """IOCTL_PRIVCMD_RESTRICT; the toolstack's own file stays unrestricted."""
    fd, opened = d.fd_of(proc, "privcmd")
    if opened is d.view.dom0.tools_file:
        return ""
    dom = (1, 1, 2, 99)[int(d.rng.random() * 4)]
    return f"privcmd restrict to d{dom}: {d.call(proc, 'privcmd_restrict', fd=fd, dom=dom).code}"


def mmapbatch(d: Caller, proc: Proc) -> str:
    """mmap of the device and IOCTL_PRIVCMD_MMAPBATCH_V2: any page of a guest; holes may be filled later, one by one."""
    fd, opened = d.fd_of(proc, "privcmd")
    if opened is None:
        return f"privcmd mmapbatch: {_batch(d, proc, fd, proc.arg, 1).code}"
    count = 1 + int(d.rng.random() * 2)
    if len(proc.slots) + count > MOST_SLOTS:
        return ""
    writable = d.rng.random() < 0.5
    addr = d.call(proc, "privcmd_mmap", fd=fd, count=count, writable=writable).given
    made = _batch(d, proc, fd, addr, count)
    if made.code == OKAY and made.given and d.rng.random() < 0.7:
        for page in made.given:
            _batch(d, proc, fd, addr + (page << 12), 1)
    mine = [slot for slot in proc.slots.values() if slot.area == (addr >> 12, count)]
    if mine and count > 1:
        d.call(proc, "privcmd_change_part", addr=addr)
    if not mine:
        d.call(proc, "munmap", addr=addr, count=count)
    return f"privcmd mmapbatch of {count}: {made.code}"


def _batch(d: Caller, proc: Proc, fd: int, addr: int, count: int) -> Answer:
    """A batch of pages, usually of one guest."""
    guests = list(d.view.guests.values())
    dom, gfns = 99, [NO_FRAME] * count
    if guests and d.rng.random() < 0.95:
        guest = guests[int(d.rng.random() * len(guests))]
        pages = guest.names
        dom = guest.domid
        gfns = [pages[int(d.rng.random() * len(pages))] if d.rng.random() < 0.85 else NO_FRAME for _ in gfns]
    return d.call(proc, "privcmd_mmapbatch", fd=fd, addr=addr, dom=dom, gfns=gfns)


def control(d: Caller, proc: Proc) -> str:
    """A domctl by a process that has no effect, because the descriptor or the domain is wrong."""
    fd, opened = d.fd_of(proc, "privcmd")
    name = list(CONTROL)[int(d.rng.random() * 4)]
    device = opened.file.device if opened is not None else None
    powerless = device is None or getattr(device, "domid", 0) != abi.DOMID_INVALID
    domid = (0, 99)[int(d.rng.random() * 2)]
    if powerless:
        domid = 1
    elif name == "createdomain":
        free = [n for n in (1, 2, 3) if n not in d.view.domains]
        if d.view.free_frames() > 1 or not free:
            return ""
        domid = free[0]
    elif name == "destroydomain":
        dead = [n for n, other in d.view.domains.items() if other.is_dying == DEAD]
        domid = dead[0] if dead and d.rng.random() < 0.8 else domid
    code = d.call(proc, "privcmd_domctl", fd=fd, command=name, domid=domid).code
    return f"privcmd {name} d{domid}: {code}"


def _guest(d: Caller) -> int:
    """A guest, usually an existing one."""
    ids = [n for n in d.view.domains if n]
    return ids[int(d.rng.random() * len(ids))] if ids and d.rng.random() < 0.9 else 99


def alloc_unbound(d: Caller, proc: Proc) -> str:
    """EVTCHNOP_alloc_unbound in another domain's table, as a builder does it."""
    fd, _ = d.fd_of(proc, "privcmd")
    domid, remote = _guest(d), peer(d) if d.rng.random() < 0.8 else abi.DOMID_SELF
    code = d.call(proc, "privcmd_alloc_unbound", fd=fd, dom=domid, remote=remote).code
    return f"privcmd alloc_unbound in d{domid} for d{remote}: {code}"


def populate(d: Caller, proc: Proc) -> str:
    """XENMEM_populate_physmap for a guest, by a process."""
    fd, _ = d.fd_of(proc, "privcmd")
    domid = _guest(d)
    guest = d.view.guests.get(domid)
    gfn = slot_number(d.rng) if isinstance(guest, PvhGuest) else 0x1000
    if isinstance(guest, PvhGuest) and granted(guest, gfn):
        return ""  # Xen would crash the guest for that
    made = d.call(proc, "privcmd_populate_physmap", fd=fd, dom=domid, gfn=gfn)
    return f"privcmd populate_physmap d{domid}: {made.code} {made.given}"


MOVES = ((3, mmapbatch), (2, populate), (3, control), (1.5, alloc_unbound))
