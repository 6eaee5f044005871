"""Extended operations of a recording: any hypercall with symbolic arguments, and reads of its effects.

Contents: `x` (one hypercall), `cur` (pages of a domain), `pend` (an event channel's bits), pausing, `show` and
`sleep`. Not here: expressions and places (expressions.py), system calls (system_calls.py). A caller that the
hypervisor has crashed no longer answers, which the recorder writes as NO_ANSWER; so does a call that never returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.machine import Livelock
from bulkhead.proofs.replay.agents import NO_ANSWER, PvhAgent
from bulkhead.proofs.replay.expressions import Caller
from bulkhead.proofs.replay.rig import Rig

Args = dict[str, Any]
Result = dict[str, Any]
PORTS: Final = 4096
EVENT_BITS: Final = 2048  # of struct shared_info: pending ones, then masks
REGISTER_INFO: Final = 10
INT_MAX: Final = 0x7FFFFFFF
DOM0_BLOCK: Final = 8 * 4096


def op_x(rig: Rig, a: Args, skip: set[str]) -> Result:
    """One hypercall by an agent, or by Dom0's kernel."""
    caller = Caller(rig, str(a.get("by", "d0")))
    if not a.get("keep"):
        caller.store("a", 0, 0, bytes(4096 if caller.agent is not None else DOM0_BLOCK))
    out: Result = {}
    refused = caller.write_all(str(a.get("w", "")))
    if refused:
        out["wbad"] = refused
    returned = 0
    swaps = (a.get("nr"), a.get("a1")) == (abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_SWAP_GRANT_REF)
    before = rig.stale_before(caller.agent.name) if swaps and caller.agent is not None else {}
    if "nr" in a:
        registers = [caller.value(a.get(f"a{i}", 0)) for i in range(1, 6)]
        try:
            for _ in range(int(a.get("rep", 1))):
                if caller.agent is not None:
                    returned = caller.agent.call(int(a["nr"]), *registers, vcpu=int(a.get("vcpu", 0)))
                else:
                    returned = rig.xen.call(rig.kernel.vcpu, int(a["nr"]), *registers)
        except Livelock as exc:
            out["stuck"] = f"hypercall {a['nr']}({', '.join(map(hex, registers))}): {exc}"
            returned = NO_ANSWER
        except Exception as exc:  # an exception in the implementation is a difference and does not end the replay
            out["broken"] = f"hypercall {a['nr']}({', '.join(map(hex, registers))}): {type(exc).__name__} {exc}"
            returned = NO_ANSWER
    if caller.agent is not None:
        rig.stale_moved(caller.agent.name, before)
    if caller.agent is None and returned > INT_MAX:
        # The recorder's library returns an int, and reads errno if that is negative.
        skip |= {"r"} | {item.split(":")[0] for item in str(a.get("o", "")).split(",") if ":r:" in item}
    if (a.get("nr"), a.get("a1"), returned) == (abi.HYPERVISOR_GRANT_TABLE_OP, abi.GNTTABOP_SET_VERSION, 0):
        rig.look_at_entries(caller.name)
    if (a.get("nr"), a.get("a1")) == (abi.HYPERVISOR_VCPU_OP, REGISTER_INFO) and caller.agent is not None:
        rig.times_told(caller.agent.domain)
    if returned >> 63 == 1:
        returned -= 1 << 64  # a register that is told signed
    out |= caller.read_all(str(a.get("o", "")), returned, skip)
    out["r"] = 0 if a.get("nor") else returned
    return out


def op_cur(rig: Rig, a: Args, skip: set[str]) -> Result:
    """The domain's page count, minus the count at the first query."""
    name = str(a["n"])
    domain = rig.guest(name).domain
    rig.variables[f"cur.{name}"] = domain.tot_pages
    return {"d": domain.tot_pages - rig.variables.setdefault(f"base.{domain.domid}", domain.tot_pages), "r": 0}


def _bits(rig: Rig, page: Frame, number: int, skip: set[str]) -> Result:
    """What stands where Dom0 looks for shared_info, in a guest that has put another page there."""
    out: Result = {"r": 0}
    for name, at in (("pending", EVENT_BITS), ("mask", EVENT_BITS + PORTS // 8)):
        if rig.tainted(page.mfn, at + number // 64 * 8, 8):
            skip.add(name)
        out[name] = page.bytes()[at + number // 8] >> number % 8 & 1
    return out


def op_pend(rig: Rig, a: Args, skip: set[str]) -> Result:
    """The pending and the mask bit of a guest's port."""
    caller = Caller(rig, str(a["by"]))
    number, events = caller.value(a["p"]) % PORTS, rig.guest(caller.name).domain.events
    guest = rig.guest(caller.name)
    if isinstance(guest, PvhAgent) and (page := guest.frame("si")) is not guest.domain.shared_info:
        return {"r": -abi.EINVAL} if page is None or page.owner is not guest.domain else _bits(rig, page, number, skip)
    port = events.get(number)
    return {"pending": int(port is not None and port.pending), "mask": int(events.is_masked(number)), "r": 0}


def op_pause(rig: Rig, a: Args, skip: set[str]) -> Result:
    """DOMCTL_pausedomain."""
    return {"r": rig.kernel.domctl(abi.DOMCTL_PAUSEDOMAIN, rig.domid(a["n"]))[0]}


def op_unpause(rig: Rig, a: Args, skip: set[str]) -> Result:
    """DOMCTL_unpausedomain."""
    return {"r": rig.kernel.domctl(abi.DOMCTL_UNPAUSEDOMAIN, rig.domid(a["n"]))[0]}


def op_show(rig: Rig, a: Args, skip: set[str]) -> Result:
    """No effect: only the grant entries are compared."""
    return {"r": 0}


EXTENDED: Final[dict[str, Callable[[Rig, Args, set[str]], Result]]] = {
    "x": op_x,
    "cur": op_cur,
    "pend": op_pend,
    "pause": op_pause,
    "unpause": op_unpause,
    "show": op_show,
    "sleep": op_show,
}
