"""The follower of DomB: maps its messages, hypercalls, mappings, stores and grants to rule steps.

It is notified of the implementation's actions (rig.py), takes the rule steps for them with the same arguments and picks, and
raises Mismatch if the rules answer differently. A message's own step is taken at its first effect, or when it has been
handled. The expected result of a build comes from files.py, never from DomB. dom0_side.py follows Dom0's side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.guests.test_kernel import HYPERCALL_PFN
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.hypercall_evtchn import TWO_DOMIDS
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.dom0_side import Dom0Side
from bulkhead.proofs.refinement.domb.files import PAGE, Reading, Wanted, wanted
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import DOM0, DOMB, DOMB_SPACE, Book
from bulkhead.proofs.refinement.lockstep.spec_state import ANY, Mismatch

CONTROL = {p.PAUSE: "take_pause", p.UNPAUSE: "take_unpause", p.DESTROY: "take_destroy", p.INFO: "take_info"}
ERRNO = {0: OKAY, abi.ESRCH: "ESRCH", abi.EINVAL: "EINVAL", abi.ENOMEM: "ENOMEM", abi.EBUSY: "EBUSY"}
STAGES = ("no_request", "fetching", "created", "populated", "loaded", "seeded", "sealed", "failing")
TABLE, INFO = "grant_table", "shared_info"


class Follower(Dom0Side):
    """DomB in lockstep with its rules."""

    def __init__(self, rig: Rig, book: Book) -> None:
        super().__init__(rig, book)
        self.slots: dict[int, tuple[str, int]] = {}  # demand slot -> ("page", Translation) or (special page, domain)
        self.pending: Callable[[], None] | None = None
        self.reading: Reading | None = None
        self.question: tuple[int, int, bytes] = (0, 0, b"")
        self.request = (0, Wanted(False))  # the number and the content of the current request
        self.buffers: list[tuple[int, int]] = []  # buffers of the current build, with their files
        self.order: list[int] = []  # frames of the guest under construction, in its own order
        self.loaded: dict[int, bytes] = {}
        self.earlier: dict[
            int, frozenset[bytes]
        ] = {}  # buffers of earlier builds that are still used, and the pages in them
        self.excused = False  # a call of DomB was made to fail
        self.fault: Callable[[str], int] = lambda what: 0
        self.stream = 0  # bytes that DomB has sent over this channel
        self.answers: dict[int, int] = {}  # guest -> end of its answer in that stream
        self.to_send: list[p.Message] = []  # messages that DomB has decided to send over this connection
        self.dying: set[int] = set()
        self.given_up: set[int] = set()  # frames that a guest has given back, and that somebody still maps
        self.leaving = False
        self.started: Callable[[int], None] = lambda domid: None
        self.between: Callable[[str], None] = lambda label: None  # what happens after DomB has taken a message

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

    # Injected failures.

    def fails(self, what: str) -> int:
        errno = self.fault(what)
        self.excused |= bool(errno)
        return errno

    # Messages.

    def message(self, message: p.Message) -> None:
        self.settle()
        op, asked = message.op, 0
        guest = int.from_bytes(message.body[:2], "little") if len(message.body) == 2 else -1
        if op & p.REPLY:
            mine = self.reading is not None and (op & ~p.REPLY, message.number) == self.question[:2]
            asked = self.book.T["job.asked"][0] + (0 if mine else 1)
            data = self.question[0] == p.FILE_READ if mine else op & ~p.REPLY == p.FILE_READ
            label = "take_file_data" if data else "take_file_answer"
        elif op == p.CREATE:
            label, asked = "take_create", message.number
            if self.stage == "no_request":
                self.request = (message.number, wanted(message.body))
        elif op in CONTROL and guest >= 0:
            label = CONTROL[op]
        else:
            label = ""
        if not label:
            return
        piece = self.book.piece(True)
        self.in_the_ring(label[5:], self.book.domain(guest), asked % self.book.size.numbers, piece)
        self.rule(label, {"this": 0})
        if op & p.REPLY:
            self.pending = lambda: self._file_answer(message, label, mine, piece)
        self.between(label)

    def in_the_ring(self, ask: str, guest: int, number: int = 0, piece: int = 0) -> None:
        """The process that wrote the message that DomB took: one that maps a page of the ring writable."""
        T = self.book.T
        for t in range(self.book.size.translations):
            p_ = T["translation.space"][t]
            if (
                T["translation.present"][t]
                and T["translation.writable"][t]
                and T["space_of"][p_] == DOM0
                and T["ring_page.listed"][T["translation.frame"][t]]
            ):
                code = self.book.try_step(
                    "write_ring",
                    {
                        "p": p_,
                        "t": t,
                        "ask": self.book.m["Ask"][ask],
                        "guest": guest,
                        "number": number,
                        "name": 0,
                        "bytes": piece,
                    },
                )
                if code == OKAY:
                    return
        if self.had_writer:  # it has ended since then
            for name, value in (("ask", self.book.m["Ask"][ask]), ("guest", guest), ("number", number), ("bytes", piece)):
                T[f"ring.{name}"][0] = value
            return
        raise Mismatch(f"DomB takes a message ({ask}), and no process can write its ring")

    def _now(self) -> None:
        """Take the step of the current message, before its first effect."""
        step, self.pending = self.pending, None
        if step is not None:
            step()

    def _file_answer(self, message: p.Message, label: str, mine: bool, piece: int) -> None:
        reading = self.reading
        if not mine or reading is None:
            self.rule(f"{label}.act", {"this": 0}, "ESRCH")
            return
        if not reading.takes(self.question[0], self.question[2], message):
            self.rule(f"{label}.act", {"this": 0}, "EIO", "EIO")
            return
        T = self.book.T
        args = {"this": 0, "next": (T["job.asked"][0] + 1) % self.book.size.numbers}
        if label == "take_file_data":
            args["b"] = self.book.free("buffer.used")
            self.buffers.append((args["b"], len(reading.files)))
        self.rule(f"{label}.act", args)

    def posted(self, op: int, number: int, status: int, body: bytes) -> None:
        self._now()
        self.to_send.append(p.Message(op, number, status, body[: p.MAX_BODY]))
        if op & p.REPLY:
            return
        if self.book.T["at"][0] == self.book.m["Point"]["take_create.act"]:
            self.rule("take_create.act", {"this": 0, "now": self.book.free_turn(), "asked": number % self.book.size.numbers})
            self.reading = Reading(self.request[1])
            self.buffers, self.order, self.loaded, self.excused = [], [], {}, False
        if self.reading is None:
            raise Mismatch("DomB asks the file proxy, and no build waits for files")
        self.question = (op, number, body)
        wrong = self.reading.question(op, body)
        if wrong:
            raise Mismatch(f"DomB asks the file proxy for what it should not: {wrong}")

    def handled(self, message: p.Message, answer: p.Message | None) -> None:
        self._now()
        if message.op & p.REPLY:
            self._after_answer(answer)
        elif answer is None:
            if message.op != p.CREATE or self.reading is None:
                raise Mismatch(f"no answer to request {message.op}")
        elif answer.number != message.number or answer.op != message.op | p.REPLY:
            raise Mismatch(f"request {message.op} number {message.number} is answered {answer.op} number {answer.number}")
        elif message.op == p.CREATE:
            self._refused(message, answer.status)
        else:
            self._controlled(message, answer)
        self.settle()

    def _refused(self, message: p.Message, status: int) -> None:
        fail = None if wanted(message.body).ok else "EINVAL"
        self.rule(
            "take_create.act", {"this": 0, "now": self.book.free_turn(), "asked": 0}, ERRNO.get(-status, str(status)), fail
        )

    def _controlled(self, message: p.Message, answer: p.Message) -> None:
        want = ERRNO.get(-answer.status, str(answer.status))
        if message.op not in CONTROL or len(message.body) != 2:
            known = -abi.ENOSYS if message.op not in CONTROL else -abi.EINVAL
            if answer.status != known:
                raise Mismatch(f"garbage ({message.op}) is answered {answer.status}")
            return
        label = CONTROL[message.op]
        if label == "take_destroy" and self.acted:
            if want != OKAY:
                raise Mismatch(f"a guest was destroyed, and the answer says {want}")
            self.rule("take_destroy.forget", {"this": 0})
        else:
            fail = "ENOMEM" if want == "ENOMEM" and self.excused else None
            self.rule(f"{label}.act", {"this": 0}, want, fail)
            if label == "take_destroy" and want == OKAY:
                raise Mismatch("the answer says that a guest was destroyed, but it was not")
        self.acted = self.excused = False
        domid = int.from_bytes(message.body, "little")
        if label == "take_info" and want == OKAY:
            domain = self.rig.xen.domains[domid]
            shown = (
                domid,
                int(domain.pause_count > 0 and not domain.is_dying) | (domain.is_dying != ALIVE) << 1,
                domain.tot_pages,
                domain.max_pages,
            )
            if p.STATE.unpack(answer.body) != shown:
                raise Mismatch(f"info shows {p.STATE.unpack(answer.body)}, not {shown}")
        elif answer.body:
            raise Mismatch("an answer shows more than it should")
        if label == "take_unpause" and want == OKAY:
            for r, number in enumerate(self.book.size.refs):  # its table has one frame from the beginning
                if number < abi.ENTRIES_V1:
                    self.rule("setup_table", {"caller": domid, "ref": r, "enough": int(number < abi.ENTRIES_V2)})
            self.started(domid)

    acted = False

    def _after_answer(self, answer: p.Message | None) -> None:
        """After an answer of the proxy: the job waits for the next one, or has ended."""
        reading = self.reading
        if answer is None:
            if reading is not None and reading.ended:
                raise Mismatch("nothing is left to be read, and no guest is built")
            return
        if reading is None:
            raise Mismatch("DomB answers a request that nobody has made")
        if answer.op != p.CREATE | p.REPLY or answer.number != self.request[0]:
            raise Mismatch(f"the request number {self.request[0]} is answered {answer.op} number {answer.number}")
        self.reading = None
        if answer.status == 0:
            self._sealed(reading, answer)
        elif self.stage == "fetching":
            if not reading.ended:
                raise Mismatch("a build ends while its files are read")
            whole = len(reading.files) == (2 if reading.wanted.ramdisk else 1) and not reading.doomed
            if whole and reading.buildable() is True and not self.excused:
                raise Mismatch(f"what can be built from is refused: {answer.status} {answer.body!r}")
            if whole and not reading.buildable() and self.buffers:
                b = self.buffers[-1][0]
                self.book.T["acceptable"][self.book.T["buffer.bytes"][b]] = 0
                self.rule("build_check", {"b": b}, "ENOEXEC")
            self.rule("build_give_up")
            kept = [b for b, _ in self.buffers if self.book.T["buffer.used"][b]]  # under a fault of the rules only
            self.earlier |= dict.fromkeys(kept, frozenset(reading.pages().values()) if kept else frozenset())
        elif self.stage not in ("failing", "no_request"):
            self._failed()
        if answer.status and self.stage == "failing" and not self.excused:
            raise Mismatch("a half-built guest is left behind")

    def _failed(self) -> None:
        """The build has failed: all further actions belong to its rollback."""
        if not self.excused:
            raise Mismatch(f"a build fails in the stage {self.stage} without a reason")
        self.rule("build_fail")

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
        table = domain.grant_table
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
        info = bytes(table[self.book.mfns[self.order[len(reading.pages()) + 2]]].bytes())
        if info[:14] != b"xen-3.0-x86_64":
            raise Mismatch("there is no start_info behind the frame list")
        numbers = (
            int.from_bytes(info[56:64], "little"),
            int.from_bytes(info[64:68], "little"),
            int.from_bytes(info[72:80], "little"),
            int.from_bytes(info[80:84], "little"),
        )
        if numbers != (store, store_port, console, console_port):
            raise Mismatch(f"start_info says {numbers}, not {(store, store_port, console, console_port)}")

    # Hypercalls of the libraries.

    def lacks(self) -> None:
        """DomB has no free page."""
        self.excused = True

    def hypercall(self, number: int, args: Sequence[int], before: bytes, rc: int) -> None:
        self.excused |= rc == -abi.ENOMEM
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
                self.book.T["acceptable"][self.book.T["buffer.bytes"][b]] = int(good)
                self.rule("build_check", {"b": b}, ANY)
            for b in self.earlier:
                self.rule("build_check", {"b": b}, ANY)
        self.free_id(domain.domid)
        life = self.book.free_life()
        self.rule("build_create", {"d_d": self.book.domain(domain.domid), "d_life": life})
        self.lives = {k: v for k, v in self.lives.items() if v != life} | {domain: life}
        if not good:
            raise Mismatch("a domain is created for files that cannot be loaded")
        self.loaded = reading.pages() if reading.buildable() else {}

    def _destroys(self, domid: int, rc: int) -> None:
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
            self.excused = True

    # Mappings and stores.

    def mmu(self, slot: int, val: int, domid: int, rc: int) -> None:
        if val & PTE_P:
            mfn = (val & PTE_MFN) >> 12
            if rc:
                self.excused = True
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

    def _pfn(self, t: int) -> int:
        f = self.book.T["translation.frame"][t]
        return self.order.index(f) if f in self.order else -1

    def released(self, frames: list[Frame]) -> None:
        d = self.guest if self.stage not in ("no_request", "fetching") else DOM0
        for frame in frames:
            self.rule("domb_notes", {"f": self.book.frame(frame.mfn), "l": self.book.T["domain.life"][d]})

    # The channel.

    def port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        if cmd == abi.EVTCHNOP_ALLOC_UNBOUND and rc == 0:
            self.rule("channel_open", {"q_q": TWO_DOMIDS.unpack(raw)[2] - 1})
            self.stream = 0
            self.answers.clear()
            self.to_send.clear()
            self.had_writer = False
        elif cmd == abi.EVTCHNOP_CLOSE:
            number = abi.U32.unpack(arg)[0]
            if number - 1 == self.book.T["channel.port"][0]:
                self._hangs_up()
                self.rule("channel_close")
            else:
                raise Mismatch(f"DomB closes port {number}, which is not its channel's")

    def shared(self, frame: Frame, ref: int) -> None:
        if frame.data is not None and any(frame.data):
            raise Mismatch(f"DomB shares page {frame.mfn:#x} with what it held before")
        self.rule("channel_share", {"f": self.book.frame(frame.mfn), "r": self.book.ref(ref)})

    def ended(self, ref: int, done: bool) -> None:
        T, r = self.book.T, self.book.ref(ref)
        pages = range(self.book.size.domb_pages)
        f = next((f for f in pages if T["ring_page.granted"][f] and T["ring_page.ref"][f] == r), -1)
        if f < 0:
            raise Mismatch(f"DomB takes grant {ref} back, which is none of its channel's")
        if T["ring_page.listed"][f]:
            self._hangs_up()  # it could not offer the complete channel
        self.rule("channel_withdraw", {"f": f}, OKAY if done else "EBUSY")

    def _hangs_up(self) -> None:
        if self.book.T["channel.link"][0] == self.book.m["Link"]["linked"]:
            self.rule("hang_up")
            if self.stage != "failing":
                self.buffers = []
            self.reading = None

    def hangs_up(self) -> None:
        self._now()
        self.leaving = True  # after DomB has checked which clients got their answers

    def hung_up(self) -> None:
        if self.leaving:
            raise Mismatch("DomB has hung up, and has not looked who was told")
        if self.book.T["channel.link"][0] != self.book.m["Link"]["no_channel"]:
            raise Mismatch("DomB has hung up, and its port is open")
        self.settle()

    def sent(self, message: p.Message) -> None:
        if not self.to_send or self.to_send.pop(0) != message:
            raise Mismatch(f"DomB sends a message ({message.op}) that it has not decided on in this connection, or not now")
        self.stream += p.HEADER.size + len(message.body)
        if message.op == p.CREATE | p.REPLY and message.status == 0:
            self.answers[int.from_bytes(message.body[:2], "little")] = self.stream

    def taken(self) -> int:
        """How much of DomB's data the client has taken, by the shared page."""
        service = self.service
        if service is None or service.chan is None:
            return 0
        cons = int.from_bytes(self.rig.os.seen.get(service.chan.page + 8, b""), "little")
        return self.stream - (self.stream - cons & 0xFFFFFFFF)

    def looked(self) -> None:
        taken = self.taken()
        for domid, at in list(self.answers.items()):
            d = self.book.domain(domid)
            if at <= taken and self.built("known", d) and not self.built("told", d) and not self.built("abandoned", d):
                self.rule("guest_told", {"d": d})
                del self.answers[domid]
        if self.leaving:
            self.leaving = False
            self._hangs_up()

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
        for f in list(self.given_up):
            frame = self.rig.xen.frames.table[self.book.mfns[f]]
            gone = T["frame.use"][f] != m["Use"]["ram"] or T["frame.held"][f]
            if not gone and (frame.owner is None or frame.count == 0):
                self.rule("free_page", {"f": f})
                gone = True
            if gone:
                self.given_up.discard(f)
        for d in list(self.dying):
            if T["domain.phase"][d] == m["Phase"]["dying"]:
                self.rule("evtchn_destroy", {"d": d})
                self.rule("relinquish_resources", {"d": d})
            for f in range(self.book.size.domb_pages, self.book.size.frames - 1):
                if T["frame.use"][f] == m["Use"]["ram"] and T["frame.owner"][f] == d:
                    frame = self.rig.xen.frames.table[self.book.mfns[f]]
                    if frame.owner is None or frame.count == 0:
                        self.rule("free_page", {"f": f})
            if d not in self.rig.xen.domains:
                self.rule("domain_destroy", {"d": d})
                self.dying.discard(d)


__all__ = ["DOMB_SPACE", "Follower"]
