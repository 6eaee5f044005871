"""Names and folders that commands are given: what is not there is told before any work is done for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bulkhead.model.diagnostics import UsageError, suggest
from bulkhead.model.loader import shipped_systems
from bulkhead.proofs.atomic_files import writable


def known_claim(name: str, known: Iterable[str]) -> None:
    """Raise `UsageError` when there is no such theorem or transition claim."""
    names = set(known)
    if name not in names:
        raise UsageError(
            f"there is no theorem `{name}`. {suggest(name, names)} There are: {', '.join(sorted(names)) or 'none'}.".replace(
                "  ", " "
            )
        )


def which_system() -> UsageError:
    """The question which system is meant."""
    return UsageError(f"which system? Shipped systems: {', '.join(shipped_systems())}; or give the path of a .rules file.")


def make_folder(folder: Path) -> None:
    """Make a folder to write to. Raises `UsageError` with what stands in the way."""
    try:
        writable(folder)
    except FileExistsError:
        raise UsageError(f"{folder}: is a file, not a folder.") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot write files there ({error.strerror}).") from None
