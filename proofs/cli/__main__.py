"""The command line: `bulkhead check`, `prove`, `attack`, `export`, `replay`, `boot` and `diff`.

Each command loads rules, calls what does the work, and turns findings into text and an exit code: 0 as the system
expects, 1 a verdict that is not, 2 bad use, 130 interrupted. Solvers and drawing are imported when they are needed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bulkhead.model import loader
from bulkhead.model.diagnostics import RulesError, UsageError, render, suggest
from bulkhead.proofs.atomic_files import drop_unfinished
from bulkhead.proofs.cli.boot import boot
from bulkhead.proofs.cli.diff import diff
from bulkhead.proofs.cli.refine import refine
from bulkhead.proofs.jobs import ENDS_WITHIN, INTERRUPTED, WorkerDied, Workers, count, run_to_end

if TYPE_CHECKING:
    from bulkhead.proofs.report.prove_run import SystemReport

DEFAULT_SYSTEMS = ("monolithic", "disaggregated")
GOOD, FAILED, BAD_USE = 0, 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def command() -> None:
    """Proves Xen-like hypervisors safe from their rules, or shows the attack."""


@command.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> int:
    """Parse and type check rules FILES (default: the shipped ones). Proves nothing."""
    for path in files:
        if not path.exists():
            raise UsageError(f"{path}: no such file.")
    warnings = loader.check(files)
    sources = {w.span.file: _source(w.span.file) for w in warnings}
    if warnings:
        click.echo(render(warnings, sources))
    count = len(files) or len(loader.shipped_files())
    click.echo(f"{count} file{'s' * (count != 1)}: no errors, {len(warnings)} warning{'s' * (len(warnings) != 1)}.")
    return GOOD


def _source(name: str) -> str:
    return Path(name).read_text(errors="replace") if Path(name).is_file() else ""


def _number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if value != value:  # not a number: a range lets it pass
        raise click.BadParameter("nan is not a number of seconds.")
    return value


def _folder(folder: Path) -> None:
    """Make a folder to write to; what stands in the way is told before any work is done for nothing."""
    from bulkhead.proofs.report.prove_run import writable

    try:
        writable(folder)
    except FileExistsError:
        raise UsageError(f"{folder}: is a file, not a folder.") from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot write files there ({error.strerror}).") from None


@command.command()
@click.argument("systems", nargs=-1, metavar="[SYSTEM]...")
@click.option("--theorem", "theorems", multiple=True, metavar="T", help="Only this theorem (may be repeated).")
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Lay a fault of the rules over the system.")
@click.option("--cross-check/--no-cross-check", default=True, show_default=True, help="Let cvc5 decide again.")
@click.option("--jobs", type=click.IntRange(1, 256), default=None, metavar="N", help="Processes (default: one per CPU).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the verdicts.")
@click.option("--why", metavar="THEOREM", help="Show what the proof of a theorem leans on.")
@click.option("--limit", type=click.FloatRange(0, 86400, min_open=True), default=10.0, show_default=True, metavar="SECONDS",
              callback=_number, help="Time for one query.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Where traces and pictures of refuted theorems go (default: beside --json, else build).")
def prove(systems: tuple[str, ...], theorems: tuple[str, ...], faults: tuple[str, ...], cross_check: bool,
          jobs: int | None, json_file: Path | None, why: str | None, limit: float, out: Path | None) -> int:
    """Prove every theorem of each SYSTEM (a shipped one, or the path of a rules file), or refute it."""
    start = time.perf_counter()
    from bulkhead.proofs.atomic_files import needs_file
    from bulkhead.proofs.report import prove_run as report
    from bulkhead.proofs.theorems.induction import Settings
    from bulkhead.proofs.theorems.subsumption import Refuted

    loaded = [loader.load(name, faults) for name in systems or DEFAULT_SYSTEMS]
    known = {n for s in loaded for n in s.claims()}
    for name in (*theorems, *([why] if why else [])):
        _known_claim(name, known)
    where = out or (json_file.parent if json_file else Path("build"))
    if json_file is not None:
        needs_file(json_file)
    if out is not None or faults or any("refuted" in s.expects.values() for s in loaded):
        _folder(where)
    settings = Settings(limit, count(jobs), cross_check)
    reports: list[SystemReport] = []
    with Workers(settings.jobs) as pool:
        cases = []
        for system in loaded:
            if system.warnings:
                click.echo(render(system.warnings, system.sources), err=True)
            only = [n for n in system.claims() if not theorems or n in theorems or n == why]
            if only or not theorems:
                cases.append(report.Case(system, settings, pool, only, faults, where))
        for case in cases:
            case.start()
        refuted = Refuted() if len(cases) > 1 else None
        for case in cases:
            reports.append(case.judge(refuted, why))
    seconds = time.perf_counter() - start
    if json_file is not None:
        report.write_file(json_file, report.to_json(reports, seconds))
    queries = sum(r.queries for r in reports)
    click.echo(f"{queries} queries, {sum(r.solver_seconds for r in reports):.1f} s in solvers, {seconds:.1f} s in all.")
    good = all(r.as_expected for r in reports)
    click.echo("All verdicts are as expected." if good else "NOT as expected.")
    return GOOD if good else FAILED


def _known_claim(name: str, known: set[str]) -> None:
    if name not in known:
        raise UsageError(f"there is no theorem `{name}`. {suggest(name, known)} "
                         f"There are: {', '.join(sorted(known)) or 'none'}.".replace("  ", " "))


@command.command()
@click.argument("system")
@click.argument("theorem", required=False)
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Lay a fault of the rules over the system.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the files go.")
def attack(system: str, theorem: str | None, faults: tuple[str, ...], out: Path) -> int:
    """Find a shortest attack on a THEOREM of SYSTEM: print it, and write log, states and pictures to DIR.

    Without THEOREM: the first one that is expected to be refuted, or, with a fault, the first of those expected to be proved
    on which one is found.
    """
    from bulkhead.proofs.report import prove_run as report
    from bulkhead.proofs.report.trace_text import save_trace

    loaded = loader.load(system, faults)
    if theorem is not None:
        _known_claim(theorem, set(loaded.claims()))
        names = [theorem]
    elif faults and len(loaded.claims()) == 1:
        names = list(loaded.claims())
    elif faults:
        from bulkhead.proofs.theorems.induction import Settings
        from bulkhead.proofs.theorems.induction import prove as decide

        proved = decide(loaded, Settings(1.0, 1, cross_check=False, patient=False)).proved
        # What is refuted without the fault says nothing of it.
        names = [n for n in loaded.claims() if n not in proved and loaded.expects.get(n) != "refuted"]
        if not names:
            click.echo(f"All that {loaded.name} is expected to prove is proved, with {', '.join(faults)} too.")
            return FAILED
    else:
        names = [n for n, v in loaded.expects.items() if v == "refuted"][:1]
        if not names:
            raise UsageError(f"no theorem of `{loaded.name}` is expected to be refuted; name one, or give a --fault. "
                             f"Theorems: {', '.join(loaded.claims())}. Faults: {', '.join(loaded.faults) or 'none'}.")
    _folder(out)
    found, _ = report.search(loaded, names, faults, one=True)
    for name, trace in found.items():
        if trace is not None:
            click.echo(save_trace(loaded, name, trace, out), nl=False)
            return GOOD
    click.echo(f"No attack found on {', '.join(names)} of {loaded.name} within the bounds of the search.")
    return FAILED


@command.command()
@click.argument("system")
@click.option("--fault", "faults", multiple=True, metavar="NAME", help="Lay a fault of the rules over the system.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where the files go.")
def export(system: str, faults: tuple[str, ...], out: Path) -> int:
    """Write each query of SYSTEM as a standalone SMT-LIB 2 file."""
    from bulkhead.proofs.theorems.export import export as write

    loaded = loader.load(system, faults)
    _folder(out)
    click.echo(f"{write(loaded, out)} queries of {loaded.name} written to {out}.")
    return GOOD


@command.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="FILE.jsonl[.xz]... [--json FILE]")
@click.option("--system", metavar="SYSTEM", help="What a trace is of, where its own word for it is not a shipped system.")
def replay(arguments: tuple[str, ...], system: str | None) -> int:
    """Run calls recorded on real Xen on the implementation and compare every answer that can be compared.

    A trace that `bulkhead attack` has written is replayed on the executable model, and told again. A trace names its system,
    not the file of it: of rules of your own, say `--system FILE.rules`.
    """
    from bulkhead.model.trace import is_trace

    traces = [a for a in arguments if is_trace(Path(a))]
    if len(arguments) == 1 and (traces or system is not None):
        from bulkhead.proofs.report.trace_text import retell

        click.echo(retell(Path(arguments[0]), system), nl=False)
        return GOOD
    if traces:
        raise UsageError(f"{traces[0]}: a trace that `bulkhead attack` has written is replayed by itself, without --json.")
    if system is not None:
        raise UsageError("--system is for one trace that `bulkhead attack` has written.")
    if not arguments:
        raise UsageError("replay needs a FILE: recordings of real Xen, or one trace (see bulkhead replay --help).")
    from bulkhead.proofs.replay.driver import main as run_replay

    return run_replay(list(arguments))


command.add_command(boot)
command.add_command(diff)
command.add_command(refine)


def run(arguments: list[str] | None = None, ending: threading.Event | None = None) -> int:
    """Run one command; gives the exit code. Every expected failure becomes one message.

    Once `ending` is set the process is ended by another thread: what fails then fails for that, and nothing is said of it.
    """
    def bad(text: str, code: int) -> int:
        if ending is not None and ending.is_set():
            time.sleep(ENDS_WITHIN)
        click.echo(f"bulkhead: {text}", err=True)
        return code

    try:
        code = command.main(arguments, prog_name="bulkhead", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except click.ClickException as error:
        error.show()
        return BAD_USE
    except click.exceptions.Abort:
        return INTERRUPTED
    except RulesError as error:
        click.echo(str(error), err=True)
        errors = sum(not p.warning for p in error.problems)
        return bad(f"{errors} error{'s' * (errors != 1)}.", BAD_USE)
    except UsageError as error:
        return bad(str(error), BAD_USE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except UnicodeDecodeError as error:
        return bad(f"not a text file: {error}", BAD_USE)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return bad(f"{place}{error.strerror or error}.", BAD_USE)
    except WorkerDied:
        return bad("a worker process died (out of memory?); try again with fewer --jobs.", FAILED)
    except MemoryError:
        return bad("out of memory.", FAILED)
    except Exception as error:
        if type(error).__name__ != "SolverError":  # solvers are imported only where they are used
            return bad(f"internal error, {type(error).__name__}: {error}", FAILED)
        return bad(f"a solver failed: {error}", FAILED)


def main() -> None:
    """The program."""
    if sys.stdout is None:  # nobody listens
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    run_to_end(lambda ending: run(ending=ending), drop_unfinished)


if __name__ == "__main__":
    main()
