"""An oracle for a tool's file proxy, which trusts nobody: what each request must be answered, by the exported folder.

It looks at the folder itself: which names are files, without following links, and what is in them. Kept here are only the
numbers of open files. Not here: whether a tool may be told more (the rules: proxy_open), and the proxy (impl/tools).
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Final

from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

OPEN, STAT, READ, CLOSE = 0x21, 0x22, 0x23, 0x24
LONGEST: Final = 1023  # bytes of a path
MOST_FILES: Final = 8
MOST_BYTES: Final = 4000  # of one read
FARTHEST: Final = 1 << 62
REFUSED: Final = frozenset({-errno.ELOOP, -errno.ENOTDIR})  # a link where a folder should be: Linux says either
Answer = tuple[int, bytes]


class ProxySide:
    """What is open at one proxy."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, Path] = {}

    def heard(self, op: int, body: bytes, answer: Answer) -> None:
        """The proxy has answered a request; Mismatch if it should have answered something else."""
        want = self._open(body) if op == OPEN else self._of_a_file(op, body)
        if answer != want and not (want[0] in REFUSED and answer[0] in REFUSED and not answer[1]):
            raise Mismatch(f"the file proxy answers {op} {body[:40]!r} with {answer}, not {want}")

    def closed(self, number: int) -> None:
        """A file was closed."""
        self.files.pop(number, None)

    def _open(self, path: bytes) -> Answer:
        parts = path.split(b"/")
        if len(path) > LONGEST:
            return -errno.ENAMETOOLONG, b""
        if b"\0" in path or not all(parts) or b"." in parts or b".." in parts:
            return -errno.EACCES, b""
        if len(self.files) >= MOST_FILES:
            return -errno.EMFILE, b""
        at = self.root
        for n, part in enumerate(parts):
            at = at / part.decode("utf-8", "surrogateescape")
            try:
                mode = at.lstat().st_mode
            except OSError as error:
                return -(error.errno or errno.EIO), b""
            if n < len(parts) - 1 and not stat.S_ISDIR(mode):
                return -errno.ENOTDIR, b""
        if not stat.S_ISREG(mode):
            return -(errno.ELOOP if stat.S_ISLNK(mode) else errno.EACCES), b""
        number = min(n for n in range(1, MOST_FILES + 1) if n not in self.files)
        self.files[number] = at
        return 0, number.to_bytes(4, "little")

    def _of_a_file(self, op: int, body: bytes) -> Answer:
        size = {STAT: 4, READ: 16, CLOSE: 4}.get(op)
        if size is None:
            return -errno.ENOSYS, b""
        if len(body) != size:
            return -errno.EINVAL, b""
        start, length = int.from_bytes(body[4:12], "little"), int.from_bytes(body[12:16], "little")
        if length > MOST_BYTES or start >= FARTHEST:
            return -errno.EINVAL, b""
        path = self.files.get(int.from_bytes(body[:4], "little"))
        if op == CLOSE:
            self.closed(int.from_bytes(body, "little"))
        if path is None:
            return -errno.EBADF, b""
        if op == STAT:
            found = path.lstat()
            return 0, found.st_size.to_bytes(8, "little") + found.st_mtime_ns.to_bytes(8, "little")
        return 0, path.read_bytes()[start : start + length] if op == READ else b""


__all__ = ["MOST_FILES", "ProxySide"]
