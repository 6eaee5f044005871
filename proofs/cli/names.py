"""Checks the names and folders in a command's arguments before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.loader import shipped_systems
from bulkhead.proofs.atomic_files import writable


def known_claim(name: str, known: Iterable[str], also: Iterable[str] = ()) -> None:
    """Raise `UsageError` if there is no such theorem or transition claim, nor one of `also`, such as an invariant."""
    names = set(known)
    if name not in names.union(also):
        raise UsageError(
            f"there is no theorem `{name}`. {suggest(name, names)} There are: {', '.join(sorted(names)) or 'none'}.".replace(
                "  ", " "
            )
        )


def which_system() -> UsageError:
    """The message that asks for a system."""
    return UsageError(f"which system? Shipped systems: {', '.join(shipped_systems())}; or give the path of a .rules file.")


def make_folder(folder: Path) -> None:
    """Create an output folder. Raises `UsageError` with the reason if that is impossible."""
    try:
        writable(folder)
    except FileExistsError:
        raise UsageError(f"{folder}: is a file, not a folder.") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot write files there ({error.strerror}).") from None
