"""Whole conversations of one tool with DomB, with one thing wrong in each: a broken kernel, one lie of its proxy, garbage.

The tool gets the channel first, so that DomB comes to the point where the wrong thing matters. Not here: single actions of
many tools at a time (tools.py), which seldom come so far.
"""

from __future__ import annotations

import random
from typing import Any, Final

from bulkhead.impl.domb import protocol as p
from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.files import SMALL_DISKS
from bulkhead.proofs.refinement.domb.kernels import BAD, GOOD
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.workload.tools import NO_FILE, OUTSIDE, STRANGE, ToolChoices
from bulkhead.proofs.refinement.domb.world import NOBODY

ROUNDS: Final = 40  # more than a kernel and a ramdisk need
RING: Final = 8192
ANSWER: Final = p.HEADER.size + p.GUEST.size  # bytes of the answer that names a guest
LIES_AT: Final = (0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 8, 9, 10, 13, 17)  # the answer; 7 says the kernel's time again
Body = list[Any]  # parts of an answer, as `reply` has them


class Sessions:
    """Conversations, by the hands of `tools`."""

    def __init__(self, view: View, target: Interleaving, rng: random.Random, tools: ToolChoices) -> None:
        self.view, self.target, self.rng, self.tools = view, target, rng, tools
        self.turn = 0  # which broken kernel is next: each comes as often as the others

    def act(self, who: Process) -> None:
        """One conversation."""
        rng, tools = self.rng, self.tools
        for each in [each for each in self.view.free() if each.chan is not None]:
            tools.of(each, "disconnect")
        tools.domb()
        tools.connect(who, self.view.offer)
        x = rng.random()
        if who.chan is None:
            return
        if x < 0.4:
            tools.text = "a tool asks for guests with broken kernels"
            for _ in range(rng.choice((1, 3, 6))):
                if tools.lives(who) and who.chan is not None and who.chan.is_open():
                    self._builds(who, self._broken(), rng.choice(("", "", "", "disk1")), ROUNDS)
        elif x < 0.6:
            tools.text = "a tool asks for what is no file of the proxy's"
            strange = rng.choice(rng.choice((STRANGE, OUTSIDE, NO_FILE)))
            self._builds(who, *rng.choice(((strange, ""), ("kernel1", strange or "."))), ROUNDS)
        elif x < 0.8:
            tools.text = "a tool's file proxy lies once"
            disk = rng.choice(("", f"disk{rng.randrange(1, len(SMALL_DISKS))}"))
            self._builds(who, f"kernel{rng.randrange(len(GOOD))}", disk, rng.choice(LIES_AT))
        elif x < 0.87:
            tools.text = "a tool ends a guest before it reads that there is one"
            self._builds(who, f"kernel{rng.randrange(len(GOOD))}", "", ROUNDS, guesses=True)
        elif x < 0.9:
            tools.text = "a tool takes a part of the answer that names its guest"
            self._builds(who, "kernel0", "", ROUNDS, partly=True)
        else:
            self._garbage(who)
        if rng.random() < 0.5 and tools.lives(who):
            tools.of(who, "disconnect")
        tools.domb()

    def _broken(self) -> str:
        self.turn = (self.turn or self.rng.randrange(len(BAD))) + 1
        return f"bad{self.turn % len(BAD)}"

    def _builds(
        self, who: Process, kernel: str, disk: str, lie_at: int, guesses: bool = False, partly: bool = False
    ) -> None:
        """A guest is asked for, and its files are given; the answer of one round is a lie. If the tool `guesses`, it asks
        now and then for the end of the guest, whose id it does not know yet; `partly`: when it has taken a part of the
        answer.
        """
        tools, number = self.tools, self.rng.randrange(1 << 32)
        tools.send(who, p.CREATE, number, 0, p.CreateRequest(kernel, disk, 64, "").pack())
        for n in range(ROUNDS):
            tools.domb()
            untold = [d for d, built in self.view.built.items() if not built.told]
            if guesses and tools.lives(who) and who.chan is not None and (untold or self.rng.random() < 0.2):
                guess = self.rng.choice(untold or range(NOBODY))
                tools.send(who, p.DESTROY, self.rng.randrange(1 << 32), 0, p.DOMID.pack(guess))
                tools.domb()
            if not tools.lives(who):
                return
            if partly and untold and who.chan is not None and who.chan.reader is not None:
                index = who.chan.reader.cons + self.rng.choice((1, p.HEADER.size, p.HEADER.size, ANSWER - 1))
                tools.of(who, "poke", addr=who.chan.reader.ring.cons, bytes=(index & 0xFFFFFFFF).to_bytes(4, "little").hex())
                op = self.rng.choice((p.UNPAUSE, p.DESTROY, p.INFO, 0))
                if op:
                    tools.send(who, op, self.rng.randrange(1 << 32), 0, p.DOMID.pack(untold[0]))
                return
            taken = tools.of(who, "receive")
            if taken.code != OKAY or len(taken.given) != 4:
                return
            op, number, status, length = taken.given
            if guesses and op & p.REPLY:
                continue
            self._answer(who, op, number, status, length, n == lie_at)

    def _answer(self, who: Process, asked: int, number: int, status: int, length: int, lies: bool) -> None:
        rng, op, body = self.rng, asked | p.REPLY, [[0, length]]
        if lies:
            x = rng.random()
            if x < 0.15:
                status = rng.choice((-1, -2, -4095, -4096, -9999, 1, 5, 1 << 30))
            elif x < 0.25:
                op = rng.choice((p.FILE_OPEN, p.FILE_STAT, p.FILE_READ, p.FILE_CLOSE, p.CREATE)) | p.REPLY
            elif x < 0.35:
                number = (number + rng.choice((1, -1, 7))) & 0xFFFFFFFF
            elif x < 0.45:
                self.tools.of(who, "reply", op=op, number=number, status=status, body=body)  # and again
            else:
                body = rng.choice(self._lies(asked, length))
        self.tools.of(who, "reply", op=op, number=number, status=status, body=body)

    def _lies(self, asked: int, length: int) -> list[Body]:
        """Other bodies than the right one."""
        whole: list[int] = [0, length]
        if asked == p.FILE_READ:
            return [[[0, max(1, length // 2)]], [], [], [whole, b"?".hex()], [bytes(length).hex()], [[0, 1]]]
        if asked == p.FILE_STAT:
            sizes = (1 << 60, p.MAX_FILE + 1, p.MAX_FILE, 1, 0)
            later: Body = [[0, 8], (1 << 62).to_bytes(8, "little").hex()]  # the size that it had, and another time
            return [
                [whole, whole],
                later,
                later,
                later,
                later,
                [b"?".hex()],
                *([p.STAT.pack(size, 0).hex()] for size in sizes),
            ]
        return [[], [whole, whole], [b"\xff\xff\xff\xff".hex()], [b"?".hex()]]

    def _garbage(self, who: Process) -> None:
        """Headers that are none, of the longest and of too long messages; messages that come in parts."""
        rng, tools = self.rng, self.tools
        tools.text = "a tool writes garbage"
        op = rng.choice((p.INFO, p.PAUSE, p.DESTROY, p.CREATE, 77, p.FILE_READ | p.REPLY))
        body = p.DOMID.pack(rng.randrange(NOBODY))
        magic, length = p.MAGIC, len(body)
        x = rng.random()
        if x < 0.35:
            magic = rng.choice((0, p.MAGIC + 1, p.MAGIC ^ 0x8000, rng.randrange(1 << 16)))
        elif x < 0.8:
            length = rng.choice((p.MAX_BODY, p.MAX_BODY, p.MAX_BODY + 1, RING - 16, RING - 15, 1 << 31, (1 << 32) - 1))
            body = bytes(min(length, RING - 16))
        raw = p.HEADER.pack(magic, op, rng.randrange(1 << 32), 0, length) + body
        cut = rng.choice((0, 1, 15, 16, 17, len(raw) // 2, len(raw) - 1))
        for part in (raw[:cut], raw[cut:]):
            if part and tools.lives(who) and who.chan is not None:
                tools.of(who, "send_bytes", bytes=part.hex())
                tools.domb()


__all__ = ["Sessions"]
