"""Lays a mutant over the implementation and looks for a detector, the quickest kind of them for its line first.

Each mutant runs in a separate process, forked from one that has everything loaded, with a limit of processor time and
memory. Only runners of the changed line are used, the fastest first, and the first detection ends it. A mutant that makes a
call run for ever, or the process die, counts as detected, too.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import multiprocessing
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from types import CodeType, FunctionType

import pytest

from tests.lines_run import ASKS, KINDS, ROOT, Runner
from tests.mutants.places import Mutant, source_of

Laying = Callable[[], contextlib.AbstractContextManager[None]]
PATIENCE = 4.0  # factor on the time without a fault (traced, which is slower)
GRACE = 15.0  # additional seconds
MEMORY = 6 << 30
UNIT_SECONDS = 20.0  # of unit tests for one mutant, the fastest first


@dataclass(frozen=True)
class Answer:
    """The detector of a mutant and how it shows; `by` is empty for a survivor, `asked` is the number of runners tried."""

    mutant: Mutant
    by: str
    how: str
    asked: int


def function_of(mutant: Mutant) -> FunctionType:
    """The function that a mutant changes."""
    found: object = importlib.import_module("bulkhead.impl." + mutant.file.removesuffix(".py").replace("/", "."))
    for part in mutant.function.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    found = inspect.unwrap(found) if callable(found) else found
    found = found.__func__ if isinstance(found, staticmethod | classmethod) else found
    assert isinstance(found, FunctionType), mutant.text()
    return found


def _code(mutant: Mutant, function: FunctionType) -> CodeType:
    """The changed code. Raises ValueError if it does not fit: its free variables must be those of the original."""
    lines = source_of(mutant, (ROOT / "impl" / mutant.file).read_text()).splitlines()
    free = function.__code__.co_freevars
    if free:  # `__class__`, if the original uses super()
        lines = [f"def outside({', '.join(free)}):", *("    " + line for line in lines)]
    text = "\n".join(["from __future__ import annotations", *lines])
    codes = [compile(text, f"<impl/{mutant.file}>", "exec")]
    for _ in range(2 if free else 1):
        codes = [c for code in codes for c in code.co_consts if isinstance(c, CodeType)]
    found = next(c for c in codes if c.co_name == function.__name__)
    if found.co_freevars != free:
        raise ValueError(f"{mutant.text()}: cannot be laid")
    return found


def fits(mutant: Mutant) -> bool:
    """Can the mutant be laid over the implementation?"""
    try:
        _code(mutant, function_of(mutant))
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def laid(mutant: Mutant) -> Iterator[None]:
    """A context in which the implementation has a mutant. Raises ValueError if the code does not fit."""
    function = function_of(mutant)
    kept = function.__code__
    function.__code__ = _code(mutant, function)
    try:
        yield
    finally:
        function.__code__ = kept


def _limit(seconds: float) -> None:
    """Limit the processor time from now on; the kernel ends a process that exceeds it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _affordable(tests: list[Runner]) -> list[Runner]:
    """The first tests that together fit in the time limit of a mutant."""
    times = itertools.accumulate(r.seconds for r in tests)
    return [r for r, until in zip(tests, times, strict=True) if until <= UNIT_SECONDS]


def _ask(lay: Laying, askable: Sequence[Runner], at: Connection) -> None:
    """The work of the forked process: reports each runner that it tries, and then the detector."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with lay():
        for kind in in_order(askable):
            here = [r for r in askable if r.kind == kind]
            wrong = _ask_tests(here, at) if kind == "unit" else _ask_each(here, at)
            if wrong:
                at.send(("", wrong))
                return
    at.send(("", ""))


def in_order(askable: Sequence[Runner]) -> list[str]:
    """The kinds, those first whose runners take the least time together; long campaigns last."""
    seconds = {kind: 0.0 for kind in KINDS}
    for runner in askable:
        seconds[runner.kind] += runner.seconds
    seconds["unit"] = min(seconds["unit"], UNIT_SECONDS)
    return sorted(KINDS, key=lambda kind: (kind == "long campaign", seconds[kind], KINDS.index(kind)))


def _ask_each(askable: list[Runner], at: Connection) -> str:
    for runner in askable:
        at.send((runner.kind, runner.name))
        _limit(GRACE + PATIENCE * runner.seconds)
        try:
            wrong = ASKS[runner.kind](runner.name)
        except Exception as error:  # any exception of the implementation is a detection
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            return wrong
    return ""


def _ask_tests(askable: list[Runner], at: Connection) -> str:
    tests = _affordable(askable)
    if not tests:
        return ""
    at.send(("unit", f"{len(tests)} tests"))
    _limit(2 * GRACE + PATIENCE * sum(r.seconds for r in tests))
    failed = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *(r.name for r in tests)])
    return f"a unit test fails (exit {int(failed)})" if failed else ""


def ask(mutant: Mutant, runners: list[Runner]) -> Answer:
    """The detector of a mutant."""
    askable = [r for r in runners if r.runs(mutant.file, mutant.line)]
    return Answer(mutant, *detector(mutant.text(), partial(laid, mutant), askable))


def detector(what: str, lay: Laying, askable: Sequence[Runner]) -> tuple[str, str, int]:
    """The kind of the detector of a change, how it shows, and the number of runners tried, the fastest of a kind first."""
    inside = sorted(askable, key=lambda r: (KINDS.index(r.kind), r.seconds))
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_ask, args=(lay, inside, there))
    process.start()
    there.close()
    asking, asked, answer = ("", ""), 0, None
    with contextlib.suppress(EOFError):
        while answer is None:
            kind, text = here.recv()
            if kind:
                asking, asked = (kind, text), asked + 1
            else:
                answer = text
    process.join()
    here.close()
    if answer is None:
        if process.exitcode is None or process.exitcode >= 0:
            raise RuntimeError(f"{what}: asking failed (exit {process.exitcode}) in {asking}")
        return asking[0] or "laying", f"no end, or dead (signal {-process.exitcode}) in {asking[1]}", asked
    return asking[0] if answer else "", answer, asked
