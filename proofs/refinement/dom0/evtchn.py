"""Calls of a Dom0 process on /dev/xen/evtchn: binding, sending and unbinding, and reads of its ring.

Each function executes one call and takes the corresponding rule steps. The rules do not cover the length of a read and
when it sleeps; these are computed here. Not here: which call is made (workload/).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from bulkhead.impl.dom0 import ioctl_control as c
from bulkhead.impl.dom0.evtchn import POLLERR, POLLIN, Evtchn
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.syscalls import WouldSleep
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Proc
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch


def _ioctl(d: Dom0, proc: Proc, fd: int, cmd: int, payload: bytes) -> tuple[str, int]:
    """An ioctl of the process: the kernel's actions on ports meanwhile belong to this call."""
    d.own_event = True
    code, rc, _ = proc.ioctl(fd, cmd, payload)
    d.own_event = False
    return code, rc


def made(code: str, port: int) -> dict[str, int]:
    """The port that was picked, if one was."""
    return {"q_q": port - 1} if code == OKAY else {}


def bind_interdomain(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_BIND_INTERDOMAIN: {fd, dom, port}; gives a port."""
    x, _ = d.file(proc, a["fd"], "evtchn")
    code, port = _ioctl(d, proc, a["fd"], c.EVTCHN_BIND_INTERDOMAIN, c.TWO.pack(a["dom"], a["port"]))
    args = {"p": proc.space, "x": x, "dom": d.lockstep.spec_state.domain(a["dom"]), "o": a["port"] - 1}
    d.rule("evtchn_bind", args | made(code, port), code)
    return Answer(code, port if code == OKAY else None)


def bind_unbound(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_BIND_UNBOUND_PORT: {fd, dom}; gives a port."""
    x, _ = d.file(proc, a["fd"], "evtchn")
    code, port = _ioctl(d, proc, a["fd"], c.EVTCHN_BIND_UNBOUND_PORT, abi.U32.pack(a["dom"]))
    args = {"p": proc.space, "x": x, "dom": d.lockstep.spec_state.domain(a["dom"])}
    d.rule("evtchn_bind_unbound", args | made(code, port), code)
    return Answer(code, port if code == OKAY else None)


def tighten(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """Closed ports' numbers take space in a ring: simulate this by a smaller ring of {fd}."""
    opened = proc.fds.get(a["fd"])
    device = opened.file.device if opened is not None else None
    if not isinstance(device, Evtchn):
        return NOT_DONE
    device.ring_size = max(1, len(device.ports) - 1)
    return Answer(OKAY)


def unbind(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_UNBIND: {fd, port}; a notice that holds the port keeps it open."""
    x, port = d.file(proc, a["fd"], "evtchn")[0], a["port"]
    d.unbinding = {"p": proc.space, "x": x}
    code, _ = _ioctl(d, proc, a["fd"], c.EVTCHN_UNBIND, abi.U32.pack(port))
    d.unbinding = None
    if code != OKAY:  # on success, the rule step was taken when the file unbound it
        d.rule("evtchn_unbind", {"p": proc.space, "x": x, "q": port - 1}, code)
    elif port in d.kernel.evtchn_holds:
        d.rule("close_left_open", {"q": port - 1}, "EBUSY")
    return Answer(code)


def notify(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_NOTIFY: {fd, port}."""
    x, _ = d.file(proc, a["fd"], "evtchn")
    code, _ = _ioctl(d, proc, a["fd"], c.EVTCHN_NOTIFY, abi.U32.pack(a["port"]))
    d.rule("evtchn_notify", {"p": proc.space, "x": x, "q": a["port"] - 1}, code)
    return Answer(code)


def restrict(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_RESTRICT_DOMID: {fd, dom}; a reserved number is not a domain."""
    x, dom = d.file(proc, a["fd"], "evtchn")[0], a["dom"]
    code, _, _ = proc.ioctl(a["fd"], c.EVTCHN_RESTRICT_DOMID, abi.U16.pack(dom))
    reserved = code == "EINVAL" and dom >= abi.DOMID_FIRST_RESERVED
    d.rule(
        "evtchn_restrict",
        {"p": proc.space, "x": x, "dom": d.lockstep.spec_state.domain(dom)},
        code,
        "EINVAL" if reserved else None,
    )
    if code == OKAY and dom >= abi.DOMID_FIRST_RESERVED:
        raise Mismatch(f"a file was restricted to {dom:#x}, which is no domain")
    return Answer(code)


def poll(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """poll() of an event channel file: {fd}."""
    x, opened = d.file(proc, a["fd"], "evtchn")
    try:
        events = proc.sys.poll(a["fd"])
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
    return Answer(code)


def read(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """read() of pending ports: {fd, size, may_sleep}; returns them."""
    fd, size, asleep = a["fd"], a["size"], a["may_sleep"]
    x, opened = d.file(proc, fd, "evtchn")
    if opened is not None:
        opened.file.nonblock = not asleep
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
    if code != OKAY and d.lockstep.rules_on:
        for q in range(d.lockstep.spec_state.size.ports):  # none of them may be read
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
    return Answer(code, ports)


def write(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """write() of a port to enable it again: {fd, port}, with `odd` additional bytes, a partial port number."""
    fd, port, odd = a["fd"], a["port"], a["odd"]
    x, opened = d.file(proc, fd, "evtchn")
    if opened is not None and isinstance(opened.file.device, Evtchn):
        d.kernel.upcall()  # what came before the write is delivered before it
    told, late = d.kernel.delivered, list[int]()
    d.kernel.delivered = late.append  # the write enables the port, and then what came meanwhile is delivered
    try:
        size = proc.sys.write(fd, abi.U32.pack(port) + bytes(odd))
        code = OKAY
        if size != 4:
            raise Mismatch(f"a write of {4 + odd} bytes answered {size}")
    except KernelError as error:
        code = errno.errorcode[error.code]
    finally:
        d.kernel.delivered = told
    d.rule("evtchn_write", {"p": proc.space, "x": x, "q": port - 1}, code)
    if told is not None:
        for number in late:
            told(number)
    return Answer(code)


def reset(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """IOCTL_EVTCHN_RESET: {fd}; empties the ring."""
    x, _ = d.file(proc, a["fd"], "evtchn")
    code, _, _ = proc.ioctl(a["fd"], c.EVTCHN_RESET, b"")
    d.rule("evtchn_empty", {"p": proc.space, "x": x}, code)
    return Answer(code)
