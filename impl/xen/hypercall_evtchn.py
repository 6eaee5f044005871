"""Argument handling of event_channel_op (hypercall 32).

Contents: the operations' structs in guest memory. Not here: ports and their states (events.py).
Source: Xen common/event_channel.c do_event_channel_op, public/event_channel.h.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, events
from bulkhead.impl.xen.abi import EFAULT, EINVAL, ENOSYS, EOPNOTSUPP
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

TWO_DOMIDS = Struct("<HHI")
DOMID_PORT = Struct("<HHII")
STATUS_IN = Struct("<HHI")
OLD_SIZE = 28  # struct evtchn_op of Xen 3.0
STATUS_OUT = 8  # offsets of state, vcpu and the union
THREE = Struct("<III")
TWO = Struct("<II")
SIZES = {
    abi.EVTCHNOP_BIND_INTERDOMAIN: 12,
    abi.EVTCHNOP_BIND_VIRQ: 12,
    abi.EVTCHNOP_CLOSE: 4,
    abi.EVTCHNOP_SEND: 4,
    abi.EVTCHNOP_STATUS: 24,
    abi.EVTCHNOP_ALLOC_UNBOUND: 8,
    abi.EVTCHNOP_BIND_IPI: 8,
    abi.EVTCHNOP_BIND_VCPU: 8,
    abi.EVTCHNOP_UNMASK: 4,
    abi.EVTCHNOP_RESET: 2,
    abi.EVTCHNOP_BIND_PIRQ: 12,
    abi.EVTCHNOP_INIT_CONTROL: 24,
    abi.EVTCHNOP_EXPAND_ARRAY: 8,
    abi.EVTCHNOP_SET_PRIORITY: 8,
    abi.EVTCHNOP_RESET_CONT: 2,
}
# FIFO events are not offered: their initialisation is refused, and operations that need them fail.
FIFO = {abi.EVTCHNOP_INIT_CONTROL: -EINVAL, abi.EVTCHNOP_EXPAND_ARRAY: -EOPNOTSUPP}


def do_event_channel_op(xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int) -> Generator[str, None, int]:
    """Run one operation; results go back into its struct only on success."""
    yield from ()
    cmd &= 0xFFFFFFFF
    size = SIZES.get(cmd)
    if size is None:
        return -ENOSYS
    raw = read(xen, vcpu, arg, size)
    if raw is None:
        return -EFAULT
    ports = vcpu.domain.events
    out = b""
    if cmd == abi.EVTCHNOP_ALLOC_UNBOUND:
        dom, remote, _ = TWO_DOMIDS.unpack(raw)
        rc = events.op_alloc_unbound(xen, vcpu, dom, remote)
        out = TWO_DOMIDS.pack(dom, remote, max(rc, 0))
    elif cmd == abi.EVTCHNOP_BIND_INTERDOMAIN:
        dom, pad, port, _ = DOMID_PORT.unpack(raw)
        rc = events.op_bind_interdomain(xen, vcpu, dom, port)
        out = DOMID_PORT.pack(dom, pad, port, max(rc, 0))
    elif cmd == abi.EVTCHNOP_BIND_VIRQ:
        virq, target, _ = THREE.unpack(raw)
        rc = ports.bind_virq(virq, target)
        out = THREE.pack(virq, target, max(rc, 0))
    elif cmd == abi.EVTCHNOP_BIND_IPI:
        target, _ = TWO.unpack(raw)
        rc = ports.bind_ipi(target)
        out = TWO.pack(target, max(rc, 0))
    elif cmd == abi.EVTCHNOP_STATUS:
        dom, _, port = STATUS_IN.unpack_from(raw)
        rc, state, on, words = events.op_status(xen, vcpu, dom, port)
        told = b"".join(abi.U32.pack(word) for word in (state, on, *words))
        out = raw[:STATUS_OUT] + told + raw[STATUS_OUT + len(told) :]  # words without meaning in the state stay
    elif cmd == abi.EVTCHNOP_CLOSE:
        rc = ports.close(abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_SEND:
        rc = ports.send(abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_UNMASK:
        rc = events.op_unmask(vcpu, abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_BIND_VCPU:
        rc = events.op_bind_vcpu(vcpu, *TWO.unpack(raw))
    elif cmd == abi.EVTCHNOP_BIND_PIRQ:
        pirq, flags, _ = THREE.unpack(raw)
        rc = events.op_bind_pirq(vcpu, pirq)
        out = THREE.pack(pirq, flags, max(rc, 0))
    elif cmd in FIFO:
        rc = FIFO[cmd]
    elif cmd == abi.EVTCHNOP_SET_PRIORITY:
        rc = -ENOSYS if ports.is_valid(TWO.unpack(raw)[0]) else -EINVAL
    else:
        rc = events.op_reset(xen, vcpu, abi.U16.unpack(raw)[0])
    if rc < 0:
        return rc
    return 0 if not out or write(xen, vcpu, arg, out) else -EFAULT


def do_event_channel_op_compat(
    xen: Xen, vcpu: VCpu, arg: int, a2: int, a3: int, a4: int, a5: int
) -> Generator[str, None, int]:
    """Hypercall 16, of Xen 3.0: the command stands before its struct in memory."""
    raw = read(xen, vcpu, arg, OLD_SIZE)
    if raw is None:
        return -EFAULT
    cmd: int = abi.U32.unpack_from(raw)[0]
    if cmd > abi.EVTCHNOP_UNMASK:
        return -ENOSYS
    return (yield from do_event_channel_op(xen, vcpu, cmd, (arg + 4) & 0xFFFFFFFFFFFFFFFF, 0, 0, 0))
