"""The domain builder: xc_dom_* for 64-bit PV guests, using only the libraries.

Contents: the steps from an empty domain to a sealed, paused guest, and their rollback: after any failure the
domain is destroyed and no page of it is mapped. The code does not depend on where it runs: in a process of Dom0 over
privcmd, or in DomB's kernel. Not here: parsing (elf.py), placement (layout.py), and files: images
come as bytes from untrusted users. Source: Xen tools/libs/guest/xg_dom_core.c, xg_dom_boot.c, xg_dom_x86.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn, TypeVar

from bulkhead.impl.domb import start_info as si
from bulkhead.impl.domb.elf import ElfError, Image, parse
from bulkhead.impl.domb.layout import Layout, plan, table_pages
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs import foreignmemory as fm
from bulkhead.impl.libs.osdep import PROT_READ, PROT_WRITE, Osdep
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EINVAL, PAGE_SHIFT, PAGE_SIZE, U64

CHUNK: Final = 256
GRANT_TABLE: Final = 1
CONSOLE_REF: Final = 0
XENSTORE_REF: Final = 1
MIN_PAGES: Final = 64
MAX_PAGES: Final = 1 << 18
T = TypeVar("T")
Hook = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A request to build a guest. `pages` is its memory; the two domains get the reserved grants.

    `handle` is the incarnation's name in Xen (xen_domain_handle_t): it must differ between guests of one builder.
    """

    kernel: bytes
    ramdisk: bytes = b""
    pages: int = 1024
    cmdline: bytes = b""
    console_domid: int = 0
    xenstore_domid: int = 0
    handle: bytes = bytes(16)


@dataclass(frozen=True, slots=True)
class Guest:
    """A sealed guest, as its builder knows it."""

    domid: int
    console_mfn: int
    console_port: int
    store_mfn: int
    store_port: int
    pages: int
    handle: bytes = bytes(16)


class BuildError(Exception):
    """A guest could not be built; `errno` for callers, the text for people.

    It is destroyed, except for the rest that `left` must undo: call `left.undo()` until it returns true.
    """

    def __init__(self, step: str, errno: int, why: str) -> None:
        super().__init__(f"{step}: {why}")
        self.step = step
        self.errno = errno
        self.left: XcDom | None = None


def build(os: Osdep, request: Request, on_step: Hook = lambda step, what: None) -> Guest:
    """Build a guest and seal it, still paused; BuildError after undoing everything."""
    dom = XcDom(os, request, on_step)
    try:
        dom.open()
        dom.parse_image()
        dom.create()
        dom.boot_mem_init()
        dom.build_image()
        dom.boot_image()
        dom.gnttab_init()
        dom.boot_vcpu()
        return dom.seal()
    except (OSError, ElfError, BuildError) as error:
        failure = dom.failure(error)
        if not dom.undo():
            failure.left = dom
        raise failure from error
    finally:
        dom.release()


class XcDom:
    """struct xc_dom_image: one guest under construction."""

    def __init__(self, os: Osdep, request: Request, on_step: Hook) -> None:
        self.os = os
        self.request = request
        self.on_step = on_step
        self.step = "open"
        self.xch: ctrl.XcInterface | None = None
        self.fmem: fm.XenForeignMemory | None = None
        self.domid = 0
        self.mfns: list[int] = []
        self.mappings: list[tuple[int, int]] = []
        self.put: dict[int, bool] = {}  # written pages, and whether any byte was not zero
        self.console_port = 0
        self.store_port = 0
        self.shared_info = 0
        self._image: Image | None = None
        self._layout: Layout | None = None

    # --- errors ---
    def begin(self, step: str, what: str) -> None:
        """Announce the next step; the hook may stop the build with an OSError."""
        self.step = step
        self.on_step(step, what)

    def fail(self, errno: int, why: str) -> NoReturn:
        """Fail with a BuildError."""
        raise BuildError(self.step, errno, why)

    def failure(self, error: Exception) -> BuildError:
        """The error for callers."""
        if isinstance(error, BuildError):
            return error
        if isinstance(error, ElfError):
            return BuildError(self.step, EINVAL, f"the kernel {error}")
        errno = (error.errno if isinstance(error, OSError) else 0) or abi.EIO
        return BuildError(self.step, errno, f"errno {errno}")

    def zero(self, result: int, what: str) -> int:
        """The result of a library call that is -1 on failure."""
        if result < 0:
            self.fail(self.os.errno, f"{what} failed with errno {self.os.errno}")
        return result

    def some(self, result: T | None, what: str) -> T:
        """The result of a library call that is NULL on failure."""
        if result is None:
            self.fail(self.os.errno, f"{what} failed with errno {self.os.errno}")
        return result

    # --- handles ---
    def open(self) -> None:
        """Open the privileged interfaces, which a build needs."""
        self.begin("open", "privileged interface")
        self.xch = self.some(ctrl.xc_interface_open(self.os), "xc_interface_open")
        self.fmem = self.some(fm.xenforeignmemory_open(self.os), "xenforeignmemory_open")

    @property
    def control(self) -> ctrl.XcInterface:
        """The handle for hypercalls."""
        assert self.xch is not None
        return self.xch

    @property
    def foreign(self) -> fm.XenForeignMemory:
        """The handle for foreign memory."""
        assert self.fmem is not None
        return self.fmem

    @property
    def image(self) -> Image:
        """The kernel."""
        assert self._image is not None
        return self._image

    @property
    def layout(self) -> Layout:
        """The guest's layout."""
        assert self._layout is not None
        return self._layout

    # --- xc_dom_parse_image, xc_dom_mem_init: nothing exists yet ---
    def parse_image(self) -> None:
        """Parse the kernel and plan the layout before any hypercall, so most errors need no rollback."""
        self.begin("parse", f"ELF image of {len(self.request.kernel)} bytes")
        request = self.request
        if not MIN_PAGES <= request.pages <= MAX_PAGES:
            self.fail(EINVAL, f"{request.pages} pages of memory; {MIN_PAGES} to {MAX_PAGES} can be given")
        if len(request.cmdline) > 1023 or b"\0" in request.cmdline:
            self.fail(EINVAL, "the command line has more than 1023 bytes, or a zero byte")
        self._image = parse(request.kernel)
        self._layout = plan(self._image, len(request.ramdisk), request.pages)

    def create(self) -> None:
        """A paused, empty domain with its limits, and the two event channels of console and XenStore."""
        xch, request = self.control, self.request
        self.begin("create", "createdomain")
        self.domid = self.zero(ctrl.xc_domain_create(xch, ctrl.CreateDomain(handle=request.handle)), "xc_domain_create")
        self.begin("configure", "max_vcpus, max_mem")
        self.zero(ctrl.xc_domain_max_vcpus(xch, self.domid, 1), "xc_domain_max_vcpus")
        self.zero(ctrl.xc_domain_setmaxmem(xch, self.domid, request.pages * 4), "xc_domain_setmaxmem")
        self.begin("event channels", "alloc_unbound for XenStore and console")
        self.store_port = self.zero(
            ctrl.xc_evtchn_alloc_unbound(xch, self.domid, request.xenstore_domid), "xc_evtchn_alloc_unbound"
        )
        self.console_port = self.zero(
            ctrl.xc_evtchn_alloc_unbound(xch, self.domid, request.console_domid), "xc_evtchn_alloc_unbound"
        )

    def boot_mem_init(self) -> None:
        """All of the guest's memory; a partial result is a failure."""
        self.begin("populate", f"{self.request.pages} pages")
        found = ctrl.xc_domain_populate_physmap_exact(self.control, self.domid, range(self.request.pages))
        self.mfns = self.some(found, "xc_domain_populate_physmap_exact")

    # --- memory of the guest ---
    def pfn_to_ptr(self, pfn: int, count: int) -> int:
        """Map pages of the guest and record the mapping."""
        mfns = self.mfns[pfn : pfn + count]
        addr = self.some(
            fm.xc_map_foreign_pages(self.foreign, self.domid, PROT_READ | PROT_WRITE, mfns), "xc_map_foreign_pages"
        )
        self.mappings.append((addr, count))
        return addr

    def write(self, pfn: int, payload: bytes, npages: int) -> None:
        """Fill pages with bytes, then zeros."""
        for first in range(0, npages, CHUNK):
            count = min(CHUNK, npages - first)
            part = payload[first << PAGE_SHIFT : (first + count) << PAGE_SHIFT]
            for i in range(count):
                self.put[pfn + first + i] = bool(payload) or self.put.get(pfn + first + i, False)
            self.os.store(self.pfn_to_ptr(pfn + first, count), part.ljust(count << PAGE_SHIFT, b"\0"))

    def unmap_all(self) -> None:
        """Remove every mapping of the guest."""
        while self.mappings:
            addr, count = self.mappings[-1]
            self.zero(fm.xenforeignmemory_unmap(self.foreign, addr, count), "xenforeignmemory_unmap")
            self.mappings.pop()

    # --- xc_dom_build_image ---
    def build_image(self) -> None:
        """Load kernel and ramdisk; all other pages stay as Xen scrubbed them."""
        layout, image = self.layout, self.image
        segment = layout.segments["kernel"]
        self.begin("load kernel", f"{segment.npages} pages at pfn {segment.first}")
        self.write(segment.first, self._kernel_bytes(segment.npages), segment.npages)
        self.unmap_all()
        disk = layout.segments.get("ramdisk")
        if disk is not None:
            self.begin("load ramdisk", f"{disk.npages} pages at pfn {disk.first}")
            self.write(disk.first, self.request.ramdisk, disk.npages)
            self.unmap_all()
        if image.virt_hypercall is not None:
            self.begin("hypercall page", f"at {image.virt_hypercall:#x}")
            mfn = self.mfns[(image.virt_hypercall - image.virt_base) >> PAGE_SHIFT]
            self.zero(ctrl.xc_hypercall_init(self.control, self.domid, mfn), "xc_hypercall_init")

    def _kernel_bytes(self, npages: int) -> bytes:
        start = self.image.virt_kstart & ~(PAGE_SIZE - 1)
        out = bytearray(npages << PAGE_SHIFT)
        for segment in self.image.segments:
            at = segment.vaddr - start
            out[at : at + segment.memsz] = segment.data.ljust(segment.memsz, b"\0")
        return bytes(out)

    # --- xc_dom_boot_image ---
    def boot_image(self) -> None:
        """start_info, magic pages, frame list, page tables; then the tables are unmapped here and pinned in Xen."""
        layout = self.layout
        info = self.some(ctrl.xc_domain_getinfo(self.control, self.domid), "xc_domain_getinfo")
        self.shared_info = info.shared_info_frame
        self.begin("magic pages", "start_info, XenStore and console pages")
        self.write(layout.segments["xenstore"].first, b"", 1)
        self.write(layout.segments["console"].first, b"", 1)
        self.write(layout.segments["start_info"].first, self._start_info().pack(), 1)
        p2m = layout.segments["p2m"]
        self.write(p2m.first, b"".join(U64.pack(mfn) for mfn in self.mfns), p2m.npages)
        self.begin("page tables", f"{len(layout.tables)} tables")
        content = table_pages(layout, self.mfns)
        first = layout.segments["pagetables"].first
        self.write(first, b"".join(content[first + i] for i in range(len(content))), len(content))
        # Writable mappings of future page tables would make pinning fail.
        self.unmap_all()
        self.begin("pin", f"L4 table in frame {self.mfns[layout.root]:#x}")
        self.zero(
            ctrl.xc_mmuext_op(self.control, abi.MMUEXT_PIN_L4_TABLE, self.mfns[layout.root], self.domid),
            "pinning the page tables",
        )
        self.begin("shared info", f"frame {self.shared_info:#x}")
        addr = self.some(
            fm.xc_map_foreign_range(self.foreign, self.domid, PAGE_SIZE, PROT_READ | PROT_WRITE, self.shared_info),
            "xc_map_foreign_range",
        )
        self.mappings.append((addr, 1))
        self.os.store(addr, si.shared_info_page())
        self.unmap_all()

    def _start_info(self) -> si.StartInfo:
        layout, segments, mfns = self.layout, self.layout.segments, self.mfns
        disk = segments.get("ramdisk")
        by_pfn = self.image.mod_start_pfn
        start = 0 if disk is None else disk.first if by_pfn else layout.virt(disk.first)
        p2m = segments["p2m"]
        return si.StartInfo(
            nr_pages=layout.nr_pages,
            shared_info=self.shared_info << PAGE_SHIFT,
            flags=si.SIF_MOD_START_PFN if disk is not None and by_pfn else 0,
            store_mfn=mfns[segments["xenstore"].first],
            store_evtchn=self.store_port,
            console_mfn=mfns[segments["console"].first],
            console_evtchn=self.console_port,
            pt_base=layout.virt(layout.root),
            nr_pt_frames=len(layout.tables),
            mfn_list=layout.virt(p2m.first) if self.image.init_p2m is None else self.image.init_p2m,
            mod_start=start,
            mod_len=len(self.request.ramdisk),
            cmd_line=self.request.cmdline,
            first_p2m_pfn=p2m.first if self.image.init_p2m is not None else 0,
            nr_p2m_frames=p2m.npages if self.image.init_p2m is not None else 0,
        )

    # --- xc_dom_gnttab_init ---
    def gnttab_init(self) -> None:
        """Make the reserved grants 0 and 1 on behalf of the guest, which does not run yet."""
        self.begin("seed grants", "0 for the console, 1 for XenStore")
        addr = self.some(
            fm.xenforeignmemory_map_resource(self.foreign, self.domid, GRANT_TABLE, 0, 0, 1, PROT_READ | PROT_WRITE),
            "xenforeignmemory_map_resource",
        )
        self.mappings.append((addr, 1))
        seeded: set[int] = set()
        for ref, backend, name in (
            (CONSOLE_REF, self.request.console_domid, "console"),
            (XENSTORE_REF, self.request.xenstore_domid, "xenstore"),
        ):
            if backend == self.domid:
                continue
            pfn = self.layout.segments[name].first
            if pfn in seeded or self.put.get(pfn) is not False:
                self.fail(EINVAL, f"page {pfn} for the {name} is not a cleared page of its own")
            seeded.add(pfn)
            frame = self.mfns[pfn]
            # Flags last: a valid entry must never name another frame.
            self.os.store(addr + 8 * ref + 2, abi.U16.pack(backend) + abi.U32.pack(frame))
            self.os.store(addr + 8 * ref, abi.U16.pack(abi.GTF_PERMIT_ACCESS))
        self.unmap_all()

    def boot_vcpu(self) -> None:
        """The first vCPU at the kernel's entry."""
        layout = self.layout
        self.begin("vcpu", f"entry {self.image.virt_entry:#x}")
        context = si.vcpu_context(
            self.image.virt_entry,
            layout.virt(layout.segments["bootstack"].first + 1),
            layout.virt(layout.segments["start_info"].first),
            self.mfns[layout.root],
        )
        self.zero(ctrl.xc_vcpu_setcontext(self.control, self.domid, 0, context), "xc_vcpu_setcontext")

    def seal(self) -> Guest:
        """Remove the builder's last access: from now on only the guest's grants give access to its pages."""
        self.begin("seal", "own mappings dropped")
        self.unmap_all()
        segments = self.layout.segments
        return Guest(
            self.domid,
            self.mfns[segments["console"].first],
            self.console_port,
            self.mfns[segments["xenstore"].first],
            self.store_port,
            self.request.pages,
            self.request.handle,
        )

    # --- the end ---
    def undo(self) -> bool:
        """Unmap and destroy the guest; true if nothing is left. Mappings first: they hold references to its pages.

        Call it again to finish after a failure; it reopens closed handles.
        """
        if not self.mappings and not self.domid:
            return True
        if self.xch is None:
            self.xch = ctrl.xc_interface_open(self.os)
        if self.fmem is None:
            self.fmem = fm.xenforeignmemory_open(self.os)
        if self.xch is None or self.fmem is None:
            return False
        self.mappings = [(addr, count) for addr, count in self.mappings if fm.xenforeignmemory_unmap(self.fmem, addr, count)]
        if self.domid and not self.mappings and ctrl.xc_domain_destroy(self.xch, self.domid) == 0:
            self.domid = 0
        return not self.mappings and not self.domid

    def release(self) -> None:
        """xc_dom_release: close the handles."""
        if self.fmem is not None:
            fm.xenforeignmemory_close(self.fmem)
        if self.xch is not None:
            ctrl.xc_interface_close(self.xch)
        self.fmem = self.xch = None
