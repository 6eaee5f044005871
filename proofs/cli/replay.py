"""`bulkhead replay`: recordings of real Xen on the implementation, or a trace of the rules on the executable model."""

from __future__ import annotations

from pathlib import Path

import click

from bulkhead.model.diagnostics import UsageError
from bulkhead.model.trace import is_trace
from bulkhead.proofs.cli.output import Output, json_option, output_options
from bulkhead.proofs.replay.driver import replay as replay_recording
from bulkhead.proofs.report.runs_text import replay_text
from bulkhead.proofs.report.trace_text import read_back
from bulkhead.proofs.results.replay import ReplayResult, TraceResult


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE.jsonl[.xz]...")
@click.option("--system", metavar="SYSTEM", help="Replay a trace on the rules of this system (a name, or a rules file).")
@json_option
@output_options
def replay(files: tuple[Path, ...], system: str | None, output: Output) -> int:
    """Run calls recorded on real Xen on the implementation and compare every answer that can be compared.

    A trace written by `bulkhead attack` is replayed on the executable model and printed. The folder of the trace has its
    rules; for other rules, use `--system FILE.rules`.
    """
    if not files:
        raise UsageError("replay needs a FILE: recordings of real Xen, or one trace (see bulkhead replay --help).")
    traces = [f for f in files if is_trace(f)]
    if len(files) == 1 and (traces or system is not None):
        loaded, trace, text = read_back(files[0], system)
        result = ReplayResult(traces=(TraceResult(str(files[0]), loaded, trace, text),))
    elif traces:
        raise UsageError(f"{traces[0]}: a trace that `bulkhead attack` has written is replayed by itself.")
    elif system is not None:
        raise UsageError("--system is for one trace that `bulkhead attack` has written.")
    else:
        result = ReplayResult(tuple(map(replay_recording, files)))
    return output.give(result, lambda: replay_text(result))
