"""Replays recordings of real Xen on the implementation, for `bulkhead replay`.

Contents: reading of `xen-gnt-oracle/1` files, and the loop over their operations. Not here: the operations, the
comparison, and the command.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bulkhead.impl.dom0.memory_calls import NotModelled
from bulkhead.impl.xen.continuation import Preemption
from bulkhead.model.diagnostics import UsageError
from bulkhead.proofs.replay.compare import differences, explained, load_known
from bulkhead.proofs.replay.ops import TRANSLATED, execute
from bulkhead.proofs.replay.rig import Rig

FORMAT: Final = "xen-gnt-oracle/1"
MAX_BYTES: Final = 100_000_000


class BadRecording(UsageError):
    """A file that is missing or is not a recording."""

    def __init__(self, text: str) -> None:
        super().__init__(text.rstrip(".") + ".")


@dataclass(frozen=True)
class Recording:
    """One replayed recording. `report` has a line for each unexplained difference."""

    name: str
    calls: int
    differences: int
    explained: int
    report: tuple[str, ...]


def read_recording(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and operations of a recording; BadRecording with a one-line reason."""
    lines = _objects(path, _text(path))
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


def _text(path: Path) -> str:
    """The text of a file, which may be compressed."""
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
    return text


def _objects(path: Path, text: str) -> list[dict[str, Any]]:
    """The object on each line that is not empty."""
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
    return lines


def replay(path: Path, preemption: Preemption | None = None) -> Recording:
    """Replay one file. Raises `BadRecording` if it cannot be read or an operation cannot be executed.

    Real Xen preempts by time, and no answer tells where it did: with any `preemption` the same answers are due.
    """
    header, operations = read_recording(path)
    known = load_known()
    # Translated guests need a processor with nested paging.
    hap = any(
        item["op"] == "mkdom" and item["a"].get("kind") in TRANSLATED and "domid" in item.get("res", {})
        for item in operations
    )
    rig = Rig(profile=str(header.get("profile", "")), hap=hap, preemption=preemption)
    found = told = 0
    report: list[str] = []
    for number, item in enumerate(operations, 2):
        skip: set[str] = set()
        rig.named_freed = False
        try:
            result = execute(rig, item["op"], item["a"], skip)
            differing = rig.drift.told_once(item, result, differences(rig, item, result, skip))
        except Exception as exc:  # any exception of the implementation on an argument of the wrong type
            raise BadRecording(f"{path}:{number}: {item['op']} cannot be replayed: {_reason(exc, item['a'])}") from exc
        if rig.named_freed and differing:
            # The allocator decides who now has the frame that the guest gave up.
            told += len(differing)
            rig.drift.forget()
            continue
        for diff in differing:
            told_of = explained(known, item, diff)
            if told_of is not None:
                told += 1
            else:
                found += 1
                report.append(
                    f"{item.get('i')} {item['op']} {item['a']}: {diff[0]}: recorded {diff[1]!r}, replayed {diff[2]!r}"
                )
    return Recording(path.name, len(operations), found, told, tuple(report))


def _reason(error: Exception, given: dict[str, Any]) -> str:
    """A readable reason why an operation cannot be replayed."""
    if isinstance(error, KeyError):
        name = str(error.args[0])
        return f"the argument `{name}` is missing" if name not in map(str, given.values()) else f"there is no `{name}`"
    if isinstance(error, ValueError) and str(error).startswith("unknown operation"):
        return str(error)
    if isinstance(error, NotModelled):
        return str(error)
    what = " ".join(f"{type(error).__name__} {error}".split())[:160]
    return f"an argument that it cannot have ({what}) in {json.dumps(given)[:200]}"
