"""Benchmarks of speed, all in one run: `python -m tests.benchmarks.run [--repeat N] [--json FILE]`.

Whole commands are timed as processes, with their start, and in addition Z3's time in the same queries. Every
time is the minimum of `--repeat` runs, because the machine may have other load. Not collected by pytest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks import spin, tlc
from tests.benchmarks.copies import copies
from tests.oracles.tlc import Searched

ROOT = Path(__file__).resolve().parent.parent.parent
GT = "tests/benchmarks/gt.rules"
BOTH = ("monolithic", "disaggregated")
GT_SEARCHED = {"Domain": 2, "Frame": 2, "Ref": 2}
GT_SIZES = {"Call": 1, "Domain": 3, "Frame": 4, "Ref": 3, "Process": 1}


@dataclass(frozen=True)
class Row:
    """One measurement. `limit` is the target in the same unit; None where there is none."""

    group: str
    what: str
    value: float
    unit: str
    limit: float | None = None
    more_is_better: bool = False

    @property
    def met(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value >= self.limit if self.more_is_better else self.value <= self.limit


def least(times: int, work: Callable[[], float]) -> float:
    return min(work() for _ in range(times))


def command(*arguments: str, cold: bool = False) -> float:
    """Seconds of a whole `bulkhead` process. With `cold` it finds no cached syntax trees."""
    with tempfile.TemporaryDirectory() as folder:
        extra = {"XDG_CACHE_HOME": folder} if cold else {}
        whole = [sys.executable, "-m", "bulkhead.proofs.cli", *arguments]
        if arguments[0] in ("prove", "attack"):
            whole += ["--out", str(Path(folder) / "out")]
        begun = time.perf_counter()
        done = subprocess.run(whole, cwd=ROOT, env={**os.environ, **extra}, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(whole)}: exit code {done.returncode}\n{done.stderr}")
    return seconds


def outside(code: str, cold: bool = False) -> str:
    """The output of Python code in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        extra = {"XDG_CACHE_HOME": folder} if cold else {}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **extra}, capture_output=True, text=True, check=True
        )
    return done.stdout


def inside(code: str, cold: bool = False) -> float:
    """The number that some Python code prints, in a fresh process."""
    return float(outside(code, cold))


def z3_seconds(system: str) -> float:
    """Z3's time in the queries of a proof, as the proof asks them, without cross-check and in one process."""
    return inside(f"""
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.induction import Settings, prove
print(prove(load({system!r}), Settings(jobs=1, cross_check=False)).solver_seconds)""")


def plain_z3_seconds(system: str) -> float:
    """Z3's time in the same queries with all assumptions, as `bulkhead export` writes them."""
    return inside(f"""
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.export import blocks_of
from bulkhead.proofs.theorems.queries import QueryMaker
from bulkhead.proofs.theorems.solvers import FAST_LIMIT, Z3Session
system = load({system!r})
maker = QueryMaker(system)
z3 = Z3Session(FAST_LIMIT, fast=True)
z3.tell(maker.formulas.prelude.text)
spent = 0.0
for block in blocks_of(system, maker):
    z3.tell("(push)\\n" + block.text())
    spent += sum(z3.ask(query.goal).seconds for query in block.queries)
    z3.tell("(pop)")
print(spent)""")


def encode_seconds(cold: bool) -> float:
    """Parsing, checking and encoding all rules of the shipped systems."""
    return inside(
        """
import gc, time
gc.set_threshold(500_000, 20, 20)  # as the command does
from bulkhead.model import loader
from bulkhead.proofs.theorems.export import blocks_of
from bulkhead.proofs.theorems.queries import QueryMaker
begun = time.perf_counter()
for name in loader.shipped_systems():
    system = loader.load(name)
    for block in blocks_of(system, QueryMaker(system)):
        block.text()
print(time.perf_counter() - begun)""",
        cold,
    )


def load_seconds(cold: bool, system: str) -> float:
    """Parsing, checking and encoding of one system."""
    return inside(
        f"""
import gc, time
gc.set_threshold(500_000, 20, 20)
from bulkhead.model import loader
from bulkhead.proofs.theorems.export import blocks_of
from bulkhead.proofs.theorems.queries import QueryMaker
begun = time.perf_counter()
system = loader.load({system!r})
for block in blocks_of(system, QueryMaker(system)):
    block.text()
print(time.perf_counter() - begun)""",
        cold,
    )


def model_steps(system: str, sizes: dict[str, int] | None, steps: int) -> float:
    """Random steps per second of the executable model, without its compilation."""
    made = "initial_states(system, 10.0, random.Random(1))[0]"
    if sizes:
        made = f"ExecutableModel(system, World({sizes!r}, {{'root': 0}}))"
    return inside(f"""
import random, time
from bulkhead.model.loader import load
from bulkhead.model.executable import ExecutableModel
from bulkhead.model.world import World
from bulkhead.proofs.theorems.random_walk import walk
from bulkhead.proofs.theorems.initial_states import initial_states
system = load({system!r})
machine = {made}
walk(machine, 1, 1000)
begun = time.perf_counter()
walk(machine, 2, {steps})
print({steps} / (time.perf_counter() - begun))""")


def hand_steps(steps: int) -> float:
    """The same for the model written by hand."""
    from tests.benchmarks.by_hand import walk

    walk(1, 1000)
    begun = time.perf_counter()
    walk(2, steps)
    return steps / (time.perf_counter() - begun)


def small_rows(times: int, steps: int) -> list[Row]:
    """The small rule set: proof, attacks, executable model."""
    group = "gt.rules (13 operations)"
    command("check", GT)  # keep the trees once
    rows = [
        Row(group, "Z3 in its queries", least(times, lambda: z3_seconds(GT)), "s"),
        Row(
            group,
            "prove, whole process, Z3 only, one job",
            least(times, lambda: command("prove", GT, "--no-cross-check", "--jobs", "1")),
            "s",
        ),
        Row(group, "prove, whole process, with cvc5", least(times, lambda: command("prove", GT)), "s"),
    ]
    for fault in ("b1", "b2"):
        took = least(times, lambda fault=fault: command("attack", GT, "--fault", fault))  # type: ignore[misc]
        rows.append(Row(group, f"attack under fault {fault}, with pictures", took, "s"))
    rows.append(
        Row(group, "executable model", max(model_steps(GT, GT_SIZES, steps) for _ in range(times)), "steps/s", 100_000, True)
    )
    rows.append(Row(group, "the same, written by hand", max(hand_steps(steps) for _ in range(times)), "steps/s"))
    return rows


def growth_rows(times: int) -> list[Row]:
    """Copies of the small rule set side by side in one system."""
    group = "copies of gt.rules"
    with tempfile.TemporaryDirectory() as folder:
        took = {}
        for count in (1, 25, 50, 100):
            file = Path(folder) / f"copies{count}.rules"
            file.write_text(copies(count), encoding="utf-8")
            took[count] = least(times, lambda file=file: command("prove", str(file)))  # type: ignore[misc]
    rows = [Row(group, f"prove, {n} side by side", took[n], "s", 6 if n == 100 else None) for n in took]
    rows += [Row(group, f"{2 * n} copies to {n}: ratio of times", took[2 * n] / took[n], "times", 2.2) for n in (25, 50)]
    return rows


def states_a_second(rules: str, sizes: dict[str, int]) -> tuple[int, float]:
    """All states of a small world, no two of them taken for one: how many there are, and how many a second are found."""
    said = outside(f"""
import time
from bulkhead.model.loader import load
from bulkhead.proofs.theorems.explore import Limits, explore
system = load({rules!r})
sizes = {{**dict.fromkeys(system.sorts, 1), **{sizes!r}}}
begun = time.perf_counter()
found = explore(system, sizes, list(system.theorems.values()), Limits(whole=True, renamed=True))
print(found.states if found.complete else 0, found.states / (time.perf_counter() - begun))""")
    states, speed = said.split()
    return int(states), float(speed)


def search_rows(times: int) -> list[Row]:
    """Exhaustive search beside Spin and TLC, if they are there: as many states, and how many a second, one worker each."""
    group = "all states of a small world"
    rows = []
    tools = (("Spin, breadth first", spin.available()), ("TLC, one worker, without its start", tlc.available()))
    searched: tuple[tuple[str, str, dict[str, int], tuple[Callable[[], spin.Stored | Searched], ...]], ...] = (
        ("gt.rules", GT, GT_SEARCHED, (partial(spin.grants, 2, 2, 2, 1), partial(tlc.grants, 2, 2, 2, 1))),
        (
            "two-phase commit, 7 managers",
            "tests/examples/two_phase_commit.rules",
            {"Manager": 7},
            (partial(spin.two_phase_commit, 7), partial(tlc.two_phase_commit, 7)),
        ),
    )
    for what, rules, sizes, beside in searched:
        ours = [states_a_second(rules, sizes) for _ in range(times)]
        states = ours[0][0]
        rows.append(Row(group, f"{what}: {states:,} states", max(speed for _, speed in ours), "states/s", 50_000, True))
        for (tool, is_there), asked in zip(tools, beside, strict=True):
            if is_there:
                theirs = [asked() for _ in range(times)]
                if theirs[0].states != states:
                    raise SystemExit(f"{what}: {states:,} states here, {theirs[0].states:,} for {tool}")
                rows.append(Row(group, f"{what}: {tool}", max(s.states / s.seconds for s in theirs), "states/s"))
    return rows


def shipped_rows(times: int, steps: int) -> list[Row]:
    """The shipped systems."""
    group = "disaggregated"
    alone = least(times, lambda: z3_seconds(group))
    limit = 1.5 * alone + 0.5
    rows = [
        Row(group, "Z3 in the queries with all that is assumed", least(times, lambda: plain_z3_seconds(group)), "s"),
        Row(group, "Z3 in its queries as the proof asks them", alone, "s"),
        Row(
            group,
            "prove, Z3 only, one job",
            least(times, lambda: command("prove", group, "--no-cross-check", "--jobs", "1")),
            "s",
            limit,
        ),
        Row(group, "prove, as it is (cvc5 too, all jobs)", least(times, lambda: command("prove", group)), "s", limit),
        Row("both systems", "prove, as `make prove` does", least(times, lambda: command("prove", *BOTH)), "s"),
        Row(
            "both systems",
            "prove and refine, one after the other: `make prove`",
            least(times, lambda: command("prove", *BOTH) + command("refine")),
            "s",
            15,
        ),
        Row("monolithic", "attack, with pictures", least(times, lambda: command("attack", "monolithic")), "s", 2),
    ]
    for name, cold in (("kept trees", False), ("parsed anew", True)):
        rows.append(
            Row(
                "all rules",
                f"parsing and encoding all systems, {name}",
                least(times, partial(encode_seconds, cold)),
                "s",
                0.3,
            )
        )
        rows.append(Row(group, f"parsing and encoding, {name}", least(times, partial(load_seconds, cold, group)), "s", 0.3))
    for system in ("monolithic", "disaggregated"):
        rows.append(Row(system, "executable model", max(model_steps(system, None, steps) for _ in range(times)), "steps/s"))
    return rows


def campaign_speed(*options: str) -> float:
    """Calls a second of a campaign on Xen and Dom0's drivers, in one process, as `bulkhead diff` reports them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "diff.json"
        command("diff", "--system", "monolithic", "--ops", "10000", "--jobs", "1", "--json", str(file), *options)
        result = json.loads(file.read_text())
    return float(result["calls"] / result["seconds"])


def domb_seconds(moves: int, rules: bool) -> float:
    """CPU seconds of a campaign on DomB and XenStore, when all rule steps that it needs are compiled."""
    return inside(f"""
import time
from bulkhead.proofs.refinement.domb.campaign import campaign
from bulkhead.proofs.refinement.domb.world import Size, rules_for
campaign(rules_for(Size()), 8, 1000, rules_on={rules})
begun = time.process_time()
report = campaign(rules_for(Size()), 9, {moves}, rules_on={rules})
assert report.failure is None, report.failure.text()
print(time.process_time() - begun)""")


def domb_rows(times: int, moves: int = 2000) -> list[Row]:
    """DomB's campaign beside its rules, and alone."""
    alone = least(times, lambda: domb_seconds(moves, False))
    beside = least(times, lambda: domb_seconds(moves, True))
    return [
        Row("DomB", f"campaign of {moves:,} moves, alone", alone, "s"),
        Row("DomB", f"campaign of {moves:,} moves, beside the rules (`diff`)", beside, "s"),
        Row("DomB", "beside the rules, compared with alone", beside / alone, "times", 4),
    ]


def impl_rows(times: int) -> list[Row]:
    """The implementation: alone, in lockstep with the rules, and its grant hypercalls."""
    group = "implementation"
    speed = inside("from tests.benchmarks.hypercalls import run\nprint(run(60_000)[0])")
    return [
        Row(group, "grant hypercalls, one core", speed, "calls/s", 30_000, True),
        Row(group, "campaign, alone", max(campaign_speed("--against", "nothing") for _ in range(times)), "calls/s"),
        Row(group, "campaign, beside the rules (`diff`)", max(campaign_speed() for _ in range(times)), "calls/s"),
    ]


def start_rows(times: int) -> list[Row]:
    """The start-up time of a process."""
    pauses = statistics.median(
        inside("import time; b = time.perf_counter(); import z3; print(time.perf_counter() - b)") for _ in range(times)
    )
    return [
        Row("process", "import of Z3's Python side", pauses, "s"),
        Row("process", "bulkhead --help", least(times, lambda: command("--help")), "s"),
    ]


def show(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=f"Least of the runs, {os.cpu_count()} cores", title_justify="left")
    for head in ("", "what", "measured", "target", ""):
        drawn.add_column(head, justify="right" if head in ("measured", "target") else "left")
    for row in rows:
        text = f"{row.value:,.0f} {row.unit}" if row.value > 1000 else f"{row.value:.2f} {row.unit}"
        sign = ">=" if row.more_is_better else "<="
        limit = "" if row.limit is None else f"{sign} {row.limit:,.0f}" if row.limit > 1000 else f"{sign} {row.limit:.2f}"
        drawn.add_row(row.group, row.what, text, limit, {None: "", True: "met", False: "[red]missed[/red]"}[row.met])
    Console(width=max(110, Console().width)).print(drawn)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each, the best counts")
    parser.add_argument("--steps", type=int, default=200_000, metavar="N", help="random steps of the executable model")
    parser.add_argument("--small", action="store_true", help="only the small rule set")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    rows = [*start_rows(given.repeat), *small_rows(given.repeat, given.steps), *growth_rows(given.repeat)]
    rows += search_rows(given.repeat)
    if not given.small:
        rows += shipped_rows(given.repeat, given.steps)
        rows += impl_rows(given.repeat)
        rows += domb_rows(given.repeat)
    show(rows)
    if given.json:
        content = {"cores": os.cpu_count(), "repeat": given.repeat, "rows": [{**asdict(r), "met": r.met} for r in rows]}
        given.json.write_text(json.dumps(content, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
