"""Calls of a Dom0 process on /dev/xen/evtchn and /dev/xen/privcmd: event channels, foreign mappings, raw domctls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0 import ioctl_control as c
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DEAD
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.dom0_state import Proc, Slot
from bulkhead.proofs.refinement.lockstep.spec_state import ANY, Mismatch

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

CONTROL = {"createdomain": abi.DOMCTL_CREATEDOMAIN, "pausedomain": abi.DOMCTL_PAUSEDOMAIN,
           "unpausedomain": abi.DOMCTL_UNPAUSEDOMAIN, "destroydomain": abi.DOMCTL_DESTROYDOMAIN}


# Event channels.

def _port(d: Dom0) -> int:
    """A port of Dom0: mostly one that a process has bound."""
    ports = list(d.kernel.evtchn_users)
    if ports and d.rng.random() < 0.93:
        return ports[int(d.rng.random() * len(ports))]
    return 1 + int(d.rng.random() * d.b.shadow.size.ports)


def _peer(d: Dom0) -> int:
    """A domain to connect with."""
    return (1, 2, 3, 99)[int(d.rng.random() * 3.1)]


def bind(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_INTERDOMAIN, mostly to a port that waits for Dom0."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    waiting = [(domid, n) for domid, guest in d.b.rig.xen.domains.items() if domid < 4
               for n, port in guest.events.ports.items() if port.state == 1 and port.remote_domid == 0]
    dom, port = _peer(d), 1 + int(d.rng.random() * d.b.shadow.size.ports)
    if waiting and d.rng.random() < 0.85:
        dom, port = waiting[int(d.rng.random() * len(waiting))]
    code, made, _ = _event(d, proc, fd, c.EVTCHN_BIND_INTERDOMAIN, c.TWO.pack(dom, port))
    d.rule("evtchn_bind", {"p": proc.space, "x": x, "dom": d.b.shadow.domain(dom), "o": port - 1} | _made(code, made), code)
    return f"evtchn bind to d{dom} port {port}: {code}"


def bind_unbound(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_BIND_UNBOUND_PORT."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    dom = _peer(d)
    code, made, _ = _event(d, proc, fd, c.EVTCHN_BIND_UNBOUND_PORT, abi.U32.pack(dom))
    d.rule("evtchn_bind_unbound", {"p": proc.space, "x": x, "dom": d.b.shadow.domain(dom)} | _made(code, made), code)
    return f"evtchn bind_unbound for d{dom}: {code}"


def _made(code: str, port: int) -> dict[str, int]:
    """The port that was picked, if one was."""
    return {"q_q": port - 1} if code == OKAY else {}


def _event(d: Dom0, proc: Proc, fd: int, cmd: int, payload: bytes) -> tuple[str, int, bytes]:
    d.own_event = True
    done = proc.ioctl(fd, cmd, payload)
    d.own_event = False
    return done


def unbind(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_UNBIND."""
    return _on_port(d, proc, "unbind", c.EVTCHN_UNBIND)


def ring(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_NOTIFY."""
    return _on_port(d, proc, "notify", c.EVTCHN_NOTIFY)


def _on_port(d: Dom0, proc: Proc, name: str, cmd: int) -> str:
    fd, x, _ = d.fd_of(proc, "evtchn")
    port = _port(d)
    code, _, _ = _event(d, proc, fd, cmd, abi.U32.pack(port))
    d.rule(f"evtchn_{name}", {"p": proc.space, "x": x, "q": port - 1}, code)
    return f"evtchn {name} {port}: {code}"


def restrict_events(d: Dom0, proc: Proc) -> str:
    """IOCTL_EVTCHN_RESTRICT_DOMID."""
    fd, x, _ = d.fd_of(proc, "evtchn")
    dom = _peer(d)
    code, _, _ = proc.ioctl(fd, c.EVTCHN_RESTRICT_DOMID, abi.U16.pack(dom))
    d.rule("evtchn_restrict", {"p": proc.space, "x": x, "dom": d.b.shadow.domain(dom)}, code)
    return f"evtchn restrict to d{dom}: {code}"


def read_events(d: Dom0, proc: Proc) -> str:
    """read(): every port that rang; then, mostly, write() them back."""
    fd, x, opened = d.fd_of(proc, "evtchn")
    ports: list[int] = []
    try:
        raw = proc.sys.read(fd, 4096)
        ports = [abi.U32.unpack_from(raw, i)[0] for i in range(0, len(raw), 4)]
        code = OKAY
    except KernelError as error:
        code = {abi.EBADF: "EBADF", abi.EINVAL: "EINVAL", abi.EAGAIN: "EAGAIN"}.get(error.code, str(error.code))
    if code != OKAY and d.b.rules_on:
        for q in range(d.b.shadow.size.ports):  # not one of them may be read
            d.rule("evtchn_read", {"p": proc.space, "x": x, "q": q}, code)
    for port in ports:
        d.rule("evtchn_read", {"p": proc.space, "x": x, "q": port - 1})
    for port in ports if d.rng.random() < 0.5 else ():
        _write_back(d, proc, fd, x, port)
    if opened is None or d.rng.random() < 0.2:
        _write_back(d, proc, fd, x, _port(d))
    return f"evtchn read {ports}: {code}"


def _write_back(d: Dom0, proc: Proc, fd: int, x: int, port: int) -> None:
    try:
        proc.sys.write(fd, abi.U32.pack(port))
        code = OKAY
    except KernelError as error:
        code = {abi.EBADF: "EBADF", abi.EINVAL: "EINVAL"}.get(error.code, str(error.code))
    d.rule("evtchn_write", {"p": proc.space, "x": x, "q": port - 1}, code)


# The control device.

def privcmd(d: Dom0, proc: Proc) -> str:
    """One call on privcmd; what it maps it soon unmaps, so that guests can go."""
    x = d.rng.random()
    if proc.slots and x < 0.5:
        vpn = next(iter(proc.slots))
        proc.sys.munmap(vpn << 12, 1)
        return f"munmap {vpn:#x}"
    if x < 0.12:
        return restrict(d, proc)
    if x < 0.45:
        return mmapbatch(d, proc)
    return populate(d, proc) if x < 0.6 else alloc_unbound(d, proc) if x < 0.7 else control(d, proc)


def restrict(d: Dom0, proc: Proc) -> str:
    """IOCTL_PRIVCMD_RESTRICT; the toolstack's own file stays as it is."""
    fd, x, opened = d.fd_of(proc, "privcmd")
    if opened is d.tools_file:
        return ""
    dom = (1, 1, 2, 99)[int(d.rng.random() * 4)]
    code, _, _ = proc.ioctl(fd, c.PRIVCMD_RESTRICT, abi.U16.pack(dom))
    d.rule("privcmd_restrict", {"p": proc.space, "x": x, "dom": d.b.shadow.domain(dom)}, code)
    return f"privcmd restrict to d{dom}: {code}"


def mmapbatch(d: Dom0, proc: Proc) -> str:
    """mmap of the device and IOCTL_PRIVCMD_MMAPBATCH_V2 of one page: any page of a guest."""
    fd, x, opened = d.fd_of(proc, "privcmd")
    b, sh = d.b, d.b.shadow
    guests = list(b.rig.guests.values())
    dom, gfn = 99, 0x7FFFFFFF
    if guests and d.rng.random() < 0.95:
        guest = guests[int(d.rng.random() * len(guests))]
        pages = [*guest.pool, *guest.fixed]
        dom, gfn = guest.domid, pages[int(d.rng.random() * len(pages))]
        if d.rng.random() < 0.1:
            gfn = 0x7FFFFFFF
    writable = d.rng.random() < 0.5
    addr = proc.arg
    if opened is not None:
        if len(proc.slots) >= 4:
            return ""
        code, addr = proc.mmap(fd, 0, writable)
        if code != OKAY:
            raise Mismatch(f"mmap of privcmd answered {code}")
    at = proc.arg
    payload = c.MMAPBATCH_V2.pack(1, dom, 0, addr, at + 64, at + 72).ljust(64, b"\0") + abi.U64.pack(gfn) + bytes(4)
    code, _, raw = proc.ioctl(fd, c.PRIVCMD_MMAPBATCH_V2, payload)
    failed = c.S32.unpack_from(raw, 72)[0] if code == OKAY else 0
    if failed:
        code = "EFAULT"  # in Linux an errno of its own for each page, and 0 for the call
    t = sh.free_translation() if b.rules_on else 0
    domain = b.rig.xen.domains.get(dom)
    table = bool(failed) and writable and domain is not None and b.is_table(gfn)
    d.rule("privcmd_mmapbatch", {"p": proc.space, "x": x, "dom": sh.domain(dom), "f": sh.frame(gfn),
                                 "writable": int(writable), "t_t": t, "t_nil": sh.size.handles - 1}, code,
           "EFAULT" if table else None)
    if code == OKAY:
        vpn = addr >> 12
        proc.slots[vpn] = Slot("foreign", vpn, writable, t, maddr=proc.process.space.pte_maddr(vpn))
    elif opened is not None:
        proc.sys.munmap(addr, 1)
    return f"privcmd mmapbatch d{dom} {gfn:#x}: {code}"


def _hypercall(d: Dom0, proc: Proc, fd: int, number: int, args: tuple[int, ...], at: int, payload: bytes) -> tuple[str, int]:
    """IOCTL_PRIVCMD_HYPERCALL on bytes of the process's own."""
    proc.sys.store(proc.arg + at, payload)
    words = [*args, 0, 0, 0, 0, 0][:5]
    code, rc, _ = proc.ioctl(fd, c.PRIVCMD_HYPERCALL, c.HYPERCALL.pack(number, *words))
    return code, rc


def control(d: Dom0, proc: Proc) -> str:
    """A domctl by a process: without effect, as the descriptor or the domain is not the right one."""
    fd, x, opened = d.fd_of(proc, "privcmd")
    b, sh = d.b, d.b.shadow
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
    code, _ = _hypercall(d, proc, fd, abi.HYPERVISOR_EVENT_CHANNEL_OP, (abi.EVTCHNOP_ALLOC_UNBOUND, at), 256,
                         TWO_DOMIDS.pack(domid, remote, 0))
    d.own_event = False
    made = TWO_DOMIDS.unpack(proc.sys.load(at, 8))[2]
    sh = d.b.shadow
    d.rule("privcmd_alloc_unbound", {"p": proc.space, "x": x, "d": sh.domain(domid), "remote": sh.domain(remote)}
           | _made(code, made), code)
    return f"privcmd alloc_unbound in d{domid} for d{remote}: {code}"


def populate(d: Dom0, proc: Proc) -> str:
    """XENMEM_populate_physmap for a guest, by a process."""
    fd, x, _ = d.fd_of(proc, "privcmd")
    b, sh = d.b, d.b.shadow
    ids = [n for n in b.rig.xen.domains if n]
    domid = ids[int(d.rng.random() * len(ids))] if ids and d.rng.random() < 0.9 else 99
    at = proc.arg + 256
    payload = abi.MEMORY_RESERVATION.pack(at + 64, 1, 0, 0, domid, 0, 0).ljust(64, b"\0") + abi.U64.pack(0x1000)
    code, done = _hypercall(d, proc, fd, abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_POPULATE_PHYSMAP, at), 256, payload)
    args = {"p": proc.space, "x": x, "d": sh.domain(domid)}
    if code != OKAY:
        d.rule("privcmd_populate_physmap", args, code)
    elif not done:  # whatever is wrong with an extent, Xen answers with the number of those before it
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


MOVES = ((8, bind), (6, bind_unbound), (7, ring), (3, unbind), (1, restrict_events), (6, read_events), (1.5, restrict),
         (3, mmapbatch), (2, populate), (3, control), (1.5, alloc_unbound))
