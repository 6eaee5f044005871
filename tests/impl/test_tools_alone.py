"""Tools and rings without a machine: which build service a tool takes, and a guest's requests to XenStore.

Each protects what no campaign can reach: there every tool finds DomB, and guests write their rings themselves.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.rings.pages import XENSTORE_REQ, XS_HEADER, XS_PAYLOAD_MAX
from bulkhead.impl.rings.xenbus import Xenbus
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import ToolError, find
from bulkhead.impl.xen.abi import EACCES, ENOENT, ENXIO, PAGE_SIZE, U32


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
