"""`python -m tests.xen.campaign`: seeded calls on real Xen, recorded, and replayed on the implementation.

`bulkhead diff --against xen` runs this in a checkout. A run is split into episodes, each on a new
machine. A difference stops it: the seed, a shortest differing trace and both answers are printed. Contents: the command
and its report. Not here: the calls (workload/), the machine (machine.py), the comparison (compare.py).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bulkhead.proofs.replay.compare import load_known
from bulkhead.proofs.replay.ops import execute
from bulkhead.proofs.replay.rig import Rig
from tests.xen.build import Images
from tests.xen.compare import Difference, compare, describe, first
from tests.xen.play import Run, play
from tests.xen.problems import RigFailed, Unavailable
from tests.xen.protocol import Call, write_recording
from tests.xen.rig import images
from tests.xen.shrink import closed, shrink
from tests.xen.workload.mix import FAMILIES, script

EPISODE_CALLS: Final = 4000
BOOTS: Final = 60
GOOD, FAILED, BAD_USE = 0, 1, 2


@dataclass
class Report:
    """Statistics of a run."""

    calls: int = 0
    boots: list[float] = field(default_factory=list)
    seconds: float = 0.0
    families: Counter[str] = field(default_factory=Counter)
    interfaces: Counter[str] = field(default_factory=Counter)
    stuck: list[str] = field(default_factory=list)

    def add(self, run: Run, lines: Sequence[dict[str, Any]]) -> None:
        """The compared lines of one machine's run."""
        self.boots.append(run.boot)
        self.seconds += run.calls
        self.calls += len(lines)
        for line in lines:
            self.families[str(line["c"])] += 1
            self.interfaces[interface(line)] += 1
        if run.stuck:
            self.stuck.append(run.stuck)

    def text(self) -> str:
        """A readable form."""
        boots = f"{len(self.boots)} boots of {min(self.boots, default=0):.1f} to {max(self.boots, default=0):.1f} s"
        rate = self.calls / self.seconds if self.seconds else 0
        told = ", ".join(f"{name} {count}" for name, count in sorted(self.families.items()))
        return f"{self.calls} calls compared ({told}), {len(self.interfaces)} interfaces; {boots}, {rate:.0f} calls/s."


def interface(line: dict[str, Any]) -> str:
    """The interface of a call, such as `hypercall 20.0` or `ioctl 0x184700`."""
    a = line["a"]
    if line["op"] == "x":
        command = a.get("a1", "") if a.get("nr") in (12, 20, 32, 29) else ""
        if a.get("nr") in (26, 36):
            command = str(a.get("w", "")).partition(",")[0].rpartition(":")[2]
        return f"hypercall {a.get('nr')}.{command} by {'d0' if a['by'] == 'd0' else 'guest'}"
    return f"ioctl {int(a['req']):#x}" if line["op"] == "sys.ioctl" else str(line["op"])


def our_answer(calls: Sequence[Call], field_name: str) -> object:
    """The implementation's answer to the last of these calls, after its own answers to the earlier ones."""
    rig, result = Rig(profile=""), None
    try:
        for call in calls:
            result = execute(rig, call.op, dict(call.args), set())
    except Exception as exc:
        return type(exc).__name__
    answer: dict[str, object] = result or {}
    return sorted(answer.items(), key=str) if field_name.startswith("e.") else answer.get(field_name)


def explain(made: Images, calls: list[Call], found: Difference, boots: int) -> str:
    """The difference and the shortest trace to it."""
    trace = closed(calls[: found.number + 1])

    def again(candidate: Sequence[Call]) -> Difference | None:
        try:
            return first(play(made, candidate).lines)
        except RigFailed:
            return None

    small = shrink(trace, found, lambda candidate: our_answer(candidate, found.field), again, boots)
    lines = [f"  {describe({'i': number, 'op': call.op, 'a': call.args})}" for number, call in enumerate(small.calls)]
    title = f"A shortest trace that differs ({len(small.calls)} calls, {small.boots} more boots):"
    return "\n".join([title, *lines, "and there:", small.difference.text()])


def parser() -> argparse.ArgumentParser:
    """The options."""
    out = argparse.ArgumentParser(prog="bulkhead diff --against xen", description=__doc__.splitlines()[0] if __doc__ else "")
    out.add_argument("--ops", type=int, default=4000, metavar="N", help="calls to make")
    out.add_argument("--seed", type=int, default=1, metavar="S", help="same seed, same calls")
    out.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="write the run as a recording for `bulkhead replay`, and each further episode beside it",
    )
    out.add_argument("--only", default=",".join(FAMILIES), metavar="FAMILIES", help="of " + ", ".join(FAMILIES))
    out.add_argument("--episode", type=int, default=EPISODE_CALLS, metavar="N", help="calls per machine")
    out.add_argument("--boots", type=int, default=BOOTS, metavar="N", help="boots to spend on a shorter trace; 0 for none")
    out.add_argument("--go-on", action="store_true", help="list the differences of each episode by kind, and do not stop")
    return out


def run(args: argparse.Namespace, made: Images) -> int:
    """All episodes; the exit code."""
    families = [name for name in args.only.split(",") if name]
    report, code = Report(), GOOD
    for episode in range((args.ops + args.episode - 1) // args.episode):
        calls = script(args.seed, episode, min(args.episode, args.ops - episode * args.episode), families)
        machine = play(made, calls)
        if args.record is not None:
            print(f"Recorded: {keep(args.record, episode, args.seed, machine)}, {len(machine.lines)} calls")
        found = list(compare(machine.lines)) if args.go_on else [each for each in [first(machine.lines)] if each]
        report.add(machine, machine.lines if args.go_on or not found else machine.lines[: found[0].number + 1])
        if machine.stuck:
            print(f"Episode {episode} ended early: this call never returned on real Xen: {machine.stuck[:300]}")
        if not found:
            continue
        code = FAILED
        if args.go_on:
            print(f"Episode {episode}: {len(found)} differences.\n" + summary(found))
            continue
        print(f"MISMATCH (seed {args.seed}, episode {episode}): {found[0].text()}", flush=True)
        if args.boots:
            print(explain(made, calls, found[0], args.boots))
        print(f"To reproduce: bulkhead diff --against xen --seed {args.seed} --ops {args.ops}")
        break
    print(report.text())
    if code == GOOD:
        print(f"No unexplained difference; {len(load_known())} known ones.")
    return code


def keep(path: Path, episode: int, seed: int, machine: Run) -> Path:
    """Write an episode's recording: the first one to the path itself, the next ones beside it."""
    if episode:
        path = path.with_name(f"{path.name.partition('.')[0]}-{episode + 1}{''.join(path.suffixes)}")
    write_recording(path, "xen", seed, machine.lines)
    return path


def summary(found: Sequence[Difference]) -> str:
    """Differences by kind, in the order of the first of each."""
    groups: dict[tuple[str, ...], list[Difference]] = {}
    for each in found:
        groups.setdefault((*each.kind, str(each.line["a"].get("by") == "d0")), []).append(each)
    return "\n".join(f"{len(row)}x {row[0].text()}" for row in groups.values())


def main(argv: Sequence[str] | None = None) -> int:
    """0 no unexplained difference, 1 some, 2 bad use or no rig."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as exc:
        return BAD_USE if exc.code else GOOD
    wrong = [name for name in args.only.split(",") if name and name not in FAMILIES]
    if wrong or args.ops < 1 or args.episode < 1:
        print(
            f"bulkhead diff: no such family: {', '.join(wrong)}."
            if wrong
            else "bulkhead diff: --ops and --episode are at least 1.",
            file=sys.stderr,
        )
        return BAD_USE
    try:
        return run(args, images())
    except Unavailable as exc:
        print(f"bulkhead diff: real Xen cannot be run here: {exc}.", file=sys.stderr)
        return BAD_USE
    except RigFailed as exc:
        print(f"bulkhead diff: {exc.text(args.seed)}", file=sys.stderr)
        return BAD_USE


if __name__ == "__main__":
    sys.exit(main())
