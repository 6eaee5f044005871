"""Runs work in other processes, and ensures that none of them is left behind.

`Workers` runs functions in so many processes (or, with one job, in this one); every command with `--jobs` uses it. Ctrl-C
and SIGTERM end the whole program at once (`interruptible`), a killed worker ends the command (`WorkerDied`), and a worker
whose parent has died ends itself. Not here: the work and its results.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool as WorkerDied
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

INTERRUPTED = 130  # the exit code after Ctrl-C
GONE_WITHIN = 1.0  # seconds until a killed process has ended
ENDS_WITHIN = 10.0  # seconds: long after the process has ended
P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")


def count(jobs: int | None = None) -> int:
    """The number of processes for `--jobs`: the given number, or one for each CPU that this process may use."""
    return jobs if jobs is not None else max(1, len(os.sched_getaffinity(0)))


def begin(parent: int = 0) -> None:
    """Initialise a worker process of `parent`.

    The parent handles Ctrl-C and ends its workers. Rules and states live long, so garbage collection would only cost time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()
    gc.set_threshold(500_000, 20, 20)
    if parent:
        threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()


def _end_with(parent: int) -> None:
    """End this process when its parent has died: a killed parent cannot end its workers."""
    try:
        handle = os.pidfd_open(parent)
    except OSError:  # already dead, or a kernel without such handles
        if os.getppid() != parent:
            os._exit(1)
        return
    if os.getppid() == parent:
        select.select([handle], [], [])
    os._exit(1)


class Ending(threading.Event):
    """Set when a signal ends the process. `last_words` gives the line that is then printed for a command, if it has any; it
    is called at any moment, and in another thread."""

    def __init__(self) -> None:
        super().__init__()
        self.last_words: Callable[[], str] = str


class Workers:
    """Worker processes; with one job, this process does the work at submission.

    Workers are forked at the first submission, so they share this process's data at that time. All have ended when
    the `with` block ends: at once if something failed or results were not collected.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = count(jobs)
        self._pool: ProcessPoolExecutor | None = None
        if self.jobs > 1:
            self._pool = ProcessPoolExecutor(self.jobs, multiprocessing.get_context("fork"), begin, (os.getpid(),))

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit work. `result()` of the returned future raises the function's exception, or `WorkerDied`."""
        if self._pool is not None:
            return self._pool.submit(function, *args, **kwargs)
        done: Future[T] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done

    def map(self, function: Callable[[A], T], items: Iterable[A]) -> Iterator[T]:
        """The function's results in the order of the items; with one job each is computed on demand."""
        return map(function, items) if self._pool is None else self._pool.map(function, items)

    def close(self) -> None:
        """End the processes and wait for them; cancels pending work."""
        if self._pool is None:
            return
        # Python 3.14 has `kill_workers` for this; it reads the same attribute.
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        for process in processes:
            process.join(GONE_WITHIN)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def descendants(pid: int) -> set[int]:
    """All living descendants of a process."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(entry.parent.name))
    found: set[int] = set()
    todo = [pid]
    while todo:
        more = children.get(todo.pop(), [])
        found.update(more)
        todo += more
    return found


def end_all() -> None:
    """Kill all descendants of this process, and wait for them."""
    mine = descendants(os.getpid())
    for pid in mine:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + GONE_WITHIN
    while time.monotonic() < until and any(map(_runs, mine)):
        time.sleep(0.002)


def _runs(pid: int) -> bool:
    """Is this process alive? A zombie counts as ended."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@contextlib.contextmanager
def interruptible(clean_up: Callable[[], None] = lambda: None) -> Iterator[Ending]:
    """Ends the process on Ctrl-C at once, even inside solvers, whose code does not check Python's signals.

    The signal is blocked everywhere (processes started later inherit that) and a separate thread waits for it. After the
    signal no process is forked: one that the main thread starts after the others were killed would be left.
    `clean_up` is called before the end. Yields an event that is set from then on, and knows the command's last words.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    forking = threading.Lock()
    os.register_at_fork(before=forking.acquire, after_in_parent=forking.release, after_in_child=forking.release)

    def end(code: int) -> None:
        ending.set()
        forking.acquire(timeout=0.5)
        end_all()
        clean_up()
        words = ending.last_words()
        lines = ([words] if words else []) + (["Interrupted."] if code == INTERRUPTED else [])
        if lines:
            restore = "\x1b[?25h" if sys.stderr.isatty() else ""
            with contextlib.suppress(OSError):  # nobody reads any more
                os.write(2, f"{restore}\n{chr(10).join(lines)}\n".encode())
        os._exit(code)

    def watch() -> None:
        signal.sigwait({signal.SIGINT})
        end(INTERRUPTED)

    def terminated(*_: Any) -> None:
        end(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)
    threading.Thread(target=watch, daemon=True, name="ctrl-c").start()
    yield ending


def run_to_end(program: Callable[[Ending], int], clean_up: Callable[[], None] = lambda: None) -> None:
    """Run a program as a process with this file's signal handling, and exit with its exit code.

    Garbage collection is made rare, because the programs' objects live to the end.
    """
    gc.set_threshold(500_000, 20, 20)
    with interruptible(clean_up) as ending:
        code = program(ending)
        if ending.is_set():
            time.sleep(ENDS_WITHIN)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        end_all()
        os._exit(code)


__all__ = [
    "ENDS_WITHIN",
    "INTERRUPTED",
    "Ending",
    "WorkerDied",
    "Workers",
    "begin",
    "count",
    "descendants",
    "end_all",
    "interruptible",
    "run_to_end",
]
