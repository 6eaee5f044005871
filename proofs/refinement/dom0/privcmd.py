"""Calls of a Dom0 process on /dev/xen/privcmd: foreign mappings, and raw hypercalls.

Each function executes one call and takes the corresponding rule steps. The rules do not cover that an area is filled
completely and once, and never changed in part; wrong batches and changes of parts are tried here. Not here: which
call is made (workload/).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from bulkhead.impl.dom0 import ioctl_control as c
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.dom0.evtchn import made
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Proc, Slot
from bulkhead.proofs.refinement.lockstep.follow_physmap import unknown_pages
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch

CONTROL = {
    "createdomain": abi.DOMCTL_CREATEDOMAIN,
    "pausedomain": abi.DOMCTL_PAUSEDOMAIN,
    "unpausedomain": abi.DOMCTL_UNPAUSEDOMAIN,
    "destroydomain": abi.DOMCTL_DESTROYDOMAIN,
}


def restrict(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_PRIVCMD_RESTRICT: {fd, dom}."""
    x, _ = d.file(proc, a["fd"], "privcmd")
    code, _, _ = proc.ioctl(a["fd"], c.PRIVCMD_RESTRICT, abi.U16.pack(a["dom"]))
    d.rule("privcmd_restrict", {"p": proc.space, "x": x, "dom": d.lockstep.spec_state.domain(a["dom"])}, code)
    return Answer(code)


def mmap(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """mmap of privcmd: {fd, count, writable}; it only reserves an area. Returns its address."""
    fd, count = a["fd"], a["count"]
    code, addr = proc.mmap(fd, 0, a["writable"], count)
    if code != OKAY:
        raise Mismatch(f"mmap of privcmd answered {code}")
    _wrong_batches(proc, fd, addr, count, first=True)
    return Answer(code, addr)


def mmapbatch(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_PRIVCMD_MMAPBATCH_V2: {fd, addr, dom, gfns}; returns the failed ones.

    The first batch must cover the whole area; later ones may fill empty pages.
    """
    fd, addr, dom, gfns = a["fd"], a["addr"], a["dom"], a["gfns"]
    x, opened = d.file(proc, fd, "privcmd")
    vma = proc.process.space.find(addr >> 12) if opened is not None else None
    area = None if vma is None else (vma.start, vma.end - vma.start)
    writable = vma is not None and vma.writable
    lockstep, spec = d.lockstep, d.lockstep.spec_state
    count, at = len(gfns), proc.arg
    payload = c.MMAPBATCH_V2.pack(count, dom, 0, addr, at + 64, at + 96).ljust(64, b"\0")
    payload += b"".join(abi.U64.pack(gfn) for gfn in gfns).ljust(32, b"\0") + b"\7" * 4 * count
    code, _, raw = proc.ioctl(fd, c.PRIVCMD_MMAPBATCH_V2, payload)
    errors = [c.S32.unpack_from(raw, 96 + 4 * i)[0] if code == OKAY else 0 for i in range(count)]
    failed = []
    for i, (gfn, error) in enumerate(zip(gfns, errors, strict=True)):
        answer = "EFAULT" if error else code  # in Linux one errno per page, and 0 for the call
        t = spec.free_translation() if lockstep.rules_on else 0
        domain = lockstep.rig.xen.domains.get(dom)
        table = bool(error) and writable and domain is not None and lockstep.is_table(gfn)
        element = spec.frame(gfn) if domain is None else spec.named(domain, gfn)
        d.rule(
            "privcmd_mmapbatch",
            {
                "p": proc.space,
                "x": x,
                "dom": spec.domain(dom),
                "f": element,
                "writable": int(writable),
                "t_t": t,
                "t_nil": spec.size.handles - 1,
            },
            answer,
            "EFAULT" if table else None,
        )
        if answer == OKAY and area is not None:
            vpn = (addr >> 12) + i
            proc.slots[vpn] = Slot("foreign", vpn, writable, t, maddr=proc.process.space.pte_maddr(vpn), area=area)
        else:
            failed.append(i)
    if code == OKAY and failed and area == (addr >> 12, count):
        _wrong_batches(proc, fd, addr, count, filled=len(failed) < count)
    return Answer(code, failed)


def change_part(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """munmap, mremap and mprotect of a part of an area of privcmd: {addr} is its start. All are refused."""
    addr = a["addr"]
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
    return Answer("EINVAL")


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


def _hypercall(d: Dom0, proc: Proc, fd: int, number: int, args: tuple[int, ...], at: int, payload: bytes) -> tuple[str, int]:
    """IOCTL_PRIVCMD_HYPERCALL on the process's own bytes."""
    proc.sys.store(proc.arg + at, payload)
    words = [*args, 0, 0, 0, 0, 0][:5]
    code, rc, _ = proc.ioctl(fd, c.PRIVCMD_HYPERCALL, c.HYPERCALL.pack(number, *words))
    return code, rc


def domctl(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """A domctl by a process: {fd, command, domid}."""
    name, domid, spec = a["command"], a["domid"], d.lockstep.spec_state
    x, _ = d.file(proc, a["fd"], "privcmd")
    body = abi.CREATEDOMAIN.pack(0, bytes(16), 0, 0, 2, spec.size.ports, 3, 1, 2, 0, 0, 0, 0)
    body = body if name == "createdomain" else b""
    raw = abi.DOMCTL_HEADER.pack(CONTROL[name], abi.DOMCTL_INTERFACE_VERSION, domid, 0, 0, 0) + body
    code, _ = _hypercall(d, proc, a["fd"], abi.HYPERVISOR_DOMCTL, (proc.arg + 256,), 256, raw.ljust(abi.DOMCTL_SIZE, b"\0"))
    args = {"p": proc.space, "x": x} | ({"hvm": 0} if name == "createdomain" else {"d": spec.domain(domid)})
    if name == "createdomain" and code == "ENOMEM":
        spec.count("privcmd_createdomain", "ENOMEM")
    else:
        d.rule(f"privcmd_{name}", args, code)
    return Answer(code)


def alloc_unbound(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """EVTCHNOP_alloc_unbound in another domain's table, as a builder does it: {fd, dom, remote}; returns a port."""
    domid, remote = a["dom"], a["remote"]
    x, _ = d.file(proc, a["fd"], "privcmd")
    at = proc.arg + 256
    args = (abi.EVTCHNOP_ALLOC_UNBOUND, at)
    d.own_event = True
    code, _ = _hypercall(d, proc, a["fd"], abi.HYPERVISOR_EVENT_CHANNEL_OP, args, 256, TWO_DOMIDS.pack(domid, remote, 0))
    d.own_event = False
    port = TWO_DOMIDS.unpack(proc.sys.load(at, 8))[2]
    spec = d.lockstep.spec_state
    d.rule(
        "privcmd_alloc_unbound",
        {"p": proc.space, "x": x, "d": spec.domain(domid), "remote": 0 if remote == abi.DOMID_SELF else spec.domain(remote)}
        | made(code, port),
        code,
    )
    return Answer(code, port if code == OKAY else None)


def populate_physmap(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """XENMEM_populate_physmap for a guest, by a process: {fd, dom, gfn}; returns the number of pages.

    `gfn` is the guest frame number of a translated guest."""
    lockstep, spec, domid = d.lockstep, d.lockstep.spec_state, a["dom"]
    x, _ = d.file(proc, a["fd"], "privcmd")
    at = proc.arg + 256
    payload = abi.MEMORY_RESERVATION.pack(at + 64, 1, 0, 0, domid, 0, 0).ljust(64, b"\0") + abi.U64.pack(a["gfn"])
    domain = lockstep.rig.xen.domains.get(domid)
    code, done = _hypercall(d, proc, a["fd"], abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_POPULATE_PHYSMAP, at), 256, payload)
    args, rule = {"p": proc.space, "x": x, "d": spec.domain(domid)}, "privcmd_populate_physmap"
    if lockstep.rules_on and domain is not None and domain.external:
        args |= {"space": domid, "t": spec.number(domain, a["gfn"]), "nil": spec.size.handles - 1}
        rule = "privcmd_populate_physmap_at"
    new = [] if domain is None or not domid else unknown_pages(spec, domain) if lockstep.rules_on else list(range(done))
    if code != OKAY:
        d.rule(rule, args, code)
    elif not new:  # for any error in an extent, Xen returns the number of extents before it
        alive = domain is not None and domain.is_dying == ALIVE
        full = domain is not None and (domain.tot_pages >= domain.max_pages or not lockstep.rig.xen.frames.free_count)
        if alive and not full:
            raise Mismatch("populate_physmap stopped although the heap and the limit have room")
        if d.rule(rule, args, ANY, "ENOMEM" if alive else None) == OKAY and lockstep.rules_on:
            raise Mismatch("populate_physmap: the rules say okay, the implementation gave nothing")
    elif lockstep.rules_on and domain is not None:
        element = spec.frame(new[0])
        lockstep.make_free(element)
        got = {"f_f": element, "f_e": spec.free_epoch()}
        if not done:
            raise Mismatch("populate_physmap gave a page, and says that it did not")
        d.rule(rule, {**args, **got})
        lockstep.touched_frames.add(element)
    return Answer(code, done)
