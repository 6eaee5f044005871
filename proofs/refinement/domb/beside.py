"""DomB's machine as the followers of Dom0's calls (../dom0) see it: its elements, and its calls in flight.

They are those of the campaign on `monolithic`. Here the rule state is DomB's (book.py), and a hypercall of the kernel runs
to its end at once. Not here: which processes there are, and when the kernel's actions are theirs (users.py).
"""

from __future__ import annotations

from bulkhead.impl.xen.frames import Frame
from bulkhead.proofs.refinement.domb.alone import Alone
from bulkhead.proofs.refinement.domb.book import Book
from bulkhead.proofs.refinement.domb.follow import Follower
from bulkhead.proofs.refinement.domb.rig import Rig
from bulkhead.proofs.refinement.domb.world import KERNEL, KERNEL_FILE, Rules
from bulkhead.proofs.refinement.lockstep.flights import PATTERN, Flights
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState

MARK = slice(4064, 4080)  # of a page of others: no ring and no start_info has anything there


class Elements(SpecState):
    """DomB's rule state with the bindings that these followers use; without rules it has no elements."""

    def __init__(self, rules: Rules, book: Book | None, first_mfn: int) -> None:
        super().__init__(rules, first_mfn, None, [[] for _ in rules.number] if book is None else book.state)
        self.book = book
        self.free_calls.remove(0)  # DomB's, the guests', and the tools'
        if book is not None:
            self.T, self.reached = book.T, book.reached  # the same tables: the book gives them back at the end
            book.dom0_frames = self.dom0_frames

    def frame(self, mfn: int) -> int:
        return self.size.nowhere if self.book is None else self.book.frame(mfn)

    def mfn(self, element: int) -> int:
        return -1 if self.book is None else self.book.mfn(element)

    def port(self, number: int) -> int:
        return 0 if self.book is None else self.book.port(number)

    def try_step(self, label: str, args: dict[str, int], fail: str | None = None) -> str | None:
        assert self.book is not None
        return self.book.try_step(label, args, fail)


class Beside(Flights):
    """The machine with the kernel's calls for these processes."""

    def __init__(self, rules: Rules, rig: Rig, book: Book | None, ear: Follower | Alone) -> None:
        super().__init__(rig, Elements(rules, book, rig.first_mfn), book is not None)
        self.ear = ear
        self.toolstack = rules.size.first_process
        self.kernel_space, self.kernel_file = KERNEL, KERNEL_FILE

    def settle(self) -> None:
        waiting = self.spec_state.awaiting_free
        if isinstance(self.ear, Follower):
            self.ear.given_up |= waiting
            waiting.clear()
            self.ear.settle()

    def make_free(self, element: int) -> None:
        if isinstance(self.ear, Follower):
            self.ear.make_free(element)

    def fill(self, frame: Frame) -> None:
        """A page of a guest's or of DomB's is only marked: else each store would end a channel or a guest's work."""
        if frame.owner is self.rig.dom0:
            super().fill(frame)
        else:
            first = self.steps % 251
            frame.bytes()[MARK] = PATTERN[first : first + 16]

    def check(self) -> None:
        """Both sides are compared when the call has ended (machine.py)."""


__all__ = ["Beside", "Elements"]
