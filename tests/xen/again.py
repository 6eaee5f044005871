"""`python -m tests.xen.again RECORDING...`: makes the calls of a recording again on this rig, and compares the answers.

Contents: a check of the rig itself, and of irreproducible answers. Not here: the implementation, which
`bulkhead replay` compares with a recording.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from bulkhead.proofs.replay.compare import NOT_COMPARED
from bulkhead.proofs.replay.driver import BadRecording, read_recording
from tests.xen.machine import Machine
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, answers
from tests.xen.rig import images


def call_of(line: dict[str, Any]) -> Call:
    """A recording's line as a call."""
    return Call(line["op"], line["a"], "+".join(line.get("e", {})), str(line.get("c", "")))


def differences(lines: list[dict[str, Any]], machine: Machine) -> list[str]:
    """Each answer that differs, as a line of text."""
    out = []
    calls = [call_of(line) for line in lines]
    for line, call, answer in zip(lines, calls, answers(machine, calls), strict=True):
        before, now = line.get("res", {}), answer.results
        for name in sorted(set(before) | set(now)):
            if name not in NOT_COMPARED and name not in ("crashed", "stuck") and before.get(name) != now.get(name):
                out.append(
                    f"{line['i']} [{call.note}] {call.line()[:200]}: {name}: recorded {before.get(name)}, "
                    f"now {now.get(name)}"
                )
        for name, entry in line.get("e", {}).items():
            if entry != answer.entries.get(name):
                out.append(f"{line['i']} {call.line()[:200]}: {name}: recorded {entry}, now {answer.entries.get(name)}")
    return out


def main(files: list[str]) -> int:
    """0 if all answers are as recorded, 1 if not, 2 on bad use or without the rig."""
    found = 0
    try:
        made = images()
        for name in files:
            _, lines = read_recording(Path(name))
            with Machine(made) as machine:
                wrong = differences(lines, machine)
            found += len(wrong)
            print(f"{name}: {len(lines)} calls, {len(wrong)} answers differ")
            print("".join(f"  {text}\n" for text in wrong[:60]), end="")
    except (Unavailable, BadRecording) as exc:
        print(f"tests.xen.again: {exc}", file=sys.stderr)
        return 2
    except RigFailed as exc:
        print(exc.text(), file=sys.stderr)
        return 2
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
