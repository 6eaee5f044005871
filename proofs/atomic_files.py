"""Writes files atomically: under a temporary name in the same folder, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.diagnostics import UsageError

_unfinished: set[str] = set()  # existing temporary files and folders
_writing = threading.Lock()  # held while a file is written, and permanently once the process is about to end


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file atomically; creates its folder.

    A link is followed. An existing special file (a device, a pipe) is written directly. Raises `OSError`
    with the file's name.
    """
    real = Path(os.path.realpath(path))
    data = content.encode() if isinstance(content, str) else content
    with _writing:
        try:
            if real.exists() and not real.is_file():
                with real.open("wb") as out:
                    out.write(data)
            else:
                _replace(real, data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    _unfinished.add(temporary)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    finally:
        _unfinished.discard(temporary)


@contextlib.contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A temporary folder, also removed when the process is interrupted."""
    folder = tempfile.mkdtemp(prefix=f"{name}-")
    _unfinished.add(folder)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unfinished.discard(folder)


def writable(folder: Path) -> None:
    """Create a folder and check that it is writable; raises `OSError` before any work is done."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def needs_file(path: Path, option: str = "--json") -> None:
    """Check that a result can be written to a file; raises `UsageError` before any work is done."""
    if path == Path():
        raise UsageError(f"{option} needs the name of a file.")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; {option} needs a file.")
    try:
        real = Path(os.path.realpath(path))
        if real.exists():
            if not os.access(real, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            if not real.is_file():
                return
        writable(real.parent)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}).") from None


def drop_unfinished() -> None:
    """Remove unfinished files, in a process that is about to end and writes nothing more."""
    _writing.acquire(timeout=0.5)
    for name in list(_unfinished):
        shutil.rmtree(name, ignore_errors=True)
        if os.path.exists(name):
            os.unlink(name)
