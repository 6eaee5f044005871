"""The rig's packages: pinned, checked, and refused with one line if they are unavailable."""

from __future__ import annotations

import hashlib
import platform
import shutil
from pathlib import Path

import pytest

from tests.xen import packages
from tests.xen.build import cpio, vmlinux
from tests.xen.packages import Cache, Package, file_name, missing, provide, read_lock
from tests.xen.problems import Unavailable

FAKE: Package = ("some-package", "1:2.3-4", "all", hashlib.sha256(b"contents").hexdigest())


def test_the_lock_pins_what_is_booted() -> None:
    lock = {name: digest for name, _, _, digest in read_lock()}
    booted = {"xen-hypervisor-4.17-amd64", "linux-image-6.1.0-56-amd64", "qemu-system-x86", "libxen-dev", "seabios"}
    assert booted <= set(lock)
    assert all(len(digest) == 64 for digest in lock.values())


def test_a_package_with_other_contents_counts_as_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.debs.mkdir(parents=True)
    path = cache.debs / file_name(FAKE)
    assert path.name == "some-package_1%3a2.3-4_all.deb"
    path.write_bytes(b"contents")
    assert missing(cache, [FAKE]) == []
    path.write_bytes(b"contents, changed")
    assert missing(cache, [FAKE]) == [FAKE]


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_apt", lambda *a: pytest.fail("apt was called"))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(Unavailable, match=r"1 of 1 Debian packages are not cached .* run `make xen`"):
        provide(Cache(tmp_path), [FAKE], fetch=False)


def test_another_architecture_and_a_missing_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="`apt-get` is not here"):
        provide(Cache(tmp_path), [FAKE])
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(Unavailable, match="amd64 Linux only, and this is Linux on aarch64"):
        provide(Cache(tmp_path), [FAKE])


def test_a_download_that_is_not_the_pinned_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ran:
        returncode, stderr = 0, ""

    def apt(cache: Cache, *words: str) -> Ran:
        (cache.debs / file_name(FAKE)).write_bytes(b"something else")
        return Ran()

    monkeypatch.setattr(packages, "_apt", apt)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(Unavailable, match="its checksum differs"):
        provide(Cache(tmp_path), [FAKE])
    assert not (Cache(tmp_path).debs / file_name(FAKE)).exists()


def test_the_archive_is_one_that_cpio_knows() -> None:
    archive = cpio(["dev"], [("init", 0o755, b"#!"), ("odd", 0o644, b"123")])
    assert archive.startswith(b"070701") and b"TRAILER!!!" in archive and len(archive) % 4 == 0
    at, names = 0, []
    while archive[at : at + 6] == b"070701":
        fields = [int(archive[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        names.append(archive[at + 110 : at + 110 + fields[11] - 1].decode())
        at += (110 + fields[11] + 3) // 4 * 4
        at += (fields[6] + 3) // 4 * 4
    assert names == ["dev", "dev/console", "init", "odd", "TRAILER!!!"]


def test_a_kernel_of_another_kind_is_refused() -> None:
    with pytest.raises(Unavailable, match="no xz-compressed image"):
        vmlinux(b"MZ" + bytes(1000))
