"""The follower of DomB's messages: requests of tools, answers of the file proxy, and DomB's own questions and answers.

A follower is notified of the implementation's actions (rig.py), takes the rule steps for them with the same arguments and
picks, and raises Mismatch if the rules answer differently. A message's own step is taken at its first effect, or when it has
been handled. Below it: follow_channel.py, follow_build.py and, for Dom0's side, dom0_side.py.
"""

from __future__ import annotations

from collections.abc import Callable

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.domains import ALIVE
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.files import Reading, wanted
from bulkhead.proofs.refinement.domb.follow_channel import ChannelSide
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

CONTROL = {p.PAUSE: "take_pause", p.UNPAUSE: "take_unpause", p.DESTROY: "take_destroy", p.INFO: "take_info"}
ERRNO = {0: OKAY, abi.ESRCH: "ESRCH", abi.EINVAL: "EINVAL", abi.ENOMEM: "ENOMEM", abi.EBUSY: "EBUSY"}


class Follower(ChannelSide):
    """DomB in lockstep with its rules."""

    def __init__(self, rig: Rig, book: Book) -> None:
        super().__init__(rig, book)
        self.question: tuple[int, int, bytes] = (0, 0, b"")
        self.numbers: set[int] = set()  # of all questions so far
        self.fault: Callable[[str], int] = lambda what: 0

    # Injected failures.

    def fails(self, what: str) -> int:
        errno = self.fault(what)
        if errno:
            self.excuse(errno)
        if errno and what in ("share", "grant"):
            self.book.count("channel_share", "ENOMEM" if what == "share" else "ENOSPC")
        return errno

    # Messages.

    def stepped(self, busy: bool) -> None:
        """DomB's service has taken a step, and says whether there was anything to do."""
        self.has_signalled()
        self.stepping = False
        if self.inbox is not None and self.inbox is self.served:
            first = p.HEADER.size + len(self.to_send[0].body) if self.to_send else 0
            self.inbox.stays(len(self.to_send), first, self._index())
        if self.worked != busy:
            raise Mismatch(f"DomB has {'' if self.worked else 'not '}done something, and says the contrary")

    def message(self, message: p.Message) -> None:
        self.settle()
        self.worked, self.asked_index = True, False
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
            self.errnos.clear()
        if self.reading is None:
            raise Mismatch("DomB asks the file proxy, and no build waits for files")
        if number in self.numbers:
            raise Mismatch(f"DomB asks its client {op} with the number {number}, which another question had")
        self.numbers.add(number)
        self.question = (op, number, body)
        wrong = self.reading.question(op, body)
        if wrong:
            raise Mismatch(f"DomB asks the file proxy for what it should not: {wrong}")

    def handled(self, message: p.Message, answer: p.Message | None) -> None:
        self.has_asked()
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
        if answer.status:
            self._names_the_error(reading, answer)
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
                self.book.put({("acceptable", self.book.T["buffer.bytes"][b]): 0})
                self.rule("build_check", {"b": b}, "ENOEXEC")
            self.rule("build_give_up")
            kept = [b for b, _ in self.buffers if self.book.T["buffer.used"][b]]  # under a fault of the rules only
            self.earlier |= dict.fromkeys(kept, frozenset(reading.pages().values()) if kept else frozenset())
        elif self.stage not in ("failing", "no_request"):
            self._failed()
        if answer.status and self.stage == "failing" and not self.excused:
            raise Mismatch("a half-built guest is left behind")

    def _names_the_error(self, reading: Reading, answer: p.Message) -> None:
        """A build has come to nothing: the answer says why."""
        errnos = {reading.errno} if reading.errno else self.errnos | (set() if reading.buildable() else {abi.EINVAL})
        if errnos and -answer.status not in errnos:
            raise Mismatch(f"a build comes to nothing for {sorted(errnos)}, and the answer says {answer.status}")


__all__ = ["Follower"]
