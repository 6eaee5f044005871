"""Calls of a Dom0 process on /dev/xen/evtchn and /dev/xen/privcmd: event channels, foreign mappings, raw domctls."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from bulkhead.impl.dom0 import ioctl_control as c
from bulkhead.impl.dom0.evtchn import POLLERR, POLLIN, Evtchn
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.syscalls import WouldSleep
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DEAD
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import MOST_SLOTS, Opened, Proc, Slot
from bulkhead.proofs.refinement.lockstep.spec_state import ANY, Mismatch

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

CONTROL = {
    "createdomain": abi.DOMCTL_CREATEDOMAIN,
    "pausedomain": abi.DOMCTL_PAUSEDOMAIN,
    "unpausedomain": abi.DOMCTL_UNPAUSEDOMAIN,
    "destroydomain": abi.DOMCTL_DESTROYDOMAIN,
}


# Event channels.


def _port(d: Dom0) -> int:
    """A port of Dom0, usually one that a process has bound."""
    ports = list(d.kernel.evtchn_users)
    if ports and d.rng.random() < 0.93:
        return ports[int(d.rng.random() * len(ports))]
    return 1 + int(d.rng.random() * d.b.spec_state.size.ports)


def _peer(d: Dom0) -> int:
    """A domain to connect to."""
    return (1, 2, 3, 99)[int(d.rng.random() * 3.1)]


def bind(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_INTERDOMAIN, usually to a port that waits for Dom0."""
    fd, x, opened = d.fd_of(proc, "evtchn")
    waiting = [
        (domid, n)
        for domid, guest in d.b.rig.xen.domains.items()
        if domid < 4
        for n, port in guest.events.ports.items()
        if port.state == 1 and port.remote_domid == 0
    ]
    dom, port = _peer(d), 1 + int(d.rng.random() * d.b.spec_state.size.ports)
    if waiting and d.rng.random() < 0.85:
        dom, port = waiting[int(d.rng.random() * len(waiting))]
    code, made, _ = _event(d, proc, fd, c.EVTCHN_BIND_INTERDOMAIN, c.TWO.pack(dom, port))
    d.rule(
        "evtchn_bind", {"p": proc.space, "x": x, "dom": d.b.spec_state.domain(dom), "o": port - 1} | _made(code, made), code
    )
    _tight(d, opened)
    return f"evtchn bind to d{dom} port {port}: {code}"


def bind_unbound(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_UNBOUND_PORT."""
    fd, x, opened = d.fd_of(proc, "evtchn")
    dom = _peer(d)
    code, made, _ = _event(d, proc, fd, c.EVTCHN_BIND_UNBOUND_PORT, abi.U32.pack(dom))
    d.rule("evtchn_bind_unbound", {"p": proc.space, "x": x, "dom": d.b.spec_state.domain(dom)} | _made(code, made), code)
    _tight(d, opened)
    return f"evtchn bind_unbound for d{dom}: {code}"


def _tight(d: Dom0, opened: Opened | None) -> None:
    """Closed ports' numbers take space in a ring; sometimes simulate this by a smaller ring."""
    device = opened.file.device if opened is not None else None
    if isinstance(device, Evtchn) and d.rng.random() < 0.2:
        device.ring_size = max(1, len(device.ports) - 1)


def _made(code: str, port: int) -> dict[str, int]:
    """The port that was picked, if one was."""
    return {"q_q": port - 1} if code == OKAY else {}


def _event(d: Dom0, proc: Proc, fd: int, cmd: int, payload: bytes) -> tuple[str, int, bytes]:
    d.own_event = True
    done = proc.ioctl(fd, cmd, payload)
    d.own_event = False
    return done


def unbind(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_UNBIND; a notice that holds the port keeps it open."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    port = _port(d)
    d.unbinding = {"p": proc.space, "x": x}
    code, _, _ = _event(d, proc, fd, c.EVTCHN_UNBIND, abi.U32.pack(port))
    d.unbinding = None
    if code != OKAY:  # on success, the rule step was taken when the file unbound it
        d.rule("evtchn_unbind", {"p": proc.space, "x": x, "q": port - 1}, code)
    elif port in d.kernel.evtchn_holds:
        d.rule("close_left_open", {"q": port - 1}, "EBUSY")
    return f"evtchn unbind {port}: {code}"


def ring(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_NOTIFY."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    port = _port(d)
    code, _, _ = _event(d, proc, fd, c.EVTCHN_NOTIFY, abi.U32.pack(port))
    d.rule("evtchn_notify", {"p": proc.space, "x": x, "q": port - 1}, code)
    return f"evtchn notify {port}: {code}"


def restrict_events(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_RESTRICT_DOMID, sometimes to Dom0 or to a reserved number."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    dom = _peer(d)
    if d.rng.random() < 0.6:
        dom = (0, abi.DOMID_FIRST_RESERVED, 0xFFFF)[int(d.rng.random() * 3)]
    code, _, _ = proc.ioctl(fd, c.EVTCHN_RESTRICT_DOMID, abi.U16.pack(dom))
    reserved = code == "EINVAL" and dom >= abi.DOMID_FIRST_RESERVED
    d.rule(
        "evtchn_restrict", {"p": proc.space, "x": x, "dom": d.b.spec_state.domain(dom)}, code, "EINVAL" if reserved else None
    )
    if code == OKAY and dom >= abi.DOMID_FIRST_RESERVED:
        raise Mismatch(f"a file was restricted to {dom:#x}, which is no domain")
    return f"evtchn restrict to d{dom}: {code}"


def read_events(d: Dom0, proc: Proc) -> str:
    """poll() and read() of some or all pending ports; then, usually, write() to enable them again."""
    fd, x, opened = d.fd_of(proc, "evtchn")
    size = (4096, 4096, 4, 7, 8, 3)[int(d.rng.random() * 6)]
    asleep = d.rng.random() < 0.3
    if opened is not None:
        opened.file.nonblock = not asleep
    _poll(d, proc, fd, x, opened)
    ports: list[int] = []
    sleeps = False
    try:
        raw = proc.sys.read(fd, size)
        ports = [abi.U32.unpack_from(raw, i)[0] for i in range(0, len(raw), 4)]
        code = OKAY
    except KernelError as error:
        code, sleeps = errno.errorcode[error.code], isinstance(error, WouldSleep)
    device = opened.file.device if opened is not None else None
    if sleeps != (asleep and code == "EAGAIN" and isinstance(device, Evtchn)):
        raise Mismatch(f"a read that {'may' if asleep else 'may not'} sleep {'does' if sleeps else 'does not'}: {code}")
    if isinstance(device, Evtchn) and size < 4 and (code, ports) != (OKAY, []):
        raise Mismatch(f"a read of {size} bytes answered {code} {ports}")
    if len(ports) > size // 4 or (isinstance(device, Evtchn) and code == OKAY and size >= 4 and not ports):
        raise Mismatch(f"a read of {size} bytes gave {len(ports)} ports")
    overflow = isinstance(device, Evtchn) and device.overflow
    if code != OKAY and d.b.rules_on:
        for q in range(d.b.spec_state.size.ports):  # none of them may be read
            d.rule(
                "evtchn_read",
                {"p": proc.space, "x": x, "q": q, "again": 0},
                code,
                "EFBIG" if overflow and code == "EFBIG" else None,
            )
    left = device.ring if isinstance(device, Evtchn) else []
    for n, port in enumerate(ports):
        again = port in ports[n + 1 :] or port in left
        d.rule("evtchn_read", {"p": proc.space, "x": x, "q": port - 1, "again": int(again)})
    for port in ports if d.rng.random() < 0.5 else ():
        _write_back(d, proc, fd, x, port)
    if opened is None or d.rng.random() < 0.2:
        _write_back(d, proc, fd, x, _port(d))
    if overflow and d.rng.random() < 0.5:
        return empty(d, proc)
    return f"evtchn read of {size}: {ports}, {code}"


def _poll(d: Dom0, proc: Proc, fd: int, x: int, opened: Opened | None) -> None:
    try:
        events = proc.sys.poll(fd)
        code = "EFBIG" if events == POLLERR else OKAY if events & POLLIN else "EAGAIN"
    except KernelError as error:
        code = errno.errorcode[error.code]
    device = opened.file.device if opened is not None else None
    d.rule(
        "evtchn_poll",
        {"p": proc.space, "x": x},
        code,
        "EFBIG" if code == "EFBIG" and isinstance(device, Evtchn) and device.overflow else None,
    )


def empty(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_RESET."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    code, _, _ = proc.ioctl(fd, c.EVTCHN_RESET, b"")
    d.rule("evtchn_empty", {"p": proc.space, "x": x}, code)
    return f"evtchn reset: {code}"


def _write_back(d: Dom0, proc: Proc, fd: int, x: int, port: int) -> None:
    odd = int(d.rng.random() * 4)  # a partial port number
    try:
        size = proc.sys.write(fd, abi.U32.pack(port) + bytes(odd))
        code = OKAY
        if size != 4:
            raise Mismatch(f"a write of {4 + odd} bytes answered {size}")
    except KernelError as error:
        code = errno.errorcode[error.code]
    d.rule("evtchn_write", {"p": proc.space, "x": x, "q": port - 1}, code)


# The control device.


def privcmd(d: Dom0, proc: Proc) -> str:
    """One call on privcmd; its mappings are soon unmapped, so that guests can be destroyed."""
    x = d.rng.random()
    if proc.slots and x < 0.5:
        first, count = next(iter(proc.slots.values())).area
        proc.sys.munmap(first << 12, count)
        return f"munmap {first:#x}"
    if x < 0.12:
        return restrict(d, proc)
    if x < 0.45:
        return mmapbatch(d, proc)
    return populate(d, proc) if x < 0.6 else alloc_unbound(d, proc) if x < 0.7 else control(d, proc)


def restrict(d: Dom0, proc: Proc) -> str:
    """IOCTL_PRIVCMD_RESTRICT; the toolstack's own file stays unrestricted."""
    fd, x, opened = d.fd_of(proc, "privcmd")
    if opened is d.tools_file:
        return ""
    dom = (1, 1, 2, 99)[int(d.rng.random() * 4)]
    code, _, _ = proc.ioctl(fd, c.PRIVCMD_RESTRICT, abi.U16.pack(dom))
    d.rule("privcmd_restrict", {"p": proc.space, "x": x, "dom": d.b.spec_state.domain(dom)}, code)
    return f"privcmd restrict to d{dom}: {code}"


def mmapbatch(d: Dom0, proc: Proc) -> str:
    """mmap of the device and IOCTL_PRIVCMD_MMAPBATCH_V2: any page of a guest.

    The first batch must cover the whole area; later ones may fill empty pages.
    """
    fd, x, opened = d.fd_of(proc, "privcmd")
    if opened is None:
        return f"privcmd mmapbatch: {_batch(d, proc, fd, x, None, proc.arg, 1, False)[0]}"
    count = 1 + int(d.rng.random() * 2)
    if len(proc.slots) + count > MOST_SLOTS:
        return ""
    writable = d.rng.random() < 0.5
    code, addr = proc.mmap(fd, 0, writable, count)
    if code != OKAY:
        raise Mismatch(f"mmap of privcmd answered {code}")
    _wrong_batches(proc, fd, addr, count, first=True)
    area = (addr >> 12, count)
    code, failed = _batch(d, proc, fd, x, area, addr, count, writable)
    if code == OKAY and failed:
        _wrong_batches(proc, fd, addr, count, filled=len(failed) < count)
        if d.rng.random() < 0.7:  # the holes may be filled, one by one
            for page in failed:
                _batch(d, proc, fd, x, area, addr + (page << 12), 1, writable)
    mine = [slot for slot in proc.slots.values() if slot.area == area]
    if mine and count > 1:
        refuse_part(proc, addr)
    if not mine:
        proc.sys.munmap(addr, count)
    return f"privcmd mmapbatch of {count}: {code}"


def refuse_part(proc: Proc, addr: int) -> None:
    """Check that no part of an area of privcmd can be unmapped, changed or moved."""
    for call in (
        lambda: proc.sys.munmap(addr, 1),
        lambda: proc.sys.mremap(addr, 2, 1),
        lambda: proc.sys.mprotect(addr, 1, 1 if proc.slots_at(addr).writable else 3),
    ):
        try:
            call()
        except KernelError as error:
            if error.code == abi.EINVAL:
                continue
        raise Mismatch("a part of an area of privcmd was unmapped, moved or changed")


def _wrong_batches(proc: Proc, fd: int, addr: int, count: int, first: bool = False, filled: bool = False) -> None:
    """Batches that do not fit the area: the `first` one must not omit a page, and a `filled` page is never filled
    again. They set all errors to 0 before they are refused."""
    at = proc.arg
    wrong = [(addr, count + 1), (addr + 1, count)]
    below = proc.process.space.find((addr >> 12) - 1)
    if below is None or below.start == addr >> 12:
        wrong.append((addr - 4096, count))
    if first and count > 1:
        wrong.append((addr + 4096, count - 1))
    if filled:
        wrong.append((addr, count))
    for start, number in wrong:
        proc.sys.store(at, c.MMAPBATCH_V2.pack(number, 99, 0, start, at + 64, at + 96).ljust(96, b"\0") + b"\7" * 16)
        try:
            proc.sys.ioctl(fd, c.PRIVCMD_MMAPBATCH_V2, at)
            code = OKAY
        except KernelError as error:
            code = errno.errorcode[error.code]
        zeroed = proc.sys.load(at + 96, 4 * number) == bytes(4 * number)
        if code not in ("EINVAL", "EPERM") or zeroed != (code == "EINVAL"):
            raise Mismatch(f"a batch of {number} pages at {start:#x}, area {addr:#x} of {count}: {code}")


def _batch(
    d: Dom0, proc: Proc, fd: int, x: int, area: tuple[int, int] | None, addr: int, count: int, writable: bool
) -> tuple[str, list[int]]:
    """A batch of pages, usually of one guest: errno's name or okay, and the failed pages."""
    b, sh = d.b, d.b.spec_state
    guests = list(b.rig.guests.values())
    dom, gfns = 99, [0x7FFFFFFF] * count
    if guests and d.rng.random() < 0.95:
        guest = guests[int(d.rng.random() * len(guests))]
        pages = [*guest.pool, *guest.fixed]
        dom = guest.domid
        gfns = [pages[int(d.rng.random() * len(pages))] if d.rng.random() < 0.85 else 0x7FFFFFFF for _ in gfns]
    at = proc.arg
    payload = c.MMAPBATCH_V2.pack(count, dom, 0, addr, at + 64, at + 96).ljust(64, b"\0")
    payload += b"".join(abi.U64.pack(gfn) for gfn in gfns).ljust(32, b"\0") + b"\7" * 4 * count
    code, _, raw = proc.ioctl(fd, c.PRIVCMD_MMAPBATCH_V2, payload)
    errors = [c.S32.unpack_from(raw, 96 + 4 * i)[0] if code == OKAY else 0 for i in range(count)]
    failed = []
    for i, (gfn, error) in enumerate(zip(gfns, errors, strict=True)):
        answer = "EFAULT" if error else code  # in Linux one errno per page, and 0 for the call
        t = sh.free_translation() if b.rules_on else 0
        domain = b.rig.xen.domains.get(dom)
        table = bool(error) and writable and domain is not None and b.is_table(gfn)
        d.rule(
            "privcmd_mmapbatch",
            {
                "p": proc.space,
                "x": x,
                "dom": sh.domain(dom),
                "f": sh.frame(gfn),
                "writable": int(writable),
                "t_t": t,
                "t_nil": sh.size.handles - 1,
            },
            answer,
            "EFAULT" if table else None,
        )
        if answer == OKAY and area is not None:
            vpn = (addr >> 12) + i
            proc.slots[vpn] = Slot("foreign", vpn, writable, t, maddr=proc.process.space.pte_maddr(vpn), area=area)
        else:
            failed.append(i)
    return code, failed


def _hypercall(d: Dom0, proc: Proc, fd: int, number: int, args: tuple[int, ...], at: int, payload: bytes) -> tuple[str, int]:
    """IOCTL_PRIVCMD_HYPERCALL on the process's own bytes."""
    proc.sys.store(proc.arg + at, payload)
    words = [*args, 0, 0, 0, 0, 0][:5]
    code, rc, _ = proc.ioctl(fd, c.PRIVCMD_HYPERCALL, c.HYPERCALL.pack(number, *words))
    return code, rc


def control(d: Dom0, proc: Proc) -> str:
    """A domctl by a process that has no effect, because the descriptor or the domain is wrong."""
    fd, x, opened = d.fd_of(proc, "privcmd")
    b, sh = d.b, d.b.spec_state
    name = list(CONTROL)[int(d.rng.random() * 4)]
    device = opened.file.device if opened is not None else None
    powerless = device is None or getattr(device, "domid", 0) != abi.DOMID_INVALID
    domid = (0, 99)[int(d.rng.random() * 2)]
    if powerless:
        domid = 1
    elif name == "createdomain":
        free = [n for n in (1, 2, 3) if n not in b.rig.xen.domains]
        if b.rig.xen.frames.free_count > 1 or not free:
            return ""
        domid = free[0]
    elif name == "destroydomain":
        dead = [n for n, other in b.rig.xen.domains.items() if other.is_dying == DEAD]
        domid = dead[0] if dead and d.rng.random() < 0.8 else domid
    body = abi.CREATEDOMAIN.pack(0, bytes(16), 0, 0, 2, sh.size.ports, 3, 1, 2, 0, 0, 0, 0)
    body = body if name == "createdomain" else b""
    raw = abi.DOMCTL_HEADER.pack(CONTROL[name], abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0) + body
    code, _ = _hypercall(d, proc, fd, abi.HYPERVISOR_DOMCTL, (proc.arg + 256,), 256, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
    args = {"p": proc.space, "x": x} | ({} if name == "createdomain" else {"d": sh.domain(domid)})
    if name == "createdomain" and code == "ENOMEM":
        sh.count("privcmd_createdomain", "ENOMEM")
    else:
        d.rule(f"privcmd_{name}", args, code)
    return f"privcmd {name} d{domid}: {code}"


def alloc_unbound(d: Dom0, proc: Proc) -> str:
    """EVTCHNOP_alloc_unbound in another domain's table, as a builder does it."""
    fd, x, _ = d.fd_of(proc, "privcmd")
    ids = [n for n in d.b.rig.xen.domains if n]
    domid = ids[int(d.rng.random() * len(ids))] if ids and d.rng.random() < 0.9 else 99
    remote = _peer(d)
    at = proc.arg + 256
    d.own_event = True
    code, _ = _hypercall(
        d,
        proc,
        fd,
        abi.HYPERVISOR_EVENT_CHANNEL_OP,
        (abi.EVTCHNOP_ALLOC_UNBOUND, at),
        256,
        TWO_DOMIDS.pack(domid, remote, 0),
    )
    d.own_event = False
    made = TWO_DOMIDS.unpack(proc.sys.load(at, 8))[2]
    sh = d.b.spec_state
    d.rule(
        "privcmd_alloc_unbound",
        {"p": proc.space, "x": x, "d": sh.domain(domid), "remote": sh.domain(remote)} | _made(code, made),
        code,
    )
    return f"privcmd alloc_unbound in d{domid} for d{remote}: {code}"


def populate(d: Dom0, proc: Proc) -> str:
    """XENMEM_populate_physmap for a guest, by a process."""
    fd, x, _ = d.fd_of(proc, "privcmd")
    b, sh = d.b, d.b.spec_state
    ids = [n for n in b.rig.xen.domains if n]
    domid = ids[int(d.rng.random() * len(ids))] if ids and d.rng.random() < 0.9 else 99
    at = proc.arg + 256
    payload = abi.MEMORY_RESERVATION.pack(at + 64, 1, 0, 0, domid, 0, 0).ljust(64, b"\0") + abi.U64.pack(0x1000)
    code, done = _hypercall(d, proc, fd, abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_POPULATE_PHYSMAP, at), 256, payload)
    args = {"p": proc.space, "x": x, "d": sh.domain(domid)}
    if code != OKAY:
        d.rule("privcmd_populate_physmap", args, code)
    elif not done:  # for any error in an extent, Xen returns the number of extents before it
        domain = b.rig.xen.domains.get(domid)
        alive = domain is not None and domain.is_dying == ALIVE
        full = domain is not None and (domain.tot_pages >= domain.max_pages or not b.rig.xen.frames.free_count)
        if alive and not full:
            raise Mismatch("populate_physmap stopped although the heap and the limit have room")
        if d.rule("privcmd_populate_physmap", args, ANY, "ENOMEM" if alive else None) == OKAY and b.rules_on:
            raise Mismatch("populate_physmap: the rules say okay, the implementation gave nothing")
    else:
        mfn = abi.U64.unpack(proc.sys.load(at + 64, 8))[0]
        if b.rules_on:
            b.make_free(sh.frame(mfn))
            d.rule("privcmd_populate_physmap", {**args, "f_f": sh.frame(mfn), "f_e": sh.free_epoch()})
            b.touched_frames.add(sh.frame(mfn))
    return f"privcmd populate_physmap d{domid}: {code} {done}"


MOVES = (
    (8, bind),
    (6, bind_unbound),
    (7, ring),
    (5, unbind),
    (3, restrict_events),
    (6, read_events),
    (1.5, restrict),
    (1.5, empty),
    (3, mmapbatch),
    (2, populate),
    (3, control),
    (1.5, alloc_unbound),
)
