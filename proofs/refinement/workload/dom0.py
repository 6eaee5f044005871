"""Dom0's user space in a campaign: hostile processes, their descriptors, forks and exits.

Each move is one or a few calls of one process, chosen from a seed. A process may be killed while the kernel makes a
hypercall for it: it then ends when its call returns, as the kernel checks signals only there. dom0_gntdev.py and its
neighbours choose the ioctls of a process; the target executes the calls (../dom0/).
"""

from __future__ import annotations

from bulkhead.model.caller import OKAY
from bulkhead.proofs.refinement.calls import Call
from bulkhead.proofs.refinement.dom0.state import NOT_THERE, Proc
from bulkhead.proofs.refinement.lockstep.spec_world import CHILD, TOOLS, USER
from bulkhead.proofs.refinement.workload import (
    dom0_changes,
    dom0_copies,
    dom0_evtchn,
    dom0_gntalloc,
    dom0_gntdev,
    dom0_privcmd,
)
from bulkhead.proofs.refinement.workload.caller import Caller, Move

SYNC = Call("sync", "")


def a_file(d: Caller, proc: Proc) -> str:
    """open() of a device."""
    if not d.may_open():
        return ""
    x = d.rng.random()
    kind = "gntdev" if x < 0.42 else "gntalloc" if x < 0.64 else "evtchn" if x < 0.92 else "privcmd"
    code = d.call(proc, "open", kind=kind).code
    return f"open {kind}" if code == OKAY else f"open {kind}: {code}"


def close(d: Caller, proc: Proc) -> str:
    """close(), sometimes of a bad descriptor."""
    if not proc.fds or d.rng.random() < 0.1:
        d.call(proc, "close", fd=NOT_THERE)
        return "close of nothing"
    fds = list(proc.fds)
    d.call(proc, "close", fd=fds[int(d.rng.random() * len(fds))])
    return "close"


def setuid(d: Caller, proc: Proc) -> str:
    """The process drops root privileges."""
    d.call(proc, "setuid")
    return "setuid"


def store(d: Caller, proc: Proc) -> str:
    """Stores through all its mappings."""
    for page in list(proc.slots):
        d.call(proc, "store", page=page)
    return "store"


def spawn(d: Caller) -> str:
    """The toolstack starts a process. It closes inherited files, and usually drops root privileges."""
    d.call(d.view.processes[TOOLS], "fork", child=USER)
    proc = d.view.processes[USER]
    for fd in list(proc.fds):
        if d.rng.random() < 0.9:
            d.call(proc, "close", fd=fd)
    model = d.rng.random() < 0.3  # like a device model: with a privcmd restricted to one guest
    if model:
        d.call(proc, "open", kind="privcmd")
        dom0_privcmd.restrict(d, proc)
    if model or d.rng.random() < 0.75:
        setuid(d, proc)
    return "a new process"


def fork(d: Caller, proc: Proc) -> str:
    """fork() of the user process."""
    if CHILD in d.view.processes or proc.space != USER:
        return ""
    d.call(proc, "fork", child=CHILD)
    return "fork"


def leave(d: Caller, proc: Proc) -> str:
    """exit() or kill -9."""
    d.call(proc, "exit")
    return "exit"


WEIGHTS: tuple[tuple[float, Move], ...] = (
    (9, a_file),
    (4, close),
    (2.5, fork),
    (2, leave),
    (0.5, setuid),
    (3, store),
    *dom0_gntdev.MOVES,
    *dom0_copies.MOVES,
    *dom0_changes.MOVES,
    *dom0_gntalloc.MOVES,
    *dom0_evtchn.MOVES,
    (1.5, dom0_privcmd.restrict),
    (1.5, dom0_evtchn.reset),
    *dom0_privcmd.MOVES,
)
MOVES = tuple((sum(weight for weight, _ in WEIGHTS[: n + 1]), move) for n, (_, move) in enumerate(WEIGHTS))


def move(d: Caller) -> str:
    """One move of a process, with a comparison at its end; returns its text."""
    rng, processes = d.rng, d.view.processes
    if USER not in processes:
        return spawn(d)
    names = [USER, CHILD, TOOLS] if CHILD in processes else [USER, USER, USER, TOOLS]
    proc = d.current = processes[names[int(rng.random() * len(names))]]
    if proc.space == TOOLS:
        text = dom0_privcmd.privcmd(d, proc)
    elif not proc.fds and rng.random() < 0.8:
        text = a_file(d, proc)
    else:
        x = rng.random() * MOVES[-1][0]
        text = next(move for limit, move in MOVES if x < limit)(d, proc)
    d.target.carry_out(SYNC)
    if d.killed is not None and d.killed.space in processes:
        d.current = d.killed
        text += ", killed meanwhile: " + leave(d, d.killed)
    d.killed = None
    return f"p{proc.space}: {text}" if text else ""


def end(d: Caller) -> None:
    """End all processes except the toolstack's."""
    for proc in [p for p in d.view.processes.values() if p.space != TOOLS]:
        d.current = proc
        leave(d, proc)
