"""The folder that file proxies export: kernels, ramdisks, links out of it, and files outside of it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bulkhead.proofs.refinement.domb.files import BAD, BIG_DISK, GOOD, SMALL_DISKS


def files(root: Path) -> None:
    """The files that the proxies export, and files outside of that directory."""
    inside = root / "exported"
    (inside / "dir").mkdir(parents=True)
    (root / "secret").write_bytes(GOOD[0])
    (inside / "link").symlink_to(root / "secret")
    (inside / "away").symlink_to("/etc")
    (inside / "dir" / "kernel0").write_bytes(GOOD[0])
    for i, content in enumerate(GOOD):
        (inside / f"kernel{i}").write_bytes(content)
    for i, content in enumerate(BAD):
        (inside / f"bad{i}").write_bytes(content)
    for i, content in enumerate(SMALL_DISKS):
        (inside / f"disk{i}").write_bytes(content)
    (inside / "big").write_bytes(BIG_DISK)


@contextlib.contextmanager
def exported() -> Iterator[Path]:
    """A folder of its own with these files, which is removed in the end."""
    with tempfile.TemporaryDirectory(prefix="bulkhead-domb-") as folder:
        files(Path(folder))
        yield Path(folder) / "exported"


__all__ = ["exported", "files"]
