"""The ear of an implementation that runs alone: nobody listens, and processes get the spaces that rules would give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs.vchan import Vchan
from bulkhead.impl.xen.frames import Frame
from bulkhead.proofs.refinement.domb.world import FIRST_PROCESS


class Alone:
    """What a follower is told (rig.Ear), and what the machine asks of it."""

    def __init__(self) -> None:
        self.who = -1
        self.spaces: set[int] = set()
        self.fault: Callable[[str], int] = lambda what: 0

    def excuse(self, errno: int) -> None:
        """A call of DomB is made to fail."""

    def spawn(self) -> int:
        """A new process: the first space that is free."""
        space = next(s for s in range(FIRST_PROCESS, 1 << 16) if s not in self.spaces)
        self.spaces.add(space)
        return space

    def dies(self, space: int) -> None:
        """A process is about to end."""
        self.who = space

    def died(self, space: int) -> None:
        """It has ended."""
        self.spaces.discard(space)
        self.who = -1

    def opened(self, opened: bool, inside: bool) -> None:
        """A file proxy has opened a file, or has refused to."""

    def settle(self) -> None:
        """Nothing is behind."""

    def fails(self, what: str) -> int:
        return self.fault(what)

    def lacks(self) -> None:
        pass

    def hypercall(self, number: int, args: Sequence[int], before: bytes, rc: int) -> None:
        pass

    def mmu(self, slot: int, val: int, domid: int, rc: int) -> None:
        pass

    def flushed(self) -> None:
        pass

    def has_read(self, addr: int, out: bytes) -> None:
        pass

    def stored(self, addr: int, payload: bytes) -> None:
        pass

    def released(self, frames: list[Frame]) -> None:
        pass

    def shared(self, frame: Frame, ref: int) -> None:
        pass

    def ended(self, ref: int, done: bool) -> None:
        pass

    def port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        pass

    def dom0_grant(self, cmd: int, elements: Sequence[bytes], out: Sequence[bytes]) -> None:
        pass

    def dom0_unbound(self, port: int) -> None:
        pass

    def dom0_port(self, cmd: int, arg: bytes, rc: int, raw: bytes) -> None:
        pass

    def offered(self, chan: Vchan) -> None:
        pass

    def receives(self, receive: Callable[[], p.Message | None]) -> p.Message | None:
        return receive()

    def sends(self, message: p.Message, send: Callable[[], bool]) -> bool:
        return send()

    def message(self, message: p.Message) -> None:
        pass

    def handled(self, message: p.Message, answer: p.Message | None) -> None:
        pass

    def posted(self, op: int, number: int, status: int, body: bytes) -> None:
        pass

    def sent(self, message: p.Message) -> None:
        pass

    def looked(self) -> None:
        pass

    def hangs_up(self) -> None:
        pass

    def hung_up(self) -> None:
        pass


__all__ = ["Alone"]
