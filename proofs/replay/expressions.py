"""Symbolic arguments of extended operations: number expressions, places in memory, data to write and to read.

An expression is terms joined by + and -: a number; a domain (`SELF`, `d0`, `A`); a page's frame (`A/3`, `A/l1`, `A/si`);
`f.TERM` (a frame as an address), `k.TERM` (pages as KiB), `v.N` and `w.N` (linear address of the caller's pool page or
window slot), `q.N` and `t.N` or `t.A.N` (machine address of the L1 entry behind it), `arg` and `ub` (the argument block and
the user buffer), `m.N` (a user mapping), `$name` (a variable). A place is `OFF` in the argument block, `pN.OFF` in a pool
page of the caller, `uOFF` in the user buffer. Not here: the operations (extended.py, system_calls.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import user_read, user_write
from bulkhead.impl.xen.frames import PGT_WRITABLE, Frame
from bulkhead.impl.xen.guest_access import read, write
from bulkhead.impl.xen.pagetables import get_page_type, put_page_type
from bulkhead.proofs.replay.agents import Agent, PvhAgent
from bulkhead.proofs.replay.guests import POOL, PvAgentMemory, PvhAgentMemory, TranslatedGuest
from bulkhead.proofs.replay.rig import MAPPING_STRIDE, MAPPING_VPN, USER_BUFFER_VPN, Rig

U64_MASK: Final = (1 << 64) - 1
UNKNOWN: Final = 0xBADBAD
PAGE: Final = 4096
TERMS: Final = re.compile(r"[+-]|[^+-]+")


def number(value: object) -> int:
    """A number as recordings write it: decimal, or hexadecimal after 0x; ValueError."""
    return int(str(value), 0)


def mapping_vpn(index: int) -> int:
    """First page of the numbered user mapping."""
    return MAPPING_VPN + index * MAPPING_STRIDE


class Caller:
    """One caller's view of memory and names: `by` is an agent, a translated guest, or d0."""

    __slots__ = ("agent", "name", "rig")

    def __init__(self, rig: Rig, name: str) -> None:
        if name != "d0" and name not in rig.translated and name not in rig.agents:
            raise KeyError(name)
        self.rig = rig
        self.name = name
        self.agent: Agent | PvhAgent | None = (
            None if name == "d0" or isinstance(rig.guest(name), TranslatedGuest) else rig.agent(name)
        )

    # --- numbers ---
    def value(self, expression: object) -> int:
        """The value of an expression, modulo 2^64; ValueError or KeyError for an invalid term."""
        if isinstance(expression, int):
            return expression & U64_MASK
        total, sign = 0, 1
        for token in TERMS.findall(str(expression)):
            if token in "+-":
                sign = -1 if token == "-" else 1
            else:
                total += sign * self._term(token)
                sign = 1
        return total & U64_MASK

    def _term(self, text: str) -> int:
        if text[0].isdigit():
            return number(text)
        if text[0] == "$":
            return self.rig.variables.get(text[1:], UNKNOWN)
        if text == "arg":
            return self.agent.arg if self.agent is not None else self.rig.kernel.arg_va
        if text == "ub":
            return USER_BUFFER_VPN << 12
        kind, dot, rest = text.partition(".")
        if dot:
            return self._addressed(kind, rest)
        return self.rig.mfn(text) if "/" in text else self.rig.domid(text)

    def _addressed(self, kind: str, rest: str) -> int:
        if kind == "f":
            return self._term(rest) << 12
        if kind == "k":
            return self._term(rest) * 4
        if kind == "m":
            return mapping_vpn(number(rest)) << 12
        agent = self.agent
        if kind == "t" and "." in rest:
            name, _, rest = rest.partition(".")
            agent = self.rig.agent(name)
        if agent is None:
            return 0
        layout: PvAgentMemory | PvhAgentMemory = agent.layout
        ways = {"v": layout.pool_va, "w": layout.window_va, "q": layout.pool_maddr, "t": layout.window_maddr}
        return ways[kind](number(rest))

    # --- places ---
    def _pool_page(self, index: int, writable: bool) -> Frame | None:
        """A pool page as Dom0 maps it to read or fill it; None if that mapping is refused."""
        if self.name == "d0":
            return None
        owner = self.rig.guest(self.name)
        frame = owner.frame(str(index % POOL))
        if frame is None or frame.owner is not owner.domain or frame.count == 0:
            return None
        if writable and isinstance(owner, Agent):
            if get_page_type(self.rig.xen, frame, PGT_WRITABLE):
                return None
            put_page_type(self.rig.xen, frame)
        return frame

    def _place(self, place: str) -> tuple[str, int, int]:
        """(kind, page, offset) of a place."""
        if place[0] == "u":
            return "u", 0, number(place[1:])
        if place[0] == "p":
            page, _, offset = place[1:].partition(".")
            return "p", number(page), number(offset or 0)
        return "a", 0, number(place)

    def load(self, place: str, size: int) -> tuple[bytes | None, bool]:
        """(bytes at a place, or None if it no longer exists; whether real runs do not reproduce them)."""
        kind, page, offset = self._place(place)
        rig = self.rig
        if kind == "p":
            frame = self._pool_page(page, False)
            if frame is None:
                return None, False
            data = bytes(frame.bytes()[offset : offset + size])
            return data, rig.tainted(frame.mfn, offset, size)
        if kind == "u":
            try:
                return user_read(rig.process.space, (USER_BUFFER_VPN << 12) + offset, size), False
            except KernelError:
                return None, False
        if self.agent is None:
            return read(rig.xen, rig.kernel.vcpu, rig.kernel.arg_va + offset, size), False
        frame, at = self.agent.argument_page(offset)
        return bytes(frame.bytes()[at : at + size]), False

    def store(self, kind: str, page: int, offset: int, payload: bytes) -> bool:
        """Fill a place; False if it cannot be written."""
        rig = self.rig
        if kind == "p":
            frame = self._pool_page(page, True)
            if frame is None:
                return False
            payload = payload[: PAGE - offset]
            frame.bytes()[offset : offset + len(payload)] = payload
            rig.clean(frame.mfn, offset, len(payload))
            return True
        if kind == "u":
            try:
                user_write(rig.process.space, (USER_BUFFER_VPN << 12) + offset, payload)
            except KernelError:
                return False
            return True
        if self.agent is None:
            return write(rig.xen, rig.kernel.vcpu, rig.kernel.arg_va + offset, payload)
        while payload:  # the recorder writes there independently of the agent's own tables
            frame, at = self.agent.argument_page(offset)
            part = payload[: PAGE - at]
            frame.bytes()[at : at + len(part)] = part
            payload, offset = payload[len(part) :], offset + len(part)
        return True

    # --- specifications ---
    def _writes(self, text: str) -> Iterator[tuple[str, int, int, bytes]]:
        for item in filter(None, text.split(",")):
            place, size_text, expression, *repeat = item.split(":")
            size, value = number(size_text), self.value(expression)
            payload = value.to_bytes(8, "little")[:size] if size <= 8 else bytes([value & 0xFF]) * size
            kind, page, offset = self._place(place)
            count, stride = (number(repeat[0]), number(repeat[1])) if len(repeat) == 2 else (1, 0)
            for i in range(count):
                at = offset + i * stride
                if kind == "p" and len(repeat) == 2:
                    yield kind, page + at // PAGE, at % PAGE, payload
                else:
                    yield kind, page, at, payload

    def write_all(self, text: str) -> int:
        """Execute a `w` specification; returns the number of places that could not be written."""
        return sum(not self.store(*one) for one in self._writes(text))

    def read_all(self, text: str, returned: int, skip: set[str]) -> dict[str, Any]:
        """The results of an `o` specification; names of irreproducible ones are added to `skip`."""
        out: dict[str, Any] = {}
        for item in filter(None, text.split(",")):
            name, place, size_text, *rest = item.split(":")
            size, kind = number(size_text), rest[0] if rest else "u"
            if place[0] == "r":
                value = returned & U64_MASK
            else:
                data, tainted = self.load(place, size)
                if tainted:
                    skip.add(name)
                if data is None:
                    out[name] = "gone"
                    continue
                value = int.from_bytes(data, "little")
            if kind in ("V", "v"):
                self.rig.variables[name] = value
            if kind == "f":
                out[name] = value & 0xF
            elif kind == "s":
                bits = 8 * size if size in (2, 4) else 64
                out[name] = value - (1 << bits) if value >> (bits - 1) & 1 else value
            elif kind == "m":
                out[name] = self.rig.name(value)
            else:
                out[name] = "*" if kind == "v" else value
        return out
