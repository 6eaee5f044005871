"""Followers of the grant hypercalls of Dom0's kernel: `gntdev_mmap`, `gntdev_munmap` and `gntdev_copy`.

The kernel makes each of them for a process; in the rules, the kernel's own mappings are those of one more process. In the
rules, a call for several grants is a sequence of steps, one per grant.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.scheduler import HELD
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.dom0.state import Mapping, Slot, UserSpace
from bulkhead.proofs.refinement.lockstep.call import GENERAL, CallInFlight, CopyElement, Follower
from bulkhead.proofs.refinement.lockstep.follow_grants import follow_copy
from bulkhead.proofs.refinement.lockstep.observe import MOST_RACES
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch


def follower(d: UserSpace, f: CallInFlight, cmd: int, elements: Sequence[bytes]) -> Follower:
    """The follower of a grant hypercall of the kernel."""
    if cmd == abi.GNTTABOP_MAP_GRANT_REF:
        assert d.mapping is not None and len(elements) == len(d.mapping.slots)
        d.mapping.made += 1
        return _follow_maps(d, f, d.mapping)
    if cmd == abi.GNTTABOP_UNMAP_GRANT_REF:
        return _follow_unmaps(d, f, elements)
    assert d.copying is not None
    proc, x = d.copying
    made = []
    for raw in elements:
        src, s_dom, s_off, _, dst, d_dom, d_off, _, length, flags, _, _ = abi.COPY.unpack(raw)
        made.append(CopyElement(bool(flags & 1), src, s_dom, s_off, bool(flags & 2), dst, d_dom, d_off, length))
    if made != d.wanted[: len(made)]:
        raise Mismatch(
            "gntdev copy: the kernel asks for other copies than the process",
            {f"copy {n}": pair for n, pair in enumerate(zip(d.wanted, made, strict=False)) if pair[0] != pair[1]},
        )
    del d.wanted[: len(made)]
    d.copied.append(f.seen)
    return follow_copy(d.lockstep, f, made, "gntdev_copy", {"p": proc.space, "x": x})


def _follow_maps(d: UserSpace, f: CallInFlight, mapping: Mapping) -> Follower:
    """The grants of one map, one after the other."""
    for slot in mapping.slots:
        yield from _follow_map(d, f, mapping, slot)


def _follow_map(d: UserSpace, f: CallInFlight, mapping: Mapping, slot: Slot) -> Follower:
    """gntdev_mmap for the process, then the same for the kernel, which registers the grant with a file of its own."""
    lockstep, spec = d.lockstep, d.lockstep.spec_state
    p, x, m = mapping.proc.space, mapping.x, mapping.record.elements[slot.page]
    at = slot.page * abi.MAP_GRANT_REF.size
    granter, ref = spec.T["gmap.granter"][m], spec.T["gmap.ref"][m]
    kernels = mapping.made == 2
    call = f.calls[0]
    if kernels:
        p, x, m = lockstep.kernel_space, d.kernel_file, d.free_map()
        spec.step("gntdev_map_grant_ref", {"p": p, "x": x, "dom": granter, "ref": ref, "m": m})
    spec.step("gntdev_mmap", {"p": p, "x": x, "m": m, "writable": int(slot.writable), "this": call})
    if kernels:
        spec.step("gntdev_unmap_grant_ref", {"p": p, "x": x, "m": m})
    key = (granter, ref)
    event = yield
    before = lockstep.changes(key)
    while event in HELD:
        f.moving.add(key)
        event = yield
    f.moving.discard(key)
    args = {"this": call, "got_h": spec.free_handle()}
    if event != "map.pinned":
        status = lockstep.status(f, at + 18)
        lost = lockstep.changes(key) - before
        fail = "EINVAL" if status == GENERAL and (lost >= MOST_RACES or _pins_are_full(d, key, slot)) else None
        spec.step("gntdev_mmap.map", args, "EINVAL", fail)
        if status == OKAY:
            raise Mismatch("a grant was mapped without being pinned")
        return
    f.must_finish_first = bool(spec.at("status.reading", *key))
    code = spec.try_step("gntdev_mmap.map", args)
    late = code == "EINVAL" and f.must_finish_first
    if late:
        f.moving.add(key)  # the pinned frame no longer exists: the implementation notices in its second step
    elif code != OKAY:
        raise Mismatch(f"gntdev mmap: the rules say {code}, the implementation has pinned the grant")
    yield
    f.moving.discard(key)
    f.must_finish_first = False
    status = lockstep.status(f, at + 18)
    if late:
        if status != GENERAL:
            raise Mismatch(f"gntdev mmap: the rules say EINVAL, Xen {status}")
    elif status == OKAY:
        t = spec.free_translation()
        spec.step("gntdev_mmap.insert", {"this": call, "got_t": t, "got_u": spec.free_translation(t)})
        spec.handles[0, lockstep.word(f, at + 20)] = args["got_h"]
        if kernels:
            slot.kernel = t
        else:
            slot.user = t
    else:
        if not lockstep.is_table(spec.mfn(spec.at("hold.frame", call, 1))):
            raise Mismatch(f"gntdev mmap: the rules say okay, Xen {status}")
        spec.step("gntdev_mmap.insert", {"this": call, "got_t": 0, "got_u": 0}, "EINVAL", "EINVAL")


def _pins_are_full(d: UserSpace, key: tuple[int, int], slot: Slot) -> bool:
    return bool(d.lockstep.pin(key) & (abi.PIN_HSTW if slot.writable else abi.PIN_HSTR) << 7)


def _follow_unmaps(d: UserSpace, f: CallInFlight, elements: Sequence[bytes]) -> Follower:
    """gntdev_munmap of the mappings of Dom0's handles: phase one of all, one flush, then phase two of all."""
    lockstep, spec = d.lockstep, d.lockstep.spec_state
    handles = [spec.handles.get((0, abi.UNMAP_GRANT_REF.unpack(raw)[2])) for raw in elements]
    for h in handles:
        if h is not None:
            t = spec.T["mapping.host_t"][h]
            byte_is_cleared(spec.mfn(spec.T["translation.frame"][t]), d, _slot_of(d, t))
    yield
    pending: list[tuple[int, int]] = []
    for i, (raw, h) in enumerate(zip(elements, handles, strict=True)):
        status = lockstep.status(f, i * abi.UNMAP_GRANT_REF.size + 20)
        number = abi.UNMAP_GRANT_REF.unpack(raw)[2]
        if h is None:
            if status != "GNTST_bad_handle":
                raise Mismatch(f"Dom0 unmaps handle {number:#x}, which it does not have: {status}")
            continue
        t, call = spec.T["mapping.host_t"][h], f.calls[i]
        slot, frame, space = _slot_of(d, t), spec.T["translation.frame"][t], spec.T["translation.space"][t]
        if d.current is None or space not in (d.current.space, lockstep.kernel_space):
            raise Mismatch("a process's call unmaps what another process has mapped")
        code = spec.step("gntdev_munmap", {"p": space, "t": t, "this": call}, ANY)
        if (code == OKAY) != (status == OKAY):
            raise Mismatch(f"gntdev munmap: the rules say {code}, Xen {status}")
        if code != OKAY:
            continue
        pending.append((call, frame))
        del spec.handles[0, number]
        if slot is not None and slot.user == t:
            slot.user = None
        elif slot is not None:
            slot.kernel = None
    if not pending:
        return
    yield
    for call, _ in pending:
        spec.step("gntdev_munmap.flush", {"this": call})
    for call, frame in pending:
        spec.step("gntdev_munmap.complete", {"this": call})
        lockstep.touch_frame(frame)


def _slot_of(d: UserSpace, t: int) -> Slot | None:
    """The mapped page of a translation: an existing one, or one of the current mmap."""
    slots = [slot for _, slot in d.slots()] + (d.mapping.slots if d.mapping is not None else [])
    return next((slot for slot in slots if t in (slot.user, slot.kernel)), None)


def byte_is_cleared(mfn: int, d: UserSpace, slot: Slot | None) -> None:
    """Check that the byte of a byte notice has been cleared before the page's entry is removed."""
    if slot is None or slot.record is None or slot.byte() < 0 or slot.kernel is None or not slot.writable:
        return
    frame = d.lockstep.rig.xen.frames.get(mfn)
    if frame is not None and slot.user is not None and frame.data is not None and frame.data[slot.byte()]:
        raise Mismatch("the byte of an unmap notification was not cleared before the page was unmapped")
    slot.record.byte_at = -1
