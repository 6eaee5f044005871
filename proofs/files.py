"""Files written whole or not at all: under a temporary name in the same folder, then put in place."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from model.diagnostics import UsageError

_unfinished: set[str] = set()  # temporary files that stand on the disk now


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file so that it is there as a whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    _unfinished.add(temporary)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content.encode() if isinstance(content, str) else content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    finally:
        _unfinished.discard(temporary)


def writable(folder: Path) -> None:
    """Make a folder and see that files can be written there; raises `OSError` before any work is done for nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def needs_file(path: Path) -> None:
    """See that a result can be written to a file; raises `UsageError` before any work is done for nothing."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; --json needs a file.")
    try:
        writable(path.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None


def drop_unfinished() -> None:
    """Remove files that were being written; for a process about to end."""
    for name in list(_unfinished):
        if os.path.exists(name):
            os.unlink(name)
