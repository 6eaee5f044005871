"""Failures of the rig, each as one readable message.

Contents: `Unavailable`, for which tests skip, and `RigFailed`, which has the tail of the console. Not here:
detection.
"""

from __future__ import annotations

from typing import Final

TAIL_LINES: Final = 12
# Console texts after which the machine no longer answers, and the part that has stopped.
ENDS: Final = (("Panic on CPU", "Xen"), ("Kernel panic", "Dom0's kernel"), ("Hardware Dom0 ", "Dom0"))


class Unavailable(Exception):
    """The rig is unavailable on this machine; one line with the reason and what to do."""


class RigFailed(Exception):
    """The rig failed: the reason, the call, and the last console output."""

    def __init__(self, what: str, console: str = "", call: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.console = console
        self.call = call

    def text(self, seed: int | None = None) -> str:
        """A readable form: the message, the call, the seed, and the console's last lines."""
        lines = [self.what]
        if self.call:
            lines.append(f"  the call: {self.call[:300]}")
        if seed is not None:
            lines.append(f"  the seed: {seed}")
        if self.console:
            lines.append("  the console's last lines:")
            lines += [f"    {line}" for line in tail(self.console)]
        return "\n".join(lines)


def tail(console: str) -> list[str]:
    """The last lines of a console, from a panic on if there was one."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if any(words in line for words, _ in ENDS):
            return lines[max(0, number - 2) : number + TAIL_LINES]
    return lines[-TAIL_LINES:]


def panicked(console: str) -> str | None:
    """The part that has stopped, from the console's output, else None."""
    return next((who for words, who in ENDS if words in console), None)
