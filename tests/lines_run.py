"""Line coverage of the implementation by each of its runners: recordings, campaigns, handlers' proofs, unit tests.

The `coverage` package traces. What it finds is kept under build/ after each group of runners, until a source or a recording
changes that the group depends on. Only lines in functions count. `unrun_lines.py` reports lines that nothing
runs, `mutants/` runs only the runners of a line.
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
from bulkhead.proofs.atomic_files import write_file
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
    """The files of unit tests that may run a subject's lines: all, or those that name DomB, its tools or what has them.
    Not those that make random calls and look only for exceptions: a line that nobody else runs is compared with nothing."""
    files = [p for p in sorted(UNIT.glob("test_*.py")) if not p.name.startswith("test_fuzz")]
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


@dataclass(frozen=True)
class Group:
    """Runners that are traced and kept together: one recording, one handler, the episodes of a campaign, a file of tests."""

    kind: str
    names: tuple[str, ...]  # of runners; of unit tests the file, whose tests are the runners

    def file_name(self) -> str:
        """Where the result is kept."""
        return f"{self.kind}-{self.names[0]}".replace(":", "-").replace("/", "-") + ".json"


# What the lines of a kind depend on besides the implementation: folders, without other runners of the kind.
DEPENDS: Final[Mapping[str, tuple[str, ...]]] = {
    "recording": ("proofs/replay",),
    "preempted": ("proofs/replay",),
    "campaign": ("spec", "model", "proofs/refinement"),
    "refine": ("spec", "model", "proofs/refinement", "proofs/symbolic"),
    "unit": ("proofs/replay", "tests/impl"),
}


def groups(subject: str) -> list[Group]:
    """All groups of a subject's runners, in the order in which they are traced."""
    found: list[Group] = []
    for kind, names in ASKED[subject].items():
        if kind == "campaign":
            found.append(Group(kind, names))
        elif kind != "long campaign":
            found += [Group(kind, (name,)) for name in names]
    return [*found, *(Group("unit", (p.name,)) for p in unit_tests(subject))]


def _state(group: Group) -> str:
    """A hash of everything that a group's lines depend on."""
    found = hashlib.sha256(f"{group} {EPISODE_CALLS} {SEED}".encode())
    paths = [p for folder in ("impl", *DEPENDS[group.kind]) for p in (ROOT / folder).rglob("*")]
    if group.kind in ("recording", "preempted"):
        paths += [ROOT / "tests" / "recorded" / name for name in group.names]
    for path in sorted(paths):
        others = path.parent == UNIT and path.name.startswith("test_") and path.name not in group.names
        if path.suffix in (".py", ".rules", ".json", ".xz") and not others:
            found.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return found.hexdigest()


def _run(group: Group, tracer: coverage.Coverage, tell: Callable[[str], None]) -> dict[str, float]:
    """Run each runner of a group in a context of its name; returns their times."""
    if group.kind == "unit":
        tests = _Contexts(tracer)
        arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *(str(UNIT / name) for name in group.names)]
        pytest.main(arguments, plugins=[tests])
        return tests.seconds
    seconds: dict[str, float] = {}
    for name in group.names:
        tracer.switch_context(name)
        start = time.process_time()
        wrong = ASKS[group.kind](name)
        seconds[name] = time.process_time() - start
        tell(f"{group.kind} {name}: {seconds[name]:.1f} s{': ' + wrong if wrong else ''}")
    return seconds


def _trace(group: Group, files: list[Path], tell: Callable[[str], None]) -> list[Runner]:
    """Run a group under a tracer of its own."""
    tracer = coverage.Coverage(data_file=None, config_file=False, include=[str(p) for p in files])
    tracer.start()
    try:
        seconds = _run(group, tracer, tell)
    finally:
        tracer.stop()
    data = tracer.get_data()
    by_context: dict[str, dict[str, set[int]]] = {}
    for path in files:
        for line, contexts in data.contexts_by_lineno(str(path)).items():
            for context in contexts:
                by_context.setdefault(context, {}).setdefault(f"{path.parent.name}/{path.name}", set()).add(line)
    return [
        Runner(group.kind, name, each, {f: frozenset(ls) for f, ls in by_context.get(name, {}).items()})
        for name, each in seconds.items()
    ]


def _kept(path: Path, state: str) -> list[Runner] | None:
    """The runners of a group that an earlier call has kept, if nothing has changed since."""
    if not path.exists():
        return None
    old = json.loads(path.read_text())
    if old["state"] != state:
        return None
    return [
        Runner(r["kind"], r["name"], r["seconds"], {f: frozenset(ls) for f, ls in r["lines"].items()})
        for r in old["runners"]
    ]


def _keep(path: Path, state: str, found: list[Runner]) -> None:
    runners = [
        {"kind": r.kind, "name": r.name, "seconds": r.seconds, "lines": {f: sorted(ls) for f, ls in r.lines.items()}}
        for r in found
    ]
    write_file(path, json.dumps({"state": state, "runners": runners}))


def runners(tell: Callable[[str], None] = print, subject: str = "xen") -> list[Runner]:
    """All runners with their lines. Each group is kept under build/ when it is done: what is interrupted goes on from there,
    and what has not changed is not run again."""
    subject = runs_as(subject)
    folder = ROOT / "build" / f"lines-run-{subject}"
    files = traced(subject)
    found: list[Runner] = []
    is_ready = False
    for group, state in [(each, _state(each)) for each in groups(subject)]:  # of the sources that are loaded now
        path = folder / group.file_name()
        kept = _kept(path, state)
        if kept is None:
            if not is_ready:
                ready(subject)
                is_ready = True
            kept = _trace(group, files, tell)
            _keep(path, state, kept)
        found += kept
    rates = [r.seconds / int(r.name.partition(":")[2]) for r in found if r.kind == "campaign" and ":" in r.name]
    found += [
        Runner("long campaign", name, max(rates) * int(name.partition(":")[2]), _lines(files))
        for name in ASKED[subject].get("long campaign", ())
    ]
    return found
