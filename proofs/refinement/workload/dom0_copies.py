"""IOCTL_GNTDEV_GRANT_COPY of a Dom0 process: segments between grants and its own pages, also across page ends.

The driver's expected hypercalls are computed here from the segments alone, and compared with the hypercalls that
it makes; the copied bytes are compared by the follower (copied_bytes.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bulkhead.impl.dom0.ioctl import COPY_HEAD, FOREIGN, GNTDEV_GRANT_COPY, SEGMENT
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import CopyElement, status_name
from bulkhead.proofs.refinement.lockstep.dom0_state import BUFFER, Proc
from bulkhead.proofs.refinement.lockstep.spec_state import Mismatch
from bulkhead.proofs.refinement.workload.dom0_gntdev import offered, special

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0

Side = tuple[int, int, int] | int  # reference, offset, domain; or an address
Copied = tuple[Side, Side, int]
UNTOUCHED = 0x7FFF
BATCH = 16  # copies per hypercall of the driver


def copy(d: Dom0, proc: Proc) -> str:
    """Some segments; sometimes one among them is refused before any byte of it is copied."""
    fd, x, _ = d.fd_of(proc, "gntdev")
    if fd not in proc.fds or proc.fds[fd].kind != "gntdev":
        code, _, _ = proc.ioctl(fd, GNTDEV_GRANT_COPY, COPY_HEAD.pack(0, 0, 0))
        d.rule("gntdev_copy", {"p": proc.space, "x": x, "this": d.b.spec_state.free_calls[-1]}, code)
        return f"gntdev copy: {code}"
    rng = d.rng
    for page in proc.pages():
        d.b.fill(page)
    count = (1, 1, 1, 2, 2, 3, 9)[int(rng.random() * 7)]
    segments = [_segment(d, proc) for _ in range(count)]
    bad = int(rng.random() * count) if rng.random() < 0.15 else count
    error = "okay"
    if bad < count:
        segments[bad], error = _refused(d, proc)
    elements = [_elements(proc, segment) for segment in segments[:bad]]
    flat = [element for each in elements for element in each]
    if bad < count:  # of the segments before it, only full batches have been executed
        room = len(flat) - (error == "EINVAL")
        flat = flat[: max(0, room) // BATCH * BATCH]
    d.wanted = flat
    d.copied = []
    at = proc.arg + 64
    proc.sys.store(at, b"".join(_packed(segment) for segment in segments))
    d.copying = (proc, x)
    code, _, _ = proc.ioctl(fd, GNTDEV_GRANT_COPY, COPY_HEAD.pack(count, 0, at))
    d.copying = None
    if code != error or d.wanted:
        raise Mismatch(f"gntdev copy answered {code}, and {len(d.wanted)} copies were not asked for; expected {error}")
    statuses = [status for each in d.copied for status in each]
    told = [SEGMENT.unpack(proc.sys.load(at + n * SEGMENT.size, SEGMENT.size))[4] for n in range(count)]
    if d.b.rules_on:
        _compare(told, elements, statuses, bad, error)
    return f"gntdev copy of {count}: {code}"


def _compare(told: list[int], elements: list[list[CopyElement]], statuses: list[str], bad: int, error: str) -> None:
    """Each segment gets the first failure of its copies; segments not reached are unchanged."""
    first = 0
    for n, status in enumerate(told):
        if n < bad:
            mine = [s for s in statuses[first : first + len(elements[n])] if s != OKAY]
            first += len(elements[n])
            want = mine[0] if mine else OKAY
        else:
            want = OKAY if n == bad and error == "EFAULT" else str(UNTOUCHED)
        if status_name(status) != want:
            raise Mismatch(f"gntdev copy told the process {told}, the hypervisor {statuses}")


def _segment(d: Dom0, proc: Proc) -> Copied:
    """Copies between grants, or between a grant and the process's own pages, also across a page end."""
    rng = d.rng
    which, length = rng.random(), (64, 64, 1, 200)[int(rng.random() * 4)]
    sides: list[Side] = []
    for n in range(2):
        if (which < 0.5 and n == 0) or (which > 0.4 and n == 1):
            dom, ref = _grant(d)
            sides.append((ref, n * 1024 + 8 * int(rng.random() * 60), dom))
        elif rng.random() < 0.5:  # around the end of the first page
            sides.append(proc.buffer + abi.PAGE_SIZE - int(rng.random() * (length + 1)))
        else:
            sides.append(proc.buffer + n * 1024 + 8 * int(rng.random() * 60))
    return sides[0], sides[1], length


def _refused(d: Dom0, proc: Proc) -> tuple[Copied, str]:
    """A segment that the driver refuses: without a grant, beyond a granted page, or with an invalid address."""
    dom, ref = _grant(d)
    x = d.rng.random()
    if x < 0.3:
        return (proc.buffer, proc.buffer + 512, 16), "EINVAL"
    if x < 0.6:
        return ((ref, abi.PAGE_SIZE - 8, dom), proc.buffer, 16), "EINVAL"
    nowhere = proc.buffer + BUFFER * abi.PAGE_SIZE + 0x40000000
    if x < 0.8:
        return (nowhere, (ref, 0, dom), 16), "EFAULT"
    return ((ref, 0, dom), nowhere, 16), "EFAULT"


def _elements(proc: Proc, segment: Copied) -> list[CopyElement]:
    """The copies of one segment: it is split at page ends of the process's memory."""
    source, dest, length = segment
    out = []
    done = 0
    while done < length:
        size = length - done
        for side in (source, dest):
            if isinstance(side, int):
                size = min(size, abi.PAGE_SIZE - (side + done) % abi.PAGE_SIZE)
        out.append(CopyElement(*_place(proc, source, done), *_place(proc, dest, done), size))
        done += size
    return out


def _place(proc: Proc, side: Side, done: int) -> tuple[bool, int, int, int]:
    if isinstance(side, tuple):
        ref, offset, dom = side
        return True, ref, dom, offset + done
    at = side + done
    return False, proc.process.space.anon[at // abi.PAGE_SIZE].mfn, abi.DOMID_SELF, at % abi.PAGE_SIZE


def _packed(segment: Copied) -> bytes:
    flags, sides = 0, []
    for side, bit in zip(segment[:2], (abi.GNTCOPY_SOURCE_GREF, abi.GNTCOPY_DEST_GREF), strict=True):
        if isinstance(side, tuple):
            flags |= bit
            sides.append(FOREIGN.pack(*side))
        else:
            sides.append(abi.U64.pack(side))
    return SEGMENT.pack(sides[0], sides[1], segment[2], flags, UNTOUCHED, 0)


def _grant(d: Dom0) -> tuple[int, int]:
    """Domain and reference: usually an offer to Dom0, also of a dying domain; or beyond a table's end."""
    x = d.rng.random()
    held = [
        grant
        for r in d.records
        if r.gmap.in_use and not special(d, r)
        for grant in r.grants
        if grant[0] in d.b.rig.xen.domains
    ]
    if held and x < 0.25:
        return held[int(x * 4 * len(held))]
    offers = []
    domains = [(n, domain) for n, domain in d.b.rig.xen.domains.items() if n < 4]
    for domid, domain in domains:
        table = domain.grant_table
        for ref in d.b.spec_state.size.refs[2:]:
            if (
                ref < table.nr_entries
                and offered(table, ref)
                and not d.b.rig.special(table.frame_field(ref))
                and not _pins_special(d, domid, ref)
            ):
                offers.append((domid, ref))
    if offers and x < 0.9:
        return offers[int(x / 0.9 * len(offers))]
    return (99, 8) if x < 0.95 else (domains[int((x - 0.95) * 20 * len(domains))][0], d.b.spec_state.size.refs[-1])


def _pins_special(d: Dom0, domid: int, ref: int) -> bool:
    frame = d.b.rig.xen.domains[domid].grant_table.active[ref].frame
    return frame is not None and frame.xenheap


MOVES = ((12, copy),)
