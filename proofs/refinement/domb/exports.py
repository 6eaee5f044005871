"""The folder that file proxies export: kernels, ramdisks, links out of it, what is no file, and files outside of it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bulkhead.proofs.refinement.domb.files import BIG_DISK, SMALL_DISKS
from bulkhead.proofs.refinement.domb.kernels import BAD, GOOD

CHANGED = 1_000_000_007  # when the first file was changed last, in ns: long before it was put there


def files(root: Path) -> None:
    """The files that the proxies export, and files outside of that directory."""
    inside = root / "exported"
    (inside / "dir").mkdir(parents=True)
    (root / "secret").write_bytes(GOOD[0])
    (inside / "link").symlink_to(root / "secret")
    (inside / "away").symlink_to("/etc")
    (inside / "nowhere").symlink_to(root / "missing")
    os.mkfifo(inside / "pipe")
    (inside / "dir" / "kernel0").write_bytes(GOOD[0])
    for i, content in enumerate(GOOD):
        (inside / f"kernel{i}").write_bytes(content)
    for i, content in enumerate(BAD):
        (inside / f"bad{i}").write_bytes(content)
    for i, content in enumerate(SMALL_DISKS):
        (inside / f"disk{i}").write_bytes(content)
    (inside / "big").write_bytes(BIG_DISK)
    for n, name in enumerate(sorted(os.listdir(inside))):
        if (inside / name).is_file() and not (inside / name).is_symlink():
            os.utime(inside / name, ns=(n, CHANGED + n))


@contextlib.contextmanager
def exported(where: Path | None = None) -> Iterator[Path]:
    """A folder of its own with these files, below `where` or the system's folder for such; it is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-", dir=where) as folder:
        inside = Path(folder) / "exported"
        files(Path(folder))
        held = os.open(inside / "pipe", os.O_RDWR)  # so that a proxy that should not open it does not wait for a writer
        try:
            yield inside
        finally:
            os.close(held)


__all__ = ["exported", "files"]
