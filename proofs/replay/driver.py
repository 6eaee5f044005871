"""`bulkhead replay FILE.jsonl[.xz]... [--json FILE]`: recordings against the implementation.

What lives here: reading of `xen-gnt-oracle/1` files, the loop over their operations and the report. What does not:
the operations and the comparison. Exit status: 0 no unexplained difference, 1 some, 2 bad use or a bad file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from model.diagnostics import UsageError
from proofs.replay.compare import differences, explained, load_known
from proofs.replay.ops import execute
from proofs.replay.rig import Rig

FORMAT: Final = "xen-gnt-oracle/1"
MAX_BYTES: Final = 100_000_000


class BadRecording(Exception):
    """A file that is missing or is not a recording."""


def read_recording(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and operations of a recording; BadRecording with a one-line reason."""
    try:
        if not path.exists():
            raise BadRecording(f"{path}: no such file")
        if not path.is_file():
            raise BadRecording(f"{path}: is not a file")
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        text = raw.decode()
    except EOFError as exc:
        raise BadRecording(f"{path}: the compressed data end too early") from exc
    except UnicodeDecodeError as exc:
        raise BadRecording(f"{path}: not a recording: byte {exc.start} is not UTF-8 text") from exc
    except (OSError, lzma.LZMAError) as exc:
        raise BadRecording(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from exc
    if len(raw) > MAX_BYTES:
        raise BadRecording(f"{path}: more than {MAX_BYTES:,} bytes of text; split the recording")
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as exc:
            raise BadRecording(f"{path}:{number}: not JSON: {exc.msg}") from exc
        except (ValueError, RecursionError) as exc:  # a number of thousands of digits, thousands of brackets
            raise BadRecording(f"{path}:{number}: not a line of a recording: too long a number or nested too deep") from exc
        if not isinstance(value, dict):
            raise BadRecording(f"{path}:{number}: not an object")
        lines.append(value)
    if not lines or lines[0].get("format") != FORMAT:
        raise BadRecording(f"{path}: not a {FORMAT} recording")
    if len(lines) < 2:
        raise BadRecording(f"{path}: a header, and no operations after it")
    for number, value in enumerate(lines[1:], 2):
        if not isinstance(value.get("op"), str) or not isinstance(value.get("a"), dict):
            raise BadRecording(f"{path}:{number}: an operation needs op and a")
        if not isinstance(value.get("res", {}), dict) or not isinstance(value.get("e", {}), dict):
            raise BadRecording(f"{path}:{number}: res and e must be objects")
    return lines[0], lines[1:]


def replay(path: Path, verbose: bool = False) -> dict[str, Any]:
    """Replay one file: {"name", "calls", "differences", "explained"} plus the unexplained ones as text lines."""
    header, operations = read_recording(path)
    known = load_known()
    # A translated guest can be made where the processor has nested paging.
    hap = any(item["op"] == "mkdom" and item["a"].get("kind") == "hvm" and "domid" in item.get("res", {})
              for item in operations)
    rig = Rig(profile=str(header.get("profile", "")), hap=hap)
    found = told = 0
    report: list[str] = []
    for number, item in enumerate(operations, 2):
        skip: set[str] = set()
        rig.named_freed = False
        try:
            result = execute(rig, item["op"], item["a"], skip)
            differing = rig.drift.told_once(item, result, differences(rig, item, result, skip))
        except Exception as exc:  # whatever an argument of the wrong kind does to the implementation's Python
            raise BadRecording(f"{path}:{number}: {item['op']} cannot be replayed: {_reason(exc, item['a'])}") from exc
        if rig.named_freed and differing:
            # Who has the frame now that the guest gave up is the allocator's choice.
            told += len(differing)
            rig.drift.forget()
            continue
        for diff in differing:
            told_of = explained(known, item["op"], diff)
            if told_of is not None:
                told += 1
            else:
                found += 1
                report.append(f"{item.get('i')} {item['op']} {item['a']}: {diff[0]}: "
                              f"recorded {diff[1]!r}, replayed {diff[2]!r}")
    return {"name": path.name, "calls": len(operations), "differences": found, "explained": told,
            "report": report}


def _reason(error: Exception, given: dict[str, Any]) -> str:
    """Why an operation cannot be replayed, for people."""
    if isinstance(error, KeyError):
        name = str(error.args[0])
        return f"the argument `{name}` is missing" if name not in map(str, given.values()) else f"there is no `{name}`"
    if isinstance(error, ValueError) and str(error).startswith("unknown operation"):
        return str(error)
    what = " ".join(f"{type(error).__name__} {error}".split())[:160]
    return f"an argument that it cannot have ({what}) in {json.dumps(given)[:200]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module docstring for the exit status."""
    parser = argparse.ArgumentParser(prog="bulkhead replay", description="Replay recordings of real Xen.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="recording, .jsonl or .jsonl.xz")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    try:
        args = parser.parse_args(argv)
    except SystemExit as exc:
        return 2 if exc.code else 0
    results = []
    try:
        if args.json is not None:
            from proofs.files import needs_file, write_file

            needs_file(args.json)
        for path in args.files:
            result = replay(path)
            report = result.pop("report")
            results.append(result)
            print(f"{result['name']}: {result['calls']} calls, {result['differences']} differences, "
                  f"{result['explained']} explained")
            for line in report[:40]:
                print("  " + line)
        if args.json is not None:
            write_file(args.json, json.dumps({"files": results}, indent=1) + "\n")
    except (BadRecording, UsageError) as exc:
        print(f"bulkhead replay: {str(exc).rstrip('.')}.", file=sys.stderr)
        return 2
    return 1 if any(result["differences"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
