"""The Mini-OS-like kernel: contiguous pages, gntmap and its failures, grants still in use."""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb import minios
from bulkhead.impl.domb.minios import GntMap, MiniOs
from bulkhead.impl.domb.minios_osdep import MiniOsOsdep
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs import evtchn, gnttab
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, CopySegment
from bulkhead.impl.libs.xc_gnttab import XcGnttab
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame

RW = PROT_READ | PROT_WRITE


class Pair:
    """DomB, and Dom0 granting it pages."""

    def __init__(self, root: Path) -> None:
        self.machine = BootedSystem("disaggregated", root)
        assert self.machine.domb is not None
        self.domb: MiniOs = self.machine.domb
        self.os = MiniOsOsdep(self.domb)
        kernel = self.machine.kernel
        self.frames = [kernel.alloc_page() for _ in range(4)]
        for i, frame in enumerate(self.frames):
            frame.bytes()[:4] = b"page"
            frame.bytes()[4] = i
        self.refs = [kernel.grant_access(self.domb.domain.domid, frame, i == 3) for i, frame in enumerate(self.frames)]
        self.demand = self.domb.demand.in_use()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def error(call: object, *args: object) -> int:
    with pytest.raises(KernelError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.code


def test_gntmap_maps_page_by_page_and_undoes_a_failure(pair: Pair) -> None:
    gmap = GntMap(pair.domb)
    grants = [(0, ref) for ref in pair.refs[:3]]
    addr = gmap.map_grant_refs(grants, True)
    assert pair.domb.load(addr + 4096, 5) == b"page\1"
    pair.domb.store(addr, b"PAGE")
    assert bytes(pair.frames[0].bytes()[:4]) == b"PAGE"
    assert error(gmap.map_grant_refs, [(0, pair.refs[0]), (0, pair.refs[3])], True) == abi.EINVAL
    assert len(gmap.entries) == 3 and pair.domb.demand.in_use() == pair.demand + 3
    gmap.munmap(addr + 4096, 1)  # any part may be unmapped
    assert error(gmap.munmap, addr, 3) == abi.EINVAL  # stops at the hole; the first page is unmapped
    assert list(gmap.entries) == [addr + 8192]
    gmap.fini()
    assert pair.domb.demand.in_use() == pair.demand
    assert error(pair.domb.load, addr, 1) == abi.EFAULT


def test_gntmap_limits(pair: Pair) -> None:
    gmap = GntMap(pair.domb)
    gmap.set_max_grants(2)
    assert error(gmap.set_max_grants, 5) == abi.EBUSY
    assert error(gmap.map_grant_refs, [(0, ref) for ref in pair.refs], False) == abi.ENOMEM
    # A number of a domain is taken as it is, also an odd one.
    domb = pair.domb
    own = domb.grant_access(domb.domain.domid, domb.alloc_page(), False)
    assert domb.domain.domid % 2 and error(gmap.map_grant_refs, [(domb.domain.domid - 1, own)], True) == abi.EINVAL
    assert gmap.map_grant_refs([(domb.domain.domid, own)], True)
    gmap.fini()
    other = GntMap(pair.domb)
    assert error(other.map_grant_refs, [(0, pair.refs[0])] * 129, True) == abi.ENOMEM
    assert error(other.set_max_grants, 5) == abi.EBUSY


def test_the_libraries_on_minios(pair: Pair) -> None:
    xc = XcGnttab(pair.os)
    fd = xc.xc_gnttab_open()
    addr = xc.xc_gnttab_map_grant_refs(fd, 2, [0, 0], pair.refs, PROT_READ)
    assert addr is not None and pair.os.load(addr, 5) == b"page\0"
    assert error(pair.os.store, addr, b"x") == abi.EFAULT, "what was mapped for reading can be written"
    assert xc.xc_gnttab_map_grant_ref(fd, 0, pair.refs[3], RW) is None  # granted for reading
    assert xc.xc_gnttab_map_grant_ref(fd, 0, 2000, RW) is None and xc.errno == abi.EINVAL
    assert xc.xc_gnttab_munmap(fd, addr, 2) == 0 and xc.xc_gnttab_munmap(fd, addr, 1) == -1
    assert xc.xc_gnttab_close(fd) == 0 and xc.xc_gnttab_close(fd) == -1 and xc.errno == abi.EBADF
    xgt = gnttab.xengnttab_open(pair.os)
    assert xgt is not None
    assert gnttab.xengnttab_map_grant_ref_notify(xgt, 0, pair.refs[0], RW, 0, -1) is None
    assert pair.os.errno == abi.ENOSYS
    assert gnttab.xengnttab_grant_copy(xgt, [CopySegment(1, 2, 3)]) is None and pair.os.errno == abi.ENOSYS
    xce = evtchn.xenevtchn_open(pair.os)
    assert xce is not None
    port = evtchn.xenevtchn_bind_unbound_port(xce, 0)
    peer = pair.machine.dom0.events.bind_interdomain(pair.domb.domain, port)
    pair.machine.dom0.events.send(peer)
    assert evtchn.xenevtchn_pending(xce) == port and evtchn.xenevtchn_pending(xce) == -1
    assert evtchn.xenevtchn_notify(xce, 99) == -1 and evtchn.xenevtchn_bind_interdomain(xce, 0, 4000) == -1
    assert evtchn.xenevtchn_close(xce) == 0 and pair.domb.domain.events.get(port) is None


def test_a_resource_that_cannot_be_mapped_is_an_error(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One frame of it is refused: nothing of it stays mapped, and the caller gets that frame's error."""
    os, real = pair.os, MiniOs.mmu_update
    (tmp_path / "kernel").write_bytes(build_kernel())
    fd, guest = os.foreign_open(), pair.machine.create("guest", CreateRequest("kernel", "", 64))
    for count in (0, 65):
        assert error(os.foreign_resource, fd, guest, 1, 0, 0, count, RW) == abi.EINVAL
    addr = os.foreign_resource(fd, guest, 1, 0, 0, 1, RW)
    assert os.load(addr, 1)[0] & 3 == 1  # the first entry is the console's
    os.foreign_unmap(fd, addr, 1)
    before = pair.domb.demand.in_use()
    steps: list[tuple[int, int]] = []

    def first_refused(self: MiniOs, where: int, value: int, domid: int) -> int:
        steps.append((value, domid))
        return -abi.ENOMEM if len(steps) == 1 else real(self, where, value, domid)

    monkeypatch.setattr(MiniOs, "mmu_update", first_refused)
    assert error(os.foreign_resource, fd, guest, 1, 0, 0, 1, RW) == abi.ENOMEM
    assert [value for value, _ in steps[1:]] == [0] and pair.domb.demand.in_use() == before
    os.close(fd)


def test_calls_with_wrong_arguments(pair: Pair) -> None:
    """No grants, no pages, no protection, notification: refused; and a domain's number is not cut to another's."""
    os, none = pair.os, (-1, -1)
    fd = os.gnttab_open()
    assert error(os.gnttab_map, fd, [], RW, *none) == abi.EINVAL
    assert error(os.gnttab_map, fd, [(0, pair.refs[0])], 0, *none) == abi.EINVAL
    assert error(os.gnttab_map, fd, [(0, pair.refs[0])], RW, 0, -1) == abi.ENOSYS
    shr = os.gntshr_open()
    assert error(os.gntshr_share, shr, 0, 0, True, *none) == abi.EINVAL
    assert error(os.gntshr_share, shr, 0, 1, True, 0, -1) == abi.ENOSYS
    addr, refs = os.gntshr_share(shr, 0, 1, True, *none)
    assert len(refs) == 1
    assert error(os.gntshr_unshare, shr, addr, 2) == abi.EINVAL and error(os.gntshr_unshare, shr, addr + 1, 1) == abi.EINVAL
    os.gntshr_unshare(shr, addr, 1)
    events, me = os.evtchn_open(), pair.domb.domain.domid
    port = os.evtchn_bind_unbound_port(events, me)
    assert os.evtchn_bind_interdomain(events, me, port) > 0
    with pytest.raises(KernelError):
        os.evtchn_bind_interdomain(events, 0, port)
    assert error(os.evtchn_unbind, events, 1000) == abi.EINVAL
    for handle in (fd, shr, events):
        os.close(handle)


def test_pages_still_mapped_are_kept_aside(pair: Pair) -> None:
    used, refs = pair.domb.ram.in_use(), len(pair.domb.free_refs)
    frames, shared = pair.domb.share(0, 2, True)
    user = pair.machine.spawn("user")
    xgt = gnttab.xengnttab_open(user)
    assert xgt is not None
    addr = gnttab.xengnttab_map_grant_ref(xgt, pair.domb.domain.domid, shared[0], RW)
    assert addr is not None
    for frame, ref in zip(frames, shared, strict=True):
        pair.domb.unshare(frame, ref)
    assert len(pair.domb.late) == 1 and pair.domb.ram.in_use() == used + 1
    gnttab.xengnttab_unmap(xgt, addr, 1)
    assert pair.domb.retry_late() == 0
    assert (pair.domb.ram.in_use(), len(pair.domb.free_refs)) == (used, refs)


def test_a_page_mapped_while_a_channel_fails_is_kept_aside(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """References are guessed: a process maps the first page before the second cannot be granted."""
    user = pair.machine.spawn("user")
    xgt = gnttab.xengnttab_open(user)
    assert xgt is not None
    mapped: list[int] = []
    grant = MiniOs.grant_access

    def grants(os: MiniOs, domid: int, frame: Frame, readonly: bool) -> int:
        if mapped:
            raise KernelError(abi.ENOSPC)
        ref = grant(os, domid, frame, readonly)
        mapped.append(gnttab.xengnttab_map_grant_ref(xgt, os.domain.domid, ref, RW) or 0)
        return ref

    used = pair.domb.ram.in_use()
    monkeypatch.setattr(MiniOs, "grant_access", grants)
    assert error(pair.domb.share, 0, 2, True) == abi.ENOSPC
    assert mapped[0] and len(pair.domb.late) == 1 and pair.domb.ram.in_use() == used + 1
    gnttab.xengnttab_unmap(xgt, mapped[0], 1)
    assert pair.domb.retry_late() == 0 and pair.domb.ram.in_use() == used


def test_a_kernel_without_its_grant_table_does_not_start(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it grants pages in a table that Xen does not look at."""
    monkeypatch.setattr(minios, "NR_GRANT_FRAMES", pair.domb.domain.grant_table.max_frames + 1)
    assert error(pair.domb._setup_grants) == abi.ENOMEM


def test_all_references_of_its_grant_frames_can_be_used(pair: Pair) -> None:
    """Four frames of 512 entries, of which eight are reserved; two are never the same, and a used one is not given out."""
    domb = pair.domb
    used = [ref for ref in range(8, 4 * 512) if ref not in domb.free_refs]
    assert len(set(domb.free_refs)) == len(domb.free_refs) == 4 * 512 - 8 - len(used)
    assert 0 < len(used) <= 8 and min(domb.free_refs) >= 8 and max(domb.free_refs) == 4 * 512 - 1


def test_memory_and_addresses_run_out(pair: Pair) -> None:
    used = pair.domb.ram.in_use()
    assert error(pair.domb.alloc_pages, 100000) == abi.ENOMEM and error(pair.domb.alloc_pages, 0) == abi.ENOMEM
    assert error(pair.domb.map_frames_ex, [1] * 100000, 0, True) == abi.ENOMEM
    addr, errors = pair.domb.map_frames_ex([1 << 40, 1 << 60, (1 << 64) - 1], 0, True)
    assert all(each < 0 for each in errors)
    pair.domb.unmap_frames(addr, 3)
    pair.domb.free_refs = pair.domb.free_refs[:1]
    assert error(pair.domb.share, 0, 2, True) == abi.ENOSPC
    assert pair.domb.ram.in_use() == used and len(pair.domb.free_refs) == 1
    assert error(pair.domb.unmap_frames, 0, 1) == abi.EINVAL
    assert error(pair.domb.unmap_frames, pair.domb.layout.window_va(pair.demand + 5), 1) == abi.EINVAL
