"""Calls in flight of one machine, each beside its follower: they are launched, take steps, and end.

This is what followers of Dom0's calls (../dom0) ask of a machine besides its observation. Subclasses say which machine it
is, when both sides are compared, and when the rules' internal steps are taken (lockstep.py, ../domb/beside.py).
"""

from __future__ import annotations

from abc import abstractmethod

from bulkhead.impl.xen import abi
from bulkhead.impl.xen.frames import Frame
from bulkhead.impl.xen.scheduler import HELD
from bulkhead.proofs.refinement.lockstep.call import END, CallInFlight, Follower
from bulkhead.proofs.refinement.lockstep.observe import Asked, Key
from bulkhead.proofs.refinement.lockstep.spec_state import SpecState
from bulkhead.proofs.refinement.lockstep.spec_world import KERNEL, TOOLS
from bulkhead.proofs.refinement.lockstep.testbed import Bench

PERIOD = bytes(range(1, 252))
PATTERN = PERIOD * (abi.PAGE_SIZE // len(PERIOD) + 3)


class Flights(Asked):
    """A machine with its calls in flight. `toolstack` is a process that never ends, `kernel_space` the process that
    stands for Dom0's kernel in the rules, and `kernel_file` its file if it is open from the beginning."""

    toolstack: int = TOOLS
    kernel_space: int = KERNEL
    kernel_file: int | None = None
    privcmd = 0  # the toolstack's file

    def __init__(self, rig: Bench, spec_state: SpecState, rules_on: bool) -> None:
        super().__init__(rig, spec_state)
        self.flights: list[CallInFlight] = []
        self.rules_on = rules_on
        self.steps = 0
        self.calls = 0
        self.launched = 0
        self.locked: set[Key] = set()  # entries that a transfer is completing
        self.dirty: set[int] = set()  # domains with translations that may be stale
        self.dying: set[int] = set()  # domains that have released everything
        self.touched: set[Key] = set()
        self.touched_frames: set[int] = set()

    @abstractmethod
    def settle(self) -> None:
        """Take the rules' internal steps as far as the implementation has done them."""

    @abstractmethod
    def make_free(self, element: int) -> None:
        """The implementation has taken the frame from the heap: in the rules it must be free, or become free now."""

    @abstractmethod
    def check(self) -> None:
        """Compare both sides after a step."""

    def fill(self, frame: Frame) -> None:
        """Fill a page with nonzero bytes that differ by place and time."""
        first = self.steps % len(PERIOD)
        frame.bytes()[:] = PATTERN[first : first + abi.PAGE_SIZE]

    def touch_frame(self, element: int) -> None:
        """A frame lost a reference: it may go to the heap now."""
        self.touched_frames.add(element)
        spec = self.spec_state
        if not spec.T["frame.held"][element] and spec.T["frame.use"][element] in (spec.use["ram"], spec.use["status_frame"]):
            spec.awaiting_free.add(element)

    # Steps.

    def launch(self, in_flight: CallInFlight, follower: Follower, ncalls: int) -> None:
        """Put a call in flight; it takes its first step when it is advanced."""
        self.calls += 1
        self.launched += 1
        in_flight.number = self.launched
        if self.rules_on:
            in_flight.calls = [self.spec_state.free_calls.pop() for _ in range(ncalls)]
            next(follower)
            in_flight.follower = follower
        self.flights.append(in_flight)

    def advance(self, f: CallInFlight) -> bool:
        """One step of a call; True when it has returned."""
        self.steps += 1
        if f.watch is not None:
            f.watched = self.pin(f.watch)
        if f.moves is not None:
            f.moves()
        try:
            f.marker = next(f.steps)
        except StopIteration as stop:
            f.rc, f.marker = stop.value, END
        if self.rules_on:
            self._follow(f)
        self._stepped(f)
        if f.marker == END:
            self.flights.remove(f)
            self.spec_state.free_calls.extend(f.calls)
            self._ended(f)
        if self.rules_on:
            self.check()
        return f.marker == END

    def _follow(self, f: CallInFlight) -> None:
        assert f.follower is not None
        try:
            f.follower.send(f.marker)
        except StopIteration:
            if f.marker != END and f.marker not in HELD:
                f.follower = _idle()
                next(f.follower)
        if self.dirty or self.dying or self.spec_state.awaiting_free:
            self.settle()

    def _stepped(self, f: CallInFlight) -> None:
        """A call has taken a step."""

    def _ended(self, f: CallInFlight) -> None:
        """A call has returned."""


def _idle() -> Follower:
    while True:
        yield
