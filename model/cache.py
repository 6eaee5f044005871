"""Caches syntax trees of the shipped rules, and Lark's tables, between runs: unchanged text is not parsed again.

Trees are stored in the user's cache folder. The file name is a hash of everything they depend on: the rules' text, the
grammar, and the parser's code. Tables are stored in the Python environment if `make` set it up, else beside the trees. If
the cache cannot be used, the rules are parsed; the cache changes only the time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bulkhead.model import syntax

KEPT = 8
CODE = ("parser", "to_syntax", "lalr", "syntax", "diagnostics")  # the dependencies of a tree
TABLES = "grammar.lark-cache"
Parsed = list[tuple[syntax.RulesFile, str]]  # a file's tree and its text


def folder() -> Path:
    """The cache folder (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bulkhead"


def parsed(files: tuple[Path, ...], parse: Callable[[], Parsed]) -> Parsed:
    """The result of `parse` on `files`, from the cache if no file has changed. `parse` may raise."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for path in (*files, here.parent / "spec" / "language.lark", *(here / f"{name}.py" for name in CODE)):
        digest.update(f"{path}\0".encode() + path.read_bytes())
    try:
        place = folder() / f"rules-{digest.hexdigest()[:32]}.pickle"
    except RuntimeError:  # a user without a home
        return parse()
    try:
        with open(place, "rb") as file:
            if os.fstat(file.fileno()).st_uid == os.getuid():  # a pickle is code: read only our own
                kept: Parsed = pickle.load(file)
                return kept
    except Exception:  # missing, incomplete, or of another version: parse again
        pass
    made = parse()
    with contextlib.suppress(OSError, RuntimeError):
        _write(place, pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
    return made


def grammar() -> str:
    """The file in which Lark caches its tables for the grammar (Lark itself checks that they fit); "" for none."""
    try:
        if os.access(of_environment(), os.W_OK):
            return str(of_environment() / TABLES)
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        return (
            str(folder() / TABLES) if folder().stat().st_uid == os.getuid() and not folder().stat().st_mode & 0o022 else ""
        )
    except (OSError, RuntimeError):
        return ""


def of_environment() -> Path:
    """A folder of the Python environment, beside the installed code."""
    return Path(sys.prefix) / "share" / "bulkhead"


def _write(place: Path, content: bytes) -> None:
    """Write the file atomically, and delete all but a few older ones (of earlier rules or other checkouts)."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    others = sorted(place.parent.glob("rules-*.pickle"), key=lambda p: p.stat().st_mtime)
    for old in others[:-KEPT]:
        old.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(dir=place.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    os.replace(temporary, place)
