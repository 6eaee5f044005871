"""Processes of Dom0 that are no tools: hostile ones that use gntdev, gntalloc and event channels, fork, and die.

Their calls, and the followers of these, are those of the campaign on `monolithic` (../dom0). One process is there from the
beginning and never ends: all others are its forks. There is no privcmd: it cannot be opened. Not here: tools and daemons
(machine.py), and which call is made (workload/users.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bulkhead.impl.boot import NODES
from bulkhead.impl.xen.pagetables import PTE_MFN, PTE_P, PTE_RW, read_pte
from bulkhead.proofs.refinement.calls import NOT_DONE, Answer, Call
from bulkhead.proofs.refinement.dom0.kernel import Dom0
from bulkhead.proofs.refinement.dom0.operations import OPERATIONS, carry_out
from bulkhead.proofs.refinement.dom0.state import Proc, Slot
from bulkhead.proofs.refinement.domb.alone import Alone
from bulkhead.proofs.refinement.domb.beside import Beside
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import DOMB, Rules
from bulkhead.proofs.refinement.lockstep.abstraction import Places
from bulkhead.proofs.refinement.lockstep.call import CallInFlight
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

OF_USERS: Final = tuple(name for name in OPERATIONS if not name.startswith("privcmd_"))


class Users:
    """All of them on one machine."""

    def __init__(self, rules: Rules, rig: Rig, book: Book | None, ear: Follower | Alone) -> None:
        self.rig, self.book = rig, book
        self.spaces = range(rules.size.first_process + 1, rules.size.spaces)
        self.beside = Beside(rules, rig, book, ear)
        with self._calls():
            self.dom0 = Dom0(self.beside, self._at_once, rig.pool, NODES["disaggregated"])
        rig.kernel.delivered = self._delivered

    @contextmanager
    def _calls(self) -> Iterator[None]:
        """One of them makes a call: what the kernel does now, it does for it."""
        kernel = self.rig.kernel
        if hasattr(self, "dom0"):
            self.dom0.listen()
            kernel.delivered = self._delivered
        try:
            yield
        finally:
            kernel.fly = kernel.poked = kernel.cleared = kernel.event = kernel.unbound = None

    def _at_once(self, own: CallInFlight) -> None:
        """A hypercall of the kernel runs to its end; `monolithic` interleaves its steps."""
        while own in self.beside.flights:
            self.beside.advance(own)

    def _delivered(self, port: int) -> None:
        """An event has come to a file; those of tools and daemons are not compared."""
        if not self._has(self.rig.kernel.evtchn_users.get(port)):
            return
        if self.book is not None and self.book.T["port.remote"][port - 1] == DOMB:
            self.book.put({("port.pending", port - 1): 1})  # DomB has rung it, maybe before it closed its end: in no rule
        self.dom0.delivered(port)

    def _has(self, user: object) -> bool:
        """Is the user of a port a file of theirs?"""
        return any(opened.file.device is user for opened in self.dom0.files)

    def of(self, space: int) -> Proc | None:
        """The process of that space."""
        return self.dom0.procs.get(space)

    def carry_out(self, call: Call) -> Answer:
        """Make a call of one of them."""
        child = call.arguments.get("child") if call.operation == "fork" else None
        if call.operation not in OF_USERS or (child is not None and (child not in self.spaces or child in self.dom0.procs)):
            return NOT_DONE
        self.beside.steps += 1
        with self._calls():
            answer = carry_out(self.dom0, call)
            self.dom0.sync()
        self.dom0.compare_rings()
        if self.beside.spec_state.awaiting_free:
            self.beside.settle()
        return answer

    def compare(self, out: Places) -> None:
        """Compare what they map, and their ports."""
        book = self.book
        if book is None:
            return
        for proc in self.dom0.procs.values():
            for slot in proc.slots.values():
                rules, real = _rules(book, slot), _real(self.rig, book, proc, slot)
                if rules != real:
                    out[f"page {slot.vpn:#x} of p{proc.space}"] = (rules, real)
        T, kernel = book.T, self.rig.kernel
        notices = [
            port
            for what in ("notice", "page_notice")
            for event, port in zip(T[f"{what}.event"], T[f"{what}.port"], strict=True)
            if event
        ]
        for q in range(book.size.ports):
            user = kernel.evtchn_users.get(q + 1)
            known: tuple[object, ...] = (bool(T["bound.used"][q]),)
            does: tuple[object, ...] = (user is not None,)
            if user is None or self._has(user):  # a channel's own notices are in no rule
                known += (T["bound.used"][q] + notices.count(q),)
                does += (kernel.evtchn_holds.get(q + 1, 0),)
            if known != does:
                out[f"port {q + 1} of Dom0's processes"] = (known, does)

    def end(self) -> None:
        """All have ended, and no guest is left: neither is anything of theirs."""
        with self._calls():
            self.dom0.pool.retry_deferred()
            self.dom0.sync()
        left = self.dom0
        if left.pool.deferred or left.pages or left.records or left.files or len(left.procs) > 1:
            raise Mismatch("at the end Dom0 keeps a shared page, a map, a file or a process")


def _rules(book: Book, slot: Slot) -> tuple[int, bool] | None:
    t = slot.user
    return None if t is None else (book.T["translation.frame"][t], bool(book.T["translation.writable"][t]))


def _real(rig: Rig, book: Book, proc: Proc, slot: Slot) -> tuple[int, bool] | None:
    maddr = proc.process.space.pte_maddr(slot.vpn)
    pte = read_pte(rig.xen.frames.table[maddr >> 12], (maddr & 0xFFF) >> 3)
    return (book.frame((pte & PTE_MFN) >> 12), bool(pte & PTE_RW)) if pte & PTE_P else None


__all__ = ["OF_USERS", "Users"]
