"""The file proxy of Dom0: open, stat, read and close of regular files below one directory, for DomB.

Contents: confinement. A path is copied before it is checked; it must be relative, without `..`, and is opened
component by component without following links, so the checked file is the opened file. Descriptors are small numbers
of a bounded table, lengths are bounded. Not here: the channel (services.py). Errors are errnos; no input of a peer
raises any other exception.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from struct import error
from typing import Final

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.xen.abi import E2BIG, EACCES, EBADF, EINVAL, EIO, ENOSYS

MAX_FILES: Final = 8
EMFILE: Final = 24
ENAMETOOLONG: Final = 36


class FileProxy:
    """Open files below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: dict[int, int] = {}

    def open(self, path: bytes) -> int:
        """A descriptor of a regular file; OSError."""
        if len(path) > p.PATH_MAX:
            raise OsError(ENAMETOOLONG)
        parts = path.split(b"/")
        if b"\0" in path or any(part in (b"", b".", b"..") for part in parts):
            raise OsError(EACCES)
        if len(self.files) >= MAX_FILES:
            raise OsError(EMFILE)
        where = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=where)
                os.close(where)
                where = inner
            fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=where)
        finally:
            os.close(where)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OsError(EACCES)
        number = next(n for n in range(1, MAX_FILES + 1) if n not in self.files)
        self.files[number] = fd
        return number

    def _fd(self, number: int) -> int:
        found = self.files.get(number)
        if found is None:
            raise OsError(EBADF)
        return found

    def stat(self, number: int) -> tuple[int, int]:
        """(size, time of the last change in ns)."""
        found = os.fstat(self._fd(number))
        return found.st_size, found.st_mtime_ns & (1 << 64) - 1

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Bytes from an offset, fewer at the end of the file."""
        if length > p.MAX_READ or offset >= 1 << 62:
            raise OsError(EINVAL)
        return os.pread(self._fd(number), length, offset)

    def close(self, number: int) -> None:
        """Close a file."""
        os.close(self._fd(number))
        del self.files[number]

    def close_all(self) -> None:
        """Close all files at the end of the process."""
        for number in list(self.files):
            self.close(number)

    def read_file(self, path: str) -> bytes:
        """A whole file for a builder in the same process, with the same confinement. OSError."""
        number = self.open(path.encode())
        try:
            out = bytearray()
            while got := self.read(number, len(out), p.MAX_READ):
                out += got
                if len(out) > p.MAX_FILE:
                    raise OsError(E2BIG)
            return bytes(out)
        finally:
            self.close(number)

    def handle(self, op: int, body: bytes) -> tuple[int, bytes]:
        """Serve a request of the channel: (0 or -errno, body of the answer)."""
        try:
            if op == p.FILE_OPEN:
                return 0, p.FD.pack(self.open(body))
            if op == p.FILE_STAT:
                return 0, p.STAT.pack(*self.stat(p.FD.unpack(body)[0]))
            if op == p.FILE_READ:
                return 0, self.read(*p.READ.unpack(body))
            if op == p.FILE_CLOSE:
                self.close(p.FD.unpack(body)[0])
                return 0, b""
        except error:
            return -EINVAL, b""
        except OSError as exc:
            return -(exc.errno or EIO), b""
        return -ENOSYS, b""
