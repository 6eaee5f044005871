"""Contracts for the layers below the builder: hypercalls and mappings, each of which may fail or succeed.

Each is a step of the rules (`DombRun.follow`), with the arguments of the builder's code. In addition to the rules' state,
this records DomB's mappings, its open descriptors, and the bytes in the guest's pages. Numbers of frames and ports come
from Xen and are opaque or symbolic. Not here: the specification of the builder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bulkhead.impl.domb import start_info as si
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.xen import abi
from bulkhead.proofs.refinement.handlers.domb.run import DOM0, DOMB, DombRun, fresh, member
from bulkhead.proofs.refinement.handlers.domb.words import Opaque, Tagged
from bulkhead.proofs.symbolic.engine import Int, Unsupported, number
from bulkhead.proofs.symbolic.terms import FALSE, Term, eq, variable
from bulkhead.proofs.symbolic.terms import number as constant

PAGE: Final = 1 << abi.PAGE_SHIFT
FRAMES: Final = 1000  # the element of the guest's first frame; other frames have smaller elements
SHARED_INFO, TABLE = "shared_info", "grant_table"
KERNEL_BYTE, DISK_BYTE, UNKNOWN = b"K", b"R", b"?"
GUEST, LIFE = variable("guest", bits=15), variable("life")


class Frames:
    """The guest's frames, by guest page number."""

    def __getitem__(self, which: Any) -> Any:
        if isinstance(which, slice):
            return [self[i] for i in range(which.start, which.stop)]
        if not isinstance(which, int) or which < 0:
            raise Unsupported("a page of the guest that is no plain number")
        return Opaque(constant(FRAMES + which))

    def __iter__(self) -> Iterator[Opaque]:
        yield Opaque(variable("any frame"))


@dataclass
class Area:
    """Contiguous pages mapped by DomB: pages of the guest (element and translation), or a special page of Xen."""

    pages: list[tuple[int, Term]] = field(default_factory=list)
    special: str = ""
    count: int = 1

    @property
    def whole(self) -> bool:
        """Did Xen map all pages? If not, the library unmaps them at once, which succeeds."""
        return bool(self.special) or len(self.pages) == self.count


class Below(Osdep):
    """DomB's kernel and Xen, for a build."""

    def __init__(self, run: DombRun) -> None:
        self.run = run
        self.errno = 0
        self.open_files: dict[int, str] = {}
        self.areas: dict[int, Area] = {}
        self.content: dict[int, bytes] = {}  # of the guest's mapped pages, by page number
        self.entries: dict[int, Any] = {}  # the bytes of reserved entries: offset -> (width, value)
        self.ports: list[Term] = []
        self.next_addr, self.next_fd, self.next_t = 1 << 20, 3, 0
        self.pages: Any = None  # number of the guest's pages
        self.existing = False  # the guest exists, not destroyed yet
        self.failing = True  # may calls fail?
        self.failed = False
        self.reason = 0  # the error of the first call that failed
        self.undoing: bool | None = None  # after a failure: does every unmapping fail for a while?
        self.pinned = self.started_at = False

    # Failures.

    def fails(self, what: str, errno: int = abi.ENOMEM) -> bool:
        """Does this call fail?"""
        if not self.failing or not self.run.engine.choose(what):
            return False
        self.failed = True
        self.errno = errno
        self.reason = self.reason or errno
        return True

    def _raises(self, what: str) -> None:
        if self.fails(what):
            raise OsError(abi.ENOMEM)

    def _unmapping_fails(self) -> None:
        """Each may fail; after a failure, all following ones fail, or none: `undo` has its own proof."""
        if self.failed and self.failing and self.together:
            if self.undoing is None:
                self.undoing = self.run.engine.choose("nothing can be unmapped now")
            if self.undoing:
                raise OsError(abi.ENOMEM)
            return
        self._raises("cannot be unmapped now")

    together = True

    # Descriptors.

    def _open(self, what: str) -> int:
        self._raises(f"no {what}")
        self.next_fd += 1
        self.open_files[self.next_fd] = what
        return self.next_fd

    def call_open(self) -> int:
        return self._open("way to hypercalls")

    def foreign_open(self) -> int:
        return self._open("way to foreign memory")

    def close(self, fd: int) -> None:
        if self.open_files.pop(fd, None) is None:
            raise Unsupported("a descriptor that is not open is closed")

    # Mappings.

    def the_guest(self, domid: Any, what: str) -> None:
        """Check that the operation is on the guest under construction."""
        self.run.claim(what, "it is the guest under construction", eq(number(domid), self.run.state.at("job.guest")))

    def _place(self, area: Area) -> int:
        self.next_addr += PAGE << 8
        self.areas[self.next_addr] = area
        return self.next_addr

    def foreign_map(self, fd: int, domid: int, prot: int, gfns: Sequence[Any]) -> tuple[int, list[int]]:
        self.the_guest(domid, "map")
        self._raises("no addresses left")
        first, *_ = gfns
        if first.element is SHARED_PAGE:
            if self.fails("Xen maps no shared_info", abi.EINVAL):
                return self._place(Area()), [-abi.EINVAL]
            self.run.follow("build_view", {"s": member("Special", SHARED_INFO)})
            return self._place(Area(special=SHARED_INFO)), [0]
        errors, area = [], Area(count=len(gfns))
        for gfn in gfns:
            if self.fails("Xen does not map a page", abi.EINVAL):
                errors.append(-abi.EINVAL)
                continue
            t = constant(self.next_t)
            self.next_t += 1
            self.run.knows_translation(t)
            self.run.follow("build_map", {"f": gfn.element, "t": t, "nil": variable("nil")})
            area.pages.append((gfn.element.args[0], t))
            errors.append(0)
        return self._place(area), errors

    def foreign_unmap(self, fd: int, addr: int, count: int) -> None:
        area = self.areas.get(addr)
        if fd not in self.open_files or area is None:
            raise Unsupported("what is not mapped is unmapped, or through a handle that is closed")
        if area.whole:
            self._unmapping_fails()
        self.run.claim("unmap", "all that is mapped there is unmapped", area.count == count)
        del self.areas[addr]
        if area.special == TABLE:
            self._seeded()
        if area.special:
            self.run.follow("build_unview", {"s": member("Special", area.special)})
        for _, t in area.pages:
            self.run.follow("build_unmap", {"t": t})
        if area.pages:
            self.run.follow("flush_tlb", {"d": DOMB})

    def foreign_resource(self, fd: int, domid: int, kind: int, rid: int, first: int, count: int, prot: int) -> int:
        self.the_guest(domid, "acquire_resource")
        self.run.claim("acquire_resource", "it is the first page of the grant table", (kind, first, count) == (1, 0, 1))
        self._raises("Xen shows no grant table")
        self.run.follow("build_view", {"s": member("Special", TABLE)})
        return self._place(Area(special=TABLE))

    # Stores.

    def store(self, addr: int, payload: bytes) -> None:
        base = addr & ~((PAGE << 8) - 1)
        area, offset = self.areas.get(base), addr - base
        if area is None or offset + len(payload) > area.count * PAGE:
            self.run.claim("store", "DomB stores to what it has mapped", False)
        elif area.special == TABLE:
            self._store_entry(offset, payload)
        elif not area.special:
            for i in range(0, len(payload), PAGE):
                self._store_page(area.pages[(offset + i) // PAGE], (offset + i) % PAGE, payload[i : i + PAGE])

    def _store_page(self, page: tuple[int, Term], offset: int, part: bytes) -> None:
        which, t = page
        old = self.content.get(which, UNKNOWN * PAGE)
        self.content[which] = old[:offset] + bytes(part) + old[offset + len(part) :]
        if not any(part):
            self.run.follow("build_clear", {"t": t})
        elif KERNEL_BYTE in part or DISK_BYTE in part:
            self.run.follow("build_load", {"t": t, "b": constant(int(DISK_BYTE in part))})
        else:
            self.run.follow("build_make", {"t": t})

    def _store_entry(self, offset: int, payload: bytes) -> None:
        if not isinstance(payload, Tagged):
            raise Unsupported("a store to a grant table that is no entry's")
        for width, value in payload.parts:
            self.entries[offset] = (width, value)
            offset += width
        for ref in (0, 1):
            whole = all((8 * ref + at) in self.entries for at in (2, 4))
            if 8 * ref in self.entries:
                self.run.claim("an entry", "it permits nothing before it names its page and whom it is for", whole)

    def entry(self, ref: int) -> tuple[Term, Term, Term] | None:
        """Flags, grantee and frame of a reserved entry, once it is complete."""
        if any((8 * ref + at) not in self.entries for at in (0, 2, 4)):
            return None
        flags, grantee, frame = (self.entries[8 * ref + at][1] for at in (0, 2, 4))
        if not isinstance(frame, Opaque):
            raise Unsupported("an entry whose frame is none that Xen named")
        return number(flags), number(grantee), frame.element

    def _seeded(self) -> None:
        """The table is unmapped: its entries must be those that the rules seed."""
        console, xenstore = self.entry(0), self.entry(1)
        if console is None or xenstore is None or not self.run.engine.proves(self.run.stage_is("loaded")):
            return  # a failure in between
        run, d = self.run, self.run.state.at("job.guest")
        run.follow("build_seed", {"console": console[2], "xenstore": xenstore[2]})
        permit = member("Kind", "permit_access")
        for name, (flags, grantee, frame) in (("gref_console", console), ("gref_xenstore", xenstore)):
            r = run.state.at(name)
            run.prove(
                "seeded entries",
                [
                    (f"{name}: kind, and nothing else in the flags", eq(flags, constant(abi.GTF_PERMIT_ACCESS))),
                    (f"{name}: permits", eq(run.state.at("entry.kind", d, r), permit)),
                    (f"{name}: grantee", eq(run.state.at("entry.grantee", d, r), grantee)),
                    (f"{name}: grantee is Dom0", eq(grantee, DOM0)),
                    (f"{name}: frame", eq(run.state.at("entry.frame", d, r), frame)),
                ],
            )

    # Hypercalls, in the form of libxenctrl.

    def standing_in(self) -> tuple[tuple[object, str, object], ...]:
        """The functions of libxenctrl, by these contracts."""
        names = (
            "xc_domain_create xc_domain_max_vcpus xc_domain_setmaxmem xc_evtchn_alloc_unbound xc_domain_getinfo "
            "xc_domain_populate_physmap_exact xc_hypercall_init xc_mmuext_op xc_vcpu_setcontext xc_domain_destroy "
            "xc_domain_unpause"
        )
        return (
            *[(ctrl, name, getattr(self, name)) for name in names.split()],
            (si.StartInfo, "pack", lambda info: self._start_info(info)),
            (si, "vcpu_context", lambda entry, stack, start, root: ("context", entry, start, root)),
        )

    def _reached(self, xch: ctrl.XcInterface) -> None:
        if xch.fd not in self.open_files:
            raise Unsupported("a hypercall through a handle that is closed")

    def xc_domain_create(self, xch: ctrl.XcInterface, config: ctrl.CreateDomain) -> Any:
        self._reached(xch)
        if self.fails("no domain"):
            return -1
        args = {"d_d": GUEST, "d_life": LIFE}
        self.run.assume_picks("build_create", args, ("d_d", "d_life"))
        self.run.follow("build_create", args)
        self.existing = True
        return Int(GUEST)

    def xc_domain_max_vcpus(self, xch: ctrl.XcInterface, domid: Any, count: int) -> int:
        self._reached(xch)
        self.the_guest(domid, "max_vcpus")
        return -1 if self.fails("no vCPU") else 0

    def xc_domain_setmaxmem(self, xch: ctrl.XcInterface, domid: Any, kib: Any) -> int:
        self._reached(xch)
        self.the_guest(domid, "max_mem")
        return -1 if self.fails("no limit") else 0

    def xc_evtchn_alloc_unbound(self, xch: ctrl.XcInterface, dom: Any, remote: Any) -> Any:
        self._reached(xch)
        self.the_guest(dom, "alloc_unbound")
        if self.fails("no port"):
            return -1
        q = fresh(self.run, "port", 32)
        args = {"peer": number(remote), "q_q": q}
        self.run.engine.assume(self.run.state.at("xsm_event", self.run.state.at("job.guest"), DOM0))
        self.run.assume_picks("build_port", args, ("q_q",))
        self.run.follow("build_port", args)
        self.ports.append(q)
        return Int(q)

    def xc_domain_populate_physmap_exact(self, xch: ctrl.XcInterface, domid: Any, pfns: Any) -> Any:
        self._reached(xch)
        self.the_guest(domid, "populate")
        failed = self.fails("no memory")
        if failed and not self.run.engine.choose("some of it"):
            return None
        self.pages = pfns.count
        for i in range(1 if failed else self.run.layout_pages):  # type: ignore[attr-defined]
            args = {"f_f": constant(FRAMES + i), "f_e": constant(i)}
            self.run.follow("build_populate", args, choices={"the domain is at max_pages": FALSE})
        return None if failed else Frames()

    def xc_domain_getinfo(self, xch: ctrl.XcInterface, domid: Any) -> ctrl.DomInfo | None:
        self._reached(xch)
        self.the_guest(domid, "getdomaininfo")
        if self.fails("Xen tells nothing"):
            return None
        return ctrl.DomInfo(domid, True, False, False, 0, 0, Opaque(SHARED_PAGE), b"")  # type: ignore[arg-type]

    def xc_hypercall_init(self, xch: ctrl.XcInterface, domid: Any, mfn: Opaque) -> int:
        self._reached(xch)
        self.the_guest(domid, "hypercall_init")
        if self.fails("no hypercall page"):
            return -1
        which = mfn.element.args[0]
        self.run.claim("hypercall_init", "it is a page of the kernel", which in self.kernel_frames)
        self.content[which] = UNKNOWN * PAGE
        return 0

    kernel_frames: Sequence[int] = ()
    root_frame = tables = -1

    def xc_mmuext_op(self, xch: ctrl.XcInterface, cmd: int, mfn: Opaque, dom: Any) -> int:
        self._reached(xch)
        self.the_guest(dom, "pin")
        mapped = [which for area in self.areas.values() for which, _ in area.pages]
        self.run.claim("pin", "the page is the root of the tables", mfn.element.args[0] == self.root_frame)
        self.run.claim("pin", "DomB has no table mapped", all(which < self.tables for which in mapped))
        if self.fails("Xen does not pin the tables"):
            return -1
        self.pinned = True
        return 0

    def xc_vcpu_setcontext(self, xch: ctrl.XcInterface, domid: Any, vcpu: int, context: Any) -> int:
        self._reached(xch)
        self.the_guest(domid, "setvcpucontext")
        self.run.claim("setvcpucontext", "its tables are the guest's", context[3].element.args[0] == self.root_frame)
        if self.fails("Xen does not take the registers"):
            return -1
        self.started_at = True
        return 0

    def xc_domain_destroy(self, xch: ctrl.XcInterface, domid: Any) -> int:
        self._reached(xch)
        self.the_guest(domid, "destroydomain")
        self.fail_build()
        if self.fails("no page for the hypercall"):
            self.run.follow("build_undo", code="ENOMEM")
            return -1
        self.run.follow("build_undo")
        self.existing = False
        return 0

    def xc_domain_unpause(self, xch: ctrl.XcInterface, domid: Any) -> int:
        self.run.claim("unpausedomain", "no guest is started while it is built", False)
        return 0

    def fail_build(self) -> None:
        """The build has failed: take the rules' step, unless it is already taken."""
        if not self.run.engine.proves(self.run.stage_is("failing")):
            self.run.follow("build_fail")

    def _start_info(self, info: si.StartInfo) -> bytes:
        """start_info's page, compared at the seal."""
        self.said = info
        return b"S" * PAGE

    said: si.StartInfo | None = None


SHARED_PAGE = constant(FRAMES - 1)
