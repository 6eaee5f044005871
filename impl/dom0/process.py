"""User processes of Dom0: address space with real page tables, descriptors, fork, exit.

Contents: mmap and munmap with the split of VMAs, loads and stores with the signals they may raise. Not
here: the mmap of a device (the drivers, behind `DeviceFile`). Sources: Linux mm/mmap.c,
kernel/fork.c; addresses and page tables as on a PV kernel.
"""

from __future__ import annotations

from typing import Final

from bulkhead.impl.dom0.areas import PROT_READ, PROT_WRITE, DeviceFile, OpenFile, Vma
from bulkhead.impl.dom0.kernel import Kernel, KernelError
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.pagetables import PTE_A, PTE_D, PTE_MFN, PTE_P, PTE_RW, PTE_USER, read_pte
from bulkhead.impl.xen.pv_build import DIRECT_MAP, TABLE_FLAGS

SIGBUS: Final = 7
SIGSEGV: Final = 11
SEGV_MAPERR: Final = 1
SEGV_ACCERR: Final = 2
BUS_ADRERR: Final = 2
MAP_SHARED: Final = 1
MAP_PRIVATE: Final = 2


class Fault(Exception):
    """A signal raised by a load or store: number and si_code."""

    def __init__(self, signal: int, code: int) -> None:
        super().__init__(signal, code)
        self.signal = signal
        self.code = code


class AddressSpace:
    """Page tables and VMAs of one process."""

    __slots__ = ("anon", "kernel", "root", "tables", "vmas")

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.tables: dict[tuple[int, int], Frame] = {}
        self.vmas: list[Vma] = []
        self.anon: dict[int, Frame] = {}
        self.root = kernel.alloc_page()
        slot = (DIRECT_MAP >> 39) & 511
        abi.U64.pack_into(self.root.bytes(), slot << 3, (kernel.layout.l3.mfn << 12) | TABLE_FLAGS)
        self._pin(self.root, abi.MMUEXT_PIN_L4_TABLE)

    def _pin(self, frame: Frame, cmd: int) -> None:
        rc = self.kernel.set_direct(frame, False) or self.kernel.mmuext(cmd, frame.mfn)
        if rc:
            raise KernelError(-rc)

    def pte_slot(self, vpn: int) -> tuple[Frame, int]:
        """The L1 table and index for a user page, made on demand."""
        parent = self.root
        for level, shift in ((3, 27), (2, 18), (1, 9)):
            key = (level, vpn >> shift)
            table = self.tables.get(key)
            if table is None:
                table = self.kernel.alloc_page()
                self._pin(table, level - 1)
                maddr = (parent.mfn << 12) | (((vpn >> shift) & 511) << 3)
                rc = self.kernel.mmu_update(maddr, (table.mfn << 12) | TABLE_FLAGS, abi.DOMID_SELF)
                if rc:
                    raise KernelError(-rc)
                self.tables[key] = table
            parent = table
        return parent, vpn & 511

    def pte_maddr(self, vpn: int) -> int:
        """Machine address of a user page's L1 entry."""
        table, index = self.pte_slot(vpn)
        return (table.mfn << 12) | (index << 3)

    def set_pte(self, vpn: int, pte: int, foreigndom: int = abi.DOMID_SELF, command: int = abi.MMU_NORMAL_PT_UPDATE) -> int:
        """Write an L1 entry through the hypervisor; 0 or -errno."""
        return self.kernel.mmu_update(self.pte_maddr(vpn) | command, pte, foreigndom)

    def pte(self, vpn: int) -> int:
        """A user page's L1 entry; 0 where there is no table for it."""
        table = self.tables.get((1, vpn >> 9))
        return 0 if table is None else read_pte(table, vpn & 511)

    def prepare(self, vma: Vma) -> None:
        """Make the page tables that a mapping needs, so that filling them cannot fail; KernelError(ENOMEM)."""
        for page in (*range(vma.start, vma.end, 512), vma.end - 1):
            self.pte_slot(page)

    def find(self, vpn: int) -> Vma | None:
        """The first VMA that ends above the page (find_vma): it may start above it too."""
        above = [vma for vma in self.vmas if vma.end > vpn]
        return min(above, key=lambda vma: vma.start) if above else None

    def map_anonymous(self, vpn: int, npages: int, prot: int = PROT_READ | PROT_WRITE) -> None:
        """Private zeroed memory; it replaces what was there."""
        self._clear(vpn, npages)
        self.vmas.append(Vma(self, vpn, vpn + npages, prot, False, None))
        flags = (PTE_P if prot else 0) | PTE_USER | PTE_A | PTE_D | (PTE_RW if prot & PROT_WRITE else 0)
        for page in range(vpn, vpn + npages):
            frame = self.kernel.alloc_page()
            self.anon[page] = frame
            self.set_pte(page, (frame.mfn << 12) | flags)

    def _clear(self, vpn: int, npages: int) -> None:
        """Unmap what a new mapping replaces; KernelError(ENOMEM) if that may not be split."""
        try:
            self.unmap(vpn, npages)
        except KernelError as error:
            raise KernelError(abi.ENOMEM) from error

    def mmap(self, vpn: int, npages: int, prot: int, flags: int, file: OpenFile, offset: int) -> None:
        """Map a device file at a fixed page; earlier mappings there are removed first, even if the driver then refuses."""
        if npages < 1 or offset & 0xFFF:
            raise KernelError(abi.EINVAL)
        if file.device.area() is None:
            raise KernelError(abi.ENODEV)
        self._clear(vpn, npages)
        vma = Vma(self, vpn, vpn + npages, prot, flags == MAP_SHARED, file)
        file.get()
        try:
            file.device.mmap(vma, offset)
        except KernelError:
            file.put()
            raise
        self.vmas.append(vma)

    def unmap(self, vpn: int, npages: int) -> None:
        """munmap: split VMAs at the edges, let drivers unmap their pages, drop the rest.

        KernelError(EINVAL) for a part of a VMA that may not be split.
        """
        parts = self.parts(vpn, vpn + npages)
        for vma in parts:  # drivers are notified of the whole range at once, with its holes (mmu notifiers)
            if vma.file is not None:
                vma.file.device.invalidate(vma, vpn, npages)
        for vma in parts:
            self._drop(vma)

    def parts(self, start: int, end: int) -> list[Vma]:
        """The VMAs of a range, split at its edges."""
        found = [vma for vma in self.vmas if vma.start < end and vma.end > start]
        for vma in found:
            cut = any(vma.start < edge < vma.end for edge in (start, end))
            if cut and vma.kind is not None and vma.kind.whole:
                raise KernelError(abi.EINVAL)
        parts = []
        for vma in found:
            for edge in (start, end):
                if vma.start < edge < vma.end:
                    vma = self._split(vma, edge, keep_high=edge == start)
            parts.append(vma)
        return parts

    def _split(self, vma: Vma, edge: int, keep_high: bool) -> Vma:
        other = Vma(self, edge, vma.end, vma.prot, vma.shared, vma.file)
        other.private, other.dontcopy, other.hints, other.locked = vma.private, vma.dontcopy, vma.hints, vma.locked
        vma.end = edge
        self.vmas.append(other)
        if vma.file is not None:
            vma.file.get()
            vma.file.device.vma_open(other)
        return other if keep_high else vma

    def _drop(self, vma: Vma) -> None:
        self.vmas.remove(vma)
        file = vma.file
        for page in range(vma.start, vma.end):
            if self.pte(page):  # allocate no table here: unmapping must work without memory
                self.set_pte(page, 0)
            frame = self.anon.pop(page, None)
            if frame is not None:
                self.kernel.free_page(frame)
        if file is not None:
            file.device.vma_close(vma)
            file.put()

    def access(self, addr: int, is_write: bool) -> Frame:
        """The frame that a load or store reaches; Fault otherwise."""
        vpn = addr >> 12
        frame, pte = self.mapped(vpn), self.pte(vpn)
        if frame is None or (is_write and not pte & PTE_RW):  # a page fault: now check the VMAs
            return self._fault(vpn, is_write, frame)
        return frame

    def _fault(self, vpn: int, is_write: bool, frame: Frame | None) -> Frame:
        """A signal, or the private copy that the first store to a private mapping makes."""
        vma = self.find(vpn)
        if vma is None or vma.start > vpn:
            raise Fault(SIGSEGV, SEGV_MAPERR)
        if not (vma.writable if is_write else vma.prot):  # the CPU has no pages that can be written only
            raise Fault(SIGSEGV, SEGV_ACCERR)
        if frame is None or vma.shared or not self.kernel.free_pages:
            raise Fault(SIGBUS, BUS_ADRERR)
        return self.own_copy(vpn, PTE_RW)

    def mapped(self, vpn: int) -> Frame | None:
        """The frame of a present entry: RAM, or memory of a device."""
        pte = self.pte(vpn)
        return self.kernel.frame_at((pte & PTE_MFN) >> 12) if pte & PTE_P else None

    def own_copy(self, vpn: int, may_write: int = 0) -> Frame:
        """Put a private copy of a page in its place; KernelError(ENOMEM)."""
        frame = self.mapped(vpn)
        copy = self.kernel.alloc_page()
        if frame is not None and frame.data is not None:
            copy.bytes()[:] = frame.data
        self.set_pte(vpn, (copy.mfn << 12) | PTE_P | PTE_USER | PTE_A | PTE_D | may_write)
        self.anon[vpn] = copy
        return copy

    def load(self, addr: int, size: int) -> bytes:
        """Read within one page."""
        data = self.access(addr, False).data
        off = addr & 0xFFF
        return bytes(size) if data is None else bytes(data[off : off + size])

    def store(self, addr: int, payload: bytes) -> None:
        """Write within one page."""
        off = addr & 0xFFF
        self.access(addr, True).bytes()[off : off + len(payload)] = payload

    def destroy(self) -> None:
        """Unmap everything and free the page tables."""
        for vma in list(self.vmas):
            self.unmap(vma.start, vma.end - vma.start)
        for (level, index), table in sorted(self.tables.items(), reverse=True):
            shift = {3: 27, 2: 18, 1: 9}[level]
            parent = self.root if level == 3 else self.tables[(level + 1, index >> 9)]
            self.kernel.mmu_update((parent.mfn << 12) | ((((index << shift) >> shift) & 511) << 3), 0, abi.DOMID_SELF)
        for table in (*self.tables.values(), self.root):
            self.kernel.mmuext(abi.MMUEXT_UNPIN_TABLE, table.mfn)
            self.kernel.set_direct(table, True)
            self.kernel.free_page(table)
        self.tables.clear()


def user_read(space: AddressSpace, addr: int, size: int) -> bytes:
    """Bytes of user memory; KernelError(EFAULT)."""
    out = b""
    while size:
        take = min(size, 4096 - (addr & 0xFFF))
        try:
            out += space.load(addr, take)
        except Fault as exc:
            raise KernelError(abi.EFAULT) from exc
        addr += take
        size -= take
    return out


def user_write(space: AddressSpace, addr: int, payload: bytes) -> None:
    """Store to user memory; KernelError(EFAULT)."""
    while payload:
        take = min(len(payload), 4096 - (addr & 0xFFF))
        try:
            space.store(addr, payload[:take])
        except Fault as exc:
            raise KernelError(abi.EFAULT) from exc
        addr += take
        payload = payload[take:]


class Process:
    """A process: an address space and descriptors."""

    __slots__ = ("files", "kernel", "space")

    def __init__(self, kernel: Kernel, space: AddressSpace | None = None) -> None:
        self.kernel = kernel
        self.space = space if space is not None else AddressSpace(kernel)
        self.files: dict[int, OpenFile] = {}

    def open(self, device: DeviceFile, fd: int | None = None) -> int:
        """Install an open device file at the lowest free (or a given) descriptor."""
        number = fd if fd is not None else next(n for n in range(1 << 20) if n not in self.files)
        self.files[number] = OpenFile(device)
        return number

    def file(self, fd: int) -> OpenFile:
        """The open file; KernelError(EBADF)."""
        found = self.files.get(fd)
        if found is None:
            raise KernelError(abi.EBADF)
        return found

    def close(self, fd: int) -> None:
        """Close a descriptor; mappings keep the file."""
        self.file(fd).put()
        del self.files[fd]

    def dup(self, fd: int) -> int:
        """Another descriptor, the lowest free one, of the same open file; EBADF."""
        file = self.file(fd)
        file.get()
        number = next(each for each in range(len(self.files) + 1) if each not in self.files)
        self.files[number] = file
        return number

    def mmap(self, vpn: int, npages: int, prot: int, flags: int, fd: int, offset: int) -> None:
        """Map pages of a file at a fixed page number."""
        self.space.mmap(vpn, npages, prot, flags, self.file(fd), offset)

    def fork(self) -> Process:
        """A child: descriptors shared, private memory copied, VMAs marked dontcopy left out."""
        child = Process(self.kernel)
        for fd, file in self.files.items():
            file.get()
            child.files[fd] = file
        for vma in self.space.vmas:
            if vma.dontcopy:
                continue
            if vma.file is None:
                child.space.map_anonymous(vma.start, vma.end - vma.start)
                child.space.vmas[-1].prot, child.space.vmas[-1].hints = vma.prot, vma.hints
                for page in range(vma.start, vma.end):
                    data, frame = self.space.anon[page].data, child.space.anon[page]
                    frame.data = None if data is None else bytearray(data)
                    child.space.set_pte(page, (frame.mfn << 12) | (self.space.pte(page) & ~PTE_MFN))
            else:
                copy = Vma(child.space, vma.start, vma.end, vma.prot, vma.shared, vma.file)
                copy.private, copy.hints = vma.private, vma.hints
                vma.file.get()
                child.space.vmas.append(copy)
                vma.file.device.vma_open(copy)
                for page in range(vma.start, vma.end):
                    table, index = self.space.pte_slot(page)
                    child.space.set_pte(page, read_pte(table, index))
        return child

    def exit(self) -> None:
        """Address space first, then descriptors, as the kernel does."""
        self.space.destroy()
        for fd in list(self.files):
            self.close(fd)
