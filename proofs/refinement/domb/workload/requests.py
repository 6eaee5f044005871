"""Requests to XenStore, of guests and of processes of Dom0: of every kind, to nodes of everybody, well formed and not.

Pure choices from a seed. Not here: who asks (guests.py, tools.py), and what must be answered (../store_side.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bulkhead.proofs.refinement.domb.messages import NAMES, home
from bulkhead.proofs.refinement.domb.world import NOBODY

KINDS = {name: kind for kind, name in NAMES.items()}
BELOW = (
    "",
    "/name",
    "/data",
    "/data",
    "/data/a",
    "/data/a/b",
    "/data/c",
    "/data/ab",
    "/control",
    "/control/x",
    "/console/port",
)
BESIDE = ("/", "/local", "/local/domain", "/tool", "/tool/a", "/tool/a/b", "/vm")
RELATIVE = ("data", "data/a", "data/a/b", "control/x", "data/e", "data/f", "data/g/h/i", "data/j/k", "data/ab", "name")
WRONG = ("", "//", "data/", "@releaseDomain", "a b", "/local//x", "data/\xff", "../1")
# One byte too long; as long as may be. They make nodes, so they are asked about only.
LONG = ("x" * 2049, "/" + "x" * 2048, home(3) + "/" + "x" * 2049, "x" * 2048, "/" + "x" * 2047, home(3) + "/" + "x" * 2048)
VALUES = (b"", b"1", b"a\0b", b"twenty bytes of text", bytes(900))
STRANGE_PERMS = (b"", b"x1\0", b"r\0", b"r99999999999\0", b"r4294967295\0", b"r4294967296\0")
LONGEST = 4096  # bytes of a request
OF_TOOLS_VALUES = (bytes(2048), bytes(2049), bytes(LONGEST - 100), bytes(LONGEST + 1))
COMMON = ("write", "write", "read", "read", "mkdir", "rm", "directory", "get_perms", "set_perms", "watch", "watch")
RARE = ("unwatch", "unwatch", "reset_watches", "get_domain_path", "is_introduced", "introduce", "release")
OF_TOOLS = ("is_introduced", "is_introduced", "get_domain_path", "introduce", "release")


def path(rng: random.Random, d: int, nodes: Sequence[str]) -> str:
    """A path: a node that is there, its own, of another guest, also of one that is gone, beside all guests, or none."""
    if nodes and rng.random() < 0.2:
        return rng.choice(nodes)
    x = rng.random()
    if x < 0.45:
        return rng.choice(RELATIVE)
    if x < 0.6:
        return home(d) + rng.choice(BELOW)
    if x < 0.8:
        return home(rng.randrange(2, NOBODY)) + rng.choice(BELOW)
    return rng.choice(BESIDE) if x < 0.95 else rng.choice(WRONG)


def request(rng: random.Random, d: int, connected: Sequence[int], nodes: Sequence[str]) -> tuple[int, bytes]:
    """A request of any kind, by a guest or (0) a tool; `connected`: the guests that XenStore knows, `nodes`: its nodes. Some
    end a byte too early, or too late."""
    kind, payload = _request(rng, d, connected, nodes)
    odd = rng.random()
    return kind, payload[:-1] if odd < 0.02 else payload + b"x" if odd < 0.04 else payload


def _request(rng: random.Random, d: int, connected: Sequence[int], nodes: Sequence[str]) -> tuple[int, bytes]:
    where = path(rng, d if d else rng.randrange(2, NOBODY), nodes).encode("latin-1")
    if not d and rng.random() < 0.6 and where[:1] != b"/":
        where = home(rng.randrange(2, NOBODY)).encode() + b"/" + where
    op = rng.choice(COMMON)
    if rng.random() < (0.02 if d else 0.12):
        return KINDS[rng.choice(("read", "directory", "get_perms", "rm"))], rng.choice(LONG).encode() + b"\0"
    if rng.random() < (0.12 if d else 0.3):
        op = rng.choice(RARE if d or rng.random() < 0.3 else OF_TOOLS)
    if op == "rm" and rng.random() < 0.1:
        where = b"/"
    if op == "write":
        return KINDS[op], where + b"\0" + rng.choice(VALUES if d else VALUES[:4] + OF_TOOLS_VALUES)
    if op == "set_perms":
        return KINDS[op], where + b"\0" + perms(rng, d, connected)
    if op in ("watch", "unwatch"):
        if rng.random() < 0.1:
            where = rng.choice((b"@releaseDomain", b"@introduceDomain"))
        return KINDS[op], where + b"\0" + rng.choice((b"t", b"t", b"u", b"")) + rng.choice(
            (b"\0",) * 9 + (b"", b"\0x\0", b"\0x")
        )
    if op == "reset_watches":
        return KINDS[op], b""
    if op in ("get_domain_path", "is_introduced", "release", "introduce"):
        words = [str(rng.choice((*range(NOBODY), *connected, 99, 0x7FEF, 0x7FF0, 40000))).encode()]
        if op == "introduce":
            words += rng.choice((b"7", b"9999999999", b"10000000000")), rng.choice((b"1", b"4294967295", b"4294967296"))
        if rng.random() < 0.15:  # a word too many or too few, or no number
            words = rng.choice(([*words, b"1"], words[:-1], [*words[:-1], b""], [b"x", *words[1:]], [b"-1", *words[1:]]))
        return KINDS[op], b"\0".join(words) + rng.choice((b"\0", b"\0", b"\0", b"\0", b""))
    if rng.random() < 0.04:
        return rng.choice((0, 6, 7, 7, 16, 18, 19, 20, 22, 77, KINDS[op])), rng.choice(
            (where, where, b"T", b"0")
        ) + rng.choice((b"", b"\0x\0", b"\0"))
    return KINDS[op], where + b"\0"


def perms(rng: random.Random, d: int, connected: Sequence[int]) -> bytes:
    """A list of permissions: an owner, and some others."""
    owner = d if d and rng.random() < 0.9 else rng.choice((0, *range(2, NOBODY)))
    more = rng.choice((0, 0, 1, 1, 2, 6))
    there = [*connected] * 4
    if not d and there and rng.random() < 0.6:
        owner = rng.choice(there)
    ids = [owner, *(rng.choice((*there, *range(NOBODY), 50)) for _ in range(more))]
    text = b"".join(b"%c%d\0" % (rng.choice(b"rwbnr"), who) for who in ids)
    if rng.random() < 0.9:
        return text
    return rng.choice((*STRANGE_PERMS, text + b"s1\0", text[:-1]))


__all__ = ["BELOW", "BESIDE", "KINDS", "perms", "request"]
