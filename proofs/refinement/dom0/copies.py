"""IOCTL_GNTDEV_GRANT_COPY of a Dom0 process: segments between grants and its own pages, also across page ends.

The driver's expected hypercalls are computed here from the segments alone, and compared with the hypercalls that
it makes; the copied bytes are compared by the follower (copied_bytes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkhead.impl.dom0.ioctl import COPY_HEAD, FOREIGN, GNTDEV_GRANT_COPY, SEGMENT
from bulkhead.impl.xen import abi
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Answer
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.state import Proc
from bulkhead.proofs.refinement.lockstep.call import CopyElement, status_name
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

Side = tuple[int, int, int] | int  # reference, offset, domain; or an address
Segment = tuple[Side, Side, int]
UNTOUCHED = 0x7FFF
BATCH = 16  # copies per hypercall of the driver


def copy(d: Dom0, proc: Proc, a: Mapping[str, Any]) -> Answer:
    """Copy segments: {fd, segments}, each two sides and a length; a side is [reference, offset, domain], or an address."""
    fd = a["fd"]
    x, opened = d.file(proc, fd, "gntdev")
    if opened is None:
        code, _, _ = proc.ioctl(fd, GNTDEV_GRANT_COPY, COPY_HEAD.pack(0, 0, 0))
        d.rule("gntdev_copy", {"p": proc.space, "x": x, "this": d.lockstep.spec_state.free_calls[-1]}, code)
        return Answer(code)
    for page in proc.pages():
        d.lockstep.fill(page)
    segments = [(_side(source), _side(dest), length) for source, dest, length in a["segments"]]
    count = len(segments)
    bad, error = next(((n, e) for n, s in enumerate(segments) if (e := _refused(proc, s)) != OKAY), (count, OKAY))
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
    if d.lockstep.rules_on:
        _compare(told, elements, statuses, bad, error)
    return Answer(code, [status_name(status) for status in told])


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


def _side(side: Any) -> Side:
    if isinstance(side, int):
        return side
    ref, offset, dom = side
    return ref, offset, dom


def _refused(proc: Proc, segment: Segment) -> str:
    """The driver's error for a segment before any of it is copied: it has no grant, exceeds a granted page, or has an
    invalid address."""
    source, dest, length = segment
    if isinstance(source, int) and isinstance(dest, int):
        return "EINVAL"
    for side in (source, dest):
        if not isinstance(side, int) and side[1] + length > abi.PAGE_SIZE:
            return "EINVAL"
    for side in (source, dest):
        if isinstance(side, int):
            first, last = side // abi.PAGE_SIZE, (side + length - 1) // abi.PAGE_SIZE
            if any(page not in proc.process.space.anon for page in range(first, last + 1)):
                return "EFAULT"
    return OKAY


def _elements(proc: Proc, segment: Segment) -> list[CopyElement]:
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


def _packed(segment: Segment) -> bytes:
    flags, sides = 0, []
    for side, bit in zip(segment[:2], (abi.GNTCOPY_SOURCE_GREF, abi.GNTCOPY_DEST_GREF), strict=True):
        if isinstance(side, tuple):
            flags |= bit
            sides.append(FOREIGN.pack(*side))
        else:
            sides.append(abi.U64.pack(side))
    return SEGMENT.pack(sides[0], sides[1], segment[2], flags, UNTOUCHED, 0)
