"""Syntax trees of the shipped rules, and Lark's tables, kept from run to run: unchanged text is not parsed again.

Trees lie in the user's cache folder under a name made from everything they depend on: the rules' text, the grammar, and
the code that parses. Tables lie in the Python environment if it was set up by `make`, else beside the trees. Whatever goes
wrong with what is kept, the rules are parsed; nothing but time depends on it.
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
CODE = ("parser", "lalr", "syntax", "diagnostics")  # what a tree depends on
TABLES = "grammar.lark-cache"
Parsed = list[tuple[syntax.RulesFile, str]]  # a file's tree and its text


def folder() -> Path:
    """The folder for files that can be made again (XDG base directories)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bulkhead"


def parsed(files: tuple[Path, ...], parse: Callable[[], Parsed]) -> Parsed:
    """The result of `parse` on `files`, kept from an earlier run if no file has changed. `parse` may raise."""
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
            if os.fstat(file.fileno()).st_uid == os.getuid():  # a pickle is code: only our own is read
                kept: Parsed = pickle.load(file)
                return kept
    except Exception:  # missing, torn, or of another version: parse again
        pass
    made = parse()
    with contextlib.suppress(OSError, RuntimeError):
        _write(place, pickle.dumps(made, pickle.HIGHEST_PROTOCOL))
    return made


def grammar() -> str:
    """The file in which Lark keeps its tables for the grammar (it looks itself whether they still fit); "" for nowhere."""
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
    """A folder of the Python environment, beside the code that it runs."""
    return Path(sys.prefix) / "share" / "bulkhead"


def _write(place: Path, content: bytes) -> None:
    """Put the file there as a whole, and keep only a few of earlier rules (or other checkouts)."""
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    others = sorted(place.parent.glob("rules-*.pickle"), key=lambda p: p.stat().st_mtime)
    for old in others[:-KEPT]:
        old.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(dir=place.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(content)
    os.replace(temporary, place)
