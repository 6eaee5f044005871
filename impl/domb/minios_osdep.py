"""The libraries' backend on Mini-OS: no descriptors, direct calls to the kernel.

Contents: each library's operations in terms of minios.py; notification on unmapping and grant copy do not exist
(ENOSYS). Not here: the kernel. Sources: Xen tools/libs/gnttab/minios.c, tools/libs/foreignmemory/minios.c,
tools/libs/evtchn/minios.c, tools/libs/call/minios.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.domb.minios import GntMap, MiniOs
from bulkhead.impl.libs.osdep import NO_NOTIFY, PROT_READ, PROT_WRITE, CopySegment, Osdep
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import EAGAIN, EBADF, EINVAL, ENOSYS, PAGE_MASK, PAGE_SHIFT, U32
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.hypercall_evtchn import DOMID_PORT, THREE, TWO_DOMIDS


class EvtchnFile:
    """A xenevtchn handle: its ports, and which of them fired."""

    __slots__ = ("fired", "ports")

    def __init__(self) -> None:
        self.ports: set[int] = set()
        self.fired: list[int] = []


class MiniOsOsdep(Osdep):
    """The libraries' operating-system interface on Mini-OS."""

    def __init__(self, os: MiniOs) -> None:
        self.os = os
        self.errno = 0
        self.files: dict[int, object] = {}
        self.shared: dict[int, list[tuple[Frame, int]]] = {}

    def _open(self, thing: object) -> int:
        fd = next(n for n in range(len(self.files) + 1) if n not in self.files)
        self.files[fd] = thing
        return fd

    def _gntmap(self, fd: int) -> GntMap:
        found = self.files.get(fd)
        if not isinstance(found, GntMap):
            raise KernelError(EBADF)
        return found

    def _evtchn(self, fd: int) -> EvtchnFile:
        found = self.files.get(fd)
        if not isinstance(found, EvtchnFile):
            raise KernelError(EBADF)
        return found

    def close(self, fd: int) -> None:
        """Close a handle: gnttab removes its mappings, evtchn closes its ports."""
        if fd not in self.files:
            raise KernelError(EBADF)
        thing = self.files.pop(fd)
        if isinstance(thing, GntMap):
            thing.fini()
        elif isinstance(thing, EvtchnFile):
            for port in sorted(thing.ports):
                self.os.unbind_evtchn(port)

    def load(self, addr: int, size: int) -> bytes:
        """Read memory."""
        return self.os.load(addr, size)

    def store(self, addr: int, payload: bytes) -> None:
        """Write memory."""
        self.os.store(addr, payload)

    # --- grants ---
    def gnttab_open(self) -> int:
        """A gntmap."""
        return self._open(GntMap(self.os))

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        """gntmap_map_grant_refs."""
        if (offset, port) != (NO_NOTIFY, NO_NOTIFY):
            raise KernelError(ENOSYS)
        if not grants or prot not in (PROT_READ, PROT_READ | PROT_WRITE):
            raise KernelError(EINVAL)
        return self._gntmap(fd).map_grant_refs(grants, bool(prot & PROT_WRITE))

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        """gntmap_munmap: any part of a mapping."""
        self._gntmap(fd).munmap(addr, count)

    def gnttab_set_max_grants(self, fd: int, count: int) -> None:
        """gntmap_set_max_grants."""
        self._gntmap(fd).set_max_grants(count)

    def gnttab_copy(self, fd: int, segments: Sequence[CopySegment]) -> list[int]:
        """Not supported."""
        raise KernelError(ENOSYS)

    def gntshr_open(self) -> int:
        """No handle needed."""
        return self._open("gntshr")

    def gntshr_share(self, fd: int, domid: int, count: int, writable: bool, offset: int, port: int) -> tuple[int, list[int]]:
        """Contiguous pages, each granted."""
        if (offset, port) != (NO_NOTIFY, NO_NOTIFY):
            raise KernelError(ENOSYS)
        if count < 1:
            raise KernelError(EINVAL)
        frames, refs = self.os.share(domid, count, writable)
        addr = self.os.va_of(frames[0])
        self.shared[addr] = list(zip(frames, refs, strict=True))
        return addr, refs

    def gntshr_unshare(self, fd: int, addr: int, count: int) -> None:
        """Revoke the grants; pages that a peer still maps are deferred."""
        pages = self.shared.get(addr)
        if pages is None or len(pages) != count:
            raise KernelError(EINVAL)
        del self.shared[addr]
        for frame, ref in pages:
            self.os.unshare(frame, ref)

    # --- foreign memory ---
    def foreign_open(self) -> int:
        """No handle needed."""
        return self._open("foreignmemory")

    def foreign_map(self, fd: int, domid: int, prot: int, gfns: Sequence[int]) -> tuple[int, list[int]]:
        """map_frames_ex."""
        if not gfns:
            raise KernelError(EINVAL)
        return self.os.map_frames_ex(gfns, domid, bool(prot & PROT_WRITE))

    def foreign_unmap(self, fd: int, addr: int, count: int) -> None:
        """unmap_frames."""
        self.os.unmap_frames(addr, count)

    def foreign_resource(self, fd: int, domid: int, kind: int, rid: int, first: int, count: int, prot: int) -> int:
        """acquire_resource, then map the frames."""
        os = self.os
        if not 0 < count <= 64:
            raise KernelError(EINVAL)
        list_at = os.arg_va + 64
        arg = abi.ACQUIRE_RESOURCE.pack(domid & 0xFFFF, kind, rid, count, 0, first, list_at)
        os.store(os.arg_va, arg)
        self.hypercall(fd, abi.HYPERVISOR_MEMORY_OP, (abi.XENMEM_ACQUIRE_RESOURCE, os.arg_va))
        raw = os.load(list_at, count * 8)
        mfns = [abi.U64.unpack_from(raw, i * 8)[0] for i in range(count)]
        addr, errors = os.map_frames_ex(mfns, domid, bool(prot & PROT_WRITE))
        failed = next((each for each in errors if each), 0)
        if failed:
            os.unmap_frames(addr, count)
            raise KernelError(-failed)
        return addr

    # --- event channels ---
    def evtchn_open(self) -> int:
        """A set of ports."""
        return self._open(EvtchnFile())

    def _bind(self, fd: int, cmd: int, arg: bytes, layout: str) -> int:
        file = self._evtchn(fd)
        rc, raw = self.os.evtchn_op(cmd, arg)
        if rc:
            raise KernelError(-rc)
        fields = {"bind": DOMID_PORT, "alloc": TWO_DOMIDS, "virq": THREE}[layout].unpack(raw)
        port: int = fields[-1]
        file.ports.add(port)
        self.os.bind_evtchn(port, file.fired.append)
        return port

    def evtchn_bind_interdomain(self, fd: int, domid: int, port: int) -> int:
        """bind_interdomain."""
        return self._bind(
            fd, abi.EVTCHNOP_BIND_INTERDOMAIN, DOMID_PORT.pack(domid & 0xFFFF, 0, port & 0xFFFFFFFF, 0), "bind"
        )

    def evtchn_bind_unbound_port(self, fd: int, domid: int) -> int:
        """alloc_unbound."""
        return self._bind(fd, abi.EVTCHNOP_ALLOC_UNBOUND, TWO_DOMIDS.pack(abi.DOMID_SELF, domid & 0xFFFF, 0), "alloc")

    def evtchn_bind_virq(self, fd: int, virq: int) -> int:
        """bind_virq."""
        return self._bind(fd, abi.EVTCHNOP_BIND_VIRQ, THREE.pack(virq & 0xFFFFFFFF, 0, 0), "virq")

    def _port(self, fd: int, port: int) -> EvtchnFile:
        file = self._evtchn(fd)
        if port not in file.ports:
            raise KernelError(EINVAL)
        return file

    def evtchn_unbind(self, fd: int, port: int) -> None:
        """Close a port."""
        self._port(fd, port).ports.remove(port)
        self.os.unbind_evtchn(port)

    def evtchn_notify(self, fd: int, port: int) -> None:
        """Signal the other end."""
        self._port(fd, port)
        self.os.evtchn_op(abi.EVTCHNOP_SEND, U32.pack(port))

    def evtchn_pending(self, fd: int) -> int:
        """A port that fired."""
        file = self._evtchn(fd)
        self.os.force_evtchn_callback()
        if not file.fired:
            raise KernelError(EAGAIN)
        return file.fired.pop(0)

    def evtchn_unmask(self, fd: int, port: int) -> None:
        """Let a port fire again; here it always may."""
        self._port(fd, port)

    # --- hypercalls ---
    def call_open(self) -> int:
        """No handle needed."""
        return self._open("call")

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        """Call Xen directly."""
        rc = self.os.xen.call(self.os.vcpu, number, *[*args, 0, 0, 0, 0, 0][:5])
        if rc < 0:
            raise KernelError(-rc)
        return rc

    def buffer(self, size: int) -> int:
        """Contiguous pages."""
        return self.os.va_of(self.os.alloc_pages((size + PAGE_MASK) >> PAGE_SHIFT)[0])

    def release(self, addr: int, size: int) -> None:
        """Free them."""
        first = (addr - self.os.layout.va(0)) >> PAGE_SHIFT
        self.os.ram.give(first, (size + PAGE_MASK) >> PAGE_SHIFT)
