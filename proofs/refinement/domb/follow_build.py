"""The follower of a build: DomB's hypercalls, mappings and stores for the guest that it makes, and the teardown of guests.

Each is a rule step with the implementation's arguments and picks. The expected contents come from files.py, never from DomB.
Not here: messages (follow.py), and the channel (follow_channel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.guests.test_kernel import HYPERCALL_PFN
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import PGT_L1, PGT_L2, PGT_L3, PGT_L4, Frame
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, walk
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.dom0_side import Dom0Side
from bulkhead.proofs.refinement.domb.files import SHARED_INFO, START_INFO, Reading, Told, Wanted
from bulkhead.proofs.refinement.domb.kernels import PAGE
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import DOM0, DOMB
from bulkhead.proofs.refinement.lockstep.rule_steps import ANY, Mismatch

STAGES = ("no_request", "fetching", "created", "populated", "loaded", "seeded", "sealed", "failing")
TABLE, INFO = "grant_table", "shared_info"
WITH_THE_LAST = "page tables"  # the step of a build that keeps the mappings of the one before
LIMITS = (1023, 64, 1024, 2)  # libxl's defaults: the last port, frames of grants and of mappings, the version of grants
OF_A_DOMAIN = 2  # pages of Xen's for one: its shared_info, and the first page of its grant table


class BuildSide(Dom0Side):
    """A build, and what is left of guests that were destroyed."""

    def __init__(self, rig: Rig, book: Book) -> None:
        super().__init__(rig, book)
        self.slots: dict[int, tuple[str, int]] = {}  # demand slot -> ("page", Translation) or (special page, domain)
        self.pending: Callable[[], None] | None = None  # the step of the current message
        self.worked = False  # DomB has taken a message, ended a connection or destroyed a guest in this step of its service
        self.reading: Reading | None = None
        self.request = (0, Wanted(False))  # the number and the content of the current request
        self.buffers: list[tuple[int, int]] = []  # buffers of the current build, with their files
        self.order: list[int] = []  # frames of the guest under construction, in its own order
        self.loaded: dict[int, bytes] = {}
        self.earlier: dict[int, frozenset[bytes]] = {}  # buffers of earlier builds still used, and the pages in them
        self.excused = False  # a call of DomB was made to fail
        self.errnos: set[int] = set()  # with which the current build may fail then
        self.acted = False  # a guest was destroyed for the current request
        self.names: set[bytes] = set()  # by which Xen tells incarnations apart, of all guests so far
        self.unflushed = False  # DomB has unmapped something, and not asked for a flush since
        self.dying: set[int] = set()
        self.given_up: set[int] = set()  # frames that a guest has given back, and that somebody still maps

    # Access to the rules' state.

    def rule(self, label: str, args: dict[str, int] | None = None, expect: str = OKAY, fail: str | None = None) -> str:
        """Take a rule step, which must give the implementation's answer."""
        return self.book.step(label, args or {}, expect, fail)

    @property
    def stage(self) -> str:
        """The stage of the current build, in the rules."""
        return STAGES[self.book.T["job.stage"][0]]

    @property
    def guest(self) -> int:
        """The guest under construction, in the rules."""
        return self.book.T["job.guest"][0]

    def built(self, field: str, d: int) -> bool:
        """A fact of the rules' record of built guests."""
        return bool(self.book.T[f"built.{field}"][d])

    def _now(self) -> None:
        """Take the step of the current message, before its first effect."""
        step, self.pending = self.pending, None
        if step is not None:
            step()

    def _failed(self) -> None:
        """The build has failed: all further actions belong to its rollback."""
        if not self.excused:
            raise Mismatch(f"a build fails in the stage {self.stage} without a reason")
        self.rule("build_fail")

    def excuse(self, errno: int) -> None:
        """A call of DomB fails, and DomB is not to blame."""
        self.excused = True
        self.errnos.add(errno)

    def begins_a_step(self, step: str) -> None:
        """DomB takes the next step of a build: what it has mapped for the one before is unmapped. It writes the pages that
        are granted and the page tables in one go, and the table is the last it writes before Xen is to pin it."""
        if self.slots and step != WITH_THE_LAST:
            raise Mismatch(f"DomB begins the step {step!r} of a build, and still maps {sorted(self.slots.values())}")
        self._has_flushed()

    def flushed(self) -> None:
        self.unflushed = False

    def _has_flushed(self) -> None:
        """What DomB has unmapped, its TLB must not have: Xen flushes more than a guest can count on."""
        if self.unflushed:
            raise Mismatch("DomB has unmapped pages of a guest, and has not asked for a flush of its TLB")

    # Hypercalls of the libraries.

    def lacks(self) -> None:
        """DomB has no free page."""
        self.excuse(abi.ENOMEM)

    def hypercall(self, number: int, args: Sequence[int], before: bytes, rc: int) -> None:
        if rc == -abi.ENOMEM and self.rig.xen.frames.free_count < OF_A_DOMAIN:
            self.excuse(abi.ENOMEM)
        if number == abi.HYPERVISOR_DOMCTL:
            cmd, _, domid, *_ = abi.DOMCTL_HEADER.unpack_from(before)
            if cmd == abi.DOMCTL_CREATEDOMAIN:
                self._now()
                if rc == 0:
                    self._created()
                else:
                    self.book.count("build_create", "ENOMEM")
            elif cmd == abi.DOMCTL_DESTROYDOMAIN:
                self._now()
                self._destroys(domid, rc)
            elif cmd == abi.DOMCTL_SETVCPUCONTEXT and rc == 0 and domid != self.guest:
                raise Mismatch(f"DomB sets the registers of domain {domid} while it builds {self.guest}")
        elif number == abi.HYPERVISOR_EVENT_CHANNEL_OP and args[0] == abi.EVTCHNOP_ALLOC_UNBOUND:
            dom, remote, _ = TWO_DOMIDS.unpack_from(before)
            if rc == 0:
                raw = self.rig.domb.load(next(a for a in args if a >= self.rig.domb.layout.base), 8)
                if dom != self.guest:
                    raise Mismatch(f"DomB opens a port of domain {dom} while it builds {self.guest}")
                self.rule("build_port", {"peer": self.book.domain(remote), "q_q": TWO_DOMIDS.unpack(raw)[2] - 1})
        elif number == abi.HYPERVISOR_MEMORY_OP and args[0] == abi.XENMEM_POPULATE_PHYSMAP:
            self._populated(before, rc)

    def was_checked(self) -> bool:
        """Has DomB looked at what was read? Its parser does nothing that is seen from outside."""
        return True

    def _created(self) -> None:
        made = [d for d in self.rig.xen.domains.values() if d not in self.lives]
        reading = self.reading
        if len(made) != 1 or reading is None:
            raise Mismatch("DomB creates a domain although nobody asked for a guest")
        domain = made[0]
        good = not reading.doomed and reading.ended and reading.buildable() is not False
        if self.was_checked():
            for b, _ in self.buffers:
                self.book.put({("acceptable", self.book.T["buffer.bytes"][b]): int(good)})
                self.rule("build_check", {"b": b}, ANY)
            for b in self.earlier:
                self.rule("build_check", {"b": b}, ANY)
        self.free_id(domain.domid)
        life = self.book.free_life()
        self.rule("build_create", {"d_d": self.book.domain(domain.domid), "d_life": life})
        self.lives = {k: v for k, v in self.lives.items() if v != life} | {domain: life}
        if domain.handle in self.names:
            raise Mismatch(f"domain {domain.domid} gets the name {domain.handle.hex()}, which another guest has or had")
        self.names.add(domain.handle)
        if not good:
            raise Mismatch("a domain is created for files that cannot be loaded")
        self.loaded = reading.pages() if reading.buildable() else {}

    def _destroys(self, domid: int, rc: int) -> None:
        self._has_flushed()
        d = self.book.domain(domid)
        if self.stage in ("created", "populated", "loaded", "seeded", "failing") and d == self.guest:
            if self.stage != "failing":
                self._failed()
            if rc == 0:
                self.rule("build_undo")
            elif self.excused:
                self.rule("build_undo", {}, "ENOMEM", "ENOMEM")
        elif self.built("known", d) and self.built("abandoned", d):
            self.rule("destroy_abandoned", {"d": d}, OKAY if rc == 0 else "ENOMEM", None if rc == 0 else "ENOMEM")
        elif rc == 0:
            asked = self.book.T["take_destroy.guest"][0]
            if self.book.try_step("take_destroy.act", {"this": 0}) != OKAY or asked != d:
                raise Mismatch(f"DomB destroys domain {domid}, and nobody who may has asked for it")
            self.acted = True
        if rc == 0:
            self.dying.add(d)
            self.worked = True
            self.settle()

    def _populated(self, before: bytes, rc: int) -> None:
        at, count, _, _, domid, *_ = abi.MEMORY_RESERVATION.unpack_from(before)
        raw = self.rig.domb.load(at, count * 8)
        if domid != self.guest and rc > 0:
            raise Mismatch(f"DomB gives memory to domain {domid} while it builds {self.guest}")
        for i in range(max(rc, 0)):
            f = self.book.frame(abi.U64.unpack_from(raw, i * 8)[0])
            self.make_free(f)
            self.rule("build_populate", {"f_f": f, "f_e": self.book.free_epoch()})
            self.order.append(f)
        if rc < count:
            self.rule("build_populate", {}, "ENOMEM", "ENOMEM")
            if not self.rig.xen.frames.free_count:
                self.excuse(abi.EBUSY)  # a part of the memory

    # Mappings and stores.

    def mmu(self, slot: int, val: int, domid: int, rc: int) -> None:
        if val & PTE_P:
            mfn = (val & PTE_MFN) >> 12
            if rc:
                return
            frame = self.rig.xen.frames.get(mfn)
            if frame is None or frame.owner is None or frame.owner.domid != self.guest or domid != self.guest:
                raise Mismatch(f"DomB maps frame {mfn:#x} of domain {domid} while it builds {self.guest}")
            if frame.xenheap:
                kind = INFO if frame is frame.owner.shared_info else TABLE
                self.rule("build_view", {"s": self.book.m["Special"][kind]})
                self.slots[slot] = (kind, self.guest)
                return
            t = self.book.free_translation()
            self.rule("build_map", {"f": self.book.frame(mfn), "t": t, "nil": self.book.size.handles - 1})
            self.slots[slot] = ("page", t)
            return
        kind, which = self.slots.pop(slot, ("", 0))
        self.unflushed |= bool(kind)
        if kind == "page":
            frame_was = self.book.T["translation.frame"][which]
            self.rule("build_unmap", {"t": which})
            cached = [f for f, _, _ in self.rig.domb.vcpu.tlb.entries.values() if f.mfn == self.book.mfns[frame_was]]
            if not cached:
                self.rule("flush_tlb", {"d": DOMB})
        elif kind == TABLE:
            if self.stage == "loaded":
                self._seeded(which)
            self.rule("build_unview", {"s": self.book.m["Special"][TABLE]})
        elif kind:
            self.rule("build_unview", {"s": self.book.m["Special"][kind]})

    def _seeded(self, d: int) -> None:
        table = self.rig.xen.domains[d].grant_table
        (flags, who, console), (flags2, who2, store) = table.entry_v1(0), table.entry_v1(1)
        if self.excused and not (flags and flags2):
            return  # it has failed in between
        self.rule("build_seed", {"console": self.book.frame(console), "xenstore": self.book.frame(store)})
        if (flags, flags2, who, who2) != (abi.GTF_PERMIT_ACCESS, abi.GTF_PERMIT_ACCESS, DOM0, DOM0):
            raise Mismatch(f"reserved entries {table.entry_v1(0)}, {table.entry_v1(1)}")

    def stored(self, addr: int, payload: bytes) -> None:
        first, rest = divmod(addr - self.rig.domb.layout.window_va(0), PAGE)
        if not 0 <= first < len(self.rig.domb.demand.used):
            return
        for i in range(0, len(payload) + rest, PAGE):
            kind, t = self.slots.get(first + i // PAGE, ("", 0))
            if not kind:
                raise Mismatch("DomB stores to what it has not mapped")
            if kind == TABLE:
                self._reserved(t)
            if kind != "page":
                continue
            part = payload[i : i + PAGE]
            if not any(part):
                self.rule("build_clear", {"t": t})
            elif any(part in pages for pages in self.earlier.values()):
                self.rule("build_load", {"b": next(b for b, pages in self.earlier.items() if part in pages), "t": t})
            elif self.buffers and (not self.loaded or part in self.loaded.values()):
                disk = part == self.loaded.get(self._pfn(t)) and self._pfn(t) > 5 and len({n for _, n in self.buffers}) > 1
                b = next(b for b, n in self.buffers if n == int(disk))
                self.rule("build_load", {"b": b, "t": t})
            else:
                self.rule("build_make", {"t": t})

    def _reserved(self, d: int) -> None:
        """DomB has written to the guest's grant table: Dom0 can map what is valid there at once, so at no moment anything
        but a page of the guest's is. Whom it is for, the rules say (`build_seed`)."""
        entries = [self.rig.xen.domains[d].grant_table.entry_v1(ref) for ref in (0, 1)]
        mine = {self.book.mfns[f] for f in self.order}
        if any(flags and mfn not in mine for flags, _, mfn in entries):
            raise Mismatch(f"DomB has the reserved entries {entries} in the midst of seeding")

    def _pfn(self, t: int) -> int:
        f = self.book.T["translation.frame"][t]
        return self.order.index(f) if f in self.order else -1

    def released(self, frames: list[Frame]) -> None:
        d = self.guest if self.stage not in ("no_request", "fetching") else DOM0
        for frame in frames:
            self.rule("domb_notes", {"f": self.book.frame(frame.mfn), "l": self.book.T["domain.life"][d]})

    # The end of a build.

    def _sealed(self, reading: Reading, answer: p.Message) -> None:
        d = self.guest
        self.rule("build_seal")
        self.rule("build_finish")
        domid, _, console_port, store_port, console_mfn, store_mfn, pages = p.GUEST.unpack(answer.body)
        domain = self.rig.xen.domains.get(domid)
        if domid != d or domain is None:
            raise Mismatch(f"the answer names domain {domid}, the guest is {d}")
        if pages != reading.wanted.pages or domain.tot_pages != pages:
            raise Mismatch(f"{reading.wanted.pages} pages were asked for, {domain.tot_pages} are there, {pages} answered")
        if domain.max_pages != pages or len(domain.vcpus) != 1:
            raise Mismatch(
                f"a guest of {pages} pages and a vCPU may have {domain.max_pages}, and has {len(domain.vcpus)} vCPUs"
            )
        table = domain.grant_table
        limits = (domain.max_evtchn_port, table.max_frames, table.max_maptrack_frames, table.max_version)
        if limits != LIMITS or domain.external:
            raise Mismatch(f"a guest has the limits {limits} of ports, grants, mappings and versions, not {LIMITS}")
        entries = [table.entry_v1(0), table.entry_v1(1)]
        if entries != [(abi.GTF_PERMIT_ACCESS, DOM0, console_mfn), (abi.GTF_PERMIT_ACCESS, DOM0, store_mfn)]:
            raise Mismatch(f"reserved entries {entries}, but the answer says {console_mfn}, {store_mfn}")
        ports = domain.events.ports
        if console_port not in ports or store_port not in ports or console_port == store_port:
            raise Mismatch(f"the answer names ports {console_port}, {store_port}; there are {sorted(ports)}")
        if reading.buildable():
            self._contents(reading, console_mfn, store_mfn, console_port, store_port)
        if domain.vcpus[0].cr3 is None or domain.pause_count != 1:
            raise Mismatch("the guest cannot start, or is not paused once")
        if not domain.vcpus[0].cr3.pinned:  # libxenguest, bootlate_pv: tables stay tables while the guest uses others
            raise Mismatch("the guest's page tables are not pinned")

    def _contents(self, reading: Reading, console: int, store: int, console_port: int, store_port: int) -> None:
        """Check the guest's initial memory: kernel, ramdisk, two clear pages, and start_info that names them."""
        table = self.rig.xen.frames.table
        for pfn, content in reading.pages().items():
            found = bytes(table[self.book.mfns[self.order[pfn]]].bytes())
            if found != content and not (pfn == HYPERCALL_PFN and b"\x0f\x05" in found[:32]):  # Xen has put its stubs there
                raise Mismatch(f"page {pfn} of the guest does not hold what was read for it")
        for mfn in (console, store):
            data = table[mfn].data
            if data is not None and any(data):
                raise Mismatch("a page that is granted before the guest runs is not clear")
        mfns = [self.book.mfns[f] for f in self.order]
        frames = b"".join(abi.U64.pack(mfn) for mfn in mfns)
        if bytes(table[mfns[reading.frame_list_at]].bytes())[: len(frames)] != frames:
            raise Mismatch("where it must be, there is no list of the guest's frames")
        domain = self.rig.xen.domains[self.guest]
        assert domain.shared_info is not None and domain.vcpus[0].cr3 is not None
        told = Told(
            domain.shared_info.mfn,
            store,
            store_port,
            console,
            console_port,
            mfns.index(domain.vcpus[0].cr3.mfn),
            sum(1 for mfn in mfns if table[mfn].ptype in (PGT_L1, PGT_L2, PGT_L3, PGT_L4)),
        )
        self._addresses(reading, mfns)
        words = enumerate(abi.U64.iter_unpack(domain.vcpus[0].context or b""))
        registers = {i * 8: word for i, (word,) in words if word}
        expected = reading.registers(domain.vcpus[0].cr3.mfn)
        if registers != expected:
            wrong = {at for at in registers | expected if registers.get(at) != expected.get(at)}
            raise Mismatch(f"the guest begins with the registers {registers}: wrong at {sorted(wrong)}")
        if bytes(domain.shared_info.bytes()) != SHARED_INFO:
            raise Mismatch("the guest's shared_info is not as it must be at first")
        said = START_INFO.unpack_from(bytes(table[mfns[reading.start_info_at]].bytes()))
        if said != reading.start_info(told):
            raise Mismatch(f"start_info says {said}, not {reading.start_info(told)}")

    def _addresses(self, reading: Reading, mfns: Sequence[int]) -> None:
        """The guest finds its pages, from its base on, at the addresses of their numbers, and writes all but its tables."""
        root, table = self.rig.xen.domains[self.guest].vcpus[0].cr3, self.rig.xen.frames.table
        for addr, pfn in reading.addresses():
            found = walk(self.rig.xen, root, addr)
            frame = table[mfns[pfn]]
            if found != (frame, frame.ptype not in (PGT_L1, PGT_L2, PGT_L3, PGT_L4)):
                raise Mismatch(f"the guest has {found} at {addr:#x}, where its page {pfn} should be, {frame.mfn:#x}")

    # Internal steps of the rules.

    def make_free(self, f: int) -> None:
        """The implementation has taken a frame from the heap: in the rules it must be free, or become free now."""
        T, use = self.book.T, self.book.m["Use"]
        if T["frame.use"][f] == use["ram"] and not T["frame.held"][f]:
            self.rule("free_page", {"f": f})
        if T["frame.use"][f] == use["unscrubbed"]:
            self.rule("scrub_page", {"f": f})
        if T["frame.use"][f] != use["free"]:
            raise Mismatch(f"frame {f} was given out although by the rules it is not free")

    def free_id(self, domid: int) -> None:
        """In the rules the id must become free now."""
        self.settle()
        if self.book.T["domain.phase"][self.book.domain(domid)] != self.book.m["Phase"]["absent"]:
            raise Mismatch(f"the id {domid} is given out although by the rules its last owner is still there")

    def settle(self) -> None:
        """Follow the implementation's teardown so far."""
        T, m = self.book.T, self.book.m
        for d in self.dying:
            if T["domain.phase"][d] == m["Phase"]["dying"]:
                self.rule("evtchn_destroy", {"d": d})
                for h in range(self.book.size.handles):
                    if T["mapping.host"][h] and T["mapping.mapper"][h] == d:
                        self.rule("release_mapping", {"h": h})
                self.rule("relinquish_resources", {"d": d})
        for f in list(self.given_up):
            frame = self.rig.xen.frames.table[self.book.mfns[f]]
            gone = T["frame.use"][f] != m["Use"]["ram"] or T["frame.held"][f]
            if not gone and (frame.owner is None or frame.count == 0):
                self.rule("free_page", {"f": f})
                gone = True
            if gone:
                self.given_up.discard(f)
        for d in list(self.dying):
            for f in range(self.book.size.domb_pages, self.book.size.first_dom0_frame):
                if T["frame.use"][f] == m["Use"]["ram"] and T["frame.owner"][f] == d:
                    frame = self.rig.xen.frames.table[self.book.mfns[f]]
                    if frame.owner is None or frame.count == 0:
                        self.rule("free_page", {"f": f})
            if d not in self.rig.xen.domains:
                self.rule("domain_destroy", {"d": d})
                self.dying.discard(d)


__all__ = ["BuildSide"]
