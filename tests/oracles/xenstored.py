"""The real C xenstored as an oracle: runs without Xen over a shim, used over rings and its socket.

`find` locates Debian's daemon (package xen-utils-4.17, or BULKHEAD_XENSTORED with the path of the binary), or gives the
reason why it cannot be used; tests skip then. A guest of it is a ring in a file and a file that marks it alive. Not here:
the comparison with our daemon (tests/impl/test_against_xenstored.py).
"""

from __future__ import annotations

import mmap
import os
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import XS_HEADER

SHIM: Final = Path(__file__).with_name("xenstored_shim.c")
PAGE: Final = 4096
REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD = 2048, 2052, 2056, 2060
FIRST_LOCAL_PORT: Final = 1000
VIRQ_PORT: Final = 1
PATIENCE: Final = 5.0  # seconds until an answer counts as missing
Answer = tuple[int, bytes]


class OracleError(RuntimeError):
    """The real daemon failed to do something that the test needs; the text names it."""


def find() -> tuple[Path, str]:
    """The daemon's binary, or an empty path and the reason."""
    named = os.environ.get("BULKHEAD_XENSTORED", "")
    found = [Path(named)] if named else sorted(Path("/usr/lib").glob("xen-4.17*/bin/xenstored"))
    if not found or not found[-1].is_file():
        return Path(), "the real xenstored is not installed (package xen-utils-4.17, or BULKHEAD_XENSTORED)"
    if shutil.which("gcc") is None:
        return Path(), "there is no gcc for the shim of the real xenstored"
    return found[-1], ""


class RealXenstored:
    """A running daemon, with domains that the test creates and destroys. Close it."""

    def __init__(self, binary: Path, directory: Path, options: Sequence[str] = ()) -> None:
        """Start it, with more options of its own; OracleError if it does not come up."""
        self.directory = directory
        library = directory / "shim.so"
        built = subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-w", "-o", str(library), str(SHIM), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if built.returncode:
            raise OracleError(f"the shim does not compile: {built.stderr[:300]}")
        (directory / "ring-0").write_bytes(bytes(PAGE))
        (directory / "port").write_text("1\n")
        (directory / "root").mkdir()
        # If it is not installed, Debian's libraries are beside the unpacked binary.
        libraries = binary.parents[2] / "x86_64-linux-gnu"
        env = {
            **os.environ,
            "SHIMDIR": str(directory),
            "LD_PRELOAD": str(library),
            "LD_LIBRARY_PATH": str(libraries),
            "XENSTORED_RUNDIR": str(directory),
            "XENSTORED_ROOTDIR": str(directory / "root"),
        }
        # Our quotas differ from 4.17's defaults; no recovery, no trace.
        self.process = subprocess.Popen(
            [str(binary), "-N", "-R", *options],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.rings: dict[int, RealRing] = {}
        try:
            self.tool = self._connect(directory / "socket")
            self.events = os.open(directory / "events", os.O_RDWR)
        except OSError as exc:
            self.close()
            raise OracleError(f"the real xenstored does not come up: {exc}") from exc

    def _connect(self, path: Path) -> socket.socket:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                made = socket.socket(socket.AF_UNIX)
                made.connect(str(path))
                return made
            except OSError:
                made.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)

    def close(self) -> None:
        """End the daemon."""
        if hasattr(self, "tool"):
            self.tool.close()
        if hasattr(self, "events"):
            os.close(self.events)
        self.process.kill()
        self.process.wait()

    # --- domains ---
    def introduce(self, domid: int) -> None:
        """A new domain, connected."""
        (self.directory / f"alive-{domid}").touch()
        (self.directory / f"ring-{domid}").write_bytes(bytes(PAGE))
        self.must(pages.XS_INTRODUCE, b"%d\0001\0007\0" % domid)
        self.rings[domid] = RealRing(self.directory / f"ring-{domid}", self.events, domid + FIRST_LOCAL_PORT)

    def end(self, domid: int) -> None:
        """The domain dies, and the daemon notices."""
        (self.directory / f"alive-{domid}").unlink()
        self.rings.pop(domid)
        os.write(self.events, struct.pack("<I", VIRQ_PORT))
        end = time.monotonic() + PATIENCE
        while self.ask(0, pages.XS_IS_DOMAIN_INTRODUCED, b"%d\0" % domid)[1] != b"F\0":
            if time.monotonic() > end:
                raise OracleError(f"the real xenstored does not see that domain {domid} has gone")
            time.sleep(0.005)

    # --- requests ---
    def must(self, kind: int, payload: bytes) -> bytes:
        """A request of Dom0 that must succeed."""
        got, body = self.ask(0, kind, payload)
        if got != kind:
            raise OracleError(f"request {kind} {payload!r}: {body!r}")
        return body

    def ask(self, domid: int, kind: int, payload: bytes, tx_id: int = 0) -> Answer:
        """A request of a domain (0: over the socket): type and payload of the answer; watch events are queued separately."""
        message = XS_HEADER.pack(kind, 1, tx_id, len(payload)) + payload
        if domid:
            return self.rings[domid].ask(message)
        self.tool.sendall(message)
        received = b""
        while (whole := _first(received)) is None:
            if not select.select([self.tool], [], [], PATIENCE)[0]:
                raise OracleError("the real xenstored does not answer")
            got = self.tool.recv(65536)
            if not got:
                raise OracleError("the real xenstored has gone")
            received += got
        return whole[0], whole[1]

    def told(self, domid: int) -> list[bytes]:
        """A domain's watch events since the last call."""
        self.must(pages.XS_READ, b"/\0")  # all events have arrived once this is answered
        ring = self.rings[domid]
        ring.pump()
        out, ring.told = ring.told, []
        return out


def _first(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Type and payload of the first message, and the rest."""
    if len(received) < XS_HEADER.size:
        return None
    kind, _, _, length = XS_HEADER.unpack_from(received)
    end = XS_HEADER.size + length
    return None if len(received) < end else (kind, received[XS_HEADER.size : end], received[end:])


class RealRing:
    """A guest's end of a ring with the real daemon."""

    def __init__(self, path: Path, events: int, port: int) -> None:
        with path.open("r+b") as file:
            self.page = mmap.mmap(file.fileno(), PAGE)
        self.events = events
        self.port = port
        self.received = b""
        self.told: list[bytes] = []
        self.answers: list[Answer] = []

    def _index(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.page, at)[0])

    def _ring(self) -> None:
        os.write(self.events, struct.pack("<I", self.port))

    def pump(self) -> None:
        """Receive the daemon's answers."""
        cons, prod = self._index(RSP_CONS), self._index(RSP_PROD)
        if cons != prod:
            count = (prod - cons) & 0xFFFFFFFF
            self.received += bytes(self.page[1024 + (cons + k) % 1024] for k in range(count))
            struct.pack_into("<I", self.page, RSP_CONS, prod)
            self._ring()
        while (whole := _first(self.received)) is not None:
            kind, body, self.received = whole
            if kind == pages.XS_WATCH_EVENT:
                self.told.append(body)
            else:
                self.answers.append((kind, body))

    def ask(self, message: bytes) -> Answer:
        """Send a request, wait for its answer; OracleError if there is none."""
        end = time.monotonic() + PATIENCE
        while message or not self.answers:
            cons, prod = self._index(REQ_CONS), self._index(REQ_PROD)
            part = message[: 1024 - ((prod - cons) & 0xFFFFFFFF)]
            for k, byte in enumerate(part):
                self.page[(prod + k) % 1024] = byte
            if part:
                message = message[len(part) :]
                struct.pack_into("<I", self.page, REQ_PROD, (prod + len(part)) & 0xFFFFFFFF)
                self._ring()
            self.pump()
            if time.monotonic() > end:
                raise OracleError("the real xenstored does not answer a guest")
            if not self.answers:
                time.sleep(0.0005)
        return self.answers.pop(0)


__all__ = ["OracleError", "RealXenstored", "find"]
