"""The command line: `bulkhead check`, `prove`, `attack`, `explore`, `export`, `replay`, `refine`, `diff`, `faults`, `boot`.

Each command is a module in this folder and is imported only when it is used, because solvers and the implementation are slow
to import. This file has the common part: the exit code (0 as expected, 1 an unexpected verdict, 2 bad use, 130
interrupted), and one message for every expected failure.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

import click

from bulkhead.model.diagnostics import RulesError, UsageError
from bulkhead.proofs.atomic_files import drop_unfinished
from bulkhead.proofs.jobs import ENDS_WITHIN, INTERRUPTED, Ending, WorkerDied, run_to_end
from bulkhead.proofs.theorems.solvers import SolverError

COMMANDS = ("check", "prove", "attack", "explore", "export", "replay", "refine", "diff", "faults", "boot")
GOOD, FAILED, BAD_USE = 0, 1, 2


class Commands(click.Group):
    """The commands, each in the module of its name; a "lazy group" in click's manual."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found = getattr(importlib.import_module(f"bulkhead.proofs.cli.{name}"), name)
        assert isinstance(found, click.Command)
        return found


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="bulkhead", message="%(prog)s %(version)s")
@click.pass_context
def command(context: click.Context) -> int:
    """Proves Xen-like hypervisors safe from their rules, or shows the attack."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    return GOOD


def run(arguments: list[str] | None = None, ending: Ending | None = None) -> int:
    """Run one command; returns the exit code. Every expected failure becomes one message.

    Once `ending` is set, another thread is ending the process: failures after that are its effect and are not reported.
    """

    def bad(text: str, code: int) -> int:
        if ending is not None and ending.is_set():
            time.sleep(ENDS_WITHIN)
        click.echo(f"bulkhead: {text}", err=True)
        return code

    try:
        code = command.main(arguments, prog_name="bulkhead", standalone_mode=False, obj=ending)
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
    except SolverError as error:
        return bad(f"a solver failed: {error}", FAILED)
    except Exception as error:
        return bad(f"internal error, {type(error).__name__}: {error}", FAILED)


def main() -> None:
    """The program."""
    if sys.stdout is None:  # the reader closed the pipe
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    run_to_end(lambda ending: run(ending=ending), drop_unfinished)


if __name__ == "__main__":
    main()
