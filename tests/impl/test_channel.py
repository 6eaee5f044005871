"""The channel between Dom0's tools and DomB: whole messages, garbage, death of either side, and changing files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bulkhead.impl.boot import BootedSystem
from bulkhead.impl.domb import builder
from bulkhead.impl.domb import protocol as p
from bulkhead.impl.domb.elf import Image
from bulkhead.impl.domb.layout import Layout, plan
from bulkhead.impl.domb.protocol import CreateRequest
from bulkhead.impl.guests.test_kernel import build_kernel
from bulkhead.impl.libs import ctrl
from bulkhead.impl.libs.linux import LinuxOsdep
from bulkhead.impl.libs.osdep import OsError
from bulkhead.impl.libs.vchan import CLI_LIVE, GRANTS, ORDERS, Offer, Vchan, client_init, server_init
from bulkhead.impl.tools.fileproxy import FileProxy
from bulkhead.impl.tools.services import EPIPE, RemoteService, ToolError
from bulkhead.impl.xen import abi


class Domb:
    """A disaggregated machine with files, and a channel for hostile tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "kernel").write_bytes(build_kernel())
        (root / "disk").write_bytes(b"d" * 9000)
        self.log: list[tuple[str, str, str]] = []
        self.machine = BootedSystem("disaggregated", root, tell=lambda *step: self.log.append(step))
        assert self.machine.domb is not None and self.machine.service is not None
        self.domb, self.service = self.machine.domb, self.machine.service
        assert isinstance(self.machine.builder, RemoteService)
        self.builder = self.machine.builder

    def clean(self) -> None:
        """Leak check."""
        assert self.machine.shut_down() == []

    def raw(self) -> tuple[LinuxOsdep, Vchan]:
        """The test's own client instead of xl."""
        self.builder.close()
        offer = self.machine.offered()
        assert offer is not None
        os = self.machine.spawn("rogue")
        return os, client_init(os, offer)


@pytest.fixture
def domb(tmp_path: Path) -> Domb:
    return Domb(tmp_path)


def test_create_pause_unpause_destroy(domb: Domb) -> None:
    guest = domb.builder.create(CreateRequest("kernel", "disk", 256, "x"))
    domain = domb.machine.xen.domains[guest.domid]
    domb.builder.unpause(guest.domid)
    assert domain.pause_count == 0
    domb.builder.pause(guest.domid)
    assert domain.pause_count == 1
    state = p.STATE.unpack(domb.builder.call(p.INFO, p.DOMID.pack(guest.domid)))
    assert state == (guest.domid, 1, 256, 256)
    domb.builder.destroy(guest.domid)
    for call in (domb.builder.pause, domb.builder.destroy):
        with pytest.raises(ToolError) as caught:
            call(guest.domid)
        assert caught.value.errno == abi.ESRCH
    domb.clean()


def test_only_guests_built_here_can_be_touched(domb: Domb) -> None:
    for domid in (0, domb.domb.domain.domid, 99, 0x7FF0):
        with pytest.raises(ToolError) as caught:
            domb.builder.destroy(domid)
        assert caught.value.errno == abi.ESRCH
    with pytest.raises(ToolError) as caught:
        domb.builder.destroy(-1)
    assert caught.value.errno == abi.EINVAL
    domb.clean()


@pytest.mark.parametrize(
    ("wanted", "errno", "said"),
    [
        (CreateRequest("missing"), abi.ENOENT, "reading its files"),
        (CreateRequest("../kernel"), abi.EACCES, "files"),
        (CreateRequest("kernel", "nodisk"), abi.ENOENT, "files"),
        (CreateRequest("disk"), abi.EINVAL, "not an ELF file"),
        (CreateRequest("kernel", "", 3), abi.EINVAL, "3 pages"),
        (CreateRequest("k" * 2000), abi.EINVAL, "1023"),
        (CreateRequest("kernel", "", -1), abi.EINVAL, "no number"),
        (CreateRequest(""), abi.EACCES, "files"),
        (CreateRequest("kernel", "", 128, "a\0b"), abi.EINVAL, "zero byte"),
    ],
)
def test_bad_requests_are_answered(domb: Domb, wanted: CreateRequest, errno: int, said: str) -> None:
    with pytest.raises(ToolError, match=said) as caught:
        domb.builder.create(wanted)
    assert caught.value.errno == errno
    domb.clean()


def test_files_that_change_meanwhile(domb: Domb, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileProxy.handle
    kernel = domb.root / "kernel"

    def shrinking(self: FileProxy, op: int, body: bytes) -> tuple[int, bytes]:
        answer = real(self, op, body)
        if op == p.FILE_STAT:
            kernel.write_bytes(build_kernel()[:5000])
        return answer

    def growing(self: FileProxy, op: int, body: bytes) -> tuple[int, bytes]:
        answer = real(self, op, body)
        if op == p.FILE_READ:
            with kernel.open("ab") as file:
                file.write(b"more")
        return answer

    def lying(self: FileProxy, op: int, body: bytes) -> tuple[int, bytes]:
        return (0, b"x" * p.MAX_BODY) if op == p.FILE_READ else real(self, op, body)

    def huge(self: FileProxy, op: int, body: bytes) -> tuple[int, bytes]:
        return (0, p.STAT.pack(1 << 60, 0)) if op == p.FILE_STAT else real(self, op, body)

    def short(self: FileProxy, op: int, body: bytes) -> tuple[int, bytes]:
        return (0, b"1") if op == p.FILE_STAT else real(self, op, body)

    for handler, errno in (
        (shrinking, abi.EIO),
        (growing, abi.ESTALE),
        (lying, abi.EIO),
        (huge, abi.E2BIG),
        (short, abi.EIO),
    ):
        kernel.write_bytes(build_kernel())
        with monkeypatch.context() as patch:
            patch.setattr(FileProxy, "handle", handler)
            with pytest.raises(ToolError) as caught:
                domb.builder.create(CreateRequest("kernel"))
        assert caught.value.errno == errno, handler.__name__
        assert domb.machine.files.files == {}
    domb.clean()


def test_garbage_ends_the_connection_and_a_new_one_is_offered(domb: Domb) -> None:
    for garbage in (b"x" * 16, p.HEADER.pack(p.MAGIC, 1, 1, 0, p.MAX_BODY + 1), p.HEADER.pack(p.MAGIC + 1, 1, 1, 0, 0)):
        _, chan = domb.raw()
        chan.send(garbage)
        domb.machine.settle()
        assert not chan.is_open()
        chan.close()
        domb.machine.settle()
        domb.machine.builder = domb.builder = domb.machine.connect()  # type: ignore[assignment]
        guest = domb.builder.create(CreateRequest("kernel", "", 128))
        domb.builder.destroy(guest.domid)
    domb.clean()


@pytest.mark.parametrize("garbage", [b"x" * 16, p.HEADER.pack(p.MAGIC, 1, 1, 0, p.MAX_BODY + 1)])
def test_a_tool_is_told_what_is_wrong_with_dombs_answer(domb: Domb, garbage: bytes) -> None:
    """Garbage from DomB ends the tool's connection, and the tool knows why; later calls know that DomB is gone."""
    assert domb.service.chan is not None
    domb.service.chan.send(garbage)
    with pytest.raises(ToolError, match="garbage") as caught:
        domb.builder.create(CreateRequest("kernel"))
    assert caught.value.errno == abi.EIO
    with pytest.raises(ToolError, match="gone") as caught:
        domb.builder.pause(2)
    assert caught.value.errno == EPIPE
    domb.machine.settle()
    domb.clean()


@pytest.mark.parametrize("body", [b"", b"short", bytes(p.GUEST.size - 1), bytes(p.GUEST.size + 1)])
def test_an_answer_that_names_no_guest(domb: Domb, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """DomB says that the guest is built, and not which one: the tool says so, and believes no part of it."""
    monkeypatch.setattr(RemoteService, "call", lambda self, op, sent: body)
    with pytest.raises(ToolError, match="create: DomB sends garbage") as caught:
        domb.builder.create(CreateRequest("kernel"))
    assert caught.value.errno == abi.EIO
    monkeypatch.undo()
    domb.clean()


def test_impossible_indices(domb: Domb) -> None:
    os, chan = domb.raw()
    os.store(chan.page + 4, b"\xff\xff\xff\x7f")  # left.prod
    domb.machine.settle()
    assert not chan.is_open() and any("hang up" in step[2] for step in domb.log)
    chan.close()
    domb.clean()


def test_messages_that_are_no_requests(domb: Domb) -> None:
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    sent = [
        p.Message(77, 1, 0, b""),
        p.Message(p.DESTROY, 2, 0, b"toolong"),
        p.Message(p.CREATE, 3, 0, b"??"),
        p.Message(p.CREATE, 4, 0, p.CREATE_HEAD.pack(128, 1, 0, 0) + b"\xff"),
        p.Message(p.FILE_READ | p.REPLY, 5, 0, b""),
    ]
    for message in sent:
        assert pipe.send(message)
    domb.machine.settle()
    answers = [answer.status for _ in range(4) if (answer := pipe.receive())]
    assert answers == [-abi.ENOSYS, -abi.EINVAL, -abi.EINVAL, -abi.EINVAL] and pipe.receive() is None
    chan.close()
    domb.clean()


def test_a_second_build_waits_its_turn(domb: Domb) -> None:
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    body = CreateRequest("kernel").pack()
    pipe.send(p.Message(p.CREATE, 1, 0, body))
    pipe.send(p.Message(p.CREATE, 2, 0, body))
    domb.machine.settle()
    first, second = pipe.receive(), pipe.receive()
    assert first is not None and first.op == p.FILE_OPEN
    assert second is not None and (second.number, second.status) == (2, -abi.EBUSY)
    chan.close()
    domb.clean()


def test_the_client_dies_while_files_are_read(domb: Domb) -> None:
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    pipe.send(p.Message(p.CREATE, 1, 0, CreateRequest("kernel").pack()))
    domb.machine.settle()
    domb.machine.processes.pop().exit()  # kill -9: the kernel clears the live byte
    domb.machine.settle()
    assert domb.service.job is None and set(domb.machine.xen.domains) == {0, domb.domb.domain.domid}
    assert domb.machine.offered() is not None
    domb.clean()


def test_a_guest_nobody_was_told_of_is_destroyed(domb: Domb) -> None:
    files = FileProxy(domb.root)
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    pipe.send(p.Message(p.CREATE, 1, 0, CreateRequest("kernel", "", 128).pack()))
    built = False
    for _ in range(100):
        domb.machine.settle()
        if len(domb.machine.xen.domains) == 3:
            built = True
            break  # the answer is in the ring, unread
        message = pipe.receive()
        assert message is not None
        status, body = files.handle(message.op, message.body)
        pipe.send(p.Message(message.op | p.REPLY, message.number, status, body))
    assert built
    domb.machine.processes.pop().exit()
    domb.machine.settle()
    assert set(domb.machine.xen.domains) == {0, domb.domb.domain.domid}
    files.close_all()
    domb.clean()


def test_domb_dies(domb: Domb) -> None:
    guest = domb.builder.create(CreateRequest("kernel", "", 128))
    domb.service.step = lambda: False  # type: ignore[method-assign]  # it hangs
    with pytest.raises(ToolError, match="does not answer"):
        domb.builder.pause(guest.domid)
    domb.service.hang_up()
    for _ in range(2):
        with pytest.raises(ToolError, match="is gone") as caught:
            domb.builder.pause(guest.domid)
        assert caught.value.errno == EPIPE
        domb.builder.close()


def test_a_hostile_server(domb: Domb) -> None:
    """The client checks copies of the server's data in its page."""
    os = domb.machine.spawn("client")
    server = domb.service.os
    for write_at, payload in (
        (ORDERS, b"\x0b\0\x0b\0"),
        (ORDERS, b"\x09\0\x0c\0"),
        (ORDERS, b"\xff\xff\xff\xff"),
        (ORDERS, b"\x14\0\x14\0"),
        (GRANTS, b"\xff\xff\xff\xff"),
        (ORDERS, b"\x0d\0\x0d\0"),
    ):
        chan, offer = server_init(server, 0, 12, 12)
        server.store(chan.page + write_at, payload)
        with pytest.raises(OSError):
            client_init(os, Offer(domb.domb.domain.domid, offer.ring_ref, offer.port))
        chan.close()
    for ref, port in ((0, 1), (1, 0), (4000, 1), (8, 99)):
        with pytest.raises(OSError):
            client_init(os, Offer(domb.domb.domain.domid, ref, port))
    domb.clean()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=200),
            st.builds(
                lambda op, n, s, b: p.HEADER.pack(p.MAGIC, op, n, s, len(b)) + b,
                st.sampled_from([0, 1, 2, 3, 4, 5, 0x21, 0x8001, 0x8021, 0x8022, 0x8023, 0xFFFF]),
                st.integers(0, 5),
                st.integers(-(1 << 31), (1 << 31) - 1),
                st.binary(max_size=60),
            ),
            st.tuples(st.sampled_from([0, 4, 8, 12, ORDERS, CLI_LIVE, 21, GRANTS, 1024]), st.binary(min_size=1, max_size=8)),
        ),
        max_size=12,
    )
)
def test_anything_may_arrive(actions: list[bytes | tuple[int, bytes]]) -> None:
    domb = SHARED[0]
    os, chan = domb.raw()
    for action in actions:
        if isinstance(action, tuple):
            os.store(chan.page + action[0], action[1])
        else:
            chan.send(action)
        domb.machine.settle()
    chan.close()
    domb.machine.settle()
    domb.machine.processes.pop().exit()
    domb.service.hang_up()
    domb.domb.retry_late()
    assert set(domb.machine.xen.domains) == {0, domb.domb.domain.domid} and not domb.domb.late
    assert domb.domb.ram.in_use() == domb.machine.before["DomB's used pages"] + 1
    domb.service.offer()


SHARED: list[Domb] = []


@pytest.fixture(autouse=True, scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> None:
    SHARED[:] = [Domb(tmp_path_factory.mktemp("files"))]


def build_for(domb: Domb, pipe: p.Pipe, files: FileProxy, rounds: int = 100) -> None:
    """Serve files until a guest exists; its answer stays in the ring, or in the queue behind it."""
    for _ in range(rounds):
        domb.machine.settle()
        if domb.service.guests:
            return
        while (message := pipe.receive()) is not None:
            status, body = files.handle(message.op, message.body)
            pipe.send(p.Message(message.op | p.REPLY, message.number, status, body))
    raise AssertionError("no guest was built")


def domains(domb: Domb) -> set[int]:
    return set(domb.machine.xen.domains)


def test_nothing_of_a_sealed_guest_is_left_in_dombs_tlb(domb: Domb) -> None:
    """Cleared page-table entries may stay in a TLB: DomB flushes before it releases the pages."""
    guest = domb.builder.create(CreateRequest("kernel", "disk", 128))
    theirs = domb.machine.xen.domains[guest.domid]
    cached = [frame for vcpu in domb.domb.domain.vcpus for frame, _, _ in vcpu.tlb.entries.values()]
    assert cached and not any(frame.owner is theirs for frame in cached)
    domb.builder.destroy(guest.domid)
    domb.clean()


def test_a_guest_whose_answer_never_left_the_outbox_is_destroyed(domb: Domb) -> None:
    """The ring is full of unread answers: the client disconnects before the answer about its guest is in it."""
    files = FileProxy(domb.root)
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    pipe.send(p.Message(p.CREATE, 1, 0, CreateRequest("kernel", "", 128).pack()))
    real = domb.service._flush

    def stuck(pipe: p.Pipe) -> None:
        if not domb.service.guests:
            real(pipe)

    domb.service._flush = stuck  # type: ignore[method-assign]
    build_for(domb, pipe, files)
    assert len(domains(domb)) == 3 and domb.service.outbox
    del domb.service._flush
    domb.service.hang_up()
    assert domains(domb) == {0, domb.domb.domain.domid}
    files.close_all()


def test_a_guest_nobody_was_told_of_is_nobodys_to_ask_for(domb: Domb) -> None:
    files = FileProxy(domb.root)
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    pipe.send(p.Message(p.CREATE, 1, 0, CreateRequest("kernel", "", 128).pack()))
    build_for(domb, pipe, files)
    (domid,) = domb.service.guests
    pipe.send(p.Message(p.UNPAUSE, 2, 0, p.DOMID.pack(domid)))
    domb.machine.settle()
    first, second = pipe.receive(), pipe.receive()
    assert first is not None and first.op == p.CREATE | p.REPLY and first.status == 0
    assert second is not None and (second.number, second.status) == (2, -abi.ESRCH)
    pipe.send(p.Message(p.UNPAUSE, 3, 0, p.DOMID.pack(domid)))  # now it knows
    domb.machine.settle()
    third = pipe.receive()
    assert third is not None and (third.number, third.status) == (3, 0)
    pipe.send(p.Message(p.DESTROY, 4, 0, p.DOMID.pack(domid)))
    domb.machine.settle()
    chan.close()
    files.close_all()
    domb.clean()


def test_an_id_that_is_another_incarnations_is_not_touched(domb: Domb) -> None:
    guest = domb.builder.create(CreateRequest("kernel", "", 128))
    domb.machine.xen.domains[guest.domid].handle = bytes(16)  # as if the id had been reused
    for call in (domb.builder.pause, domb.builder.unpause, domb.builder.destroy):
        with pytest.raises(ToolError) as caught:
            call(guest.domid)
        assert caught.value.errno == abi.ESRCH
    assert domb.machine.xen.domains[guest.domid].pause_count == 1
    assert domb.domb.domctl(abi.DOMCTL_DESTROYDOMAIN, guest.domid)[0] == 0
    domb.clean()


def test_a_second_pause_changes_nothing(domb: Domb) -> None:
    guest = domb.builder.create(CreateRequest("kernel", "", 128))
    domb.builder.unpause(guest.domid)
    domain = domb.machine.xen.domains[guest.domid]
    for _ in range(3):
        domb.builder.pause(guest.domid)
    assert domain.pause_count == 1
    domb.builder.unpause(guest.domid)
    with pytest.raises(ToolError) as caught:
        domb.builder.unpause(guest.domid)
    assert caught.value.errno == abi.EINVAL and domain.pause_count == 0
    domb.builder.destroy(guest.domid)
    domb.clean()


def test_what_cannot_be_undone_at_once_is_undone_later(domb: Domb, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build fails, and so does the destruction: no other build begins before the half-built guest is gone."""
    real = ctrl.xc_domain_destroy
    left = [3]

    def failing(xch: ctrl.XcInterface, domid: int) -> int:
        left[0] -= 1
        xch.os.errno = abi.ENOMEM
        return real(xch, domid) if left[0] < 0 else -1

    def stop(step: str, what: str) -> None:
        if step == "seed grants":
            raise OsError(abi.EIO)

    monkeypatch.setattr(ctrl, "xc_domain_destroy", failing)
    monkeypatch.setattr(domb.service, "on_step", stop)
    with pytest.raises(ToolError) as caught:
        domb.builder.create(CreateRequest("kernel", "", 128))
    assert caught.value.errno == abi.EIO
    if domb.service.failing is not None:
        with pytest.raises(ToolError):
            left[0] = 1
            domb.builder.create(CreateRequest("kernel", "", 128))
    for _ in range(4):
        domb.service.step()
    assert domains(domb) == {0, domb.domb.domain.domid} and domb.service.failing is None
    monkeypatch.undo()
    domb.builder.destroy(domb.builder.create(CreateRequest("kernel", "", 128)).domid)
    domb.clean()


def test_an_abandoned_guest_is_destroyed_later_if_not_at_once(domb: Domb, monkeypatch: pytest.MonkeyPatch) -> None:
    files = FileProxy(domb.root)
    _, chan = domb.raw()
    pipe = p.Pipe(chan)
    pipe.send(p.Message(p.CREATE, 1, 0, CreateRequest("kernel", "", 128).pack()))
    build_for(domb, pipe, files)
    with monkeypatch.context() as patch:
        patch.setattr(ctrl, "xc_domain_destroy", lambda xch, domid: -1)
        domb.machine.processes.pop().exit()
        domb.machine.settle()
        assert len(domains(domb)) == 3 and domb.service.offered is not None
    assert domb.service.step(), "it does something, and says that there was nothing to do"
    assert domains(domb) == {0, domb.domb.domain.domid}
    files.close_all()
    domb.clean()


def test_a_channel_that_cannot_be_offered_is_offered_later(domb: Domb) -> None:
    _, chan = domb.raw()
    kept, domb.domb.free_refs = domb.domb.free_refs, []
    chan.send(b"x" * 16)
    domb.service.step()
    assert domb.service.chan is None and not domb.service.step()
    chan.close()
    domb.domb.free_refs += kept
    domb.machine.settle()
    assert domb.machine.offered() is not None
    domb.clean()


def test_only_a_cleared_page_of_its_own_is_seeded(domb: Domb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages granted before the guest runs contain no loaded data, for any layout."""
    for name, other in (("console", "kernel"), ("xenstore", "start_info"), ("console", "xenstore")):
        with monkeypatch.context() as patch:

            def confused(image: Image, size: int, pages: int, name: str = name, other: str = other) -> Layout:
                layout = plan(image, size, pages)
                segments = {**layout.segments, name: layout.segments[other]}
                return replace(layout, segments=segments)

            patch.setattr(builder, "plan", confused)
            with pytest.raises(ToolError, match="not a cleared page"):
                domb.builder.create(CreateRequest("kernel", "", 128))
    assert domains(domb) == {0, domb.domb.domain.domid}
    domb.clean()
