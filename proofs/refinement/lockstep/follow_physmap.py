"""Followers of a PVH guest's calls that change its map: pages come to guest frame numbers, move, and leave them.

One rule step per page, when the implementation has changed the map. What Xen answers of a number at which a grant is (the
guest is crashed, or the call refused) is not decided by the rules alone: then they give no page, or one without a number.
"""

from __future__ import annotations

from struct import Struct

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import END, CallInFlight, Follower
from bulkhead.proofs.refinement.lockstep.lockstep import Lockstep
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState

ERRNO = {-abi.EINVAL: "EINVAL", -abi.ENXIO: "ENXIO", -abi.ENOENT: "ENOENT", -abi.EPERM: "EPERM"}


def unknown_pages(spec: SpecState, domain: Domain) -> list[int]:
    """Pages that the implementation has given to a domain, and the rules have not yet."""
    T, first = spec.T, spec.first_mfn
    held, owner, ram = T["frame.held"], T["frame.owner"], spec.use["ram"]
    return [
        mfn
        for mfn, frame in domain.pages.items()
        if frame.allocated
        and not (held[mfn - first] and owner[mfn - first] == domain.domid and T["frame.use"][mfn - first] == ram)
    ]


def gives_way(spec: SpecState, t: int) -> bool:
    """Is nothing at a number, or a page of the guest's own?"""
    T = spec.T
    return not T["translation.present"][t] or T["translation.origin"][t] == spec.rules.members["Origin"]["own"]


def follow_populate_at(lockstep: Lockstep, f: CallInFlight, gfns: list[int]) -> Follower:
    """populate_physmap of a PVH guest, extent by extent; it returns the number of extents done."""
    assert f.guest is not None
    spec, me, domain = lockstep.spec_state, f.domid, f.guest.domain
    for i, gfn in enumerate(gfns):
        event = yield
        done = event != END or f.rc > i
        new = unknown_pages(spec, domain)
        if not new:
            if done:
                raise Mismatch("populate_physmap: done, but there is no new page")
            if gives_way(spec, spec.numbers[me, gfn]):
                at = {"space": me, "t": spec.numbers[me, gfn]}
                spec.step("populate_physmap_at", {"caller": me, **at}, "ENOMEM", "ENOMEM")
            else:
                spec.step("populate_physmap", {"caller": me}, "ENOMEM", "ENOMEM")
            if lockstep.can_populate(f.guest):
                raise Mismatch("populate_physmap stopped although the heap and the limit have room")
            return
        element = spec.frame(new[0])
        lockstep.make_free(element)
        got = {"f_f": element, "f_e": spec.free_epoch()}
        lockstep.touched_frames.add(element)
        if not done:
            spec.step("populate_physmap", {"caller": me, **got})
            if not domain.crashed:
                raise Mismatch(f"populate_physmap of {gfn:#x} gave a page, and says that it did not")
            return
        at = {"space": me, "t": spec.numbers[me, gfn], "nil": spec.size.handles - 1}
        spec.step("populate_physmap_at", {"caller": me, **at, **got})


def follow_decrease_at(lockstep: Lockstep, f: CallInFlight, gfns: list[int]) -> Follower:
    """decrease_reservation of a PVH guest, extent by extent."""
    spec, me = lockstep.spec_state, f.domid
    assert f.guest is not None
    for i, gfn in enumerate(gfns):
        event = yield
        done = event != END or f.rc > i
        t = spec.number(f.guest.domain, gfn)
        frame = spec.T["translation.frame"][t]
        code = spec.step("decrease_reservation_at", {"caller": me, "t": t}, ANY)
        if (code == OKAY) != done:
            raise Mismatch(f"decrease_reservation: the rules say {code}, the implementation stopped at {f.rc}")
        if not done:
            return
        lockstep.touch_frame(frame)


def follow_remove(lockstep: Lockstep, f: CallInFlight, gfn: int) -> Follower:
    """remove_from_physmap."""
    spec = lockstep.spec_state
    assert f.guest is not None
    yield
    _answered(lockstep, f, "remove_from_physmap", {"caller": f.domid, "t": spec.number(f.guest.domain, gfn)}, f.rc)


def follow_move(lockstep: Lockstep, f: CallInFlight, was: int, gfn: int) -> Follower:
    """add_to_physmap of an own page: it moves to another number, or stays."""
    yield
    _moved(lockstep, f, was, gfn, f.rc)


def follow_put(lockstep: Lockstep, f: CallInFlight, gfn: int, page: int) -> Follower:
    """add_to_physmap of one of Xen's pages, `page` as it is when the call begins."""
    yield
    _xens_put(lockstep, f, gfn, page, f.rc)


def follow_range(lockstep: Lockstep, f: CallInFlight, was: int, gfn: int, count: int) -> Follower:
    """add_to_physmap of several own pages in a row, one after the other; the first that fails ends it."""
    assert f.guest is not None
    for i in range(count):
        event = yield
        rc = f.rc if event == END else 0
        if not _moved(lockstep, f, was + i, gfn + i, rc):
            return


def follow_batch(
    lockstep: Lockstep, f: CallInFlight, pages: list[int] | None, indexes: list[int], gfns: list[int]
) -> Follower:
    """add_to_physmap_batch, of own pages by their numbers, or of Xen's `pages` as they are when the call begins. Each
    element has an error of its own, and none of them ends the call."""
    for i, gfn in enumerate(gfns):
        yield
        rc = ERROR.unpack(lockstep.bytes(f, ERRORS_AT + i * ERROR.size, ERROR.size))[0]
        if pages is None:
            _moved(lockstep, f, indexes[i], gfn, rc)
        else:
            _xens_put(lockstep, f, gfn, pages[i], rc)
    if f.rc:
        raise Mismatch(f"add_to_physmap_batch gave {f.rc}")


def follow_foreign(lockstep: Lockstep, f: CallInFlight) -> Follower:
    """add_to_physmap_batch of a foreign page: only of the hardware domain, and this is none."""
    yield
    error = ERROR.unpack(lockstep.bytes(f, ERRORS_AT, ERROR.size))[0]
    if f.rc or error != -abi.EPERM:
        raise Mismatch(f"add_to_physmap_batch of a foreign page gave {f.rc}, {error}")


def _moved(lockstep: Lockstep, f: CallInFlight, was: int, gfn: int, rc: int) -> bool:
    """An own page moves to another number, or stays."""
    spec, me = lockstep.spec_state, f.domid
    assert f.guest is not None
    t, nil = spec.number(f.guest.domain, gfn), spec.size.handles - 1
    args = {"gmfn": 1, "was": spec.number(f.guest.domain, was), "xens": spec.size.nowhere}
    return _put(lockstep, f, {"caller": me, "space": me, **args, "t": t, "nil": nil}, rc)


def _xens_put(lockstep: Lockstep, f: CallInFlight, gfn: int, page: int, rc: int) -> bool:
    """One of Xen's pages comes to a number."""
    spec, me = lockstep.spec_state, f.domid
    assert f.guest is not None
    t, nil = spec.number(f.guest.domain, gfn), spec.size.handles - 1
    args = {"gmfn": 0, "was": t, "xens": spec.frame(page)}
    return _put(lockstep, f, {"caller": me, "space": me, **args, "t": t, "nil": nil}, rc)


def _put(lockstep: Lockstep, f: CallInFlight, args: dict[str, int], rc: int) -> bool:
    """The rule step, and what has become of the page that was at the number."""
    spec, t = lockstep.spec_state, args["t"]
    there, was = spec.T["translation.present"][t], spec.T["translation.frame"][t]
    done = _answered(lockstep, f, "add_to_physmap", args, rc)
    if done and there:
        lockstep.touch_frame(was)
    return done


def _answered(lockstep: Lockstep, f: CallInFlight, rule: str, args: dict[str, int], rc: int) -> bool:
    want = OKAY if rc == 0 else ERRNO.get(rc, str(rc))
    lockstep.expect(f, rule, lockstep.spec_state.step(rule, args, ANY), want)
    return rc == 0


LISTS_AT = (64, 96)  # of the argument area: the numbers, and where they go
ERRORS_AT = 128
ERROR = Struct("<i")
