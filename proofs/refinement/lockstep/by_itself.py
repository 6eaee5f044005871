"""What a guest does with itself alone and undoes at once: ports of its own (VIRQ, IPI), pins of its own pages.

No rule has these calls: nobody else notices them, and afterwards all is as before. So they are made at once, what each must
answer is computed here, and a table that Xen refuses must leave no count behind. The answers are those that real Xen gave
(tests/recorded). Not here: calls that change what others see (operations.py).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L1, PGT_L2, PGT_L4, PGT_WRITABLE, Frame
from bulkhead.impl.xen.pagetables import PTE_P, PTE_RW, PTE_USER
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch
from bulkhead.proofs.refinement.lockstep.testbed import Guest, PvGuest

TWO: Final = Struct("<II")
THREE: Final = Struct("<III")
STATUS: Final = Struct("<HHIIII8x")
VIRQ, IPI = 4, 5  # as EVTCHNOP_status says
VCPUS: Final = 2
NOT_ALLOWED: Final = 1 << 8  # in an entry of an upper table (global)
GOOD_ENTRIES: Final = 3
LAST: Final = 100  # the entry that decides


class _Calls:
    """Calls of one guest's vCPU, each completed and its answer checked."""

    def __init__(self, lockstep: Lockstep, guest: Guest, vcpu: int) -> None:
        self.xen, self.guest, self.vcpu = lockstep.rig.xen, guest, vcpu

    def _make(self, number: int, args: tuple[int, ...], payload: bytes) -> int:
        running = self.guest.start(self.vcpu, number, args, payload)
        try:
            while True:
                next(running)
        except StopIteration as end:
            return int(end.value)

    def port(self, cmd: int, payload: bytes, want: int, what: str) -> bytes:
        """An event channel operation; returns its struct as it is afterwards."""
        rc = self._make(abi.HYPERVISOR_EVENT_CHANNEL_OP, (cmd, self.guest.arg(self.vcpu)), payload)
        self._expect(rc, want, what)
        return self.guest.result(self.vcpu, 0, len(payload))

    def page(self, cmd: int, mfn: int, want: int, what: str) -> None:
        """An extended operation on a page."""
        payload = abi.MMUEXT_OP.pack(cmd, 0, mfn, 0)
        rc = self._make(abi.HYPERVISOR_MMUEXT_OP, (self.guest.arg(self.vcpu), 1, 0, abi.DOMID_SELF), payload)
        self._expect(rc, want, what)

    def _expect(self, rc: int, want: int, what: str) -> None:
        if rc != want:
            raise Mismatch(f"d{self.guest.domid}: {what} gave {rc}, not {want}")


def ports_of_its_own(lockstep: Lockstep, guest: Guest, vcpu: int, virq: int, on: int) -> None:
    """Ports for a virtual interrupt and for IPIs: bound, bound twice, asked for, rung, moved, closed."""
    call, events = _Calls(lockstep, guest, vcpu), guest.domain.events
    free = [n for n in range(1, guest.domain.max_evtchn_port + 1) if n not in events.ports]
    opened: list[int] = []

    def bind(cmd: int, struct: Struct, args: tuple[int, ...], refused: int, what: str) -> None:
        want = refused or (0 if free else -abi.ENOSPC)
        told = call.port(cmd, struct.pack(*args, 0), want, what)
        if want:
            return
        number = struct.unpack(told)[-1]
        if number != free[0]:
            raise Mismatch(f"d{guest.domid}: {what} opened port {number}, and {free[0]} was free")
        opened.append(free.pop(0))

    own = virq in abi.PER_VCPU_VIRQS
    wrong = -abi.EINVAL if virq >= abi.NR_VIRQS or (on and not own) else -abi.ENOENT if on >= VCPUS else 0
    bind(abi.EVTCHNOP_BIND_VIRQ, THREE, (virq, on), wrong, f"VIRQ {virq} on vCPU {on}")
    if opened:
        port = opened[0]
        bind(abi.EVTCHNOP_BIND_VIRQ, THREE, (virq, on), -abi.EEXIST, f"VIRQ {virq} on vCPU {on} once more")
        bind(
            abi.EVTCHNOP_BIND_VIRQ,
            THREE,
            (virq, 1 - on),
            0 if own else -abi.EINVAL,
            f"VIRQ {virq} on the other vCPU, {1 - on}",
        )
        _told(call, port, (VIRQ, on, virq))
        call.port(abi.EVTCHNOP_SEND, abi.U32.pack(port), -abi.EINVAL, f"send to port {port}, of a VIRQ")
        call.port(abi.EVTCHNOP_BIND_VCPU, TWO.pack(port, 1), -abi.EINVAL if own else 0, f"moving port {port}, of a VIRQ")
        _told(call, port, (VIRQ, on if own else 1, virq))
        if events.ports[port].pending:
            raise Mismatch(f"d{guest.domid}: port {port} of VIRQ {virq} is pending, and nobody rang")
    bind(abi.EVTCHNOP_BIND_IPI, TWO, (on,), -abi.ENOENT if on >= VCPUS else 0, f"an IPI to vCPU {on}")
    if opened and events.ports[opened[-1]].state == IPI:
        _rung(lockstep, call, opened[-1], on)
    for port in opened:
        call.port(abi.EVTCHNOP_CLOSE, abi.U32.pack(port), 0, f"close {port}")
        _told(call, port, (0, 0))
        call.port(abi.EVTCHNOP_SEND, abi.U32.pack(port), -abi.EINVAL, f"send to port {port}, closed")


def _told(call: _Calls, port: int, want: tuple[int, ...]) -> None:
    """EVTCHNOP_status of an own port: its state, its vCPU, and of an interrupt which one."""
    raw = call.port(abi.EVTCHNOP_STATUS, STATUS.pack(abi.DOMID_SELF, 0, port, 0, 0, 0), 0, f"status of port {port}")
    _, _, _, *told = STATUS.unpack(raw)
    if tuple(told[: len(want)]) != want:
        raise Mismatch(f"d{call.guest.domid}: the status of port {port} says {told}, not {want}")


def _rung(lockstep: Lockstep, call: _Calls, port: int, on: int) -> None:
    """An IPI rings its own port, once, on its own vCPU; it cannot be moved."""
    _told(call, port, (IPI, on))
    call.port(abi.EVTCHNOP_BIND_VCPU, TWO.pack(port, 1 - on), -abi.EINVAL, f"moving port {port}, of an IPI")
    others = {n: p.pending for n, p in call.guest.domain.events.ports.items() if n != port}
    call.port(abi.EVTCHNOP_SEND, abi.U32.pack(port), 0, f"send to port {port}, of an IPI")
    ports = call.guest.domain.events.ports
    if not ports[port].pending or any(ports[n].pending != was for n, was in others.items()):
        raise Mismatch(f"d{call.guest.domid}: an IPI to port {port} is pending elsewhere, or nowhere")


Counts = list[tuple[int, int, bool]]


def _counts(lockstep: Lockstep) -> Counts:
    """The counts of every frame of the heap, and whether it is pinned."""
    first, frames = lockstep.rig.first_mfn, lockstep.rig.xen.frames
    found = [frames.get(first + i) for i in range(lockstep.spec_state.size.heap)]
    return [(0, 0, False) if f is None else (f.count, f.tcount, f.pinned) for f in found]


def pinned_for_a_moment(lockstep: Lockstep, guest: PvGuest, vcpu: int, mfn: int, level: int, foreign: int) -> bool:
    """A page of the guest's that nobody uses is pinned as a page table, by its content refused or accepted, and unpinned.

    `foreign`: a frame that its last entry names; refused of level 1 if it is not the guest's, of a higher level if it is no
    table. False if the page is in use.
    """
    xen, call = lockstep.rig.xen, _Calls(lockstep, guest, vcpu)
    frame = xen.frames.get(mfn)
    if frame is None or frame.owner is not guest.domain or not frame.allocated or frame.xenheap:
        return False
    named = xen.frames.get(foreign)
    if frame.count != 1 or frame.tcount or mfn in guest.fixed or mfn == foreign:
        return False
    own = named is not None and named.owner is guest.domain
    if level == 2 and named is not None and own and (named.ptype == PGT_L2 or not named.tcount):
        return False  # a linear table; or a page whose content would decide
    kept, before = None if frame.data is None else bytes(frame.data), _counts(lockstep)
    want = _fill(lockstep, guest, frame, level, foreign)
    pin = abi.MMUEXT_PIN_L1_TABLE + level - 1
    call.page(pin, mfn, want, f"a pin as a table of level {level}, with an entry of frame {foreign:#x},")
    if want == 0:
        _held(lockstep, guest, frame, level, foreign, before)
        call.page(pin, mfn, -abi.EINVAL, "a pin of a pinned table")
        call.page((pin + 1) % PGT_L4, mfn, -abi.EINVAL, "a pin of a table as one of another level")
        call.page(abi.MMUEXT_CLEAR_PAGE, mfn, -abi.EINVAL, "a clear of a page table")
        call.page(abi.MMUEXT_UNPIN_TABLE, mfn, 0, "an unpin")
    call.page(abi.MMUEXT_UNPIN_TABLE, mfn, -abi.EINVAL, "an unpin of a page that is not pinned")
    if _counts(lockstep) != before:
        raise Mismatch(f"d{guest.domid}: counts of frames are not what they were before a pin that gave {want}")
    if kept is None:
        frame.data = None
    else:
        frame.bytes()[:] = kept
    lockstep.dirty.add(guest.domid)
    return True


def _good(guest: PvGuest, level: int) -> int:
    """A frame that the first entries of a table name; 0 for none."""
    return guest.arg_mfn if level == 1 else guest.window.mfn if level == 2 else 0


def _fill(lockstep: Lockstep, guest: PvGuest, frame: Frame, level: int, foreign: int) -> int:
    """Entries of a table: some good ones, then one that decides; returns what a pin answers."""
    frame.bytes()[:] = bytes(abi.PAGE_SIZE)
    good = _good(guest, level)
    for i in range(GOOD_ENTRIES if good else 0):
        abi.U64.pack_into(frame.bytes(), 8 * (7 + i), good << 12 | PTE_P | PTE_USER)
    last = foreign << 12 | PTE_P | PTE_USER | (PTE_RW if level == 1 else NOT_ALLOWED if level == 3 else 0)
    abi.U64.pack_into(frame.bytes(), 8 * LAST, last)
    named = lockstep.rig.xen.frames.get(foreign)
    own = named is not None and named.owner is guest.domain and named.count > 0
    used = named is not None and named.tcount > 0
    if level == 1:
        return 0 if own and named is not None and (not used or named.ptype == PGT_WRITABLE) else -abi.EBUSY
    return 0 if level == 2 and own and used and named is not None and named.ptype == PGT_L1 else -abi.EINVAL


def _held(lockstep: Lockstep, guest: PvGuest, frame: Frame, level: int, foreign: int, before: Counts) -> None:
    """A pinned table has one use, the pin, and holds each frame that its entries name."""
    first, good = lockstep.rig.first_mfn, _good(guest, level)
    want = dict(enumerate(before))
    for mfn, times, typed in ((good, GOOD_ENTRIES, level > 1), (foreign, 1, True)):
        count, tcount, pinned = want[mfn - first]
        want[mfn - first] = (count + times, tcount + times * typed, pinned)
    want[frame.mfn - first] = (before[frame.mfn - first][0] + 1, 1, True)
    wrong = [i for i, now in enumerate(_counts(lockstep)) if now != want[i]]
    if wrong:
        raise Mismatch(f"d{guest.domid}: a pinned table does not hold what its entries name: frames {wrong}")
