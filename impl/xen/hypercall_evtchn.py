"""Argument handling of event_channel_op (hypercall 32).

What lives here: the operations' structs in guest memory. What does not: ports and their states (events.py).
Source: Xen common/event_channel.c do_event_channel_op, public/event_channel.h.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi, events
from bulkhead.impl.xen.abi import EFAULT, ENOSYS
from bulkhead.impl.xen.guest_access import read, write

if TYPE_CHECKING:
    from bulkhead.impl.xen.domains import VCpu
    from bulkhead.impl.xen.machine import Xen

TWO_DOMIDS = Struct("<HHI")
DOMID_PORT = Struct("<HHII")
STATUS = Struct("<HHIIIII")
THREE = Struct("<III")
TWO = Struct("<II")
SIZES = {
    abi.EVTCHNOP_BIND_INTERDOMAIN: 12, abi.EVTCHNOP_BIND_VIRQ: 12, abi.EVTCHNOP_CLOSE: 4, abi.EVTCHNOP_SEND: 4,
    abi.EVTCHNOP_STATUS: 24, abi.EVTCHNOP_ALLOC_UNBOUND: 8, abi.EVTCHNOP_BIND_IPI: 8, abi.EVTCHNOP_BIND_VCPU: 8,
    abi.EVTCHNOP_UNMASK: 4, abi.EVTCHNOP_RESET: 2,
}


def do_event_channel_op(
    xen: Xen, vcpu: VCpu, cmd: int, arg: int, a3: int, a4: int, a5: int
) -> Generator[str, None, int]:
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
        dom, pad, port, *_ = STATUS.unpack(raw)
        rc, state, on, one, two = events.op_status(xen, vcpu, dom, port)
        out = STATUS.pack(dom, pad, port, state, on, one, two)
    elif cmd == abi.EVTCHNOP_CLOSE:
        rc = ports.close(abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_SEND:
        rc = ports.send(abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_UNMASK:
        rc = events.op_unmask(vcpu, abi.U32.unpack(raw)[0])
    elif cmd == abi.EVTCHNOP_BIND_VCPU:
        rc = events.op_bind_vcpu(vcpu, *TWO.unpack(raw))
    else:
        rc = events.op_reset(xen, vcpu, abi.U16.unpack(raw)[0])
    if rc < 0:
        return rc
    return 0 if not out or write(xen, vcpu, arg, out) else -EFAULT
