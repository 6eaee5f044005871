"""Line coverage of the implementation by each of its runners: recordings, campaigns, handlers' proofs, unit tests.

The `coverage` package traces; its results are cached under build/ until a source or a recording changes. Only
lines in functions count. `unrun_lines.py` reports lines that nothing runs, `mutants/` runs only the runners of a line.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Final

import coverage
import pytest

from bulkhead.impl.xen.continuation import ALWAYS, Preemption
from bulkhead.proofs.refinement.campaign import run_episode
from bulkhead.proofs.refinement.domb import campaign as domb_campaign
from bulkhead.proofs.refinement.domb import world as domb_world
from bulkhead.proofs.refinement.handlers.domb.table import DOMB
from bulkhead.proofs.refinement.handlers.table import prove_handler
from bulkhead.proofs.refinement.lockstep.spec_world import Size, rules_for
from bulkhead.proofs.replay.driver import replay
from tests.mutants.places import called_at_import, sources
from tests.test_replay import EXPLAINED

ROOT = Path(__file__).resolve().parents[1]
RECORDED = tuple(sorted((ROOT / "tests" / "recorded").glob("*.jsonl.xz")))
EPISODES = tuple(range(12))
EPISODE_CALLS = 1000
SEED = 1
UNIT = ROOT / "tests" / "impl"
KINDS = ("recording", "preempted", "campaign", "refine", "unit", "long campaign")
# Campaigns of DomB, as seed:moves. Long ones are not traced, and are asked for every line.
MOVES: Final = ("1:5000",)
LONG: Final = ("2:5000", "3:5000", "4:5000")
TOGETHER: Final = {"xen": ("xen",), "domb": ("domb", "libs"), "libs": ("domb", "libs")}  # traced at once: the same runners


@dataclass(frozen=True)
class Runner:
    """Something that runs the implementation: its kind, name, time in seconds, and covered lines by file."""

    kind: str
    name: str
    seconds: float
    lines: dict[str, frozenset[int]]

    def runs(self, file: str, line: int) -> bool:
        """Does it run a line of a file such as `xen/mmu.py`?"""
        return line in self.lines.get(file, ())


def ask_recording(name: str, preempted: bool = False) -> str:
    """Replay a recording; returns the first difference, or nothing."""
    result = replay(ROOT / "tests" / "recorded" / name, Preemption(ALWAYS) if preempted else None)
    if result.report:
        return result.report[0]
    return "" if result.explained == EXPLAINED.get(name, 0) else f"{result.explained} differences explained"


def ask_preempted(name: str) -> str:
    """Replay a recording, and preempt every hypercall wherever it may be; returns the first difference, or nothing."""
    return ask_recording(name, True)


def ask_campaign(name: str) -> str:
    """Run an episode of the hypervisor's campaign, or (`seed:moves`) a campaign of DomB; returns the mismatch."""
    seed, _, moves = name.partition(":")
    if moves:
        failure = domb_campaign.campaign(domb_world.rules_for(domb_world.Size()), int(seed), int(moves)).failure
    else:
        failure = run_episode(rules_for(Size()), SEED, int(name), EPISODE_CALLS).failure
    return "" if failure is None else f"{failure.what} ({failure.call})"


def ask_handler(name: str) -> str:
    """Prove a handler along all its paths; returns the first finding, or nothing."""
    return next(iter(prove_handler(name, stop_early=True).findings), "")


ASKS: Final[Mapping[str, Callable[[str], str]]] = {
    "recording": ask_recording,
    "preempted": ask_preempted,
    "campaign": ask_campaign,
    "refine": ask_handler,
    "long campaign": ask_campaign,
}
ASKED: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "xen": {
        "recording": tuple(p.name for p in RECORDED),
        "preempted": tuple(p.name for p in RECORDED),
        "campaign": tuple(map(str, EPISODES)),
    },
    "domb": {"campaign": MOVES, "refine": tuple(DOMB), "long campaign": LONG},
}


def runs_as(subject: str) -> str:
    """The subject whose runners are those of this one, too."""
    return TOGETHER[subject][0]


def traced(subject: str) -> list[Path]:
    """The source files whose lines are traced for a subject."""
    return [path for each in TOGETHER[subject] for path in sources(each)]


def ready(subject: str) -> None:
    """Load the rules."""
    if runs_as(subject) == "domb":
        domb_world.rules_for(domb_world.Size())
    else:
        rules_for(Size())


def unit_tests(subject: str) -> list[Path]:
    """The files of unit tests that may run a subject's lines: all, or those that name DomB, its tools or what has them."""
    files = sorted(UNIT.glob("test_*.py"))
    used = re.compile(r"impl\.(domb|tools|rings|libs|boot)\b|impl import (boot|reach)")
    return files if subject == "xen" else [p for p in files if used.search(p.read_text())]


class _Contexts:
    """Tells coverage the current test, and records its time."""

    def __init__(self, tracer: coverage.Coverage) -> None:
        self.tracer = tracer
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.tracer.switch_context(item.nodeid)
        start = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - start


def lines_of(text: str) -> frozenset[int]:
    """The executable lines of functions, without those that the module itself calls at import: no runner sees these run."""
    found: set[int] = set()
    early = called_at_import(text)
    module = compile(text, "source", "exec")
    codes = [module]
    while codes:
        code = codes.pop()
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
        if code.co_flags & inspect.CO_OPTIMIZED and not (code in module.co_consts and code.co_name in early):
            found |= {line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno}
    return frozenset(found)


def every_line(subject: str = "xen") -> dict[str, frozenset[int]]:
    """The executable lines, by file."""
    return _lines(sources(subject))


def _lines(files: list[Path]) -> dict[str, frozenset[int]]:
    return {f"{p.parent.name}/{p.name}": lines_of(p.read_text()) for p in files}


def _state(subject: str) -> str:
    """A hash of everything that the result depends on."""
    found = hashlib.sha256(f"{ASKED[subject]} {EPISODE_CALLS} {SEED}".encode())
    folders = ("impl", "spec", "proofs/refinement", "proofs/replay", "tests/impl")
    paths = [p for folder in folders for p in (ROOT / folder).rglob("*")]
    for path in sorted([*paths, *RECORDED]):
        if path.suffix in (".py", ".rules", ".json", ".xz"):
            found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()


def _trace(subject: str, found: list[Runner], tell: Callable[[str], None]) -> None:
    files = traced(subject)
    tracer = coverage.Coverage(data_file=None, config_file=False, include=[str(p) for p in files])
    seconds: dict[tuple[str, str], float] = {}
    tests = _Contexts(tracer)
    ready(subject)
    tracer.start()
    try:
        for kind, name in ((k, n) for k, names in ASKED[subject].items() if k != "long campaign" for n in names):
            tracer.switch_context(f"{kind}|{name}")
            start = time.process_time()
            wrong = ASKS[kind](name)
            seconds[kind, name] = time.process_time() - start
            tell(f"{kind} {name}: {seconds[kind, name]:.1f} s{': ' + wrong if wrong else ''}")
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, unit_tests(subject))], plugins=[tests])
    finally:
        tracer.stop()
    seconds.update({("unit", name): each for name, each in tests.seconds.items()})
    data = tracer.get_data()
    by_context: dict[str, dict[str, set[int]]] = {}
    for path in files:
        for line, contexts in data.contexts_by_lineno(str(path)).items():
            for context in contexts:
                by_context.setdefault(context, {}).setdefault(f"{path.parent.name}/{path.name}", set()).add(line)
    for (kind, name), each in seconds.items():
        lines = by_context.get(name if kind == "unit" else f"{kind}|{name}", {})
        found.append(Runner(kind, name, each, {f: frozenset(ls) for f, ls in lines.items()}))
    for name in ASKED[subject].get("long campaign", ()):
        rate = seconds["campaign", MOVES[0]] / int(MOVES[0].partition(":")[2])
        found.append(Runner("long campaign", name, rate * int(name.partition(":")[2]), _lines(files)))


def runners(tell: Callable[[str], None] = print, subject: str = "xen") -> list[Runner]:
    """All runners with their lines; from build/ if nothing has changed."""
    subject = runs_as(subject)
    kept = ROOT / "build" / f"lines-run-{subject}.json"
    state = _state(subject)
    if kept.exists():
        old = json.loads(kept.read_text())
        if old["state"] == state:
            return [
                Runner(r["kind"], r["name"], r["seconds"], {f: frozenset(ls) for f, ls in r["lines"].items()})
                for r in old["runners"]
            ]
    found: list[Runner] = []
    _trace(subject, found, tell)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(
        json.dumps(
            {
                "state": state,
                "runners": [
                    {
                        "kind": r.kind,
                        "name": r.name,
                        "seconds": r.seconds,
                        "lines": {f: sorted(ls) for f, ls in r.lines.items()},
                    }
                    for r in found
                ],
            }
        )
    )
    return found
