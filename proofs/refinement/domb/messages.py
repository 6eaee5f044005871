"""An oracle for XenStore's messages: decodes a request, or gives the error that every caller must get.

Written from docs/misc/xenstore.txt and xs_wire.h, independent of the daemon. Not here: permissions and effects
of requests (store_side.py, by the rules).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NAMES: Final = {
    0: "control",
    1: "directory",
    2: "read",
    3: "get_perms",
    4: "watch",
    5: "unwatch",
    6: "transaction_start",
    7: "transaction_end",
    8: "introduce",
    9: "release",
    10: "get_domain_path",
    11: "write",
    12: "mkdir",
    13: "rm",
    14: "set_perms",
    17: "is_introduced",
    18: "resume",
    19: "set_target",
    21: "reset_watches",
    22: "directory_part",
}
OF_TOOLS: Final = frozenset({"introduce", "release", "is_introduced", "control", "resume", "set_target"})
ABSENT: Final = frozenset({"control", "transaction_start", "resume", "set_target", "directory_part"})  # in this daemon
WORDS: Final = {
    "directory": 1,
    "read": 1,
    "get_perms": 1,
    "mkdir": 1,
    "rm": 1,
    "watch": 2,
    "unwatch": 2,
    "transaction_end": 1,
    "introduce": 3,
    "release": 1,
    "get_domain_path": 1,
    "is_introduced": 1,
}
PATH: Final = re.compile(r"/|/?(?!@)[-\w@]+(/[-\w@]+)*", re.ASCII)
BEFORE: Final = re.compile(r"^/local/domain/\d{1,5}/", re.ASCII)  # does not count for the length of a path
LONGEST: Final = 2048
MOST: Final = 4096
EVENT: Final = 15
ERROR: Final = 16
IDS: Final = 0x7FF0


@dataclass(frozen=True)
class Request:
    """A decoded request; `error` if it is invalid. `raw` is a watch's path as received."""

    op: str
    error: str = ""
    path: str = ""
    raw: str = ""
    value: bytes = b""
    token: str = ""
    perms: tuple[tuple[str, int], ...] = ()
    domid: int = 0


def home(domid: int) -> str:
    """A domain's own directory."""
    return f"/local/domain/{domid}"


def whole(path: str, domid: int) -> str | None:
    """The absolute path; None if it is invalid."""
    if not PATH.fullmatch(path):
        return None
    full = path if path[0] == "/" else f"{home(domid)}/{path}"
    return full if len(BEFORE.sub("", full)) <= LONGEST else None


def asked(domid: int, kind: int, tx: int, payload: bytes) -> Request:
    """The request of a domain, or of a tool as domain 0."""
    op = NAMES.get(kind, "")
    if not op:
        return Request(op, "ENOSYS")
    if op in OF_TOOLS and domid:
        return Request(op, "EACCES")
    if tx and op not in ("watch", "unwatch"):
        return Request(op, "ENOENT")
    if op in ABSENT:
        return Request(op, "ENOSYS")
    if len(payload) > MOST:
        return Request(op, "E2BIG")
    words = payload.split(b"\0")
    if op == "write":
        path = whole(words[0].decode("latin-1"), domid) if len(words) > 1 else None
        return Request(op, "EINVAL") if path is None else Request(op, path=path, value=payload[len(words[0]) + 1 :])
    if words.pop() and op not in ("watch", "unwatch", "set_perms", "reset_watches"):  # these count whole words
        return Request(op, "EINVAL")
    if op == "set_perms":
        return _perms(domid, words)
    if op != "reset_watches" and len(words) != WORDS[op]:
        return Request(op, "EINVAL")
    if op == "transaction_end":
        return Request(op, "ENOENT" if words[0] in (b"T", b"F") else "EINVAL")
    if op in ("watch", "unwatch"):
        return _watch(op, domid, words)
    if op in OF_TOOLS or op == "get_domain_path":
        limits = (IDS, 1 << 40, 1 << 32)
        good = all(w.isdigit() and len(w) <= 10 and int(w) < limit for w, limit in zip(words, limits, strict=False))
        return Request(op, domid=int(words[0])) if good else Request(op, "EINVAL")
    if op == "reset_watches":
        return Request(op)
    path = whole(words[0].decode("latin-1"), domid)
    return Request(op, "EINVAL") if path is None else Request(op, path=path)


def _watch(op: str, domid: int, words: list[bytes]) -> Request:
    raw, token = (w.decode("latin-1") for w in words)
    path = raw if raw[:1] == "@" else whole(raw, domid)
    if path is None:
        return Request(op, "EINVAL" if op == "watch" else "ENOENT")
    return Request(op, path=path, raw=raw, token=token)


def _perms(domid: int, words: list[bytes]) -> Request:
    found = [re.fullmatch(rb"([rwbn])(\d{1,10})", w) for w in words[1:]]
    perms = tuple((m[1].decode(), int(m[2])) for m in found if m is not None)
    if not perms or len(perms) != len(found) or any(who >= 1 << 32 for _, who in perms):
        return Request("set_perms", "EINVAL")
    path = whole(words[0].decode("latin-1"), domid)
    return Request("set_perms", path=path or "", perms=perms)  # the owner's existence is checked before the path


__all__ = ["Request", "asked", "home"]
