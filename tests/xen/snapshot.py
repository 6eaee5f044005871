"""Snapshots of a booted machine on disk: a boot takes ten seconds, a restore one, and its state is always the same.

Contents: saving a running machine through QEMU's own protocol (QMP), and the arguments to restore it.
No call has been made in a saved machine. Not here: when machines are saved (machine.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shlex
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SAVE_SECONDS: Final = 60.0
BYTES_PER_SECOND: Final = 1 << 40


class NotSaved(Exception):
    """QEMU did not save the machine; one line with the reason."""


def place(folder: Path, words: Sequence[str]) -> Path:
    """The snapshot's file for these QEMU arguments."""
    kept = [word for word in words if not word.startswith(("file:", "socket,id=line,"))]
    return folder / ("booted-" + hashlib.sha256("\0".join(kept).encode()).hexdigest()[:12])


def control(descriptor: int) -> list[str]:
    """QEMU arguments for a control connection."""
    return ["-chardev", f"socket,id=control,fd={descriptor}", "-mon", "chardev=control,mode=control"]


def incoming(descriptor: int) -> list[str]:
    """QEMU arguments to start from a saved machine instead of a boot."""
    return ["-incoming", f"fd:{descriptor}"]


class Control:
    """QMP on a socket."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._buffer = b""
        self._end = time.monotonic() + SAVE_SECONDS

    def _message(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            if not select.select([self._line], [], [], max(0.0, self._end - time.monotonic()))[0]:
                raise NotSaved("QEMU's control line is silent")
            got = self._line.recv(1 << 16)
            if not got:
                raise NotSaved("QEMU's control line is closed")
            self._buffer += got
        text, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(text)
        return message

    def ask(self, execute: str, **arguments: Any) -> dict[str, Any]:
        """Execute one command; returns its result."""
        self._line.sendall(json.dumps({"execute": execute, **({"arguments": arguments} if arguments else {})}).encode())
        while True:
            message = self._message()
            if "error" in message:
                raise NotSaved(str(message["error"].get("desc", message["error"])))
            if "return" in message:
                out = message["return"]
                return out if isinstance(out, dict) else {}

    def save(self, path: Path) -> None:
        """Save the machine atomically to a file; the machine continues."""
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            self.ask("qmp_capabilities")
            self.ask("migrate-set-parameters", **{"max-bandwidth": BYTES_PER_SECOND})
            self.ask("migrate", uri=f"exec:cat > {shlex.quote(str(part))}")
            while (status := self.ask("query-migrate").get("status")) not in ("completed", "failed", "cancelled"):
                time.sleep(0.02)
            if status != "completed":
                raise NotSaved(f"the machine was not saved: {status}")
            self.ask("cont")
            part.rename(path)
        except (OSError, ValueError) as exc:
            raise NotSaved(f"{path} cannot be written ({exc})") from exc
        finally:
            with contextlib.suppress(OSError):
                part.unlink()
