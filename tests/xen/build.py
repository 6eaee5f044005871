"""Builds QEMU's images from packages and C sources: the hypervisor, Dom0's kernel, and an initramfs with our executor.

Contents: compiling the agent guest and the executor with the machine's gcc, unpacking of compressed images, the cpio
archive. Everything is cached in a folder whose name is a hash of the inputs, so that a second start builds nothing. Not
here: fetching packages (packages.py), and starting (machine.py).
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.xen.problems import Unavailable

HERE: Final = Path(__file__).parent
MODULES: Final = (
    "xen/xen-evtchn",
    "xen/xen-gntdev",
    "xen/xen-gntalloc",
    "xen/xen-privcmd",
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci",
    "char/virtio_console",
)
INTERFACE: Final = "-D__XEN_INTERFACE_VERSION__=0x00040e00"  # the newest version in Xen 4.17's headers
FREESTANDING: Final = (
    "-O2",
    "-ffreestanding",
    "-fpie",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Wextra",
    "-Werror",
)
AGENTS: Final = {"agent.bin": (), "agent-pvh.bin": ("-DPVH",)}  # images, and what distinguishes them
XZ_MAGIC: Final = b"\xfd7zXZ\x00"


@dataclass(frozen=True)
class Images:
    """The images to start a machine from."""

    qemu: Path
    library_path: str
    firmware: tuple[Path, ...]
    xen: Path
    kernel: Path
    initramfs: Path
    snapshots: Path | None = None  # cache of booted machines; None: boot each one


def build(root: Path, folder: Path) -> Images:
    """Build missing files below `folder`. Unavailable with one line if a tool is missing or does not work."""
    sources = [p for pattern in ("*.h", "guest/*", "dom0/*", "build.py") for p in sorted(HERE.glob(pattern))]
    mark = hashlib.sha256(b"".join([root.name.encode(), *(p.read_bytes() for p in sources)])).hexdigest()[:12]
    into = folder / mark
    if not (into / ".complete").exists():
        part = folder / f"{mark}.{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            _make(root, part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        (part / ".complete").touch()
        shutil.rmtree(into, ignore_errors=True)
        part.rename(into)
    libraries = root / "usr/lib/x86_64-linux-gnu", root / "lib/x86_64-linux-gnu"
    return Images(
        root / "usr/bin/qemu-system-x86_64",
        ":".join(map(str, libraries)),
        (root / "usr/share/qemu", root / "usr/share/seabios"),
        into / "xen",
        into / "vmlinux",
        into / "initramfs",
        into,
    )


def _make(root: Path, into: Path) -> None:
    for tool in ("gcc", "ld"):
        if shutil.which(tool) is None:
            raise Unavailable(f"`{tool}` is not here: the rig compiles its guest (apt-get install gcc libc6-dev)")
    headers = ["-I", str(HERE), "-idirafter", str(root / "usr/include"), INTERFACE]
    for image, kind in AGENTS.items():
        _guest(into / image, [*headers, *kind])
    parts = [str(p) for p in sorted((HERE / "dom0").glob("*.c"))]
    _run(
        [
            "gcc",
            "-O1",
            "-s",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-static",
            "-D__XEN_TOOLS__",
            *headers,
            "-o",
            str(into / "init"),
            *parts,
        ]
    )
    (into / "xen").write_bytes(gzip.decompress(_one(root, "boot/xen-*-amd64.gz").read_bytes()))
    (into / "vmlinux").write_bytes(vmlinux(_one(root, "boot/vmlinuz-*").read_bytes()))
    files = [("init", 0o755, (into / "init").read_bytes())]
    files += [(image, 0o644, (into / image).read_bytes()) for image in AGENTS]
    for module in MODULES:
        path = _one(root, f"lib/modules/*/kernel/drivers/{module}.ko")
        files.append((f"modules/{path.name}", 0o644, path.read_bytes()))
    (into / "initramfs").write_bytes(cpio(["dev", "proc", "modules"], files))


def _guest(image: Path, options: Sequence[str]) -> None:
    """The agent guest as a flat image; its entry comes first."""
    objects = []
    for source in ("guest/entry.S", "guest/agent.c"):
        objects.append(f"{image}.{Path(source).name}.o")
        _run(["gcc", *FREESTANDING, *options, "-c", str(HERE / source), "-o", objects[-1]])
    script = str(HERE / "guest/agent.lds")
    _run(["ld", "-T", script, "--oformat", "binary", "--build-id=none", "-o", str(image), *objects])


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern)) or sorted((root / "usr").glob(pattern))
    if len(found) != 1:
        raise Unavailable(f"the packages hold {len(found)} files {pattern}, not one")
    return found[0]


def _run(command: Sequence[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if ran.returncode:
        lines = [line for line in ran.stderr.splitlines() if "error" in line.lower()] or ran.stderr.splitlines() or ["?"]
        raise Unavailable(f"{command[0]} cannot build {Path(command[-1]).name}: {lines[0].strip()[:200]}")


def vmlinux(image: bytes) -> bytes:
    """The ELF kernel in a bzImage: Xen boots it too, and the emulator need not decompress it."""
    at = image.find(XZ_MAGIC)
    if at < 0:
        raise Unavailable("Dom0's kernel holds no xz-compressed image")
    out = lzma.LZMADecompressor().decompress(image[at:])
    if not out.startswith(b"\x7fELF"):
        raise Unavailable("Dom0's kernel is not an ELF image")
    return out


def cpio(folders: Sequence[str], files: Sequence[tuple[str, int, bytes]]) -> bytes:
    """An initramfs archive in the kernel's `newc` format; with /dev/console for init's output."""
    out = bytearray()

    def member(number: int, name: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(raw), 0)
        out.extend(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.extend(bytes(-len(out) % 4) + data)
        out.extend(bytes(-len(out) % 4))

    for number, name in enumerate(folders, 1):
        member(number, name, 0o040755, b"")
    member(100, "dev/console", 0o020600, b"", (5, 1))
    for number, (name, mode, data) in enumerate(files, 200):
        member(number, name, 0o100000 | mode, data)
    member(0, "TRAILER!!!", 0, b"")
    return bytes(out)
