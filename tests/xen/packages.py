"""The Debian packages of the rig: fetched by apt, checked by checksum, unpacked into a separate folder.

Contents: `packages.lock` (one package per line: name, version, architecture, SHA-256) and filling
the cache. Nothing is installed: no package's script is run, and the boot set-up of this machine is not changed. Not
here: building from them (build.py).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.xen.problems import Unavailable

LOCK: Final = Path(__file__).with_name("packages.lock")
DOWNLOAD_SECONDS: Final = 600
TOOLS: Final = ("apt-get", "dpkg-deb")
Package = tuple[str, str, str, str]


@dataclass(frozen=True)
class Cache:
    """The folders of packages and unpacked files."""

    home: Path

    @property
    def debs(self) -> Path:
        """The folder of the packages."""
        return self.home / "debs"

    def root(self, lock: Sequence[Package]) -> Path:
        """The unpacked tree of exactly these packages."""
        name = hashlib.sha256("\n".join(" ".join(p) for p in lock).encode()).hexdigest()[:12]
        return self.home / f"root-{name}"


def default_cache() -> Cache:
    """`$XDG_CACHE_HOME/bulkhead/xen`; `make clean` does not remove it."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Cache(Path(home) / "bulkhead" / "xen")


def read_lock(path: Path = LOCK) -> list[Package]:
    """The pinned packages."""
    rows = [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, version, arch, digest) for name, version, arch, digest in rows]


def file_name(package: Package) -> str:
    """apt-get's name of the downloaded file."""
    name, version, arch, _ = package
    return f"{name}_{version.replace(':', '%3a')}_{arch}.deb"


def is_good(path: Path, package: Package) -> bool:
    """Does it exist, and is it exactly the pinned package?"""
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == package[3]


def missing(cache: Cache, lock: Sequence[Package]) -> list[Package]:
    """Packages that are missing in the cache or differ from the pinned ones."""
    return [package for package in lock if not is_good(cache.debs / file_name(package), package)]


def unpacked(cache: Cache, lock: Sequence[Package]) -> bool:
    """Is the tree of these packages complete?"""
    return (cache.root(lock) / ".complete").exists()


def provide(cache: Cache, lock: Sequence[Package] | None = None, fetch: bool = True) -> Path:
    """The root of the unpacked packages; with `fetch`, downloads missing packages. Unavailable with one line."""
    wanted = read_lock() if lock is None else list(lock)
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in ("x86_64", "AMD64"):
        raise Unavailable(f"real Xen runs on amd64 Linux only, and this is {platform.system()} on {machine}")
    if unpacked(cache, wanted):
        return cache.root(wanted)
    for tool in TOOLS:
        if shutil.which(tool) is None:
            raise Unavailable(f"`{tool}` is not here: the rig's packages come from Debian")
    lacking = missing(cache, wanted)
    if lacking and not fetch:
        raise Unavailable(f"{len(lacking)} of {len(wanted)} Debian packages are not cached in {cache.debs}: run `make xen`")
    if lacking:
        _download(cache, lacking)
    _unpack(cache, wanted)
    return cache.root(wanted)


def _apt(cache: Cache, *words: str) -> subprocess.CompletedProcess[str]:
    """apt-get with separate lists, so that this machine's are neither needed nor changed."""
    lists = cache.home / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    own = [
        "-o",
        f"Dir::State::Lists={lists}",
        "-o",
        f"Dir::Cache={cache.home / 'apt'}",
        "-o",
        "Debug::NoLocking=1",
        "-o",
        "APT::Sandbox::User=root",
        "-o",
        "Acquire::Languages=none",
        "-o",
        "APT::Update::Post-Invoke::=",
    ]
    try:
        return subprocess.run(
            ["apt-get", "-qq", *own, *words],
            cwd=cache.debs,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"Debian's mirror did not answer within {DOWNLOAD_SECONDS} s") from exc


def _download(cache: Cache, lacking: Sequence[Package]) -> None:
    try:
        cache.debs.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Unavailable(f"{cache.debs} cannot be made ({exc.strerror}): set XDG_CACHE_HOME") from exc
    names = [f"{name}={version}" for name, version, _, _ in lacking]
    ran = _apt(cache, "download", *names)
    if ran.returncode:  # usually the lists are missing or old
        updated = _apt(cache, "update")
        ran = _apt(cache, "download", *names)
        if ran.returncode:
            raise Unavailable("apt-get cannot get the pinned packages: " + _reason(ran.stderr or updated.stderr))
    for package in lacking:
        if not is_good(cache.debs / file_name(package), package):
            (cache.debs / file_name(package)).unlink(missing_ok=True)
            raise Unavailable(f"{file_name(package)} is not the package that packages.lock pins: its checksum differs")


def _reason(stderr: str) -> str:
    lines = [line[3:] for line in stderr.splitlines() if line.startswith("E: ")]
    return lines[0] if lines else "no reason given"


def _unpack(cache: Cache, wanted: Sequence[Package]) -> None:
    root = cache.root(wanted)
    part = root.with_name(f"{root.name}.{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    for package in wanted:
        ran = subprocess.run(
            ["dpkg-deb", "-x", str(cache.debs / file_name(package)), str(part)], capture_output=True, text=True, check=False
        )
        if ran.returncode:
            shutil.rmtree(part, ignore_errors=True)
            raise Unavailable(f"{file_name(package)} cannot be unpacked: {ran.stderr.strip().splitlines()[-1:]}")
    (part / ".complete").touch()
    if root.exists():
        shutil.rmtree(root)
    part.rename(root)
