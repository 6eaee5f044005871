"""Searches states of a machine that cannot be saved, depth first: a state is a process.

The process at a state forks a child for each action but the last, which searches behind it and ends; so a machine that waits
in the middle of a function can be left and returned to. Contents: the search. Not here: machines, their actions, and
identity of states (exhaustive.py).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from bulkhead.proofs.refinement.lockstep.dump import dump
from bulkhead.proofs.refinement.lockstep.rule_steps import Mismatch

NESTED: Final = 48  # processes that wait for each other; longer paths are gone again from the start
Path_ = tuple[str, ...]


class Searched(Protocol):
    """A machine in some state."""

    def actions(self) -> list[str]:
        """The actions possible now: at least one."""

    def happen(self, name: str) -> None:
        """Take an action and compare both sides; Mismatch."""

    def check_claims(self) -> None:
        """Check all claims about states; Mismatch."""

    def digest(self) -> bytes:
        """The hash that identifies the state."""


@dataclass
class Behind:
    """What lies behind an action: states that nobody had seen, with the number of actions to them; paths that were too long
    to follow here; and the first mismatch."""

    states: dict[bytes, int] = field(default_factory=dict)
    actions: int = 0
    left: list[Path_] = field(default_factory=list)
    failure: str = ""

    def add(self, more: Behind) -> None:
        """What lies behind one more action."""
        self.states |= more.states
        self.actions += more.actions
        self.left += more.left
        self.failure = self.failure or more.failure


@dataclass(frozen=True)
class Walk:
    """A search depth first. The process at a state forks one child for each action, which searches behind it and ends."""

    depth: int | None  # the most actions from the start
    until: float | None  # the time at which no more actions are taken
    seen: dict[bytes, int]  # all states that this process knows, with the fewest actions to each

    def over(self) -> bool:
        """Is the time up?"""
        return self.until is not None and time.perf_counter() > self.until

    def is_new(self, state: bytes, length: int) -> bool:
        """Must the state be expanded? With a limit of depth, a state may be reached again by fewer actions."""
        known = self.seen.get(state)
        return known is None or (self.depth is not None and length < known)

    def behind(self, machine: Searched, path: Path_) -> Behind:
        """Every action from a state, and from each new state behind it."""
        out = Behind()
        if self.depth is not None and len(path) >= self.depth:
            return Behind(left=[path])
        try:
            machine.check_claims()
        except Mismatch as error:
            return Behind(failure=f"{error.what} after {[*path, 'nothing more']}")
        *others, last = machine.actions()
        for action in others:
            if self.over() or out.failure:
                break
            found = apart(functools.partial(self.take, machine, path, action))
            self.seen.update(found.states)
            out.add(found)
        if self.over():
            out.left.append(path)
        elif not out.failure:
            out.add(self.take(machine, path, last))  # this process has no other use of the state
        return out

    def take(self, machine: Searched, path: Path_, action: str) -> Behind:
        """Take an action, in a process that ends afterwards, and search behind it."""
        here = (*path, action)
        try:
            machine.happen(action)
            state = machine.digest()
        except Mismatch as error:
            return Behind(failure="\n".join([error.what, *dump(error.places)]) + f" after {[*here]}")
        except Exception as error:  # any exception of the implementation is a finding
            return Behind(failure=f"{type(error).__name__}: {error} after {[*here]}")
        out = Behind(actions=1)
        if self.is_new(state, len(here)):
            self.seen[state] = out.states[state] = len(here)
            if len(here) % NESTED:
                out.add(self.behind(machine, here))
            else:
                out.left.append(here)
        return out

    def again(self, machine: Searched, path: Path_) -> Behind:
        """Go a path that was too long once more, from the start, and search behind it."""
        for action in path:
            machine.happen(action)
        return self.behind(machine, path)


def apart(work: Callable[[], Behind]) -> Behind:
    """Work in a child process: this process does not change."""
    back, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(back)
            with os.fdopen(there, "wb") as out:
                pickle.dump(work(), out)
        finally:
            os._exit(0)
    os.close(there)
    with os.fdopen(back, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        return Behind(failure="a process of the search came to a bad end")
    found: Behind = pickle.loads(data)
    return found


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without collection of cycles: a collector's writes would copy all memory into each child."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


__all__ = ["Behind", "Path_", "Searched", "Walk", "apart", "uncollected"]
