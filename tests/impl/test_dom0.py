"""Dom0's drivers from user space."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack, unpack

import pytest

from bulkhead.impl.dom0.evtchn import MOST_BYTES, Evtchn
from bulkhead.impl.dom0.gntalloc import Gntalloc, GntallocPool
from bulkhead.impl.dom0.gntdev import NOTIFY_CLEAR_BYTE, NOTIFY_SEND_EVENT, Gntdev
from bulkhead.impl.dom0.ioctl import (
    GNTDEV_GRANT_COPY,
    GNTDEV_MAP_GRANT_REF,
    GNTDEV_SET_MAX_GRANTS,
    gntdev_ioctl,
)
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.dom0.privcmd import Privcmd
from bulkhead.impl.dom0.process import MAP_PRIVATE, MAP_SHARED, Fault, Process, user_read
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.maptrack import live
from bulkhead.proofs.replay.rig import BUFFER_VPN, Rig
from tests.impl.support import entry_flags, grant, machine, page

RW = 3
VPN = 0x30000


class Setup:
    """A guest with some grants to Dom0 and a process with the device open."""

    def __init__(self) -> None:
        self.rig: Rig = machine("A")
        for ref in range(8, 16):
            grant(self.rig, "A", ref, "d0", ref - 8)
        self.process: Process = self.rig.process
        self.dev = Gntdev(self.rig.kernel)
        self.fd = self.process.open(self.dev)
        self.domid = self.rig.domid("A")

    def map(self, *refs: int) -> int:
        return self.dev.map_grant_ref([(self.domid, ref) for ref in refs])

    def mmap(self, offset: int, count: int, prot: int = RW, flags: int = MAP_SHARED, at: int = VPN) -> int:
        try:
            self.process.mmap(at, count, prot, flags, self.fd, offset)
        except KernelError as exc:
            return -exc.code
        return 0


@pytest.fixture
def s() -> Setup:
    return Setup()


def test_index_needs_a_strictly_larger_gap(s: Setup) -> None:
    one, two = s.map(8), s.map(9)
    assert (one, two) == (0, 4096)
    s.dev.unmap_grant_ref(one, 1)
    assert s.map(10) == 8192
    s.dev.unmap_grant_ref(two, 0)
    assert s.map(11) == 0
    with pytest.raises(KernelError) as caught:
        s.dev.unmap_grant_ref(one, 5)
    assert caught.value.code == abi.ENOENT


def test_mmap_once_and_exactly(s: Setup) -> None:
    offset = s.map(8, 9)
    assert s.mmap(offset, 1) == -abi.EINVAL
    assert s.mmap(offset, 2, RW, MAP_PRIVATE) == -abi.EINVAL
    assert s.mmap(offset, 2) == 0
    assert s.mmap(offset, 2, at=VPN + 64) == -abi.EINVAL
    assert entry_flags(s.rig, "A", 8) == 1 | 0x18
    assert s.rig.agents["A"].domain.grant_table.active[8].pin == 2  # user entry and kernel address


def test_one_bad_page_fails_all_and_spends_the_map(s: Setup) -> None:
    offset = s.map(8, 100)
    assert s.mmap(offset, 2) == -abi.EINVAL
    assert entry_flags(s.rig, "A", 8) == 1
    grant(s.rig, "A", 100, "d0", 5)
    assert s.mmap(offset, 2) == -abi.EINVAL


@pytest.mark.parametrize("answered", [0, 1])
def test_a_call_that_ends_early_maps_nothing_more(s: Setup, answered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """XSA-361: what Xen did not answer is not mapped, and the number in it, 0, is not unmapped: it is another's handle."""
    assert s.mmap(s.map(8), 1) == 0
    whole = Kernel.grant_op
    unmapped: list[int] = []

    def early(kernel: Kernel, cmd: int, elements: Sequence[bytes]) -> tuple[int, list[bytes]]:
        if cmd != abi.GNTTABOP_MAP_GRANT_REF:
            unmapped.extend(abi.UNMAP_GRANT_REF.unpack(each)[2] for each in elements)
            return whole(kernel, cmd, elements)
        return -abi.EFAULT, whole(kernel, cmd, elements[:answered])[1] + list(elements[answered:])

    monkeypatch.setattr(Kernel, "grant_op", early)
    assert s.mmap(s.map(9, 10), 2, at=VPN + 8) == -abi.EINVAL
    assert 0 not in unmapped and len(unmapped) == 4
    assert live(s.rig.xen.domains[0].grant_table) == 2  # the first map's own: for the user, and for the kernel
    assert entry_flags(s.rig, "A", 8) == 0x19
    assert entry_flags(s.rig, "A", 9) == entry_flags(s.rig, "A", 10) == 1


def test_mapping_outlives_ioctl_and_close(s: Setup) -> None:
    offset = s.map(8)
    assert s.mmap(offset, 1) == 0
    s.dev.unmap_grant_ref(offset, 1)
    s.process.close(s.fd)
    assert s.process.space.load(VPN << 12, 8) == bytes(page(s.rig, "A/0").bytes()[:8])
    s.process.space.unmap(VPN, 1)
    assert entry_flags(s.rig, "A", 8) == 1
    with pytest.raises(Fault):
        s.process.space.load(VPN << 12, 8)


def test_partial_munmap_unmaps_exactly_those_pages(s: Setup) -> None:
    assert s.mmap(s.map(8, 9, 10), 3) == 0
    s.process.space.unmap(VPN + 1, 1)
    assert [entry_flags(s.rig, "A", ref) & 8 for ref in (8, 9, 10)] == [8, 0, 8]
    s.process.space.unmap(VPN, 3)
    assert [entry_flags(s.rig, "A", ref) for ref in (8, 9, 10)] == [1, 1, 1]


def test_readonly_mapping_refuses_stores(s: Setup) -> None:
    assert s.mmap(s.map(8), 1, 1) == 0
    with pytest.raises(Fault) as caught:
        s.process.space.store(VPN << 12, b"x")
    assert (caught.value.signal, caught.value.code) == (11, 2)
    grant(s.rig, "A", 9, "d0", 1, 5)
    assert s.mmap(s.map(9), 1, RW, at=VPN + 64) == -abi.EINVAL


def test_notify_clears_the_byte_then_sends(s: Setup) -> None:
    evtchn = Evtchn(s.rig.kernel)
    port = evtchn.bind_unbound_port(s.domid)
    a = s.rig.agents["A"].domain
    local = a.events.bind_interdomain(s.rig.dom0, port)
    a.events.take_pending()
    offset = s.map(8)
    s.dev.set_unmap_notify(offset + 5, NOTIFY_CLEAR_BYTE | NOTIFY_SEND_EVENT, port)
    assert s.mmap(offset, 1) == 0
    s.process.space.store((VPN << 12) + 5, b"\7")
    s.dev.unmap_grant_ref(offset, 1)
    assert a.events.take_pending() == []
    s.process.space.unmap(VPN, 1)
    assert page(s.rig, "A/0").bytes()[5] == 0 and a.events.take_pending() == [local]
    with pytest.raises(KernelError):
        s.dev.set_unmap_notify(1 << 40, NOTIFY_CLEAR_BYTE, 0)


def test_child_has_no_grant_mapping(s: Setup) -> None:
    assert s.mmap(s.map(8), 1) == 0
    child = s.process.fork()
    with pytest.raises(Fault):
        child.space.load(VPN << 12, 1)
    child.exit()
    assert s.process.space.load(VPN << 12, 1) is not None


def test_exit_releases_everything(s: Setup) -> None:
    free = len(s.rig.kernel.free_slots)
    assert s.mmap(s.map(8, 9), 2) == 0
    s.process.exit()
    assert entry_flags(s.rig, "A", 8) == 1 and len(s.rig.kernel.free_slots) == free
    assert not any(record.flags for record in s.rig.dom0.grant_table.maptrack)


def test_ioctls_in_bytes(s: Setup) -> None:
    space, buf = s.process.space, BUFFER_VPN << 12
    space.store(buf, pack("<IIQII", 1, 0, 77, s.domid, 8))
    assert gntdev_ioctl(s.dev, space, GNTDEV_MAP_GRANT_REF, buf) == 0
    assert unpack("<Q", user_read(space, buf + 8, 8)) == (0,)
    segment = pack("<IHHQHHhH", 8, 16, s.domid, buf + 2048, 32, 1, 99, 0)
    space.store(buf, pack("<IIQ", 1, 0, buf + 64) + bytes(48) + segment)
    assert gntdev_ioctl(s.dev, space, GNTDEV_GRANT_COPY, buf) == 0
    assert space.load(buf + 2048, 32) == bytes(page(s.rig, "A/0").bytes()[16:48])
    assert unpack("<h", space.load(buf + 64 + 20, 2)) == (0,)
    with pytest.raises(KernelError) as caught:
        gntdev_ioctl(s.dev, space, GNTDEV_SET_MAX_GRANTS, buf)
    assert caught.value.code == abi.ENOTTY


def test_gntalloc_limit_and_deferred_pages(s: Setup) -> None:
    pool = GntallocPool(s.rig.kernel, limit=4)
    dev = Gntalloc(pool)
    fd = s.process.open(dev)
    offset, refs = dev.alloc(s.domid, 1, 2)
    assert offset == 0 and refs[0] >= 8
    s.process.mmap(VPN, 2, RW, MAP_SHARED, fd, 0)
    s.process.space.store(VPN << 12, b"hello")
    agent = s.rig.agents["A"]
    arg = abi.MAP_GRANT_REF.pack(agent.layout.window_va(0), 2, refs[0], 0, 0, 0, 0)
    _, out = s.rig.grant_op("A", 0, arg)
    assert abi.MAP_GRANT_REF.unpack(out)[4] == 0
    frame, _ = agent.access(agent.layout.window_va(0), False)
    assert frame is not None and frame.data is not None and bytes(frame.data[:5]) == b"hello"
    dev.dealloc(0, 2)
    assert pool.count == 2
    s.process.space.unmap(VPN, 2)
    assert pool.count == 1 and len(pool.deferred) == 1
    with pytest.raises(KernelError) as caught:
        dev.alloc(s.domid, 0, 4)
    assert caught.value.code == abi.ENOSPC
    handle = abi.MAP_GRANT_REF.unpack(out)[5]
    s.rig.grant_op("A", 1, abi.UNMAP_GRANT_REF.pack(agent.layout.window_va(0), 0, handle, 0, 0))
    assert pool.retry_deferred() == 0 and pool.count == 0
    assert dev.alloc(s.domid, 0, 1)[0] == 8192


def test_privcmd_foreign_mapping_and_restrict(s: Setup) -> None:
    dev = Privcmd(s.rig.kernel)
    fd = s.process.open(dev)
    s.process.mmap(VPN, 3, RW, MAP_SHARED, fd, 0)
    gfns = [s.rig.mfn("A/3"), s.rig.mfn("A/l1"), 1 << 30]
    errors = dev.mmapbatch_v2(s.process.space, s.domid, VPN << 12, gfns)
    assert errors[0] == 0 and errors[1] == -abi.EBUSY and errors[2] < 0
    s.process.space.store(VPN << 12, b"from dom0")
    assert bytes(page(s.rig, "A/3").bytes()[:9]) == b"from dom0"
    dev.mmap_resource(s.process.space, s.domid, 1, 0, 0, (VPN + 1) << 12, 1)
    assert s.process.space.load(((VPN + 1) << 12) + 64, 2) == b"\1\0"
    dev.restrict(s.domid)
    with pytest.raises(KernelError):
        dev.hypercall(20, [0, 0, 0])
    with pytest.raises(KernelError):
        dev.mmapbatch_v2(s.process.space, 99, VPN, [0])
    refs = page(s.rig, "A/3").count
    s.process.space.unmap(VPN, 3)
    assert page(s.rig, "A/3").count == refs - 1


def taken(evtchn: Evtchn) -> list[int]:
    """Everything that a read() takes."""
    ports = evtchn.peek(MOST_BYTES)
    del evtchn.ring[: len(ports)]
    return ports


def test_evtchn_restriction_and_ring(s: Setup) -> None:
    evtchn = Evtchn(s.rig.kernel)
    port = evtchn.bind_unbound_port(s.domid)
    a = s.rig.agents["A"].domain
    local = a.events.bind_interdomain(s.rig.dom0, port)
    a.events.send(local)
    assert taken(evtchn) == [port]
    a.events.send(local)
    with pytest.raises(KernelError):
        taken(evtchn)
    evtchn.write([port])
    assert taken(evtchn) == [port]
    evtchn.restrict(s.domid)
    with pytest.raises(KernelError):
        evtchn.bind_unbound_port(99)
    evtchn.release()
    assert port not in s.rig.dom0.events.ports
