"""Dom0's daemons with hostile guests, and xl's rollback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.dom0.evtchn import Evtchn
from bulkhead.impl.dom0.syscalls import Syscalls
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.agent import TestGuest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.rings import pages
from bulkhead.impl.rings.pages import XS_HEADER
from bulkhead.impl.tools.services import ToolError
from bulkhead.impl.tools.store import XsError
from bulkhead.impl.tools.xenconsoled import printable
from bulkhead.impl.xen import abi
from bulkhead.impl.xen.abi import U32


class House:
    """A machine with one guest that runs."""

    def __init__(self, system: str, root: Path) -> None:
        (root / "kernel").write_bytes(build_kernel())
        self.machine = BootedSystem(system, root)
        self.domid = self.machine.create("one", CreateRequest("kernel", "", 128))

    @property
    def guest(self) -> TestGuest:
        return self.machine.guests[self.domid]

    def store_page(self) -> int:
        assert self.guest.info is not None
        return self.guest.by_mfn(self.guest.info.store_mfn)

    def console_page(self) -> int:
        assert self.guest.info is not None
        return self.guest.by_mfn(self.guest.info.console_mfn)

    def ask(self, kind: int, *words: bytes, tx_id: int = 0) -> tuple[int, bytes]:
        """A request of the guest: (type of the answer, payload)."""
        payload = b"\0".join(words) if kind == pages.XS_WRITE else b"".join(word + b"\0" for word in words)
        number = self.guest.xenbus.request(kind, payload, tx_id)
        self.guest.replies.clear()
        self.machine.settle()
        return next((kind, body) for kind, n, body in self.guest.replies if n == number)


@pytest.fixture(params=["monolithic", "disaggregated"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> House:
    return House(request.param, tmp_path)


def test_console_both_ways(house: House) -> None:
    machine = house.machine
    machine.xenconsoled.type(house.domid, b"hello\n")
    machine.settle()
    assert machine.xenconsoled.output(house.domid).endswith(b"echo: hello\n")
    house.guest.say(b"z" * 10000)
    machine.settle()
    assert machine.xenconsoled.output(house.domid).endswith(b"z" * 10000)
    assert machine.shut_down() == []


def test_impossible_console_indices_are_passed_over(house: House) -> None:
    memory, page = house.guest.memory, house.console_page()
    before = house.machine.xenconsoled.output(house.domid)
    good = memory.load(page + 3084, 4)
    memory.store(page + 3084, U32.pack(0x80000000))
    house.machine.settle()
    assert house.machine.xenconsoled.output(house.domid) == before
    memory.store(page + 3084, good)
    house.guest.say(b"back")
    house.machine.settle()
    assert house.machine.xenconsoled.output(house.domid).endswith(b"back")
    assert house.machine.shut_down() == []


def test_output_of_strangers_is_made_safe() -> None:
    assert printable(b"a\x1b[2Jb\r\xff\n") == "a�[2Jb��\n"


def test_xenstore_requests(house: House) -> None:
    ask, me = house.ask, str(house.domid).encode()
    assert ask(pages.XS_READ, b"name") == (pages.XS_READ, b"one")
    assert ask(pages.XS_READ, b"data/state") == (pages.XS_READ, b"running")
    assert ask(pages.XS_WRITE, b"name", b"x") == (pages.XS_ERROR, b"EACCES\0")
    assert ask(pages.XS_WRITE, b"data/a/b", b"1\0002") == (pages.XS_WRITE, b"OK\0")
    assert ask(pages.XS_READ, b"data/a/b") == (pages.XS_READ, b"1\0002")
    assert ask(pages.XS_DIRECTORY, b"data") == (pages.XS_DIRECTORY, b"a\0state\0")
    assert ask(pages.XS_GET_PERMS, b"data/a") == (pages.XS_GET_PERMS, b"n" + me + b"\0")
    assert ask(pages.XS_SET_PERMS, b"data/a", b"r0") == (pages.XS_ERROR, b"EPERM\0")
    assert ask(pages.XS_SET_PERMS, b"data/a", b"r" + me, b"b7") == (pages.XS_SET_PERMS, b"OK\0")
    assert ask(pages.XS_RM, b"data/a") == (pages.XS_RM, b"OK\0")
    assert ask(pages.XS_READ, b"data/a/b") == (pages.XS_ERROR, b"ENOENT\0")
    assert ask(pages.XS_RM, b"data/a/b") == (pages.XS_ERROR, b"ENOENT\0")
    assert ask(pages.XS_RM, b"/") == (pages.XS_ERROR, b"EACCES\0")
    assert ask(pages.XS_READ, b"/local//x")[1] == b"EINVAL\0" and ask(pages.XS_READ, b"a b")[1] == b"EINVAL\0"
    assert ask(pages.XS_READ, b"/local/domain/0/x") == (pages.XS_ERROR, b"EACCES\0")
    assert ask(pages.XS_INTRODUCE, b"9", b"1", b"1") == (pages.XS_ERROR, b"EACCES\0")
    assert ask(pages.XS_READ, b"name", tx_id=4) == (pages.XS_ERROR, b"ENOENT\0")
    assert ask(99, b"") == (pages.XS_ERROR, b"ENOSYS\0") and ask(pages.XS_MKDIR)[1] == b"EINVAL\0"
    assert ask(pages.XS_WRITE, b"data/big", b"x" * 900)[0] == pages.XS_WRITE
    assert ask(pages.XS_GET_DOMAIN_PATH, b"7") == (pages.XS_GET_DOMAIN_PATH, b"/local/domain/7\0")
    assert house.machine.shut_down() == []


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (pages.XS_READ, b"name\0rest"),
        (pages.XS_RM, b"data\0x"),
        (pages.XS_WRITE, b"data"),
    ],
)
def test_what_does_not_end_with_a_zero_byte_is_refused(house: House, kind: int, payload: bytes) -> None:
    """Else the rest of a message is cut off, and what comes before it is done. (test_store_alone.py has those of which the
    real daemon counts whole words.)"""
    with pytest.raises(XsError, match="EINVAL"):
        house.machine.xenstored.request(house.domid, kind, 0, payload)


def test_the_numbers_of_permissions_have_32_bits(house: House) -> None:
    stored, path = house.machine.xenstored, b"/local/domain/%d/data" % house.domid
    for number in (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        stored.request(0, pages.XS_SET_PERMS, 0, path + b"\0n0\0r%d\0" % number)
        assert stored.request(0, pages.XS_GET_PERMS, 0, path + b"\0") == b"n0\0r%d\0" % number
    with pytest.raises(XsError, match="EINVAL"):
        stored.request(0, pages.XS_SET_PERMS, 0, path + b"\0n0\0r%d\0" % (1 << 32))


def test_a_list_of_permissions_has_an_end(house: House) -> None:
    entries = [b"r%d" % who for who in range(6)]
    entries[0] = b"n%d" % house.domid
    assert house.ask(pages.XS_SET_PERMS, b"data", *entries[:5]) == (pages.XS_SET_PERMS, b"OK\0")
    assert house.ask(pages.XS_SET_PERMS, b"data", *entries) == (pages.XS_ERROR, b"ENOSPC\0")


def test_a_part_of_a_request_is_acknowledged(house: House) -> None:
    """A request may be longer than the ring: the guest waits for space, and the daemon for the rest."""
    machine, guest = house.machine, house.guest
    memory, page = guest.memory, house.store_page()
    path = b"data/long\0"
    raw = XS_HEADER.pack(pages.XS_WRITE, 7, 0, len(path) + 2000) + path + b"v" * 2000
    assert guest.domain.events.take_pending() is not None
    done = 0
    while done < len(raw):
        prod, cons = (int.from_bytes(memory.load(page + at, 4), "little") for at in (2052, 2048))
        part = raw[done : done + 1024 - (prod - cons)]
        for i, byte in enumerate(part):
            memory.store(page + (prod + i) % 1024, bytes((byte,)))
        memory.store(page + 2052, U32.pack(prod + len(part)))
        done += len(part)
        machine.xenstored.step()
        assert guest.domain.events.take_pending(), f"the guest is not told that {done} bytes were taken"
    assert machine.xenstored.request(0, pages.XS_READ, 0, b"/local/domain/%d/data/long\0" % house.domid) == b"v" * 2000


def test_a_directory_that_is_too_large_for_an_answer(house: House) -> None:
    stored = house.machine.xenstored
    for i in range(130):
        stored.request(0, pages.XS_MKDIR, 0, b"/tool/" + b"n" * 28 + b"%03d\0" % i)
    with pytest.raises(XsError, match="E2BIG"):
        stored.request(0, pages.XS_DIRECTORY, 0, b"/tool\0")
    stored.request(0, pages.XS_RM, 0, b"/tool/" + b"n" * 28 + b"000\0")
    stored.request(0, pages.XS_RM, 0, b"/tool/" + b"n" * 28 + b"001\0")
    assert len(stored.request(0, pages.XS_DIRECTORY, 0, b"/tool\0")) == 128 * 32


def test_the_daemons_leave_no_port_masked(house: House) -> None:
    """A daemon that reads an event and does not enable its port again sleeps for ever when it waits for the next one."""
    house.machine.xenconsoled.type(house.domid, b"hello\n")
    house.ask(pages.XS_READ, b"name")
    house.guest.say(b"z" * 3000)
    house.machine.settle()
    for daemon in (house.machine.xenconsoled, house.machine.xenstored):
        assert isinstance(daemon.os, LinuxOsdep)
        driver = daemon.os.driver
        assert isinstance(driver, Syscalls)
        device = driver.process.file(daemon.xce.fd).device
        assert isinstance(device, Evtchn) and device.ports
        assert all(device.ports.values())


def test_watches(house: House) -> None:
    assert house.ask(pages.XS_WATCH, b"data", b"tok") == (pages.XS_WATCH, b"OK\0")
    assert (pages.XS_WATCH_EVENT, 0, b"data\0tok\0") in house.guest.replies
    assert house.ask(pages.XS_WATCH, b"data", b"tok") == (pages.XS_ERROR, b"EEXIST\0")
    assert house.ask(pages.XS_WATCH, b"@releaseDomain", b"t") == (pages.XS_WATCH, b"OK\0")  # it is never notified
    house.ask(pages.XS_WRITE, b"data/x", b"1")
    assert (pages.XS_WATCH_EVENT, 0, b"data/x\0tok\0") in house.guest.replies
    assert house.ask(pages.XS_UNWATCH, b"data", b"tok") == (pages.XS_UNWATCH, b"OK\0")
    assert house.ask(pages.XS_UNWATCH, b"data", b"tok") == (pages.XS_ERROR, b"ENOENT\0")
    assert house.ask(pages.XS_RESET_WATCHES) == (pages.XS_RESET_WATCHES, b"OK\0")


def test_an_event_is_no_longer_than_a_message(house: House) -> None:
    """A longer one would end the guest's connection: its library waits for ever for what is no message (XSA-324)."""
    stored, node = house.machine.xenstored, b"/local/domain/%d/data/" % house.domid
    token = b"t" * 4000
    stored.request(house.domid, pages.XS_WATCH, 0, b"data\0" + token + b"\0")
    for size, told in ((89, True), (90, False)):  # 4096 bytes, and one more
        house.guest.replies.clear()
        stored.request(0, pages.XS_WRITE, 0, node + b"n" * size + b"\0")
        house.machine.settle()
        event = (pages.XS_WATCH_EVENT, 0, b"data/" + b"n" * size + b"\0" + token + b"\0")
        assert house.guest.replies == ([event] if told else [])
    assert house.ask(pages.XS_READ, b"data/" + b"n" * 90) == (pages.XS_READ, b"")


def test_permissions_come_first(house: House) -> None:
    """A node that a guest may not read gives EACCES for every request, whether it exists or not, and no watch events."""
    other = house.machine.create("two", CreateRequest("kernel", "", 64))
    store = house.machine.xenstored.store
    theirs = f"/local/domain/{other}/data".encode()
    store.write(other, f"{theirs.decode()}/there", b"v")
    assert house.ask(pages.XS_WATCH, b"/", b"all") == (pages.XS_WATCH, b"OK\0")
    house.guest.replies.clear()
    for path in (theirs, theirs + b"/there", theirs + b"/missing", theirs + b"/missing/below", b"/local/domain/9/x", b"/x"):
        for kind in (pages.XS_READ, pages.XS_DIRECTORY, pages.XS_GET_PERMS, pages.XS_MKDIR, pages.XS_RM):
            assert house.ask(kind, path) == (pages.XS_ERROR, b"EACCES\0"), (kind, path)
        assert house.ask(pages.XS_WRITE, path, b"v") == (pages.XS_ERROR, b"EACCES\0")
        assert house.ask(pages.XS_SET_PERMS, path, b"b%d" % house.domid) == (pages.XS_ERROR, b"EACCES\0")
    house.guest.replies.clear()
    new = theirs + b"/new\0"
    for kind, payload in (
        (pages.XS_MKDIR, new),
        (pages.XS_WRITE, new + b"v"),
        (pages.XS_SET_PERMS, new + b"n%d\0" % other),
        (pages.XS_RM, new),
    ):
        house.machine.xenstored.request(other, kind, 0, payload)
    house.machine.settle()
    assert house.guest.replies == [], "nothing of the other's nodes is told"
    house.machine.destroy(other)
    assert all(theirs not in body for _, _, body in house.guest.replies)


def test_making_what_is_there_fires_no_watch(house: House) -> None:
    assert house.ask(pages.XS_MKDIR, b"data/a")[0] == pages.XS_MKDIR
    assert house.ask(pages.XS_WATCH, b"data", b"t") == (pages.XS_WATCH, b"OK\0")
    assert house.ask(pages.XS_MKDIR, b"data/a") == (pages.XS_MKDIR, b"OK\0")
    assert not [r for r in house.guest.replies if r[0] == pages.XS_WATCH_EVENT]


def test_a_permission_for_nobody_is_not_inherited(house: House) -> None:
    """XSA-322's kind: a permission for an unused id gives nothing to the domain that gets the id later."""
    store = house.machine.xenstored.store
    own = f"/local/domain/{house.domid}/data"
    store.set_perms(house.domid, own, (("n", house.domid), ("b", house.domid + 1)))
    other = house.machine.create("two", CreateRequest("kernel", "", 64))
    assert other == house.domid + 1
    with pytest.raises(XsError, match="EACCES"):
        store.read(other, own)
    store.set_perms(house.domid, own, (("n", house.domid), ("b", other)))
    assert store.read(other, own) == b""


def test_a_guest_cannot_fill_xenstore(house: House) -> None:
    store = house.machine.xenstored.store
    for i in range(1100):
        try:
            store.write(house.domid, f"/local/domain/{house.domid}/data/{i}", b"")
        except XsError as exc:
            assert str(exc) == "ENOSPC" and i > 900
            break
    else:
        raise AssertionError
    with pytest.raises(XsError, match="ENOSPC"):
        store.write(house.domid, f"/local/domain/{house.domid}/data/1", b"x" * 3000)
    assert house.machine.shut_down() == [] and store.owned.get(house.domid, 0) == 0


@pytest.mark.parametrize(("offset", "value", "error"), [(2052, 0x12345678, pages.ERROR_RINGIDX), (0, 0, pages.ERROR_PROTO)])
def test_a_broken_connection_is_shut_for_good(house: House, offset: int, value: int, error: int) -> None:
    memory, page = house.guest.memory, house.store_page()
    connection = house.machine.xenstored.connections[house.domid]
    if offset:
        memory.store(page + offset, U32.pack(value))
    else:
        house.guest.xenbus.requests.put(XS_HEADER.pack(pages.XS_READ, 1, 0, 5000))
    house.machine.settle()
    assert connection.ignored and memory.load(page + pages.ERROR, 4) == U32.pack(error)
    house.guest.xenbus.request(pages.XS_READ, b"name\0")
    house.guest.replies.clear()
    connection.unsent = b"an answer from before"
    house.machine.settle()
    assert connection.unsent == b"an answer from before"
    assert house.guest.replies == [] and house.machine.shut_down() == []


def test_a_guest_that_takes_no_answers_is_not_read_on(house: House) -> None:
    connection = house.machine.xenstored.connections[house.domid]
    house.guest.running = False
    for _ in range(3000):
        house.guest.xenbus.request(pages.XS_GET_DOMAIN_PATH, b"1\0")
        house.machine.xenstored.step()
    assert len(connection.unsent) < 1 << 17 and house.guest.xenbus.requests.space() < 100


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.integers(0, 4095), st.binary(min_size=1, max_size=16)),
            st.tuples(st.just("console"), st.sampled_from([3072, 3076, 3080, 3084]), st.binary(min_size=4, max_size=4)),
            st.tuples(st.just("bytes"), st.just(0), st.binary(max_size=300)),
            st.tuples(
                st.integers(0, 30),
                st.integers(0, 3),
                st.lists(
                    st.sampled_from(
                        [
                            b"data",
                            b"/",
                            b"@releaseDomain",
                            b"a//b",
                            b"/local/domain/0",
                            b"\xff",
                            b"",
                            b"r1",
                            b"n0",
                            b"1",
                            b"x" * 700,
                        ]
                    ),
                    max_size=3,
                ).map(b"\0".join),
            ),
        ),
        max_size=10,
    )
)
def test_whatever_a_guest_writes(actions: list[tuple[object, int, bytes]]) -> None:
    house = HOUSE[0]
    machine, guest = house.machine, house.guest
    for kind, number, payload in actions:
        if kind == "store":
            guest.memory.store(house.store_page() + min(number, 4096 - len(payload)), payload)
        elif kind == "console":
            guest.memory.store(house.console_page() + number, payload)
        elif kind == "bytes":
            guest.xenbus.requests.put(payload)
        else:
            assert isinstance(kind, int)
            guest.xenbus.request(kind, payload, number)
        machine.settle()
    # The others continue: a new guest works.
    machine.destroy(house.domid)
    house.domid = machine.create("one", CreateRequest("kernel", "", 128))
    assert machine.report("one", house.domid).state == b"running"


HOUSE: list[House] = []


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    HOUSE[:] = [House("disaggregated", tmp_path_factory.mktemp("house"))]


def test_a_failed_connection_keeps_no_mapping(house: House) -> None:
    machine = house.machine
    guest = machine.xl.guests[house.domid]
    machine.xenconsoled.remove(house.domid)
    machine.xenstored.release(house.domid)
    for port in (999, guest.console_port + 40):
        with pytest.raises(OSError):
            machine.xenconsoled.add(house.domid, guest.console_mfn, port)
        with pytest.raises(OSError):
            machine.xenstored.introduce(house.domid, guest.store_mfn, port)
    assert not machine.xenconsoled.consoles and house.domid not in machine.xenstored.connections
    assert not [
        row
        for row in machine.reach()
        if " process " in row.who and row.owner == f"guest {house.domid}" and row.by != "could map"
    ]
    assert machine.shut_down() == []


def test_xl_undoes_what_it_began(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = house.machine
    free = machine.xen.frames.free_count

    def refuse(domid: int, mfn: int, port: int) -> None:
        raise OSError(abi.EINVAL, "no")

    for daemon, method in ((machine.xenstored, "introduce"), (machine.xenconsoled, "add")):
        with monkeypatch.context() as patch:
            patch.setattr(daemon, method, refuse)
            with pytest.raises(ToolError):
                machine.xl.create("two", CreateRequest("kernel", "", 128))
        assert machine.xen.frames.free_count == free and list(machine.xl.guests) == [house.domid]
    with pytest.raises(ToolError):
        machine.xl.destroy(12345)
    machine.xl.pause(house.domid)
    machine.xl.unpause(house.domid)
    assert machine.shut_down() == []


def test_a_zombie_waits_for_its_mappers(house: House) -> None:
    machine = house.machine
    machine.builder.destroy(house.domid)
    assert machine.xen.domains[house.domid].is_dying  # the daemons map its rings
    machine.xenconsoled.remove(house.domid)
    machine.xenstored.release(house.domid)
    assert house.domid not in machine.xen.domains
    del machine.xl.guests[house.domid]
    assert machine.shut_down() == []
