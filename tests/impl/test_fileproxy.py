"""The file proxy: only regular files below its directory, bounded, and errors for everything else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bulkhead.impl.domb import protocol as p
from bulkhead.impl.tools.fileproxy import MAX_FILES, FileProxy
from bulkhead.impl.xen import abi

ELOOP = 40


@pytest.fixture
def proxy(tmp_path: Path) -> FileProxy:
    root = tmp_path / "export"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_bytes(b"0123456789")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (root / "inside").symlink_to("sub/file")
    os.mkfifo(root / "fifo")
    return FileProxy(root)


def test_reading(proxy: FileProxy) -> None:
    fd = proxy.open(b"sub/file")
    assert proxy.stat(fd)[0] == 10 and proxy.read(fd, 8, 100) == b"89" and proxy.read(fd, 50, 1) == b""
    proxy.close(fd)
    assert proxy.read_file("sub/file") == b"0123456789" and proxy.files == {}


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        (b"", abi.EACCES),
        (b"/etc/passwd", abi.EACCES),
        (b"../secret", abi.EACCES),
        (b"sub/../../secret", abi.EACCES),
        (b"sub//file", abi.EACCES),
        (b"./sub/file", abi.EACCES),
        (b"sub/file\0x", abi.EACCES),
        (b"link", ELOOP),
        (b"up/secret", 20),
        (b"inside", ELOOP),
        (b"sub", abi.EACCES),
        (b"fifo", abi.EACCES),
        (b"none", abi.ENOENT),
        (b"sub/file/x", 20),
        (b"x" * 300, 36),
        (b"x" * 2000, 36),
    ],
)
def test_what_is_outside_stays_outside(proxy: FileProxy, path: bytes, errno: int) -> None:
    assert proxy.handle(p.FILE_OPEN, path) == (-errno, b"") and proxy.files == {}


def test_limits(proxy: FileProxy) -> None:
    fds = [proxy.open(b"sub/file") for _ in range(MAX_FILES)]
    assert proxy.handle(p.FILE_OPEN, b"sub/file") == (-24, b"")
    assert proxy.handle(p.FILE_READ, p.READ.pack(fds[0], 0, p.MAX_READ + 1)) == (-abi.EINVAL, b"")
    assert proxy.handle(p.FILE_READ, p.READ.pack(fds[0], (1 << 64) - 1, 1)) == (-abi.EINVAL, b"")
    assert proxy.handle(p.FILE_READ, p.READ.pack(fds[0], 1 << 62, 1)) == (-abi.EINVAL, b"")
    assert proxy.handle(p.FILE_READ, p.READ.pack(fds[0], (1 << 62) - 1, p.MAX_READ)) == (0, b"")
    assert proxy.handle(p.FILE_READ, p.READ.pack(99, 0, 1)) == (-abi.EBADF, b"")
    assert proxy.handle(p.FILE_CLOSE, p.FD.pack(99)) == (-abi.EBADF, b"")
    assert proxy.handle(p.FILE_STAT, b"x") == (-abi.EINVAL, b"") and proxy.handle(0x99, b"")[0] == -abi.ENOSYS
    proxy.close_all()
    assert proxy.files == {}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([p.FILE_OPEN, p.FILE_STAT, p.FILE_READ, p.FILE_CLOSE, 0, 99]),
            st.one_of(
                st.binary(max_size=40),
                st.sampled_from([b"sub/file", b"link", p.FD.pack(1), p.FD.pack(2)]),
                st.builds(p.READ.pack, st.integers(0, 3), st.integers(0, (1 << 64) - 1), st.integers(0, 1 << 13)),
                st.lists(st.sampled_from([b"..", b"sub", b"file", b"", b"link", b"."]), max_size=5).map(b"/".join),
            ),
        ),
        max_size=8,
    )
)
def test_any_request_has_an_answer(proxy: FileProxy, requests: list[tuple[int, bytes]]) -> None:
    for op, body in requests:
        status, answer = proxy.handle(op, body)
        assert -4096 < status <= 0 and len(answer) <= p.MAX_BODY and b"secret" not in answer
    proxy.close_all()
