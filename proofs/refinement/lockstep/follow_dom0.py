"""Which rule steps the grant hypercalls of Dom0's kernel perform: `gntdev_mmap`, `gntdev_munmap` and `gntdev_copy`.

The kernel makes each of them for a process; what it maps for itself it maps, by the rules, like one more process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.scheduler import HELD
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.lockstep.call import GENERAL, CopyElement, Flight, Follower
from bulkhead.proofs.refinement.lockstep.dom0_state import Mapping, Slot
from bulkhead.proofs.refinement.lockstep.follow_grants import follow_copy
from bulkhead.proofs.refinement.lockstep.spec_state import ANY, Mismatch
from bulkhead.proofs.refinement.lockstep.spec_world import KERNEL

if TYPE_CHECKING:
    from bulkhead.proofs.refinement.workload.dom0 import Dom0


def free_map(d: Dom0) -> int:
    """A map that nobody has in use."""
    if not d.b.rules_on:
        return 0
    T = d.b.shadow.T
    return next(m for m in range(d.b.shadow.size.maps) if not (
        T["gmap.listed"][m] or T["gmap.live"][m] or T["notice.event"][m]))


def follower(d: Dom0, f: Flight, cmd: int, elements: Sequence[bytes]) -> Follower:
    """The follower of a grant hypercall of the kernel."""
    if cmd == abi.GNTTABOP_MAP_GRANT_REF:
        assert d.mapping is not None and len(elements) == 1
        d.mapping.made += 1
        return _follow_map(d, f, d.mapping)
    if cmd == abi.GNTTABOP_UNMAP_GRANT_REF:
        return _follow_unmap(d, f, elements[0])
    assert d.copying is not None
    proc, x = d.copying
    made = []
    for raw in elements:
        src, s_dom, s_off, _, dst, d_dom, d_off, _, length, flags, _, _ = abi.COPY.unpack(raw)
        made.append(CopyElement(bool(flags & 1), src, s_dom, s_off, bool(flags & 2), dst, d_dom, d_off, length))
    d.copied = f.seen
    return follow_copy(d.b, f, made, "gntdev_copy", {"p": proc.space, "x": x})


def _follow_map(d: Dom0, f: Flight, mapping: Mapping) -> Follower:
    """gntdev_mmap for the process, then the same for the kernel, which registers the grant with a file of its own."""
    b, sh, slot = d.b, d.b.shadow, mapping.slot
    p, x, m = mapping.proc.space, mapping.x, mapping.m
    granter, ref = sh.T["gmap.granter"][m], sh.T["gmap.ref"][m]
    kernels = mapping.made == 2
    call = f.calls[0]
    if kernels:
        p, x, m = KERNEL, d.kernel_file, free_map(d)
        sh.step("gntdev_map_grant_ref", {"p": p, "x": x, "dom": granter, "ref": ref, "m": m})
    sh.step("gntdev_mmap", {"p": p, "x": x, "m": m, "writable": int(slot.writable), "this": call})
    if kernels:
        sh.step("gntdev_unmap_grant_ref", {"p": p, "x": x, "m": m})
    tries = 0
    key = (granter, ref)
    event = yield
    while event in HELD:
        f.moving.add(key)
        tries += 1
        event = yield
    f.moving.discard(key)
    args = {"this": call, "got_h": sh.free_handle()}
    if event != "map.pinned":
        status = b.status(f, 18)
        fail = "EINVAL" if status == GENERAL and (tries >= 5 or _pins_are_full(d, key, slot)) else None
        sh.step("gntdev_mmap.map", args, "EINVAL", fail)
        if status == OKAY:
            raise Mismatch("a grant was mapped without being pinned")
        return
    f.hurry = bool(sh.at("status.reading", *key))
    code = sh.try_step("gntdev_mmap.map", args)
    late = code == "EINVAL" and f.hurry
    if late:
        f.moving.add(key)  # the pinned frame is gone: the implementation notices in its second step
    elif code != OKAY:
        raise Mismatch(f"gntdev mmap: the rules say {code}, the implementation has pinned the grant")
    yield
    f.moving.discard(key)
    f.hurry = False
    status = b.status(f, 18)
    if late:
        if status != GENERAL:
            raise Mismatch(f"gntdev mmap: the rules say EINVAL, Xen {status}")
    elif status == OKAY:
        t = sh.free_translation()
        sh.step("gntdev_mmap.insert", {"this": call, "got_t": t, "got_u": sh.free_translation(t)})
        sh.handles[0, b.word(f, 20)] = args["got_h"]
        if kernels:
            slot.kernel = t
        else:
            slot.user = t
    else:
        if not b.is_table(sh.mfn(sh.at("hold.frame", call, 1))):
            raise Mismatch(f"gntdev mmap: the rules say okay, Xen {status}")
        sh.step("gntdev_mmap.insert", {"this": call, "got_t": 0, "got_u": 0}, "EINVAL", "EINVAL")


def _pins_are_full(d: Dom0, key: tuple[int, int], slot: Slot) -> bool:
    return bool(d.b.pin(key) & (abi.PIN_HSTW if slot.writable else abi.PIN_HSTR) << 7)


def _follow_unmap(d: Dom0, f: Flight, raw: bytes) -> Follower:
    """gntdev_munmap of what a handle of Dom0 stands for."""
    b, sh = d.b, d.b.shadow
    number = abi.UNMAP_GRANT_REF.unpack(raw)[2]
    h = sh.handles.get((0, number))
    t = sh.T["mapping.host_t"][h] if h is not None else -1
    slot = d.mapping.slot if d.mapping is not None else None
    for _, each in d.slots():
        if h is not None and t in (each.user, each.kernel):
            slot = each
    byte_is_cleared(sh.mfn(sh.T["translation.frame"][t]) if h is not None else -1, d, slot)
    yield
    status = b.status(f, 20)
    if h is None:
        if status != "GNTST_bad_handle":
            raise Mismatch(f"Dom0 unmaps handle {number:#x}, which it does not have: {status}")
        return
    call = f.calls[0]
    frame = sh.T["translation.frame"][t]
    if d.current is None or sh.T["translation.space"][t] not in (d.current.space, KERNEL):
        raise Mismatch("a process's call unmaps what another process has mapped")
    code = sh.step("gntdev_munmap", {"p": sh.T["translation.space"][t], "t": t, "this": call}, ANY)
    if (code == OKAY) != (status == OKAY):
        raise Mismatch(f"gntdev munmap: the rules say {code}, Xen {status}")
    if code != OKAY:
        return
    del sh.handles[0, number]
    if slot is not None and slot.user == t:
        slot.user = None
    elif slot is not None:
        slot.kernel = None
    yield
    sh.step("gntdev_munmap.flush", {"this": call})
    sh.step("gntdev_munmap.complete", {"this": call})
    b.touch_frame(frame)


def byte_is_cleared(mfn: int, d: Dom0, slot: Slot | None) -> None:
    """When the entry of a map with a byte notice goes, the byte has been cleared already."""
    if slot is None or slot.record is None or slot.record.byte_at < 0 or slot.kernel is None or not slot.writable:
        return
    frame = d.b.rig.xen.frames.get(mfn)
    if frame is not None and slot.user is not None and frame.data is not None and frame.data[slot.record.byte_at]:
        raise Mismatch("the byte of an unmap notification was not cleared before the page was unmapped")
    slot.record.byte_at = -1
