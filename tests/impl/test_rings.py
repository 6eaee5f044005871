"""Rings between parties that do not trust each other, and ioctls of any content."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bulkhead.impl.dom0 import gntdev_bsd, ioctl, ioctl_control
from bulkhead.impl.dom0.gntalloc import GntallocPool
from bulkhead.impl.dom0.kernel import KernelError
from bulkhead.impl.dom0.process import Process
from bulkhead.impl.dom0.syscalls import EVTCHN, GNTALLOC, GNTDEV, PRIVCMD, Syscalls, devices
from bulkhead.impl.rings.ring import BadIndex, Reader, RingAt, Writer
from bulkhead.impl.xen.abi import U32
from tests.impl.support import check_counts, grant, machine

RING = RingAt(0, 64, 64, 68)


class Page:
    """Shared memory."""

    def __init__(self) -> None:
        self.data = bytearray(128)

    def load(self, addr: int, size: int) -> bytes:
        assert addr >= 0 and addr + size <= 128
        return bytes(self.data[addr : addr + size])

    def store(self, addr: int, payload: bytes) -> None:
        assert addr >= 0 and addr + len(payload) <= 128
        self.data[addr : addr + len(payload)] = payload


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([0, 1, 0xFFFFFFF0, 0xFFFFFFFF]),
    moves=st.lists(st.tuples(st.booleans(), st.binary(max_size=100)), max_size=30),
)
def test_what_goes_in_comes_out(start: int, moves: list[tuple[bool, bytes]]) -> None:
    page = Page()
    page.store(64, U32.pack(start) * 2)
    reader, writer = Reader(page, RING), Writer(page, RING)
    sent = got = b""
    for write, payload in moves:
        if write:
            done = writer.put(payload)
            assert done == min(len(payload), 64 - (len(sent) - len(got)))
            sent += payload[:done]
        else:
            got += reader.take(len(payload))
        assert reader.ready() == len(sent) - len(got) == writer.unread()
    assert got + reader.take(64) == sent


class Racing(Page):
    """A peer that changes its index after each look at it."""

    def load(self, addr: int, size: int) -> bytes:
        seen = super().load(addr, size)
        self.store(64, U32.pack(U32.unpack(seen)[0] + 32))
        return seen


def test_a_whole_message_is_written_whole_or_not_at_all() -> None:
    """Whatever the peer does to its index meanwhile: what was checked once counts."""
    page = Racing()
    writer = Writer(page, RING)
    page.store(64, U32.pack(0))
    assert writer.put_whole(b"x" * 40)
    assert writer.prod == 40 and bytes(page.data[:40]) == b"x" * 40
    page.store(64, U32.pack(0))
    assert not writer.put_whole(b"y" * 40)
    assert writer.prod == 40 and bytes(page.data[:64]) == b"x" * 40 + bytes(24)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["prod", "cons", "put", "take"]), st.integers(0, (1 << 32) - 1)), max_size=20))
def test_a_peer_that_writes_anything(moves: list[tuple[str, int]]) -> None:
    page = Page()
    reader, writer = Reader(page, RING), Writer(page, RING)
    for what, number in moves:
        if what in ("prod", "cons"):
            page.store(68 if what == "prod" else 64, U32.pack(number))
        elif what == "put":
            before = writer.prod
            assert writer.put(bytes(number % 100)) <= 64 and (writer.prod - before) & 0xFFFFFFFF <= 64
        else:
            try:
                assert len(reader.take(number % 100)) <= 64
            except BadIndex:
                pass


# By device; without restriction, which would end a file's use, and raw hypercalls, which may remove the caller's memory.
PREFIXES = {
    GNTDEV: ("GNTDEV", "SET_UNMAP"),
    GNTALLOC: ("GNTALLOC", "SET_UNMAP"),
    PRIVCMD: ("PRIVCMD",),
    EVTCHN: ("EVTCHN",),
    "bsd": ("BSD",),
}
COMMANDS = {
    device: [
        value
        for module in (ioctl, ioctl_control, gntdev_bsd)
        for name, value in vars(module).items()
        if name.startswith(prefixes) and "RESTRICT" not in name and name != "PRIVCMD_HYPERCALL"
    ]
    for device, prefixes in PREFIXES.items()
}


class Users:
    """A process with every device, and one with the BSD device."""

    def __init__(self) -> None:
        self.rig = machine("A")
        for ref in range(8, 16):
            grant(self.rig, "A", ref, "d0", ref - 8)
        pool = GntallocPool(self.rig.kernel)
        self.open: list[tuple[str, Syscalls, int, int]] = []
        for names, bsd in (((GNTDEV, GNTALLOC, PRIVCMD, EVTCHN), False), ((GNTDEV,), True)):
            calls = Syscalls("fuzz", Process(self.rig.kernel), devices(self.rig.kernel, pool, names, bsd))
            buffer = calls.anonymous(2)
            self.open += [("bsd" if bsd else name, calls, calls.open(name), buffer) for name in names]
        _, calls, fd, _ = next(each for each in self.open if each[0] == PRIVCMD)
        self.window = calls.mmap(3, 3, fd, 0)
        self.frames = [frame.mfn for frame in self.rig.agents["A"].domain.pages.values()]


POINTERS = ["null", "buffer", "middle", "second", "edge", "window", "high", "top"]
WORDS = st.one_of(
    st.sampled_from(POINTERS),
    st.integers(0, 40),
    st.integers(0, (1 << 64) - 1),
    st.just("domid"),
    st.tuples(st.integers(0, 20), st.integers(0, 3)).map(lambda t: t[0] << 32 | t[1]),
    st.integers(0, 200).map(lambda n: f"frame {n}"),
)
CALLS = st.sampled_from(list(PREFIXES)).flatmap(
    lambda device: st.tuples(
        st.just(device),
        st.one_of(st.sampled_from(COMMANDS[device]), st.integers(0, (1 << 32) - 1)),
        st.sampled_from(["buffer", "buffer", *POINTERS]),
        st.lists(WORDS, min_size=1, max_size=6),
        st.sampled_from([0, 4096, 1 << 40]),
        st.integers(0, 4),
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(CALLS, max_size=20))
def test_ioctls_of_any_content(steps: list[tuple[str, int, str, list[str | int], int, int]]) -> None:
    users = Users()

    def value(word: str | int, buffer: int) -> int:
        if isinstance(word, int):
            return word
        if word.startswith("frame"):
            return users.frames[int(word.split()[1]) % len(users.frames)]
        return {
            "null": 0,
            "buffer": buffer,
            "middle": buffer + 512,
            "second": buffer + 4096,
            "edge": buffer + 8190,
            "window": users.window,
            "high": 1 << 47,
            "top": (1 << 64) - 8,
            "domid": users.rig.domid("A"),
        }[word]

    for device, cmd, pointer, words, offset, count in steps:
        _, calls, fd, buffer = next(each for each in users.open if each[0] == device)
        content = b"".join(value(word, buffer).to_bytes(8, "little") for word in words)
        calls.store(buffer, content.ljust(600, b"\1"))
        if device == PRIVCMD and count:
            calls.store(
                buffer,
                ioctl_control.MMAPBATCH_V2.pack(count, users.rig.domid("A"), 0, users.window, buffer + 512, buffer + 1024),
            )
            calls.store(buffer + 512, content.ljust(48, b"\1"))
        try:
            assert calls.ioctl(fd, cmd, value(pointer, buffer)) >= 0
            calls.munmap(calls.mmap(count, 3, fd, offset), 1)
        except KernelError as exc:
            assert 0 < exc.code < 4096
    for calls in {id(each[1]): each[1] for each in users.open}.values():
        calls.exit()
    check_counts(users.rig.xen)
    assert not any(record.flags for record in users.rig.dom0.grant_table.maptrack)
