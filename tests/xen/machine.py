"""One machine: QEMU with Xen and Dom0, its console, and the connection to the executor.

Contents: starting (by a boot, or from a machine saved right after one), the time limits, detection of
the end of a machine, and clean-up. The connection is a socket pair that QEMU inherits, so there is no path to clean
up; QEMU ends with this process, however that ends. Not here: the meaning of the lines (protocol.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.xen import snapshot
from tests.xen.build import Images
from tests.xen.problems import RigFailed, panicked

BOOT_SECONDS: Final = 120.0
ANSWER_SECONDS: Final = 60.0  # the executor's own limit for a call is much lower
SLICE: Final = 0.2
MAX_LINE: Final = 1 << 20
MEMORY: Final = "2G"
XEN_WORDS: Final = (
    "console=com1 com1=115200,8n1 dom0_mem=512M,max:512M dom0_max_vcpus=1 noreboot=1 loglvl=all guest_loglvl=all"
)
PR_SET_PDEATHSIG: Final = 1
LIBC: Final = ctypes.CDLL(None, use_errno=True)


def command(images: Images, line: int, console: Path, privcmd: bool = True) -> list[str]:
    """QEMU's command line; `line` is the descriptor of its end of the connection."""
    dom0 = "console=hvc0 loglevel=4 panic=-1" + ("" if privcmd else " nopriv")
    firmware = [word for folder in images.firmware for word in ("-L", str(folder))]
    return [
        str(images.qemu),
        *firmware,
        "-accel",
        "tcg",
        "-cpu",
        "qemu64,+svm,+npt",
        "-m",
        MEMORY,
        "-smp",
        "1",
        "-nodefaults",
        "-nographic",
        "-no-reboot",
        "-monitor",
        "none",
        "-serial",
        f"file:{console}",
        "-device",
        "virtio-serial-pci",
        "-chardev",
        f"socket,id=line,fd={line}",
        "-device",
        "virtserialport,chardev=line,name=bulkhead",
        "-kernel",
        str(images.xen),
        "-append",
        XEN_WORDS,
        "-initrd",
        f"{images.kernel} {dom0},{images.initramfs}",
    ]


def _with_parent() -> None:
    """In the child: end when the parent ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Machine:
    """A running machine; a context manager. Every failure is a RigFailed within the time limits."""

    def __init__(
        self,
        images: Images,
        privcmd: bool = True,
        boot_seconds: float = BOOT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.answer_seconds = answer_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="bulkhead-xen-")
        self._console = Path(self._folder.name) / "console"
        self._buffer = b""
        self._before = ""  # the console's output when the machine was saved
        self._line: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._boot_seconds = boot_seconds
        started = time.monotonic()
        try:
            self.hello = self._restore(images) if privcmd and images.snapshots is not None else ""
            self.hello = self.hello or self._boot(images, privcmd)
        except BaseException:
            self.close()
            raise
        self.boot_seconds = time.monotonic() - started

    def _boot(self, images: Images, privcmd: bool) -> str:
        """Boot; save the machine for the next time if there is a cache. Returns the executor's first line."""
        keep = images.snapshots if privcmd else None
        if keep is None:
            self._start(images, privcmd, [])
            return self.receive(self._boot_seconds, "the boot")
        ours, theirs = socket.socketpair()
        try:
            words = self._start(images, privcmd, snapshot.control(theirs.fileno()), theirs.fileno())
            theirs.close()
            hello = self.receive(self._boot_seconds, "the boot")
            with contextlib.suppress(snapshot.NotSaved, OSError):  # then the next start boots, too
                place = snapshot.place(keep, words)
                place.with_suffix(".console").write_text(self.console())
                snapshot.Control(ours).save(place)
            return hello
        finally:
            ours.close()
            theirs.close()

    def _restore(self, images: Images) -> str:
        """Start from a saved machine; "" if there is none, or it does not work and is deleted."""
        assert images.snapshots is not None
        path = snapshot.place(images.snapshots, command(images, 0, self._console))
        try:
            kept = os.open(path, os.O_RDONLY)
        except OSError:
            return ""
        try:
            self._start(images, True, snapshot.incoming(kept), kept)
            self.send(["show"], "the start of a saved machine")
            hello = self.receive(self._boot_seconds / 4, "the start of a saved machine")
            self._before = path.with_suffix(".console").read_text()
            return hello
        except (RigFailed, OSError):
            path.unlink(missing_ok=True)
            self._end()
            return ""
        finally:
            os.close(kept)

    def _start(self, images: Images, privcmd: bool, more: list[str], *descriptors: int) -> list[str]:
        """Start QEMU; returns its arguments without `more`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._line = ours
        self._buffer = b""
        words = command(images, theirs.fileno(), self._console, privcmd)
        environment = {**os.environ, "LD_LIBRARY_PATH": images.library_path}
        errors = Path(self._folder.name) / "errors"
        try:
            with errors.open("wb") as sink:
                self._process = subprocess.Popen(
                    [*words, *more],
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=sink,
                    env=environment,
                    pass_fds=(theirs.fileno(), *descriptors),
                    preexec_fn=_with_parent,
                )
        except OSError as exc:
            raise RigFailed(f"QEMU cannot be started ({exc.strerror}): {images.qemu}") from exc
        finally:
            theirs.close()
        return words

    @property
    def pid(self) -> int:
        """QEMU's process."""
        return self._process.pid if self._process is not None else 0

    def console(self) -> str:
        """The console's output so far; before there is any, QEMU's own error output."""
        for name in ("console", "errors"):
            with contextlib.suppress(OSError):
                text = (Path(self._folder.name) / name).read_bytes().decode(errors="replace")
                if text.strip():
                    return self._before + text
        return self._before

    def send(self, lines: Sequence[str], what: str = "") -> None:
        """Send lines to the executor."""
        assert self._line is not None
        left = memoryview(("\n".join(lines) + "\n").encode())
        end = time.monotonic() + self.answer_seconds
        while left:
            try:
                left = left[self._line.send(left) :]
            except BlockingIOError:
                if time.monotonic() > end:
                    raise self._failed(f"the machine takes no more calls for {self.answer_seconds:.0f} s", what) from None
                select.select([], [self._line], [], SLICE)
            except OSError as exc:
                raise self._failed(f"the line to the machine broke ({exc.strerror})", what) from exc

    def receive(self, seconds: float | None = None, what: str = "") -> str:
        """The next line of the executor; RigFailed if none comes in time, or the machine has ended or panicked."""
        assert self._line is not None
        limit = self.answer_seconds if seconds is None else seconds
        end = time.monotonic() + limit
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise self._failed(f"the machine sent {len(self._buffer):,} bytes and no end of line", what)
            ready, _, _ = select.select([self._line], [], [], min(SLICE, max(0.0, end - time.monotonic())))
            if ready:
                try:
                    got = self._line.recv(1 << 16)
                except OSError as exc:
                    raise self._failed(f"the line to the machine broke ({exc.strerror})", what) from exc
                if not got:
                    raise self._failed("the line to the machine is closed", what)
                self._buffer += got
                continue
            if panicked(self.console()) is not None:
                raise self._failed("the machine stopped", what)
            if self._process is not None and self._process.poll() is not None:
                raise self._failed("QEMU has ended", what)
            if time.monotonic() >= end:
                raise self._failed(f"no answer within {limit:.0f} s", what)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace")

    def _failed(self, what: str, call: str) -> RigFailed:
        """The error, with QEMU's exit status if known."""
        code = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(SLICE)
        console = self.console()
        who = panicked(console)
        if who is not None:
            what = f"{who} has stopped"
        elif code is not None:
            what += f"; QEMU ended with {f'signal {-code}' if code < 0 else f'status {code}'}"
        return RigFailed(what, console, call)

    def _end(self) -> None:
        """End the process and the connection. The machine has nothing to save, so there is no shutdown."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._line is not None:
            self._line.close()
            self._line = None

    def close(self) -> None:
        """End QEMU; remove the run's files."""
        self._end()
        self._folder.cleanup()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
