"""mypyvy, another project's prover by induction, as an oracle: are the invariants of a text inductive, which fails first?

`find` reads the command that runs it from BULKHEAD_MYPYVY (the Python that has Z3 and mypyvy's requirements, and the path of
`mypyvy.py`), or gives the reason why it cannot be used; tests skip then. Not here: the translation of rules to its
language (`tests/oracle/to_mypyvy.py`), or the comparison.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds until it counts as hanging
INIT = "init"


class MypyvyError(RuntimeError):
    """mypyvy gave no answer; the text has the end of what it said."""


@dataclass(frozen=True)
class Verified:
    """`asked` counts the questions; each is a transition, or `init`, and an invariant.

    `failing` is the first that fails, `undecided` the first that Z3 did not decide; mypyvy ends with either.
    """

    asked: int
    failing: tuple[str, str] | None
    undecided: tuple[str, str] | None


def find() -> tuple[list[str], str]:
    """The command, or an empty one and the reason."""
    command = shlex.split(os.environ.get("BULKHEAD_MYPYVY", ""))
    if not command:
        return [], "needs mypyvy (BULKHEAD_MYPYVY with the command that runs it)"
    if shutil.which(command[0]) is None or not Path(command[-1]).is_file():
        return [], f"BULKHEAD_MYPYVY is `{shlex.join(command)}`, which cannot be run"
    return command, ""


def verify(command: list[str], text: str, limit: float = 20.0, patience: float = PATIENCE) -> Verified:
    """Ask for every invariant and transition, until one fails. Raises `MypyvyError`.

    `limit` is for one question, `patience` for all, in seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules.pyv"
        file.write_text(text, encoding="ascii")
        options = ["--no-minimize-models", "--no-print-counterexample", f"--timeout={round(limit * 1000)}"]
        done = subprocess.run(
            [*command, "verify", *options, str(file)],
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
    said = done.stdout + done.stderr
    where, asked = INIT, 0
    ended: dict[str, tuple[str, str]] = {}
    for line in done.stdout.splitlines():
        if transition := re.match(r"checking transition (\w+):", line):
            where = transition[1]
        elif question := re.match(r"  (?:implies|preserves) invariant (\w+)\.\.\. ?(.*)", line):
            asked += 1
            kind = next((k for k in ("ok", "no") if question[2].startswith(k)), "unknown")
            ended.setdefault(kind, (where, question[1]))
    failing, undecided = ended.get("no"), ended.get("unknown")
    whole = "all ok!" in done.stdout
    if not asked or whole == bool(failing or undecided):
        raise MypyvyError(f"mypyvy: {said[-800:]}")
    return Verified(asked, failing, undecided)


__all__ = ["INIT", "MypyvyError", "Verified", "find", "verify"]
