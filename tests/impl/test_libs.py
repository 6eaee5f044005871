"""The libraries: C's conventions, the Linux and the BSD device behind one API, before and after disaggregation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, Syscalls, devices
from bulkhead.impl.libs import ctrl, evtchn, foreignmemory, gnttab
from bulkhead.impl.libs.freebsd import FreeBsdOsdep
from bulkhead.impl.libs.linux import LinuxOsdep, UnixOsdep
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, CopySegment
from bulkhead.impl.libs.xc_gnttab import XcGnttab
from bulkhead.impl.xen import abi
from bulkhead.proofs.replay.rig import Rig
from tests.impl.support import entry_flags, grant, machine

RW = PROT_READ | PROT_WRITE
BEFORE = (PRIVCMD, EVTCHN)
AFTER = (GNTDEV, GNTALLOC, EVTCHN)


class User:
    """A guest with grants to Dom0, and a process of Dom0 with the libraries."""

    def __init__(self, make: Callable[[Syscalls], UnixOsdep], nodes: tuple[str, ...]) -> None:
        self.rig: Rig = machine("A")
        for ref in range(8, 16):
            grant(self.rig, "A", ref, "d0", ref - 8)
        self.domid = self.rig.domid("A")
        self.pool = GntallocPool(self.rig.kernel)
        self.calls = self.start(nodes, bsd=make is FreeBsdOsdep)
        self.os = make(self.calls)

    def start(self, nodes: tuple[str, ...], bsd: bool = False) -> Syscalls:
        return Syscalls("test", Process(self.rig.kernel), devices(self.rig.kernel, self.pool, nodes, bsd))

    def content(self, page: int) -> bytes:
        data = self.rig.page(f"A/{page}")
        assert data is not None and data.data is not None
        return bytes(data.data[:16])


@pytest.fixture(params=[LinuxOsdep, FreeBsdOsdep])
def user(request: pytest.FixtureRequest) -> User:
    return User(request.param, AFTER)


def test_grants_are_mapped_and_unmapped_as_a_whole(user: User) -> None:
    xgt = gnttab.xengnttab_open(user.os)
    assert xgt is not None and gnttab.xengnttab_set_max_grants(xgt, 8) == 0
    addr = gnttab.xengnttab_map_domain_grant_refs(xgt, user.domid, [8, 9], RW)
    assert addr is not None and user.os.load(addr + 4096, 16) == user.content(1)
    user.os.store(addr, b"user space writes")
    assert user.content(0) == b"user space write"
    assert gnttab.xengnttab_unmap(xgt, addr, 1) == -1 and user.os.errno == abi.EINVAL
    assert gnttab.xengnttab_unmap(xgt, addr, 2) == 0
    assert [entry_flags(user.rig, "A", ref) for ref in (8, 9)] == [1, 1]
    assert gnttab.xengnttab_unmap(xgt, None, 1) == -1
    assert gnttab.xengnttab_close(xgt) == 0
    assert gnttab.xengnttab_close(xgt) == -1 and user.os.errno == abi.EBADF


def test_a_bad_grant_gives_null_and_leaves_nothing(user: User) -> None:
    xgt = gnttab.xengnttab_open(user.os)
    assert xgt is not None
    assert gnttab.xengnttab_map_grant_refs(xgt, [user.domid, user.domid], [8, 200], RW) is None
    assert user.os.errno == abi.EINVAL
    assert gnttab.xengnttab_map_grant_ref(xgt, 99, 8, RW) is None
    assert gnttab.xengnttab_map_grant_refs(xgt, [1], [], RW) is None
    assert gnttab.xengnttab_map_grant_ref(xgt, user.domid, 8, PROT_WRITE) is None
    assert entry_flags(user.rig, "A", 8) == 1
    assert gnttab.xengnttab_map_grant_ref(xgt, user.domid, 8, PROT_READ) is not None


def test_notify_on_death(user: User) -> None:
    xgt, xce = gnttab.xengnttab_open(user.os), evtchn.xenevtchn_open(user.os)
    assert xgt is not None and xce is not None
    port = evtchn.xenevtchn_bind_unbound_port(xce, user.domid)
    guest = user.rig.agents["A"].domain
    local = guest.events.bind_interdomain(user.rig.dom0, port)
    guest.events.take_pending()
    addr = gnttab.xengnttab_map_grant_ref_notify(xgt, user.domid, 8, RW, 5, port)
    assert addr is not None
    user.os.store(addr, b"0123456789")
    user.calls.exit()  # killed
    assert user.content(0)[:7] == b"01234\x006" and guest.events.take_pending() == [local]
    assert gnttab.xengnttab_open(User(LinuxOsdep, BEFORE).os) is None


def test_sharing_own_pages(user: User) -> None:
    xgs = gnttab.xengntshr_open(user.os)
    assert xgs is not None
    shared = gnttab.xengntshr_share_pages(xgs, user.domid, 2, True)
    assert shared is not None
    addr, refs = shared
    assert user.os.load(addr, 8) == bytes(8) and len(set(refs)) == 2 and min(refs) >= 8
    assert user.pool.count == 2
    assert gnttab.xengntshr_unshare(xgs, addr, 2) == 0 and user.pool.count == 0
    assert gnttab.xengntshr_share_pages(xgs, user.domid, 2000, True) is None and user.os.errno == abi.ENOSPC
    assert gnttab.xengntshr_share_page_notify(xgs, user.domid, True, 0, 77) is None
    assert user.os.errno == abi.EINVAL and user.pool.count == 0
    assert gnttab.xengntshr_close(xgs) == 0


def test_grant_copy_is_linux_only(user: User) -> None:
    xgt = gnttab.xengnttab_open(user.os)
    assert xgt is not None
    into = user.os.buffer(16)
    done = gnttab.xengnttab_grant_copy(
        xgt, [CopySegment((8, 0, user.domid), into, 16), CopySegment((200, 0, user.domid), into, 16)]
    )
    if isinstance(user.os, FreeBsdOsdep):
        assert done is None and user.os.errno == abi.ENOSYS
    else:
        assert done == [0, abi.GNTST_BAD_PAGE] or (done is not None and done[0] == 0 and done[1] < 0)
        assert user.os.load(into, 16) == user.content(0)


def test_the_five_calls_of_2007(user: User) -> None:
    xc = XcGnttab(user.os)
    fd = xc.xc_gnttab_open()
    assert fd >= 0
    one = xc.xc_gnttab_map_grant_ref(fd, user.domid, 8, PROT_READ)
    two = xc.xc_gnttab_map_grant_refs(fd, 2, [user.domid] * 2, [9, 10], RW)
    assert one is not None and two is not None and user.os.load(two + 4096, 16) == user.content(2)
    assert xc.xc_gnttab_map_grant_ref(fd, user.domid, 100, RW) is None and xc.errno == abi.EINVAL
    assert xc.xc_gnttab_munmap(fd, two, 1) == -1 and xc.xc_gnttab_munmap(fd, two, 2) == 0
    assert xc.xc_gnttab_munmap(fd, one, 1) == 0 and xc.xc_gnttab_close(fd) == 0
    assert xc.xc_gnttab_close(fd) == -1 and xc.errno == abi.EBADF


def test_event_channels(user: User) -> None:
    xce = evtchn.xenevtchn_open(user.os)
    assert xce is not None
    guest = user.rig.agents["A"].domain
    port = evtchn.xenevtchn_bind_unbound_port(xce, user.domid)
    local = guest.events.bind_interdomain(user.rig.dom0, port)
    guest.events.send(local)
    assert evtchn.xenevtchn_pending(xce) == port
    assert evtchn.xenevtchn_pending(xce) == -1 and user.os.errno == abi.EAGAIN
    guest.events.send(local)
    assert evtchn.xenevtchn_pending(xce) == -1
    assert evtchn.xenevtchn_unmask(xce, port) == 0 and evtchn.xenevtchn_pending(xce) == port
    guest.events.take_pending()
    assert evtchn.xenevtchn_notify(xce, port) == 0 and guest.events.take_pending() == [local]
    waiting = guest.events.alloc_unbound(0)
    assert evtchn.xenevtchn_bind_interdomain(xce, user.domid, waiting) > 0
    assert evtchn.xenevtchn_bind_interdomain(xce, user.domid, 999) == -1 and user.os.errno == abi.EINVAL
    assert evtchn.xenevtchn_unbind(xce, port) == 0 and evtchn.xenevtchn_notify(xce, port) == -1
    assert evtchn.xenevtchn_close(xce) == 0


def foreign(user: User, os: UnixOsdep) -> tuple[int | None, int]:
    """The tool's own code: map a page of the guest, on any system."""
    fmem = foreignmemory.xenforeignmemory_open(os)
    if fmem is None:
        return None, os.errno
    return foreignmemory.xc_map_foreign_range(fmem, user.domid, 4096, PROT_READ, user.rig.mfn("A/3")), os.errno


def test_the_same_code_maps_any_page_before_and_none_after() -> None:
    user = User(LinuxOsdep, BEFORE)
    addr, _ = foreign(user, user.os)
    assert addr is not None and user.os.load(addr, 16) == user.content(3)
    after = User(LinuxOsdep, AFTER)
    assert foreign(after, after.os) == (None, abi.ENOENT)
    # With the device but without the privilege, Xen refuses each page.
    user.rig.dom0.is_privileged = False
    assert foreign(user, user.os) == (None, abi.EPERM)


def test_foreign_mapping_per_page_errors_and_restriction() -> None:
    user = User(LinuxOsdep, BEFORE)
    fmem = foreignmemory.xenforeignmemory_open(user.os)
    assert fmem is not None
    errors: list[int] = []
    gfns = [user.rig.mfn("A/3"), user.rig.mfn("A/l1"), 1 << 30]
    addr = foreignmemory.xenforeignmemory_map(fmem, user.domid, RW, gfns, errors)
    assert addr is not None and errors[0] == 0 and errors[1] == -abi.EBUSY and errors[2] < 0
    assert foreignmemory.xenforeignmemory_unmap(fmem, addr, 3) == 0
    assert foreignmemory.xc_map_foreign_pages(fmem, user.domid, RW, gfns) is None and user.os.errno == abi.EBUSY
    for gfn in (1 << 40, 1 << 60, (1 << 64) - 1, -1):  # more than a page-table entry holds
        assert foreignmemory.xc_map_foreign_pages(fmem, user.domid, RW, [gfn]) is None and 0 < user.os.errno < 4096
    assert foreignmemory.xc_map_foreign_pages(fmem, user.domid, RW, []) is None and user.os.errno == abi.EINVAL
    assert foreignmemory.xc_map_foreign_range(fmem, user.domid, 0, RW, 1) is None
    table = foreignmemory.xenforeignmemory_map_resource(fmem, user.domid, 1, 0, 0, 1, RW)
    assert table is not None and user.os.load(table + 64, 2) == b"\1\0"
    assert foreignmemory.xenforeignmemory_map_resource(fmem, user.domid, 9, 0, 0, 1, RW) is None
    assert foreignmemory.xenforeignmemory_restrict(fmem, user.domid) == 0
    assert foreignmemory.xc_map_foreign_range(fmem, 99, 4096, RW, 1) is None and user.os.errno == abi.EPERM
    assert foreignmemory.xenforeignmemory_close(fmem) == 0


def test_control_calls_over_privcmd() -> None:
    user = User(LinuxOsdep, BEFORE)
    free, frames = len(user.rig.kernel.free_pages), user.rig.xen.frames.free_count
    calls = user.start(BEFORE)
    os = LinuxOsdep(calls)
    xch = ctrl.xc_interface_open(os)
    assert xch is not None
    domid = ctrl.xc_domain_create(xch, ctrl.CreateDomain())
    assert domid > user.domid
    assert ctrl.xc_domain_max_vcpus(xch, domid, 1) == 0 and ctrl.xc_domain_setmaxmem(xch, domid, 4 * 600) == 0
    mfns = ctrl.xc_domain_populate_physmap_exact(xch, domid, range(600))
    assert mfns is not None and len(set(mfns)) == 600
    assert ctrl.xc_domain_populate_physmap_exact(xch, domid, [600]) is None and os.errno == abi.EBUSY
    info = ctrl.xc_domain_getinfo(xch, domid)
    assert info is not None and info.paused and info.tot_pages == 600
    assert ctrl.xc_evtchn_alloc_unbound(xch, domid, 0) == 1
    assert ctrl.xc_vcpu_setcontext(xch, domid, 0, bytes(abi.VCPU_CONTEXT_SIZE)) == -1 and os.errno == abi.EINVAL
    assert ctrl.xc_vcpu_setcontext(xch, domid, 0, b"") == -1
    assert ctrl.xc_hypercall_init(xch, domid, mfns[0]) == 0 and ctrl.xc_hypercall_init(xch, domid, 1) == -1
    page = user.rig.xen.frames.get(mfns[0])
    assert page is not None and page.data is not None and page.data[32 * 20 + 3 : 32 * 20 + 5] == b"\xb8\x14"
    assert user.rig.kernel.vcpu.cr3 is user.rig.kernel.layout.root  # its page tables were active only during the call
    assert ctrl.xc_mmuext_op(xch, abi.MMUEXT_PIN_L4_TABLE, mfns[0], domid) == -1
    assert ctrl.xc_domain_pause(xch, domid) == 0 and ctrl.xc_domain_unpause(xch, domid) == 0
    assert ctrl.xc_domain_destroy(xch, domid) == 0 and ctrl.xc_domain_destroy(xch, domid) == -1
    assert os.errno == abi.ESRCH and ctrl.xc_domain_getinfo(xch, domid) is None
    calls.exit()
    assert (len(user.rig.kernel.free_pages), user.rig.xen.frames.free_count) == (free, frames)


def test_nothing_is_lost_when_dom0_runs_out_of_memory(user: User) -> None:
    kernel = user.rig.kernel
    xgt, xgs = gnttab.xengnttab_open(user.os), gnttab.xengntshr_open(user.os)
    assert xgt is not None and xgs is not None
    started = len(kernel.free_pages)
    pages, slots = kernel.free_pages, kernel.free_slots
    for left in range(8):
        kernel.free_pages = pages[-left:] if left else []
        gnttab.xengnttab_map_domain_grant_refs(xgt, user.domid, [8, 9], RW)
        gnttab.xengntshr_share_pages(xgs, user.domid, 2, True)
        kept = pages[:-left] if left else pages
        kernel.free_pages = kept + kernel.free_pages
        pages = kernel.free_pages
    kernel.free_slots = slots[:1]
    assert gnttab.xengnttab_map_domain_grant_refs(xgt, user.domid, [10, 11], RW) is None
    assert user.os.errno == abi.ENOMEM and len(kernel.free_slots) == 1
    kernel.free_slots = slots
    user.calls.exit()
    assert user.pool.count == 0 and len(kernel.free_pages) >= started
    assert [entry_flags(user.rig, "A", ref) for ref in range(8, 12)] == [1] * 4
    assert len(kernel.free_slots) == 8 * 512 and not any(r.flags for r in user.rig.dom0.grant_table.maptrack)


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(0, 3),
    body=st.binary(max_size=64),
    rip=st.integers(0, (1 << 64) - 1),
    cr3=st.one_of(st.integers(0, (1 << 64) - 1), st.integers(0, 200)),
)
def test_vcpu_contexts_of_any_content(number: int, body: bytes, rip: int, cr3: int) -> None:
    user = SHARED[0]
    own = list(user.rig.agents["A"].domain.pages.values())
    cr3 = own[cr3].mfn << 12 if cr3 < len(own) else cr3
    context = bytearray(abi.VCPU_CONTEXT_SIZE)
    context[: len(body)] = body
    abi.U64.pack_into(context, abi.USER_REGS_OFFSET + 128, rip)
    abi.U64.pack_into(context, abi.CTRLREG_OFFSET + 24, cr3)
    before = [(f.count, f.tcount, f.ptype if f.tcount else 0) for f in own]
    xch = ctrl.xc_interface_open(user.os)
    assert xch is not None
    domid = [user.domid, 0, 4000][len(body) % 3]
    rc = ctrl.xc_vcpu_setcontext(xch, domid, number, bytes(context))
    assert rc in (0, -1)
    assert ctrl.xc_hypercall_init(xch, domid, (cr3 >> 12) + (1 << 40)) == -1
    ctrl.xc_interface_close(xch)
    if rc:
        assert [(f.count, f.tcount, f.ptype if f.tcount else 0) for f in own] == before


SHARED: list[User] = []


@pytest.fixture(autouse=True, scope="module")
def shared() -> None:
    SHARED[:] = [User(LinuxOsdep, BEFORE)]
