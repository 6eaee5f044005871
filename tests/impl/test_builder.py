"""The builder in DomB and over privcmd: the same guest, and no leak when a step fails."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb.builder import BuildError, Guest, Request, build
from bulkhead.impl.domb.elf import parse
from bulkhead.impl.domb.layout import plan
from bulkhead.impl.domb.minios_osdep import MiniOsOsdep
from bulkhead.impl.guests.agent import TestGuest
from bulkhead.impl.guests.test_kernel import Source, build_kernel
from bulkhead.impl.libs.osdep import Osdep
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import Domain
from bulkhead.impl.xen.frames import PGT_L4
from bulkhead.impl.xen.lifecycle import unpause
from tests.impl.support import check_counts

REQUEST = Request(build_kernel(), b"disk" * 2000, 256, b"quiet")


class Site:
    """A machine and the builder's environment on it."""

    def __init__(self, system: str, root: Path, nframes: int = 1 << 20) -> None:
        self.machine = BootedSystem(system, root, nframes=nframes)
        self.xen = self.machine.xen
        domb = self.machine.domb
        self.os: Osdep = self.machine.spawn("builder") if domb is None else MiniOsOsdep(domb)
        self.before = self.machine.counts()

    def unchanged(self) -> bool:
        check_counts(self.xen)
        now = self.machine.counts()
        # Page-table pages of a process stay its own until it exits.
        return {k: v for k, v in now.items() if k != "Dom0's free pages"} == {
            k: v for k, v in self.before.items() if k != "Dom0's free pages"
        }


@pytest.fixture(params=["monolithic", "disaggregated"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(request.param, tmp_path)


def destroy(site: Site, guest: Guest) -> None:
    kernel = site.machine.kernel if site.machine.domb is None else site.machine.domb
    assert kernel.domctl(abi.DOMCTL_DESTROYDOMAIN, guest.domid)[0] == 0


def test_a_guest_is_built_sealed_and_boots(site: Site) -> None:
    guest = build(site.os, REQUEST)
    domain = site.xen.domains[guest.domid]
    root = domain.vcpus[0].cr3
    assert root is not None and root.ptype == PGT_L4 and root.pinned and domain.pause_count == 1
    assert domain.tot_pages == 256 and not domain.creation_finished
    table = domain.grant_table
    assert table.entry_v1(0) == (abi.GTF_PERMIT_ACCESS, 0, guest.console_mfn)
    assert table.entry_v1(1) == (abi.GTF_PERMIT_ACCESS, 0, guest.store_mfn)
    # Sealed: only the guest itself has references to its pages (the allocation, page tables and types).
    assert all(row.owner != f"guest {guest.domid}" or row.by in ("own", "could map") for row in site.machine.reach())
    assert not TestGuest(site.xen, domain).boot()  # paused
    unpause(domain)
    agent = TestGuest(site.xen, domain)
    assert agent.boot() and agent.info is not None
    assert agent.info.cmd_line == b"quiet" and agent.info.mod_len == 8000 and domain.shared_info is not None
    assert bytes(domain.shared_info.bytes()[:2]) == b"\0\1"
    destroy(site, guest)
    assert site.unchanged()


class Segment(ctypes.Structure):
    """A selector of struct cpu_user_regs, with its padding."""

    _fields_ = (("selector", ctypes.c_uint16), ("pad", ctypes.c_uint8 * 6))


class Context(ctypes.Structure):
    """struct vcpu_guest_context of 64-bit PV guests, from public/arch-x86/xen.h and xen-x86_64.h."""

    _fields_ = (
        ("fpu_ctxt", ctypes.c_uint8 * 512),
        ("flags", ctypes.c_uint64),
        *((name, ctypes.c_uint64) for name in "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()),
        ("error_code", ctypes.c_uint32),
        ("entry_vector", ctypes.c_uint32),
        ("rip", ctypes.c_uint64),
        ("cs", Segment),
        ("rflags", ctypes.c_uint64),
        ("rsp", ctypes.c_uint64),
        *((name, Segment) for name in "ss es ds fs gs".split()),
        ("trap_ctxt", ctypes.c_uint8 * (256 * 16)),
        *((name, ctypes.c_uint64) for name in ("ldt_base", "ldt_ents")),
        ("gdt_frames", ctypes.c_uint64 * 16),
        *((name, ctypes.c_uint64) for name in ("gdt_ents", "kernel_ss", "kernel_sp")),
        ("ctrlreg", ctypes.c_uint64 * 8),
        ("debugreg", ctypes.c_uint64 * 8),
        ("callbacks", ctypes.c_uint64 * 7),
    )


def test_the_guest_begins_with_the_registers_of_a_pv_kernel(site: Site) -> None:
    """Every byte of the first context: xg_dom_x86.c (vcpu_x86_64) sets these registers, and all others are zero."""
    guest = build(site.os, REQUEST)
    vcpu = site.xen.domains[guest.domid].vcpus[0]
    assert vcpu.context is not None and vcpu.cr3 is not None
    found = Context.from_buffer_copy(vcpu.context)
    image = parse(REQUEST.kernel)
    plan_ = plan(image, len(REQUEST.ramdisk), REQUEST.pages)
    want = Context(flags=1 << 2 | 1 << 5, rip=image.virt_entry, rflags=1 << 9)
    want.rsi = image.virt_base + (plan_.segments["start_info"].first << 12)
    want.rsp = want.kernel_sp = image.virt_base + (plan_.segments["bootstack"].first + 1 << 12)
    want.cs.selector, want.ss.selector, want.kernel_ss = 0xE033, 0xE02B, 0xE02B
    want.ctrlreg[3], want.debugreg[6], want.debugreg[7] = vcpu.cr3.mfn << 12, 0xFFFF0FF0, 0x400
    assert len(vcpu.context) == ctypes.sizeof(Context) and bytes(found) == bytes(want)


STEPS = [
    "open",
    "parse",
    "create",
    "configure",
    "event channels",
    "populate",
    "load kernel",
    "load ramdisk",
    "hypercall page",
    "magic pages",
    "page tables",
    "pin",
    "shared info",
    "seed grants",
    "vcpu",
    "seal",
]


def test_an_error_at_any_step_undoes_the_guest(site: Site) -> None:
    seen: list[str] = []
    guest = build(site.os, REQUEST, lambda step, what: seen.append(step))
    destroy(site, guest)
    assert seen == STEPS

    def stop(at: str) -> Callable[[str, str], None]:
        def hook(step: str, what: str) -> None:
            if step == at:
                raise KernelError(abi.EIO)

        return hook

    for step in STEPS:
        with pytest.raises(BuildError) as caught:
            build(site.os, REQUEST, stop(step))
        assert (caught.value.step, caught.value.errno) == (step, abi.EIO) and site.unchanged(), step


class Failing:
    """An Osdep whose n-th call of some kind fails; all else is the real one."""

    KINDS = ("hypercall", "foreign_map", "foreign_resource", "buffer", "store")

    def __init__(self, os: Osdep, kind: str, when: int) -> None:
        self.kind, self.left = kind, when
        real = getattr(os, kind)

        def failing(*args: object, **kwargs: object) -> object:
            self.left -= 1
            if self.left == 0:
                raise KernelError(abi.ENOMEM)
            return real(*args, **kwargs)

        self.failing = failing


@pytest.mark.parametrize("kind", Failing.KINDS)
def test_any_failing_call_undoes_the_guest(site: Site, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    when = 0
    while True:
        when += 1
        with monkeypatch.context() as patch:
            failing = Failing(site.os, kind, when)
            patch.setattr(site.os, kind, failing.failing)
            try:
                guest = build(site.os, REQUEST)
            except BuildError as exc:
                assert exc.errno in (abi.ENOMEM, abi.EIO, abi.EBUSY), exc
            else:
                destroy(site, guest)
                assert failing.left > 0
                break
        assert site.unchanged(), (kind, when)
    assert when > 2 or kind == "foreign_resource"


@pytest.mark.parametrize(
    ("request_", "errno", "said"),
    [
        (Request(b"not a kernel"), abi.EINVAL, "is not an ELF file"),
        (Request(build_kernel(), pages=10), abi.EINVAL, "10 pages of memory"),
        (Request(build_kernel(), pages=64, ramdisk=bytes(1 << 20)), abi.EINVAL, "needs"),
        (Request(build_kernel(), cmdline=b"x" * 2000), abi.EINVAL, "command line"),
        (Request(build_kernel(), pages=1 << 18), abi.EBUSY, "populate"),
    ],
)
def test_bad_requests(tmp_path: Path, request_: Request, errno: int, said: str) -> None:
    site = Site("disaggregated", tmp_path, 0x4000 + 6000)
    with pytest.raises(BuildError, match=said) as caught:
        build(site.os, request_)
    assert caught.value.errno == errno and site.unchanged()


def test_a_backend_that_is_the_guest_itself_is_not_seeded(site: Site) -> None:
    domid = site.xen.last_domid + 1
    guest = build(site.os, Request(build_kernel(), pages=128, xenstore_domid=domid))
    table = site.xen.domains[guest.domid].grant_table
    assert guest.domid == domid and table.entry_v1(1)[0] == 0 and table.entry_v1(0)[0] == 1
    destroy(site, guest)


def test_without_privilege_nothing_is_built(tmp_path: Path) -> None:
    site = Site("disaggregated", tmp_path)
    user = site.machine.spawn("somebody")
    with pytest.raises(BuildError) as caught:
        build(user, REQUEST)
    assert (caught.value.step, caught.value.errno) == ("open", abi.ENOENT)
    site.machine.domb.domain.is_privileged = False  # type: ignore[union-attr]
    with pytest.raises(BuildError) as caught:
        build(site.os, REQUEST)
    assert (caught.value.step, caught.value.errno) == ("create", abi.EPERM) and site.unchanged()


def guest_frame(site: Site, domain: Domain, pfn: int) -> int:
    """The frame of a page of the guest, by Xen's own table."""
    return next(f.mfn for f in site.xen.frames.table.values() if f.owner is domain and not f.xenheap and f.m2p == pfn)


def test_without_ramdisk_start_info_names_none(site: Site) -> None:
    guest = build(site.os, Request(build_kernel(), b"", 256))
    domain = site.xen.domains[guest.domid]
    unpause(domain)
    agent = TestGuest(site.xen, domain)
    agent.boot()
    info = agent.info
    assert info is not None
    assert (info.mod_start, info.mod_len, info.flags, info.first_p2m_pfn, info.nr_p2m_frames) == (0, 0, 0, 0, 0)
    destroy(site, guest)


def test_kernel_with_all_notes(site: Site) -> None:
    source = Source(notes={15: (0x8000000000).to_bytes(8, "little"), 16: (1).to_bytes(8, "little")})
    guest = build(site.os, Request(build_kernel(source), b"x" * 5000, 256))
    domain = site.xen.domains[guest.domid]
    unpause(domain)
    agent = TestGuest(site.xen, domain)
    info = None
    try:
        agent.boot()  # its ramdisk is by frame number, which the test kernel does not know
    except Exception:
        info = agent.info
    assert info is not None and info.flags == 8 and info.mfn_list == 0x8000000000
    assert (info.mod_len, info.nr_p2m_frames) == (5000, 1)
    # Both lie behind all that is mapped in the main range: the ramdisk, and then the frame list.
    assert info.first_p2m_pfn == info.mod_start + 2
    assert bytes(site.xen.frames.table[guest_frame(site, domain, info.mod_start)].bytes()) == b"x" * 4096
    first = int.from_bytes(agent.memory.load(info.mfn_list, 8), "little")
    frame = site.xen.frames.get(first)
    assert frame is not None and frame.owner is domain and frame.m2p == 0
    destroy(site, guest)
    assert site.unchanged()


class Killed(BaseException):
    """kill -9 of the process that builds."""


@pytest.mark.parametrize("at", STEPS[3:])
def test_the_building_process_is_killed(tmp_path: Path, at: str) -> None:
    site = Site("monolithic", tmp_path)

    def hook(step: str, what: str) -> None:
        if step == at:
            raise Killed

    free = site.xen.frames.free_count
    with pytest.raises(Killed):
        build(site.os, REQUEST, hook)
    site.machine.processes.pop().exit()
    # The incomplete guest stays, paused and empty or half built, until it is destroyed; then everything is freed.
    left = [domid for domid in site.xen.domains if domid]
    assert len(left) == 1 and site.xen.domains[left[0]].pause_count
    assert site.machine.kernel.domctl(abi.DOMCTL_DESTROYDOMAIN, left[0])[0] == 0
    assert site.xen.frames.free_count == free and site.machine.shut_down() == []
