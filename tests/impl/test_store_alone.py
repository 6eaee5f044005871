"""XenStore's daemon without a machine: the form of each request, who may make it, limits to the last byte and node.

The oracle are docs/misc/xenstore.txt and the real daemon, with which test_against_xenstored.py compares the same answers if
it is installed. Not here: rings and their indices (test_rings.py, test_tools.py).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from bulkhead.impl.libs.osdep import Osdep, OsError
from bulkhead.impl.rings import pages
from bulkhead.impl.tools.store import Grant, Store, XsError, canonical, home
from bulkhead.impl.tools.xenstored import Xenstored

ONE, TWO = 2, 3
UNKNOWN = (20, 23, 77, 128, 0xFFFFFFFF, pages.XS_WATCH_EVENT, pages.XS_ERROR)
OF_TOOLS = (0, pages.XS_INTRODUCE, pages.XS_RELEASE, pages.XS_IS_DOMAIN_INTRODUCED, 18, 19)
# Type, a good payload for a guest, and its number of words.
FORMS = (
    (pages.XS_READ, b"data\0", 1),
    (pages.XS_DIRECTORY, b"data\0", 1),
    (pages.XS_GET_PERMS, b"data\0", 1),
    (pages.XS_MKDIR, b"data/a\0", 1),
    (pages.XS_RM, b"data/a\0", 1),
    (pages.XS_WATCH, b"data\0t\0", 2),
    (pages.XS_UNWATCH, b"data\0t\0", 2),
    (pages.XS_GET_DOMAIN_PATH, b"3\0", 1),
)
OF_DOM0 = (
    (pages.XS_INTRODUCE, b"9\0001\0001\0", 3),
    (pages.XS_RELEASE, b"9\0", 1),
    (pages.XS_IS_DOMAIN_INTRODUCED, b"9\0", 1),
)


class Devices(Osdep):
    """A grant device and ports; each domain's page is memory of its own. `lacks` says what fails."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.bound: list[tuple[int, int]] = []
        self.unbound: list[int] = []
        self.lacks = ""

    def gnttab_open(self) -> int:
        return 3

    def evtchn_open(self) -> int:
        return 4

    def gnttab_map(self, fd: int, grants: Sequence[tuple[int, int]], prot: int, offset: int, port: int) -> int:
        if self.lacks == "grant":
            raise OsError(errno.ENOENT)
        ((domid, ref),) = grants
        assert ref == 1 and prot == 3
        self.pages[domid << 12] = bytearray(b"\xee" * 4096)
        return domid << 12

    def gnttab_unmap(self, fd: int, addr: int, count: int) -> None:
        assert count == 1
        del self.pages[addr]

    def evtchn_bind_interdomain(self, fd: int, domid: int, port: int) -> int:
        if self.lacks == "port":
            raise OsError(errno.EINVAL)
        self.bound.append((domid, port))
        return 100 + domid

    def evtchn_unbind(self, fd: int, port: int) -> None:
        self.unbound.append(port)

    def load(self, addr: int, size: int) -> bytes:
        return bytes(self.pages[addr & -4096][addr & 4095 :][:size])

    def store(self, addr: int, payload: bytes) -> None:
        self.pages[addr & -4096][addr & 4095 : (addr & 4095) + len(payload)] = payload


def daemon(nodes: int = 100, watches: int = 100) -> Xenstored:
    """A daemon with two guests."""
    made = Xenstored(Devices(), quota_nodes=nodes, quota_watches=watches)
    for domid in (ONE, TWO):
        made.introduce(domid, 1, 7)
    return made


def answer(stored: Xenstored, domid: int, kind: int, payload: bytes, tx_id: int = 0) -> bytes:
    """The answer, or the name of the error."""
    try:
        return stored.request(domid, kind, tx_id, payload)
    except XsError as error:
        return str(error).encode()


@pytest.mark.parametrize("kind, payload, words", [*FORMS, *OF_DOM0])
def test_each_request_has_its_number_of_words(kind: int, payload: bytes, words: int) -> None:
    """One word more or less is EINVAL, and so is a last one that does not end."""
    stored = daemon()
    who = 0 if (kind, payload, words) in OF_DOM0 else ONE
    whole = payload.split(b"\0")[:-1]
    assert len(whole) == words
    for wrong in (whole[:-1], [*whole, b"x"], []):
        assert answer(stored, who, kind, b"".join(w + b"\0" for w in wrong)) == b"EINVAL", wrong
    if words == 1 or who == 0:
        assert answer(stored, who, kind, payload[:-1]) == b"EINVAL"
    else:  # bytes behind the last whole word do not count
        assert answer(stored, who, kind, payload + b"rest") == answer(daemon(), who, kind, payload)
    assert answer(daemon(), who, kind, payload) != b"EINVAL"


def test_a_value_may_have_any_bytes() -> None:
    stored = daemon()
    for payload, value in ((b"data\0", b""), (b"data\0v", b"v"), (b"data\0a\0b\0", b"a\0b\0")):
        assert answer(stored, ONE, pages.XS_WRITE, payload) == b"OK\0"
        assert answer(stored, ONE, pages.XS_READ, b"data\0") == value
    assert answer(stored, ONE, pages.XS_WRITE, b"data") == b"EINVAL" == answer(stored, ONE, pages.XS_WRITE, b"")


@pytest.mark.parametrize("payload", [b"", b"\0", b"junk", b"9\0001\0001\0", bytes(5000)])
@pytest.mark.parametrize("tx_id", [0, 5])
def test_who_may_ask_comes_before_what_is_asked(payload: bytes, tx_id: int) -> None:
    """An unknown request is ENOSYS, one of tools is refused to guests, whatever else is wrong with it; then transactions."""
    stored = daemon()
    for who in (0, ONE):
        assert {answer(stored, who, kind, payload, tx_id) for kind in UNKNOWN} == {b"ENOSYS"}
    assert {answer(stored, ONE, kind, payload, tx_id) for kind in OF_TOOLS} == {b"EACCES"}
    absent = {answer(stored, 0, kind, payload, tx_id) for kind in (0, 6, 18, 19, 22)}
    assert absent == {b"ENOENT" if tx_id else b"ENOSYS"}
    if tx_id:
        every = {kind for kind, _, _ in FORMS} - {pages.XS_WATCH, pages.XS_UNWATCH} | {pages.XS_WRITE, pages.XS_SET_PERMS}
        assert {answer(stored, ONE, kind, payload, tx_id) for kind in every} == {b"ENOENT"}
        assert answer(stored, ONE, pages.XS_WATCH, b"data\0t\0", tx_id) == b"OK\0"
        assert answer(stored, ONE, pages.XS_UNWATCH, b"data\0t\0", tx_id) == b"OK\0"
    assert stored.connections.keys() == {ONE, TWO}


def test_no_transaction_ends() -> None:
    stored = daemon()
    for payload, said in (
        (b"T\0", b"ENOENT"),
        (b"F\0", b"ENOENT"),
        (b"X\0", b"EINVAL"),
        (b"T", b"EINVAL"),
        (b"", b"EINVAL"),
    ):
        assert answer(stored, ONE, pages.XS_TRANSACTION_END, payload) == said


def test_a_request_is_no_longer_than_a_message() -> None:
    stored = daemon()
    for size, said in ((4096 - 3, b"OK\0"), (4096 - 2, b"E2BIG")):
        assert answer(stored, 0, pages.XS_WRITE, b"/a\0" + bytes(size)) == said


def test_which_domains_are_known() -> None:
    """Dom0 always, a guest from its introduction to its release; other numbers are none."""
    stored = daemon()

    def known(domid: bytes) -> bytes:
        return answer(stored, 0, pages.XS_IS_DOMAIN_INTRODUCED, domid + b"\0")

    assert [known(b"%d" % d) for d in (0, ONE, TWO, 9)] == [b"T\0", b"T\0", b"T\0", b"F\0"]
    assert answer(stored, 0, pages.XS_RELEASE, b"%d\0" % ONE) == b"OK\0" and known(b"%d" % ONE) == b"F\0"
    for word, said in ((b"32751", b"F\0"), (b"32752", b"EINVAL"), (b"-1", b"EINVAL"), (b"0x2", b"EINVAL"), (b"", b"EINVAL")):
        assert known(word) == said


@pytest.mark.parametrize(
    "words, said",
    [
        ((b"32751", b"1", b"1"), b"OK\0"),
        ((b"32752", b"1", b"1"), b"EINVAL"),
        ((b"9", b"9999999999", b"1"), b"OK\0"),
        ((b"9", b"10000000000", b"1"), b"EINVAL"),
        ((b"9", b"1", b"4294967295"), b"OK\0"),
        ((b"9", b"1", b"4294967296"), b"EINVAL"),
        ((b"2", b"1", b"1"), b"EEXIST"),
    ],
)
def test_introduction(words: tuple[bytes, ...], said: bytes) -> None:
    """The numbers have their limits; a domain is connected once."""
    stored = daemon()
    assert answer(stored, 0, pages.XS_INTRODUCE, b"\0".join(words) + b"\0") == said


@pytest.mark.parametrize("lacks", ["grant", "port"])
def test_an_introduction_that_fails_leaves_nothing(lacks: str) -> None:
    stored = daemon()
    devices = stored.os
    assert isinstance(devices, Devices)
    before = (dict(stored.store.nodes), dict(stored.store.lives), list(devices.pages), list(stored.connections))
    devices.lacks = lacks
    assert answer(stored, 0, pages.XS_INTRODUCE, b"9\0001\0001\0") == b"EINVAL"
    assert (stored.store.nodes, stored.store.lives, list(devices.pages), list(stored.connections)) == before
    devices.lacks = ""
    assert answer(stored, 0, pages.XS_INTRODUCE, b"9\0001\00017\0") == b"OK\0" and devices.bound[-1] == (9, 17)


def test_what_a_new_guest_finds_and_what_is_left_of_it() -> None:
    """Its directory belongs to tools, who let it read; two below are its own. Its rings are empty; all goes with it."""
    stored = daemon()
    devices = stored.os
    assert isinstance(devices, Devices)
    perms = {path: answer(stored, 0, pages.XS_GET_PERMS, f"{path}\0".encode()) for path in stored.store.nodes}
    assert {path: p for path, p in perms.items() if path.startswith(home(ONE))} == {
        home(ONE): b"n0\0r2\0",
        f"{home(ONE)}/data": b"n2\0",
        f"{home(ONE)}/control": b"n2\0",
    }
    page = devices.pages[ONE << 12]
    assert page[2048:2064] == bytes(16) and page[2072:2076] == bytes(4)
    answer(stored, 0, pages.XS_WRITE, f"{home(ONE)}/name\0one".encode())
    answer(stored, 0, pages.XS_RELEASE, b"2\0")
    assert not [path for path in stored.store.nodes if path.startswith(home(ONE))]
    assert ONE << 12 not in devices.pages and devices.unbound == [102] and ONE not in stored.store.lives
    stored.close()
    assert not devices.pages and not stored.connections


def test_paths_to_the_last_byte() -> None:
    """2048 bytes, to which a domain's own directory does not count, however the path begins."""
    for domid, path, good in (
        (ONE, "x" * 2048, True),
        (ONE, "x" * 2049, False),
        (ONE, "/" + "x" * 2047, True),
        (ONE, "/" + "x" * 2048, False),
        (ONE, home(31234) + "/" + "x" * 2048, True),
        (ONE, home(31234) + "/" + "x" * 2049, False),
        (ONE, home(312345) + "/" + "x" * 2048, False),
        (0, "/local/domain/x/" + "x" * 2032, True),
        (0, "/local/domain/x/" + "x" * 2033, False),
    ):
        if good:
            assert canonical(path, domid) == (path if path[0] == "/" else f"{home(domid)}/{path}")
        else:
            with pytest.raises(XsError, match="EINVAL"):
                canonical(path, domid)


def test_a_value_to_the_last_byte() -> None:
    """A guest's has 2048; one more is refused, and no node is made for it. Tools have no such limit."""
    stored = daemon()
    before = dict(stored.store.nodes), dict(stored.store.owned)
    assert answer(stored, ONE, pages.XS_WRITE, b"data/a/b\0" + bytes(2049)) == b"ENOSPC"
    assert (stored.store.nodes, stored.store.owned) == before
    assert answer(stored, ONE, pages.XS_WRITE, b"data/a/b\0" + bytes(2048)) == b"OK\0"
    assert answer(stored, 0, pages.XS_WRITE, b"/a\0" + bytes(4000)) == b"OK\0"
    # Who may not write there learns no more of a long value than of a short one.
    assert answer(stored, TWO, pages.XS_WRITE, f"{home(ONE)}/data/a\0".encode() + bytes(2049)) == b"EACCES"


def test_nodes_to_the_last_one() -> None:
    """A guest's quota counts its own nodes, all that a request makes, and what others make below them or give to it."""
    stored = daemon(nodes=4)  # data and control count
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/a/b/c\0") == b"ENOSPC"
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/a/b\0") == b"OK\0"
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/c\0") == b"ENOSPC"
    assert answer(stored, ONE, pages.XS_WRITE, b"data/a\0v") == b"OK\0"  # it is there
    assert answer(stored, ONE, pages.XS_RM, b"data/a\0") == b"OK\0"
    assert answer(stored, 0, pages.XS_WRITE, f"{home(ONE)}/data/t\0v".encode()) == b"OK\0"
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/x\0") == b"OK\0"
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/y\0") == b"ENOSPC"
    assert answer(stored, 0, pages.XS_SET_PERMS, f"{home(ONE)}/data/t\0n3\0".encode()) == b"OK\0"
    assert answer(stored, ONE, pages.XS_MKDIR, b"data/y\0") == b"OK\0"
    assert stored.store.owned[ONE] == 4 and stored.store.owned[TWO] == 3
    assert answer(stored, TWO, pages.XS_MKDIR, b"data/p/q\0") == b"ENOSPC"


def test_entries_and_watches_to_the_last_one() -> None:
    """Five entries of a guest's, any number of a tool's; and one watch more than the quota, as the real daemon has it."""
    stored = daemon(watches=2)
    for count, said in ((5, b"OK\0"), (6, b"ENOSPC")):
        assert answer(stored, ONE, pages.XS_SET_PERMS, b"data\0n2\0" + b"r3\0" * (count - 1)) == said
    assert answer(stored, 0, pages.XS_SET_PERMS, f"{home(ONE)}/data\0n2\0".encode() + b"r3\0" * 9) == b"OK\0"
    answers = [answer(stored, ONE, pages.XS_WATCH, b"data\0%d\0" % k) for k in range(4)]
    assert answers == [b"OK\0", b"OK\0", b"OK\0", b"E2BIG"]
    assert answer(stored, ONE, pages.XS_WATCH, b"data\0001\0") == b"EEXIST"  # before the quota
    assert answer(stored, ONE, pages.XS_UNWATCH, b"data\0009\0") == b"ENOENT"
    assert answer(stored, ONE, pages.XS_UNWATCH, b"data\0001\0") == b"OK\0"
    assert answer(stored, ONE, pages.XS_WATCH, b"data\0009\0") == b"OK\0"
    for payload in (b"", b"\0", b"x", b"x\0"):  # which does not count
        answer(stored, ONE, pages.XS_WATCH, b"data\0009\0")
        assert answer(stored, ONE, pages.XS_RESET_WATCHES, payload) == b"OK\0" and not stored.connections[ONE].watches


@pytest.mark.parametrize(
    "payload", [b"data\0", b"data\0x2\0", b"data\0n\0", b"data\0n2x\0", b"data\0n-2\0", b"data\0n4294967296\0"]
)
def test_permissions_that_are_none(payload: bytes) -> None:
    assert answer(daemon(), ONE, pages.XS_SET_PERMS, payload) == b"EINVAL"


def test_the_right_of_each_letter() -> None:
    """For the owner, whoever an entry names (the first one for it counts), and all others (the owner's letter counts)."""
    store = Store()
    for domid in (ONE, TWO, 4):
        store.add_domain(domid)
    life = store.lives
    may = {"n": "", "r": "r", "w": "w", "b": "rw"}
    for first, allowed in may.items():
        for second, listed in may.items():
            grants = (Grant(first, ONE, life[ONE]), Grant(second, TWO, life[TWO]), Grant("b", TWO, life[TWO]))
            for letter in "rwo":
                assert store.allows(0, grants, letter) and store.allows(ONE, grants, letter)
                assert store.allows(TWO, grants, letter) == (letter in listed)
                assert store.allows(4, grants, letter) == (letter in allowed)
    old = (Grant("n", ONE, life[ONE]), Grant("b", TWO, life[TWO]))
    for domid in (ONE, TWO):
        store.drop_domain(domid)
        store.add_domain(domid)  # another one with this id
    assert not any(store.allows(domid, old, letter) for domid in (ONE, TWO) for letter in "rwo")


def test_names_that_begin_alike() -> None:
    """A watch of a node hears of what is below it, not of a neighbour whose name is longer."""
    stored = daemon()
    for path in ("data", "data/a"):
        answer(stored, ONE, pages.XS_WATCH, f"{path}\0t\0".encode())
    connection = stored.connections[ONE]
    heard = {}
    for path in ("data/a", "data/ab", "data/a/b", "data/b"):
        connection.unsent = b""
        answer(stored, ONE, pages.XS_MKDIR, f"{path}\0".encode())
        heard[path] = connection.unsent.count(b"\0t\0")
    assert heard == {"data/a": 2, "data/ab": 1, "data/a/b": 2, "data/b": 1}


def events(stored: Xenstored, domid: int) -> list[bytes]:
    """The paths of the events that wait for a guest, which are then gone."""
    raw, out = stored.connections[domid].unsent, []
    while raw:
        kind, _, _, size = pages.XS_HEADER.unpack_from(raw)
        assert kind == pages.XS_WATCH_EVENT
        out.append(raw[pages.XS_HEADER.size : pages.XS_HEADER.size + size].split(b"\0")[0])
        raw = raw[pages.XS_HEADER.size + size :]
    stored.connections[domid].unsent = b""
    return out


def test_removal_of_what_is_missing() -> None:
    """Nothing is to be done if the node above is there; else it is an error."""
    stored = daemon()
    assert answer(stored, ONE, pages.XS_RM, b"data/a\0") == b"OK\0"
    assert answer(stored, ONE, pages.XS_RM, b"data/a/b\0") == b"ENOENT"
    assert answer(stored, 0, pages.XS_RM, b"/a/b\0") == b"ENOENT" and answer(stored, 0, pages.XS_RM, b"/a\0") == b"OK\0"
    assert answer(stored, 0, pages.XS_RM, b"/\0") == b"EINVAL"


def test_who_may_list_a_name_hears_of_its_node() -> None:
    """The permissions of the node above count, too; and the end of a domain is told like a removal."""
    stored = daemon()
    theirs = f"{home(ONE)}/data".encode()
    for path in (theirs, theirs + b"/closed"):
        assert answer(stored, TWO, pages.XS_WATCH, path + b"\0t\0") == b"OK\0"
    answer(stored, ONE, pages.XS_MKDIR, b"data/closed\0")
    answer(stored, ONE, pages.XS_SET_PERMS, b"data/closed\0n2\0")
    assert events(stored, TWO) == []
    answer(stored, ONE, pages.XS_SET_PERMS, b"data\0n2\0r3\0")
    assert events(stored, TWO) == [theirs]
    answer(stored, ONE, pages.XS_WRITE, b"data/closed\0v")
    assert events(stored, TWO) == [theirs + b"/closed"] * 2  # by each of its watches
    assert answer(stored, TWO, pages.XS_READ, theirs + b"/closed\0") == b"EACCES"
    assert answer(stored, 0, pages.XS_RELEASE, b"2\0") == b"OK\0"
    assert events(stored, TWO) == [theirs + b"/closed", theirs]


def test_the_list_of_permissions_is_looked_at_before_the_node() -> None:
    """An owner that is not there is ENOENT even where the caller has no rights, and for a path that is none."""
    stored = daemon()
    for path in (f"{home(TWO)}/data", "a//b", ""):
        assert answer(stored, ONE, pages.XS_SET_PERMS, f"{path}\0n50\0".encode()) == b"ENOENT"
    assert answer(stored, ONE, pages.XS_SET_PERMS, f"{home(TWO)}/data\0n2\0".encode()) == b"EACCES"
    assert answer(stored, ONE, pages.XS_SET_PERMS, b"a//b\0n2\0") == b"EINVAL"
    assert answer(stored, ONE, pages.XS_SET_PERMS, b"data\0n3\0") == b"EPERM"
