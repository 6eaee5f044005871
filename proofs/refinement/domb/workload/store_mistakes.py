"""Requests to XenStore with one thing wrong each, and connections to the daemons that fail or end halfway.

Also what is as long as may be: a console's input and output, an answer of XenStore. Not here: well-formed conversations
(store_talks.py), and what must be answered (../messages.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from bulkhead.proofs.refinement.calls import Interleaving
from bulkhead.proofs.refinement.domb.guests import Guest, index
from bulkhead.proofs.refinement.domb.machine import Process
from bulkhead.proofs.refinement.domb.messages import home
from bulkhead.proofs.refinement.domb.taps import MASK
from bulkhead.proofs.refinement.domb.view import View
from bulkhead.proofs.refinement.domb.watched_daemons import STORE_RINGS, XENSTORE_REF, frame
from bulkhead.proofs.refinement.domb.workload.chooser import Chooser
from bulkhead.proofs.refinement.domb.workload.guests import GuestChoices
from bulkhead.proofs.refinement.domb.workload.requests import KINDS
from bulkhead.proofs.refinement.domb.workload.tools import CONSOLE_PORT, STORE_PORT, ToolChoices

ONE_PATH: Final = ("read", "directory", "get_perms", "mkdir", "rm")
# Requests without a path, and what their word may be (nothing: the guest's number).
LESS: Final = {"get_domain_path": (), "transaction_end": (b"T", b"F", b"t"), "reset_watches": (b"", b"x")}
# Paths with one thing wrong, or nearly: below what is there, so that a daemon that takes one is noticed.
ODD_PATHS: Final = (
    *(
        "data/",
        "data//",
        "/data/",
        "//",
        "data//x",
        "data/.",
        "data/..",
        "da ta",
        "data\x7f",
        "data\xff",
        "data/\xe9x",
        "data:",
    ),
    *("@x", "data/@", "@releaseDomain", "data@", "data_-", "/local/domain/", "DATA", "", "/", "~", "data\n"),
)
LENGTHS: Final = (2047, 2048, 2049, 2050)
ODD_PERMS: Final = (
    *("", "r", "n", "x2", "R2", "r-1", "r 2", "2", "r2x", "nn2", "r0x2", "r4294967295", "r4294967296", "r00000000002"),
    "r99999999999",
)


class StoreMistakes(Chooser):
    """What goes wrong with XenStore and the consoles, by the hands of guests and of tools."""

    def __init__(
        self, view: View, target: Interleaving, rng: random.Random, guests: GuestChoices, tools: ToolChoices
    ) -> None:
        super().__init__(view, target, rng)
        self.guests, self.tools = guests, tools

    def asks(self, who: Guest, op: str, path: str, rest: bytes = b"") -> None:
        """A request of a guest about a path."""
        self.guests.asks_now(who, KINDS[op], path.encode("latin-1") + b"\0" + rest)

    def asked(self, who: Process, op: str, path: str, rest: bytes = b"") -> None:
        """A request of a tool about a path."""
        self.tools.ask_xenstored(who, KINDS[op], path.encode("latin-1") + b"\0" + rest)

    # Malformed requests.

    def makes_mistakes(self, who: Process, calm: Sequence[Guest]) -> None:
        """A guest makes mistakes: requests with one thing wrong each, in their end, words, path, its length, permissions."""
        rng, guest = self.rng, calm[0]
        self.text = f"d{guest.domid} makes mistakes"
        self.asks(guest, "mkdir", "data/a")
        for _ in range(rng.choice((8, 16))):
            mistake = rng.choice(
                (self._ends_early,) * 3
                + (self._odd_path, self._odd_path, self._long_path, self._odd_list, self._odd_number, self._long_payload)
            )
            mistake(who, guest)
        if rng.random() < 0.4:
            self._breaks_off(who, guest)

    def _breaks_off(self, who: Process, guest: Guest) -> None:
        """Requests, and behind them what is none: a connection ends with answers under way; then there is a new one."""
        rng, stored = self.rng, self.view.stored
        if stored is None:
            return
        self.asks(guest, "write", "data", bytes(900))
        asks = frame(KINDS["read"], 7, 0, b"data\0") * rng.choice((0, 1, 2))
        end = rng.choice((4097, 5000, (1 << 32) - 1)).to_bytes(4, "little")
        self.guests.of(guest, "ring_put", ring="xenstore", bytes=(asks + bytes(12) + end).hex())
        if rng.random() < 0.5:
            prod = index(guest.xenstore.bytes(), STORE_RINGS[0][3])
            away = (prod + rng.choice((1025, 4000, 1 << 31))) & MASK
            self.guests.of(guest, "ring_poke", ring="xenstore", at=STORE_RINGS[0][3], bytes=away.to_bytes(4, "little").hex())
        for _ in range(2):
            self.call(f"p{stored.space}", "serve")
            self.guests.of(guest, "ring_drain", ring="xenstore")
        self.asked(who, "write", f"{home(guest.domid)}/data", b"4")
        self.call(f"p{stored.space}", "serve")
        self.tools.release(who, guest.domid)
        self.tools.introduce(who, guest.domid)
        self.asks(guest, "read", "data")

    def _either(self, who: Process, guest: Guest, op: str, payload: bytes) -> None:
        if self.rng.random() < 0.8:
            self.guests.asks_now(guest, KINDS[op], payload)
        else:
            self.tools.ask_xenstored(who, KINDS[op], payload)

    def _ends_early(self, who: Process, guest: Guest) -> None:
        """Something is missing at the end, or is too much; what is named is there, and the guest's own."""
        rng = self.rng
        own, path = b"%d" % guest.domid, rng.choice((b"data", b"data/a", f"{home(guest.domid)}/data/a".encode()))
        op = rng.choice((*ONE_PATH, "write", "watch", "unwatch", "set_perms", *LESS))
        if op in ONE_PATH:
            ends = [path + end for end in (b"", b"", b"\0x", b"\0x\0", b"\0\0", b"\0x\0\0", b"x")] + [b"", b"\0"]
        elif op == "write":
            ends = [path, path, path + b"\0\0", path + b"\0a\0b\0", b"", b"\0"]
        elif op in ("watch", "unwatch"):
            ends = [path + end for end in (b"", b"\0", b"\0t", b"\0t\0x", b"\0t\0x\0", b"\0\0", b"\0t\0")]
        elif op == "set_perms":
            ends = [path + end for end in (b"", b"\0", b"\0n", b"\0n" + own, b"\0n" + own + b"\0r0", b"\0\0")]
            ends += [path + b"\0n" + own + end for end in (b"\0", b"\0\0", b"\0r0\0x")]
        else:
            ends = [each + end for each in (LESS[op] or (own,)) for end in (b"", b"\0\0", b"\0x", b"\0x\0", *(b"\0",) * 4)]
        self._either(who, guest, op, rng.choice(ends))

    def _odd_path(self, who: Process, guest: Guest) -> None:
        """A path with a wrong character, or one that is nearly wrong."""
        rng = self.rng
        raw = rng.choice(ODD_PATHS).encode("latin-1")
        op = rng.choice((*ONE_PATH, "write", "watch", "unwatch", "set_perms"))
        rest = {"watch": b"t\0", "unwatch": b"t\0", "set_perms": b"n%d\0" % guest.domid}.get(op, b"")
        if raw == b"/" and op in ("set_perms", "rm"):
            return
        self._either(who, guest, op, raw + b"\0" + rest)

    def _long_path(self, who: Process, guest: Guest) -> None:
        """A path as long as may be, or longer, from the root or from the guest's home, or below somebody's home."""
        rng = self.rng
        size, start = rng.choice(LENGTHS), rng.choice(("", "/", f"{home(guest.domid)}/", "/local/domain/40000/", "/local/"))
        counted = start if start in ("/", "/local/") else ""
        path = start + "x" * (size - len(counted))
        op = rng.choice(("read", "directory", "get_perms", "rm"))
        self._either(who, guest, op, path.encode() + b"\0")

    def _odd_list(self, who: Process, guest: Guest) -> None:
        """A list of permissions with one strange entry."""
        rng, own = self.rng, f"n{guest.domid}"
        odd = rng.choice(ODD_PERMS)
        words = rng.choice(([odd], [own, odd], [odd, own], [own, odd, own]))
        text = "".join(f"{word}\0" for word in words).encode()
        self._either(who, guest, "set_perms", rng.choice((b"data", b"data/a", b"nowhere", b"//")) + b"\0" + text)

    def _odd_number(self, who: Process, guest: Guest) -> None:
        """A number that is none, or out of its range."""
        rng = self.rng
        word = rng.choice(
            (b"0", b"00", b"32751", b"32752", b"4294967296", b"99999999999", b"-1", b"+1", b" 1", b"1 ", b"", b"x")
        )
        self._either(who, guest, rng.choice(("get_domain_path", "is_introduced")), word + b"\0")

    def _long_payload(self, who: Process, guest: Guest) -> None:
        """As many bytes as a message may have, one less or one more; with one more, a guest's connection would end."""
        rng, start = self.rng, f"{home(guest.domid)}/data/a\0".encode()
        op, size = rng.choice(("write", "write", "read", "set_perms")), rng.choice((4095, 4096, 4097))
        payload = start + bytes(size - len(start)) if op == "write" else start[:-1] + b"x" * (size - len(start)) + b"\0"
        if size < 4097 and rng.random() < 0.3:
            self.guests.asks_now(guest, KINDS[op], payload)
        else:
            self.tools.ask_xenstored(who, KINDS[op], payload)

    # Connections that fail.

    def halves(self, who: Process, calm: Sequence[Guest]) -> None:
        """A tool connects a guest to the daemons with a wrong port, twice, or for a domain that is not there."""
        rng, guest = self.rng, calm[0]
        self.text = f"d{guest.domid} is connected by halves"
        for _ in range(rng.choice((1, 2))):
            self.tools.release(who, guest.domid)
            self.tools.introduce(
                who, rng.choice((guest.domid, guest.domid, 99, 1, 0)), rng.choice((700, 0, CONSOLE_PORT, 3))
            )
            self.asked(who, "is_introduced", str(guest.domid))
            if rng.random() < 0.5:  # its page is not granted for a while
                self.guests.of(guest, "write_entry", ref=XENSTORE_REF, flags=0, dom=0, mfn=guest.xenstore.mfn)
                self.tools.introduce(who, guest.domid, STORE_PORT)
                self.guests.of(guest, "write_entry", ref=XENSTORE_REF, flags=1, dom=0, mfn=guest.xenstore.mfn)
            self.tools.introduce(who, guest.domid, STORE_PORT)
            port = rng.choice((STORE_PORT, 40000, (1 << 32) - 1, 1 << 32))
            frame_number = rng.choice((7, (1 << 32) + 1, 9999999999, 10000000000, 1 << 40))
            self.asked(who, "introduce", str(guest.domid), b"%d\0%d\0" % (frame_number, port))
        self.asks(guest, "read", "data")
        if self.view.consoled is not None:
            self.tools.of(who, "console_type", dom=guest.domid, bytes=rng.randbytes(5).hex())
            self.tools.of(who, "console_remove", dom=guest.domid)
            self.tools.of(
                who,
                "console_add",
                dom=rng.choice((guest.domid, guest.domid, 99)),
                mfn=7,
                port=rng.choice((700, 0, STORE_PORT, 3)),
            )
            self.tools.of(who, "console_type", dom=guest.domid, bytes=rng.randbytes(5).hex())
            self.tools.of(who, "console_add", dom=guest.domid, mfn=7, port=CONSOLE_PORT)
            self.tools.of(who, "console_type", dom=guest.domid, bytes=rng.randbytes(rng.choice((5, 1500))).hex())

    # Consoles, and answers that are as long as may be.

    def types(self, who: Process, calm: Sequence[Guest]) -> None:
        """A tool types more than the guest's ring takes, and than the daemon keeps; the guest prints, and reads by parts."""
        rng, guest = self.rng, calm[0]
        self.text = f"a tool types to d{guest.domid}"
        if self.view.consoled is not None and guest.domid not in self.view.consoled.consoles:
            self.tools.of(who, "console_add", dom=guest.domid, mfn=7, port=CONSOLE_PORT)
        for _ in range(rng.choice((2, 4))):
            for size in rng.choice(((5, 7), (1500, 3), (30000, 30000, 9000), (1024, 1))):
                self.tools.of(who, "console_type", dom=guest.domid, bytes=rng.randbytes(size).hex())
            self.guests.of(guest, "ring_put", ring="console", bytes=rng.randbytes(rng.choice((3, 2047, 2048))).hex())
            for _ in range(rng.choice((1, 3))):
                if self.view.consoled is not None:
                    self.call(f"p{self.view.consoled.space}", "serve")
                self.guests.of(guest, "ring_drain", ring="console")
        self.guests.of(guest, "ring_put", ring="console", bytes=rng.randbytes(rng.choice((1, 100))).hex())
        if rng.random() < 0.5:
            self.tools.of(who, "console_remove", dom=guest.domid)
            self.tools.of(who, "console_add", dom=guest.domid, mfn=7, port=CONSOLE_PORT)

    def lists_names(self, who: Process, calm: Sequence[Guest]) -> None:
        """A tool lists as many long names as one answer takes, and one more."""
        self.tools.makes_many(who)
        self.text = self.tools.text


__all__ = ["StoreMistakes"]
