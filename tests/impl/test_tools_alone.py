"""Tools and rings without a machine: which build service a tool takes, and a guest's requests to XenStore.

Each protects what no campaign can reach: there every tool finds DomB, and guests write their rings themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from elftools.elf import elffile

from bulkhead.impl.domb import protocol, start_info
from bulkhead.impl.domb.builder import Guest
from bulkhead.impl.domb.elf import ElfError, parse
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.rings.pages import XENSTORE_REQ, XS_HEADER, XS_PAYLOAD_MAX
from bulkhead.impl.rings.xenbus import Xenbus
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import ToolError, find
from bulkhead.impl.tools.xenconsoled import Xenconsoled
from bulkhead.impl.tools.xenstored import Xenstored
from bulkhead.impl.xen.abi import E2BIG, EACCES, EINVAL, ENOENT, ENOMEM, ENXIO, EPERM, PAGE_SIZE, U32


class Refusing(LinuxOsdep):
    """An operating system without a way to Xen: opening it gives this error."""

    def __init__(self, error: int) -> None:
        self.errno = 0
        self.error = error

    def call_open(self) -> int:
        raise OsError(self.error)


@pytest.mark.parametrize(("error", "asks"), [(ENOENT, True), (ENXIO, True), (EACCES, False)])
def test_a_tool_turns_to_domb_only_where_there_is_no_privcmd(tmp_path: Path, error: int, asks: bool) -> None:
    asked: list[bool] = []
    with pytest.raises(ToolError) as refused:
        find(
            Refusing(error),
            FileProxy(tmp_path),
            lambda: asked.append(True),
            lambda: False,
            lambda step, what: None,
        )
    assert bool(asked) is asks
    assert refused.value.errno == (ENOENT if asks else error)


class Privileged(LinuxOsdep):
    """An operating system with privcmd: its one descriptor is 7."""

    def __init__(self) -> None:
        self.errno = 0
        self.closed: list[int] = []

    def call_open(self) -> int:
        return 7

    def close(self, fd: int) -> None:
        self.closed.append(fd)


def test_a_tool_that_builds_itself_closes_privcmd(tmp_path: Path) -> None:
    made = Privileged()
    service = find(made, FileProxy(tmp_path), lambda: None, lambda: False, lambda step, what: None)
    assert service.where == "itself" and made.closed == []
    service.close()
    assert made.closed == [7]


class Page:
    """A page that is shared with XenStore's daemon."""

    def __init__(self) -> None:
        self.data = bytearray(PAGE_SIZE)

    def load(self, addr: int, size: int) -> bytes:
        return bytes(self.data[addr : addr + size])

    def store(self, addr: int, payload: bytes) -> None:
        self.data[addr : addr + len(payload)] = payload


def test_a_guest_sends_a_whole_request_or_nothing() -> None:
    page, told = Page(), [0]

    def notify() -> None:
        told[0] += 1

    bus = Xenbus(page, 0, notify)
    _, size, _, producer = XENSTORE_REQ
    most = size - XS_HEADER.size
    assert bus.request(2, bytes(most + 1)) == 0
    assert bus.request(2, bytes(most - 20)) == 1
    before = bytes(page.data)
    assert bus.request(2, bytes(20 - XS_HEADER.size + 1)) == 0  # one byte too many
    assert (bytes(page.data), told) == (before, [1])
    assert bus.request(2, bytes(20 - XS_HEADER.size)) == 2
    assert (U32.unpack_from(page.data, producer)[0], told) == (size, [2])


def test_a_guest_takes_whole_answers_only() -> None:
    page, told = Page(), [0]

    def notify() -> None:
        told[0] += 1

    bus = Xenbus(page, 0, notify)

    def gives(raw: bytes) -> None:
        start = U32.unpack_from(page.data, 2060)[0]
        for i, byte in enumerate(raw):
            page.data[1024 + (start + i) % 1024] = byte
        U32.pack_into(page.data, 2060, start + len(raw))

    whole = XS_HEADER.pack(2, 7, 0, 3) + b"yes"
    gives(whole[:-1])
    assert bus.take() == []
    gives(whole[-1:] + whole)
    assert bus.take() == [(2, 7, b"yes"), (2, 7, b"yes")]
    assert told == [2]
    assert bus.take() == []
    assert told == [2]
    gives(XS_HEADER.pack(2, 8, 0, XS_PAYLOAD_MAX + 1))
    assert bus.take() == []
    U32.pack_into(page.data, 2060, 1 << 31)  # an impossible index
    assert bus.take() == []


class Bare(Refusing):
    """An operating system whose devices give an error, but for those that are named."""

    def __init__(self, error: int, *there: str) -> None:
        super().__init__(error)
        self.there = there

    def _open(self, what: str) -> int:
        if what not in self.there:
            raise OsError(self.error)
        return 5

    def gnttab_open(self) -> int:
        return self._open("gntdev")

    def foreign_open(self) -> int:
        return self._open("privcmd")

    def evtchn_open(self) -> int:
        return self._open("evtchn")


@pytest.mark.parametrize("daemon", [Xenstored, Xenconsoled])
def test_a_daemon_without_its_devices_does_not_start(daemon: Callable[[Bare], object]) -> None:
    """With a way to rings, by grant or by foreign mapping, and with event channels, it does."""
    for there in ((), ("evtchn",), ("gntdev",), ("privcmd",)):
        with pytest.raises(OsError) as refused:
            daemon(Bare(ENXIO, *there))
        assert refused.value.errno == ENXIO
    for way in ("gntdev", "privcmd"):
        daemon(Bare(ENXIO, way, "evtchn"))


class Failing(Privileged):
    """One whose hypercalls fail."""

    def foreign_open(self) -> int:
        return 8

    def buffer(self, size: int) -> int:
        raise OsError(ENOMEM)

    def hypercall(self, fd: int, number: int, args: Sequence[int]) -> int:
        raise OsError(EPERM)


def test_a_tool_that_builds_itself_says_what_failed(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no kernel")
    service = find(Failing(), FileProxy(tmp_path), lambda: None, lambda: False, lambda step, what: None)
    for call, errno, text in (
        (lambda: service.pause(2), ENOMEM, "pause"),
        (lambda: service.unpause(2), ENOMEM, "unpause"),
        (lambda: service.destroy(2), ENOMEM, "destroy"),
        (lambda: service.create(CreateRequest("k" * 1024)), EINVAL, "more than 1023 bytes"),
        (lambda: service.create(CreateRequest("nothing")), ENOENT, "create: reading its files"),
        (lambda: service.create(CreateRequest("text", "nothing")), ENOENT, "create: reading its files"),
        (lambda: service.create(CreateRequest("text")), EINVAL, "create: parse: the kernel is not an ELF file"),
    ):
        with pytest.raises(ToolError, match=text) as refused:
            call()
        assert refused.value.errno == errno


def test_a_file_is_read_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FileProxy(tmp_path)
    (tmp_path / "file").write_bytes(bytes(9000))
    monkeypatch.setattr(protocol, "MAX_FILE", 9000)
    assert proxy.read_file("file") == bytes(9000)
    monkeypatch.setattr(protocol, "MAX_FILE", 8999)
    with pytest.raises(OsError) as refused:
        proxy.read_file("file")
    assert refused.value.errno == E2BIG and proxy.files == {}


def test_what_is_no_answer_about_a_guest() -> None:
    """A tool does not read a guest out of too few or too many bytes."""
    guest = Guest(2, 11, 3, 12, 4, 64)
    assert protocol.unpack_guest(protocol.pack_guest(guest)) == guest
    for raw in (b"", protocol.pack_guest(guest)[:-1], protocol.pack_guest(guest) + b"\0"):
        with pytest.raises(protocol.ProtocolError):
            protocol.unpack_guest(raw)


def test_a_page_that_is_no_start_info() -> None:
    page = bytearray(b"xen-3.0-x86_64".ljust(PAGE_SIZE, b"\0"))
    assert start_info.unpack(bytes(page)) is not None
    page[0] ^= 1
    assert start_info.unpack(bytes(page)) is None


def test_whatever_the_library_says_of_a_kernel_is_an_error_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(stream: object) -> object:
        raise KeyError("a segment of no kind")

    monkeypatch.setattr(elffile, "ELFFile", fails)
    with pytest.raises(ElfError, match="program headers at 0x40 cannot be read"):
        parse(build_kernel())
