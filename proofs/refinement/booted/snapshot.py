"""The abstraction function for a booting machine: computes the rules' state from page tables, TLBs, grant tables and ports.

Each snapshot is computed from the machine alone, when no call is in flight. Only ghost state is
carried from one to the next: the offered and registered grants, the files that processes have had,
and the allocation of its frame in which a translation was first seen. Not here: claims (claims.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from struct import iter_unpack
from typing import Final

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.dom0.areas import DeviceFile
from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.gntalloc import Gntalloc
from bulkhead.impl.dom0.gntdev import NOTIFY_SEND_EVENT, Gntdev
from bulkhead.impl.dom0.privcmd import NOT_RESTRICTED, Privcmd
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE, DEAD, Domain
from bulkhead.impl.xen.events import INTERDOMAIN, UNBOUND
from bulkhead.impl.xen.frames import PGT_L1, Frame
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW
from bulkhead.model.world import State
from bulkhead.proofs.refinement.booted.elements import DOM0, DOMB, DOMB_SPACE, KERNEL, Elements

HOST, DEVICE, READ_ONLY = 2, 1, 4  # flags of a maptrack record
DEVICES: Final = {Gntdev: "gntdev", Gntalloc: "gntalloc", Evtchn: "evtchn", Privcmd: "privcmd"}
ZEROS: Final = bytes(abi.PAGE_SIZE)
Pte = tuple[int, int, int]  # its machine address, frame number, writable
Seen = dict[tuple[int, int], tuple[Frame, int]]  # (address of an entry, frame number) -> the frame and its allocation


class Snapshots:
    """Snapshots of one machine."""

    def __init__(self, elements: Elements) -> None:
        self.e = elements
        self.offers: set[tuple[int, int, int, int, bool]] = set()  # life, ref, grantee, frame, for writing
        self.registered: set[tuple[int, int, int]] = set()
        self.had: set[tuple[int, int]] = set()
        self.seen: Seen = {}
        self.domains: list[Domain] = []  # kept alive, so that no new object gets the id() of a dead one
        self.devices: list[DeviceFile] = []
        self.outside = False  # the proxy has opened a file outside its directory
        self.strangers: list[str] = []  # current foreign mappings, as readable text

    def take(self, machine: BootedSystem) -> State:
        """The rules' state now."""
        return _Snapshot(self, machine).state


class _Snapshot:
    """One snapshot under construction."""

    def __init__(self, memory: Snapshots, machine: BootedSystem) -> None:
        self.memory, self.machine, self.e = memory, machine, memory.e
        self.xen = machine.xen
        self.state = self.e.start()
        self.translations = 0
        self.own: set[tuple[object, ...]] = set()
        self.alike: dict[tuple[object, ...], int] = {}
        self.named: dict[int, int] = {}  # frame number -> Frame, for frames named by a grant
        self.live: dict[tuple[int, int, bool], list[int]] = {}  # mapper, frame number, writable -> handles
        self.granted_by: dict[int, tuple[int, int]] = {}  # handle -> granter and reference
        self.kept: Seen = {}
        memory.strangers = []
        self.domb = next((d for i, d in self.xen.domains.items() if i and d.is_privileged), None)
        self._domains()
        self._grants()
        self._handles()
        self._files()
        self._spaces()
        self._heap()
        self._ports()
        if self.domb is not None:
            self._builder()
        memory.seen = self.kept
        for life, ref, grantee, frame, writable in memory.offers:
            self.put("offered", life, ref, grantee, frame, value=1)
            if writable:
                self.put("offered_rw", life, ref, grantee, frame, value=1)

    def put(self, func: str, *index: int, value: int | str) -> None:
        """A fact."""
        self.e.put(self.state, func, index, value)

    # Domains.

    def domain(self, domid: int) -> int:
        """The element of a domain id; unused ids share one element."""
        if domid == DOM0:
            return DOM0
        if self.domb is not None and domid == self.domb.domid:
            return DOMB
        return (
            self.e.of("Domain", domid)
            if domid in self.xen.domains
            else self.e.names["Domain"].get(domid, self.e.world.sizes["Domain"] - 1)
        )

    def life(self, domain: Domain) -> int:
        """The element of an incarnation."""
        if all(each is not domain for each in self.memory.domains):
            self.memory.domains.append(domain)
        return self.e.of("Life", id(domain))

    def _domains(self) -> None:
        for domid, domain in self.xen.domains.items():
            d = self.domain(domid)
            phase = (
                "dead"
                if domain.is_dying == DEAD
                else "dying"
                if domain.is_dying != ALIVE
                else ("running" if domain.creation_finished or domid == DOM0 or domain is self.domb else "building")
            )
            self.put("domain.phase", d, value=phase)
            self.put("domain.paused", d, value=domain.pause_count > 0 and domain is not self.domb)
            self.put("domain.life", d, value=self.life(domain))
            self.put("spent", self.life(domain), value=1)
            self.put("privileged", d, value=domain.is_privileged)
            self.put("service", d, value=d == DOM0 or domain is self.domb)

    # Frames.

    def frame(self, frame: Frame, named: bool = False) -> int:
        """Its own element if a grant names it, else the shared one of all similar frames."""
        found = self.named.get(frame.mfn)
        if found is not None:
            return found
        use = "ram" if frame.owner is not None else "unscrubbed" if frame.dirty else "free"
        owner = DOM0 if frame.owner is None else self.domain(frame.owner.domid)
        content = "zeros" if use == "free" and (frame.data is None or frame.data == ZEROS) else "private"
        like = (use, owner, frame.allocated, content)
        found = None if named else self.alike.get(like)
        if found is None:
            found = self.e.of("Frame", frame.mfn if named else like)
            self.put("frame.use", found, value=use)
            self.put("frame.owner", found, value=owner)
            self.put("frame.held", found, value=frame.allocated)
            self.put("frame.content", found, value=content)
            if frame.owner is not None:
                self.put("frame.secret", found, value=self.life(frame.owner))
            if named:
                self.named[frame.mfn] = found
            else:
                self.alike[like] = found
        return found

    def _heap(self) -> None:
        for frame in self.xen.frames.free_list:
            self.frame(frame)

    # Grants.

    def _entries(self, domain: Domain) -> Iterator[tuple[int, int, int, int]]:
        """Valid entries: reference, flags, grantee, frame number."""
        table = domain.grant_table
        if table.version == 1:
            per_frame = abi.ENTRIES_V1
            for k, page in enumerate(table.shared):
                if page.data is not None:
                    yield from (
                        (k * per_frame + i, *entry) for i, entry in enumerate(iter_unpack("<HHI", page.data)) if entry[0]
                    )
        else:
            for ref in range(table.nr_entries):
                flags, domid, _, _, mfn = table.entry_v2(ref)
                if flags:
                    yield ref, flags, domid, mfn

    def _grants(self) -> None:
        for domid, domain in self.xen.domains.items():
            d = self.domain(domid)
            for ref, flags, grantee, mfn in self._entries(domain):
                frame = self.xen.frames.get(mfn)
                if flags & abi.GTF_TYPE_MASK != abi.GTF_PERMIT_ACCESS or frame is None or frame.xenheap:
                    continue
                r, f, g = self.e.of("Ref", ref), self.frame(frame, True), self.domain(grantee)
                readonly = bool(flags & abi.GTF_READONLY)
                self.put("entry.kind", d, r, value="permit_access")
                self.put("entry.grantee", d, r, value=g)
                self.put("entry.frame", d, r, value=f)
                self.put("entry.readonly", d, r, value=readonly)
                self.memory.offers |= {(self.life(domain), r, g, f, False)} | (
                    set() if readonly else {(self.life(domain), r, g, f, True)}
                )
            for ref, act in enumerate(domain.grant_table.active):
                if act.pin and act.frame is not None:
                    r = self.e.of("Ref", ref)
                    self.put("status.reading", d, r, value=1)
                    self.put("status.writing", d, r, value=bool(act.pin & abi.PIN_WRITERS))
                    self.put("active.grantee", d, r, value=self.domain(act.domid))
                    self.put("active.frame", d, r, value=self.frame(act.frame, True))
                    self.put("active.part", d, r, value=act.sub_page)

    def _handles(self) -> None:
        for domid, domain in self.xen.domains.items():
            for number, record in enumerate(domain.grant_table.maptrack):
                if not record.flags & (HOST | DEVICE):
                    continue
                h = self.e.of("Handle", (self.life(domain), number))
                writable = not record.flags & READ_ONLY
                self.granted_by[h] = self.domain(record.domid), self.e.of("Ref", record.ref)
                for name, value in (
                    ("taken", 1),
                    ("host", bool(record.flags & HOST)),
                    ("device", bool(record.flags & DEVICE)),
                    ("mapper", self.domain(domid)),
                    ("granter", self.domain(record.domid)),
                    ("ref", self.e.of("Ref", record.ref)),
                    ("writable", writable),
                    ("host_t", self.e.world.sizes["Translation"] - 1),
                ):
                    self.put(f"mapping.{name}", h, value=value)
                if record.granter is not None:
                    self.put("mapping.granter_life", h, value=self.life(record.granter))
                    act = record.granter.grant_table.active[record.ref]
                    if record.flags & HOST and act.frame is not None:
                        self.live.setdefault((domid, act.frame.mfn, writable), []).append(h)

    # Files and processes.

    def file(self, device: DeviceFile) -> int:
        """The element of an open file."""
        if all(each is not device for each in self.memory.devices):
            self.memory.devices.append(device)
        return self.e.of("File", id(device))

    def _files(self) -> None:
        self.put("process.phase", KERNEL, value="process_runs")  # in the rules, Dom0's kernel maps grants like a process
        self.put("file.open", KERNEL, value=1)
        self.memory.had.add((KERNEL, KERNEL))
        self.put("fd", KERNEL, KERNEL, value=1)
        for process in self.machine.processes:
            p = self.e.of("Space", id(process))
            self.put("process.phase", p, value="process_runs")
            self.put("process.root", p, value=1)
            for opened in process.process.files.values():
                x = self.file(opened.device)
                self.put("fd", p, x, value=1)
                self.memory.had.add((p, x))
                self._device(x, opened.device)
            for vma in process.process.space.vmas:
                if vma.file is not None:
                    self._device(self.file(vma.file.device), vma.file.device)
        for p, x in self.memory.had:
            self.put("had", p, x, value=1)
        for q, user in self.machine.kernel.evtchn_users.items():
            if isinstance(user, Evtchn):
                k = self.e.of("Port", q)
                self.put("bound.used", k, value=1)
                self.put("bound.file", k, value=self.file(user))
                self.put("bound.armed", k, value=user.ports.get(q, False))
        for q in self.machine.kernel.evtchn_holds:
            if q not in self.machine.kernel.evtchn_users:
                self.put("left_open", self.e.of("Port", q), value=1)
        for real in (os.readlink(f"/proc/self/fd/{fd}") for fd in self.machine.files.files.values()):
            self.memory.outside |= not os.path.realpath(real).startswith(os.path.realpath(self.machine.files.root) + os.sep)
        self.put("exported", 0, value=1)
        self.put("was_opened", 1, value=self.memory.outside)

    def _device(self, x: int, device: DeviceFile) -> None:
        self.put("file.open", x, value=1)
        self.put("file.device", x, value=DEVICES.get(type(device), "gntdev"))
        if isinstance(device, Privcmd) and device.domid != NOT_RESTRICTED:
            self.put("file.restricted", x, value=1)
            self.put("file.target", x, value=self.domain(device.domid))
        if isinstance(device, Gntdev):
            for grant_map in device.maps:
                for k, (domid, ref) in enumerate(grant_map.grants):
                    self.memory.registered.add((x, self.domain(domid), self.e.of("Ref", ref)))
                    m = self.e.of("Map", (x, grant_map.index, k))
                    self.put("gmap.listed", m, value=1)
                    self.put("gmap.file", m, value=x)
                    self.put("notice.event", m, value=not k and bool(grant_map.notify_flags & NOTIFY_SEND_EVENT))
                    if grant_map.notify_flags & NOTIFY_SEND_EVENT:
                        self.put("notice.port", m, value=self.e.of("Port", grant_map.notify_port))
            for known, d, r in self.memory.registered:
                if known == x:
                    self.put("registered", x, d, r, value=1)
        if isinstance(device, Gntalloc):
            for page in device.pages:
                f = self.frame(page.frame, True)
                self.put("shared_page.used", f, value=1)
                self.put("shared_page.file", f, value=x)

    # Translations.

    def _spaces(self) -> None:
        private: set[int] = set()
        for process in self.machine.processes:
            p = self.e.of("Space", id(process))
            for (level, high), table in process.process.space.tables.items():
                if level == 1:
                    private.add(table.mfn)
                    for pte in ptes(table):
                        self._process_pte(p, process, high << 9 | (pte[0] & 0xFFF) >> 3, pte)
        for domid, domain in self.xen.domains.items():
            space = KERNEL if domid == DOM0 else DOMB_SPACE if domain is self.domb else self.e.of("Space", self.life(domain))
            self.put("space_of", space, value=self.domain(domid))
            if domid != DOM0 and domain is not self.domb and not domain.creation_finished:
                continue  # no vCPU has walked its page tables before it starts
            for table in domain.pages.values():
                if table.ptype == PGT_L1 and table.tcount and table.mfn not in private and not table.xenheap:
                    for pte in ptes(table):
                        self._pte(space, domain, pte, KERNEL)
            self._cached(space, domain)
        self.put("space_of", DOMB_SPACE, value=DOMB if "domb" in self.e.system.consts else DOM0)

    def _process_pte(self, p: int, process: Syscalls, vpn: int, pte: Pte) -> None:
        space = process.process.space
        vma = space.find(vpn)
        inside = vma is not None and vma.start <= vpn
        if inside and vma is not None and vma.file is None:
            return  # own memory; the rules cover only mappings from device files
        file = (
            self.file(vma.file.device)
            if inside and vma is not None and vma.file is not None
            else (self.e.world.sizes["File"] - 1)
        )  # no file stands for it
        self._pte(p, self.machine.dom0, pte, file, process.name)

    def _pte(self, space: int, domain: Domain, pte: Pte, file: int, who: str = "") -> None:
        """A page-table entry."""
        maddr, mfn, writable = pte
        frame = self.xen.frames.get(mfn)
        if frame is None or frame.xenheap or (frame.owner is domain and domain is self.machine.dom0 and not who):
            return
        key = (maddr, mfn)
        first = self.kept[key] = self.memory.seen.get(key, (frame, frame.epoch))
        stale = first[1] != frame.epoch
        if frame.owner is domain:
            f = self.frame(frame)
            like = (space, f, writable, stale, file)
            if like not in self.own:
                self.own.add(like)
                self._translation(space, f, writable, stale, "own", file)
            return
        records = self.live.get((domain.domid, mfn, bool(writable))) or self.live.get((domain.domid, mfn, True))
        if records:
            h = records.pop(0)
            t = self._translation(space, self.frame(frame, True), writable, stale, "grant", file, h)
            self.put("mapping.host_t", h, value=t)
            if space == KERNEL:  # in the rules, the kernel has a file of its own, which has registered the mapped grants
                self.put("registered", KERNEL, *self.granted_by[h], value=1)
            return
        f = self.frame(frame)
        alike = (space, f, writable, stale, file, "foreign")
        owner = "nobody" if frame.owner is None else f"domain {frame.owner.domid}"
        party = f"process {who} of Dom0" if who else f"the kernel of domain {domain.domid}"
        self.memory.strangers.append(f"{party} maps a page of {owner} by foreign mapping")
        if alike not in self.own:
            self.own.add(alike)
            self._translation(space, f, writable, stale, "foreign", file)

    def _translation(
        self,
        space: int,
        f: int,
        writable: int,
        stale: bool,
        origin: str,
        file: int,
        handle: int | None = None,
        present: int = 1,
    ) -> int:
        t = self.e.of("Translation", self.translations)
        self.translations += 1
        nil = self.e.world.sizes["Handle"] - 1
        for name, value in (
            ("present", present),
            ("cached", 1),
            ("space", space),
            ("frame", f),
            ("writable", writable),
            ("epoch", int(stale)),
            ("origin", origin),
            ("path", "cpu"),
            ("handle", nil if handle is None else handle),
        ):
            self.put(f"translation.{name}", t, value=value)
        self.put("through", t, value=file)
        return t

    def _cached(self, space: int, domain: Domain) -> None:
        """Stale translations: in a TLB, but no longer in a page table."""
        present = {mfn for _, mfn in self.kept}
        for vcpu in domain.vcpus:
            for frame, writable, epoch in vcpu.tlb.entries.values():
                if frame.owner is not domain and not frame.xenheap and frame.mfn not in present:
                    self._translation(space, self.frame(frame), writable, frame.epoch != epoch, "foreign", KERNEL, None, 0)

    # Ports.

    def _ports(self) -> None:
        for domid, domain in self.xen.domains.items():
            d = self.domain(domid)
            for number, port in domain.events.ports.items():
                if port.state not in (UNBOUND, INTERDOMAIN):
                    continue
                q = self.e.of("Port", number)
                self.put("port.state", d, q, value="unbound" if port.state == UNBOUND else "interdomain")
                if port.state == INTERDOMAIN and port.remote is not None:
                    self.put("port.remote", d, q, value=self.domain(port.remote.domid))
                    self.put("port.remote_port", d, q, value=self.e.of("Port", port.remote_port))
                else:
                    self.put("port.remote", d, q, value=self.domain(port.remote_domid))

    # DomB.

    def _builder(self) -> None:
        self.put("domb_up", value=1)
        domb, service = self.domb, self.machine.service
        assert domb is not None
        known = {} if service is None else service.guests
        for domid, built in known.items():
            d = self.domain(domid)
            domain = self.xen.domains.get(domid)
            same = domain is not None and domain.handle == built.guest.handle
            self.put("built.known", d, value=1)
            self.put("built.told", d, value=built.told)
            self.put("built.abandoned", d, value=built.abandoned)
            self.put(
                "built.life", d, value=self.life(domain) if domain is not None and same else (self.e.world.sizes["Life"] - 1)
            )
        for _, flags, grantee, mfn in self._entries(domb):
            frame = self.xen.frames.get(mfn)
            if frame is not None and flags & abi.GTF_TYPE_MASK == abi.GTF_PERMIT_ACCESS and grantee == DOM0:
                self.put("ring_page.granted", self.frame(frame, True), value=1)
        making = [
            d
            for i, d in self.xen.domains.items()
            if i != DOM0 and d is not domb and d.is_dying == ALIVE and not d.creation_finished and i not in known
        ]
        for guest in making:  # one at a time: theorem construction_is_undisturbed is about the first
            self._under_construction(guest)

    def _under_construction(self, guest: Domain) -> None:
        entries = {ref: (flags, mfn) for ref, flags, _, mfn in self._entries(guest)}
        stage = (
            "seeded"
            if {0, 1} <= set(entries)
            else "populated"
            if any(not f.xenheap for f in guest.pages.values())
            else "created"
        )
        self.put("job.stage", value=stage)
        self.put("job.guest", value=self.domain(guest.domid))
        self.put("right", self.life(guest), value=1)
        for ref in (0, 1):
            frame = self.xen.frames.get(entries.get(ref, (0, -1))[1])
            if frame is not None:
                f = self.frame(frame, True)
                self.put("placed.what", f, value="cleared" if frame.data is None or frame.data == ZEROS else "made")
                self.put("placed.life", f, value=self.life(guest))


def ptes(table: Frame) -> Iterator[Pte]:
    """The present entries of a last-level table."""
    if table.data is None:
        return
    for i, (pte,) in enumerate(iter_unpack("<Q", table.data)):
        if pte & PTE_P:
            yield table.mfn << 12 | i << 3, (pte & PTE_MFN) >> 12, bool(pte & PTE_RW)
